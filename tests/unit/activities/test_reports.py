"""What a run's report adds to the metrics."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from temporalio.testing import ActivityEnvironment

from activities.reports import MOVES, Reports
from recovery.domain.handover import StoreLoss
from recovery.domain.report import Achieved, RunReport, RunState, StepRecord
from tests.fakes.measurements import FakeMeasurements
from workflows.plans import PLANS

BEGAN = datetime(2026, 11, 22, 10, 15, tzinfo=UTC)


class Kept:
    async def store(self, report: RunReport) -> str:
        return f"reports/{report.run_id}.json"

    async def read(self, run_id: str) -> RunReport | None:
        return None


async def counted(plan: str = "Failover", state: RunState = RunState.COMPLETED, **more: Any) -> FakeMeasurements:
    pivot = StepRecord(name="promote", activity="a", where="target", group=1, budget=timedelta(minutes=1), pivot=True)
    report = RunReport(
        plan=plan, group="shop", run_id="run-1", workflow_id="recovery/shop", state=state, steps=[pivot],
        started_at=BEGAN, ended_at=BEGAN + timedelta(seconds=42), source_region="a", target_region="b", **more,
    )  # fmt: skip
    measurements = FakeMeasurements()
    reports = Reports(Kept(), measurements)  # type: ignore[arg-type]
    assert await ActivityEnvironment().run(reports.store, report) == "reports/run-1.json"
    return measurements


@pytest.mark.parametrize(
    ("plan", "by", "reason"),
    [
        ("Failover", "monitor", "health"),
        ("Failover", "ana", "operator"),
        ("FullRecovery", "monitor", "health"),
        ("Switchover", "ana", "planned"),
        ("Failback", "ana", "planned"),
    ],
)
async def test_a_move_is_counted_with_its_kind_of_reason(plan: str, by: str, reason: str) -> None:
    found = await counted(plan, requested_by=by, reason="a sentence that is no label")
    assert found.failovers == [("a", "b", reason, 42.0)]
    assert found.recoveries == [(plan, 42.0, Achieved(), True)]
    assert found.failed == []


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"state": RunState.ROLLED_BACK, "failed_step": "fence-primary", "error": "nobody answers"}, "fence-primary"),
        ({"state": RunState.STOPPED, "failed_step": "verify-data"}, "verify-data"),
        ({"state": RunState.ROLLED_BACK}, "cancelled"),
        ({"state": RunState.COMPLETED, "returned": True, "failed_step": "verify-data"}, "verify-data"),
    ],
    ids=["rolled back", "stopped", "cancelled", "taken back"],
)
async def test_one_that_did_not_arrive_is_counted_by_its_step(more: dict[str, Any], reason: str) -> None:
    found = await counted("Switchover", **more)
    assert (found.failed, found.failovers) == ([reason], [])


async def test_bytes_that_were_lost_are_shown_and_messages_are_not_bytes() -> None:
    lost = [
        StoreLoss(store="postgres", lost=512),
        StoreLoss(store="nats", lost=3, unit="messages"),
        StoreLoss(store="redis", lost=None),
    ]
    assert (await counted(losses=lost)).losses == {"postgres": 512}


async def test_a_reprotect_is_no_move() -> None:
    found = await counted("Reprotect")
    assert (found.failovers, found.failed) == ([], [])


def test_the_plans_that_move_a_group_exist() -> None:
    assert set(MOVES) <= set(PLANS)
    assert set(MOVES) == {name for name, plan in PLANS.items() if plan.has_rto} | {"Switchover", "Failback"}
