"""What a run's report adds to the metrics."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.reports import Reports
from recovery.domain.handover import StoreDivergence, StoreLoss
from recovery.domain.recovered_set import RecoveredSet, RecoveredStore
from recovery.domain.recovery_counts import MOVES, PLANNED, TYPES
from recovery.domain.report import BY_SILENCE, Achieved, OperatorAction, RunReport, RunState, StepRecord, StepState
from recovery.errors import Refused, Unreachable
from tests.fakes.measurements import FakeMeasurements
from workflows.plans import PLANS

BEGAN = datetime(2026, 11, 22, 10, 15, tzinfo=UTC)
RTO = Achieved(rto=timedelta(seconds=42), rto_objective=timedelta(minutes=15))


class Kept:
    """A store of reports that fails as often as it is told."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)

    async def store(self, report: RunReport) -> str:
        if self.failures:
            raise self.failures.pop(0)
        return f"reports/{report.run_id}.json"


def row(name: str, attempts: int = 1, *, pivot: bool = False) -> StepRecord:
    return StepRecord(
        name=name, activity="a", where="target", group=1, budget=timedelta(minutes=1), pivot=pivot, attempts=attempts,
        state=StepState.DONE if attempts else StepState.PENDING,
    )  # fmt: skip


def ended(
    plan: str = "Failover", state: RunState = RunState.COMPLETED, *, tried: int = 1, begun: bool = True, **more: Any
) -> RunReport:
    """``tried``: attempts of the step before the pivot; ``begun``: the pivot."""
    steps = [row("precheck", tried), row("promote", int(begun), pivot=True)]
    values = {
        "plan": plan, "group": "shop", "run_id": "run-1", "workflow_id": "recovery/shop", "state": state,
        "steps": steps, "started_at": BEGAN, "ended_at": BEGAN + timedelta(seconds=42),
        "source_region": "a", "target_region": "b", **more,
    }  # fmt: skip
    return RunReport.model_validate(values)


async def counted(*about: Any, **more: Any) -> FakeMeasurements:
    """What the end of this run added."""
    return await measured(ended(*about, **more))


async def measured(report: RunReport) -> FakeMeasurements:
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
    assert [(each.type, each.completed) for each in found.recoveries] == [(TYPES[plan], True)]
    assert found.failed == []


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"state": RunState.ROLLED_BACK, "begun": False, "failed_step": "precheck", "error": "no answer"}, "precheck"),
        ({"state": RunState.STOPPED, "failed_step": "verify-data"}, "verify-data"),
        ({"state": RunState.ROLLBACK_INCOMPLETE}, "cancelled"),
        ({"state": RunState.COMPLETED, "returned": True, "failed_step": "verify-data"}, "verify-data"),
    ],
    ids=["rolled back", "stopped", "cancelled after its pivot", "taken back"],
)
async def test_one_that_did_not_arrive_is_counted_by_its_step(more: dict[str, Any], reason: str) -> None:
    found = await counted("Switchover", **more)
    assert (found.failed, found.failovers) == ([reason], [])


ABORTED = OperatorAction(action="abort", actor="ana", reason="the region is back", at=BEGAN)
DECLINED = OperatorAction(action="decline", actor="ana", reason="not tonight", at=BEGAN, step="precheck")


@pytest.mark.parametrize("plan", ["Failover", "Switchover"])
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"failed_step": "precheck", "actions": [ABORTED]},
        {"failed_step": "precheck", "tried": 0, "actions": [DECLINED]},
    ],
    ids=["cancelled", "aborted", "declined"],
)
async def test_one_that_somebody_ended_before_its_pivot_neither_failed_nor_missed(plan: str, more: Any) -> None:
    found = await counted(plan, RunState.ROLLED_BACK, begun=False, achieved=RTO, **more)
    assert (found.failed, found.failovers, found.recoveries) == ([], [], [])


async def test_a_hold_that_nobody_answered_is_a_failure() -> None:
    silent = ABORTED.model_copy(update={"actor": BY_SILENCE})
    found = await counted(
        "Failover", RunState.ROLLED_BACK, begun=False, failed_step="precheck", actions=[silent], achieved=RTO
    )
    assert (found.failed, [each.completed for each in found.recoveries]) == (["precheck"], [False])


async def test_silence_at_a_gate_fails_what_an_outage_waits_for_and_no_planned_move() -> None:
    unopened: dict[str, Any] = {"state": RunState.ROLLED_BACK, "begun": False, "failed_step": "precheck", "tried": 0}
    assert (await counted("Switchover", **unopened)).failed == []
    late = await counted("Failover", **unopened, achieved=RTO)
    assert (late.failed, late.recoveries[0].completed, late.recoveries[0].achieved) == (["precheck"], False, RTO)


@pytest.mark.parametrize("plan", sorted(PLANNED))
async def test_a_planned_move_is_not_held_against_the_objectives(plan: str) -> None:
    found = await counted(plan, achieved=RTO)
    assert [each.achieved for each in found.recoveries] == [Achieved()]


async def test_bytes_that_were_lost_are_shown_and_messages_are_not_bytes() -> None:
    lost = [
        StoreLoss(store="postgres", lost=512),
        StoreLoss(store="nats", lost=3, unit="messages"),
        StoreLoss(store="redis", lost=None),
    ]
    assert (await counted(losses=lost)).losses == {"postgres": 512}


