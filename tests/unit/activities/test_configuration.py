"""How a run gets its configuration, and what it makes of earlier runs."""

from __future__ import annotations

import asyncio

import pytest
from temporalio.testing import ActivityEnvironment

from activities.configuration import ConfigurationSteps
from recovery.domain.group import GroupSnapshot
from recovery.domain.plan import PlanContext, PlanRequest, StepOutcome
from recovery.domain.report import RunReport
from recovery.errors import BadInput, NotFound, RecoveryError, Refused, Unreachable
from tests.fakes.handover import NOW, group_of


class Known:
    def snapshot(self, group: str) -> GroupSnapshot:
        return group_of("a", "b")


class Broken:
    """A store of reports that cannot be read."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error

    async def recent(self, *asked: object) -> list[RunReport]:
        if self.error is None:
            await asyncio.Event().wait()
        raise self.error or AssertionError("it answers nobody")


@pytest.mark.parametrize("plan", ["Failover", "FullRecovery", "Backup"])
@pytest.mark.parametrize(
    "error",
    [
        Refused("reports: GetObject answered AccessDenied"),
        NotFound("reports: ListObjectsV2 answered NoSuchBucket"),
        BadInput("reports: no region"),
        Unreachable("reports: no answer"),
        None,
    ],
    ids=["denied", "no bucket", "not understood", "away", "silent"],
)
async def test_a_plan_begins_whatever_keeps_it_from_earlier_reports(
    plan: str, error: RecoveryError | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "activities.configuration.PATIENCE", dict.fromkeys(["Failover", "FullRecovery", "Backup"], 0.01)
    )
    steps = ConfigurationSteps(Known(), Broken(error))  # type: ignore[arg-type]
    context = PlanContext(
        plan=plan, run_id="run-1", workflow_id="recovery/shop", step="load-configuration",
        request=PlanRequest(group="shop"), started_at=NOW,
    )  # fmt: skip
    outcome: StepOutcome = await ActivityEnvironment().run(steps.load, context)
    assert outcome.facts.group is not None
    assert outcome.facts.expected_seconds == {}
