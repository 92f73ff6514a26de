"""Where a restore and a recovery go when nobody says it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from unittest.mock import create_autospec

import pytest
from temporalio.testing import ActivityEnvironment

from activities.restores import RestoreSteps
from recovery.domain.group import GroupSnapshot, Objectives, PostgresAt, RegionPlan
from recovery.domain.plan import Facts, PlanContext, PlanRequest
from recovery.ports.recovery_points import Restores
from tests.fakes.measurements import FakeMeasurements

GROUP = GroupSnapshot(
    name="shop",
    objectives=Objectives(tier="critical", rto=timedelta(minutes=15), rpo=timedelta(minutes=5)),
    home_region="region-a",
    regions=[
        RegionPlan(name=name, task_queue=name, priority=priority, postgres=PostgresAt(host="127.0.0.1"))
        for name, priority in (("region-a", 100), ("region-b", 90), ("region-c", 80))
    ],
)


@pytest.mark.parametrize(
    ("plan", "owner", "asked", "expected"),
    [
        ("Restore", "region-b", None, "region-b"),  # beside the running service
        ("Restore", "region-b", "region-c", "region-c"),
        ("FullRecovery", "region-a", None, "region-b"),
        ("FullRecovery", "region-b", None, "region-a"),
        ("FullRecovery", "region-a", "region-c", "region-c"),
    ],
)
async def test_the_target_that_nobody_named(plan: str, owner: str, asked: str | None, expected: str) -> None:
    steps = RestoreSteps(create_autospec(Restores, instance=True), FakeMeasurements())
    context = PlanContext(
        plan=plan,
        run_id="run-1",
        workflow_id="restore/shop",
        step="choose-target",
        request=PlanRequest(group="shop", region=asked),
        facts=Facts(group=GROUP, source_region=owner),
        started_at=datetime(2026, 11, 22, tzinfo=UTC),
    )
    outcome = await ActivityEnvironment().run(steps.choose_target, context)
    assert outcome.facts.target_region == expected


@pytest.mark.parametrize(("sites", "expected"), [({"region-b": "region-a"}, "region-c"), ({}, "region-b")])
async def test_a_recovery_does_not_go_to_what_is_lost_with_the_owner(sites: dict[str, str], expected: str) -> None:
    regions = [region.model_copy(update={"site": sites.get(region.name)}) for region in GROUP.regions]
    steps = RestoreSteps(create_autospec(Restores, instance=True), FakeMeasurements())
    context = PlanContext(
        plan="FullRecovery",
        run_id="run-1",
        workflow_id="recovery/shop",
        step="choose-target",
        request=PlanRequest(group="shop"),
        facts=Facts(group=GROUP.model_copy(update={"regions": regions}), source_region="region-a"),
        started_at=datetime(2026, 11, 22, tzinfo=UTC),
    )
    outcome = await ActivityEnvironment().run(steps.choose_target, context)
    assert outcome.facts.target_region == expected