async def test_what_a_returned_side_alone_had_is_counted_once_by_the_reprotect_that_completed() -> None:
    alone = StoreDivergence(store="postgres", region="region-a", transactions=8)
    assert (await counted("Reprotect", divergences=[alone])).diverged == [("shop", alone)]
    assert (await counted("Failback", divergences=[alone])).diverged == [], "its own reprotect did"
    assert (await counted("Reprotect", RunState.ROLLED_BACK, divergences=[alone])).diverged == []


async def test_a_reprotect_is_no_move() -> None:
    found = await counted("Reprotect")
    assert (found.failovers, found.failed) == ([], [])


def test_the_plans_that_move_a_group_exist() -> None:
    assert set(MOVES) <= set(PLANS)
    assert {name for name, plan in PLANS.items() if plan.has_rto} | PLANNED == MOVES
    assert set(TYPES) == MOVES | {"Restore"}


async def test_the_loss_of_each_store_is_measured_once_the_group_has_arrived() -> None:
    stores = [
        RecoveredStore(store="postgres", restored=True, rpo=timedelta(seconds=3)),
        RecoveredStore(store="redis", left="it holds data"),
    ]
    several = RecoveredSet(set_id="set-1", stores=stores, skew=timedelta(minutes=1))
    assert (await counted("FullRecovery", recovered_set=several)).stores == [({"postgres": 3.0}, 60.0)]
    assert (await counted("FullRecovery", RunState.STOPPED, recovered_set=several)).stores == []


DENIED = Refused("reports: PutObject answered AccessDenied")
AWAY = Unreachable("reports: no answer")


async def stored(reports: Reports, report: RunReport, attempt: int = 1, told: Sequence[object] = ()) -> list[object]:
    """What an attempt's heartbeats carried, ``told`` being those of the attempt before, as Temporal hands them on."""
    environment, beats = ActivityEnvironment(), []
    environment.on_heartbeat = lambda *details: beats.append(details[0].model_dump())
    environment.info = dataclasses.replace(environment.info, attempt=attempt, heartbeat_details=list(told))
    with contextlib.suppress(ApplicationError):
        await environment.run(reports.store, report)
    return beats


@pytest.mark.parametrize("error", [DENIED, AWAY], ids=["denied", "away"])
async def test_a_run_is_counted_though_its_report_cannot_be_stored(error: Exception) -> None:
    measurements = FakeMeasurements()
    await stored(Reports(Kept(error), measurements), ended(requested_by="monitor", achieved=RTO))  # type: ignore[arg-type]
    assert measurements.failovers == [("a", "b", "health", 42.0)]
    assert [each.achieved for each in measurements.recoveries] == [RTO]


async def test_another_attempt_does_not_count_again() -> None:
    measurements = FakeMeasurements()
    reports = Reports(Kept(AWAY, AWAY), measurements)  # type: ignore[arg-type]
    for attempt in (1, 2, 3):
        await stored(reports, ended(), attempt)
    await stored(reports, ended(run_id="run-2"))
    assert len(measurements.failovers) == 2


async def test_another_attempt_on_another_worker_does_not_count_again() -> None:
    first, second, third = FakeMeasurements(), FakeMeasurements(), FakeMeasurements()
    told = await stored(Reports(Kept(AWAY), first), ended())  # type: ignore[arg-type]
    again = await stored(Reports(Kept(AWAY), second), ended(), 2, told[-1:])  # type: ignore[arg-type]
    await stored(Reports(Kept(), third), ended(), 3, again[-1:])  # type: ignore[arg-type]
    assert [len(each.failovers) for each in (first, second, third)] == [1, 0, 0]


async def test_only_so_many_runs_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("activities.reports.REMEMBERED", 2)
    reports = Reports(Kept(), FakeMeasurements())  # type: ignore[arg-type]
    for number in range(5):
        await stored(reports, ended(run_id=f"run-{number}"))
    assert list(reports._counted) == ["run-3", "run-4"]


@pytest.mark.parametrize(
    ("state", "more", "verdicts"),
    [
        (RunState.COMPLETED, {}, [("shop", True)]),
        (RunState.ROLLED_BACK, {"failed_step": "judge"}, [("shop", False)]),
        (RunState.ROLLED_BACK, {"failed_step": "choose-points", "error": "no recovery point"}, [("shop", False)]),
        (RunState.ROLLED_BACK, {"failed_step": "validate-points", "error": "no worker took it"}, [("shop", False)]),
        (RunState.ROLLED_BACK, {"failed_step": "judge", "point_named": "a-point"}, []),
        (RunState.COMPLETED, {"point_named": "a-point"}, []),
        (RunState.ROLLED_BACK, {}, []),
        (RunState.ROLLED_BACK, {"failed_step": "load-configuration", "config_hash": ""}, []),
    ],
    ids=["valid", "not valid", "no point", "failed", "one is not", "one is", "cancelled", "no such group"],
)
async def test_the_overall_verdict_is_that_of_the_run(
    state: RunState, more: dict[str, Any], verdicts: list[tuple[str, bool]]
) -> None:
    known = {"config_hash": "1a2b3c", **more}
    assert (await counted("BackupValidation", state, begun=False, **known)).validations == verdicts


async def test_a_backup_is_counted_by_its_report() -> None:
    kinds, taken = ["physical", "logical"], ["20261122T101500Z-physical-1a2b3c4d"]
    found = await counted(
        "Backup", RunState.ROLLED_BACK, failed_step="take-logical-backup", kinds=kinds, point_ids=taken
    )
    assert found.backups == [("physical", "success", 42.0), ("logical", "failure", 42.0)]
