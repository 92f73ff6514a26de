"""A backup is counted once for each kind that it was to take, wherever it ends."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

import pytest

from recovery.domain.backup_counts import BACKUP, VALIDATION, CountedBackup, all_valid, counted_backups
from recovery.domain.plan import Facts, PlanRequest, StepOutcome
from recovery.domain.recovery_point import BackupKind, kind_taken
from recovery.domain.report import RunReport, RunState
from tests.fakes.handover import group_of
from tests.unit.workflows.harness import NOW, Script, temporal, until
from workflows.engine import Engine
from workflows.plans import PLANS

KINDS = [BackupKind.PHYSICAL, BackupKind.LOGICAL, BackupKind.RDB]
TAKING = {kind: f"take-{kind if kind.store == 'postgres' else kind.store}-backup" for kind in KINDS}


@dataclass
class Stores(Script):
    """Those of one group. ``tries``: how many attempts a step needs."""

    tries: dict[str, int] = field(default_factory=dict)

    async def call(self, name: str) -> StepOutcome:
        outcome = await super().call(name)
        facts = (
            Facts(group=group_of("a", "b", backup_kinds=KINDS, config_hash="1a2b3c"))
            if name == "load-configuration"
            else Facts()
        )
        if (kind := kind_taken(name)) is not None and name in TAKING.values():
            facts = Facts.model_validate({f"{kind}_point": f"20261122T101500Z-{kind}-1a2b3c4d"})
        return outcome.model_copy(update={"facts": facts, "attempt": self.tries.get(name, 1)})


def ended(
    *failing: str,
    plan: str = BACKUP,
    tries: dict[str, int] | None = None,
    cancelled_when: Callable[[Engine, Stores], bool] | None = None,
    **request: object,
) -> RunReport:
    """The report of a run in which these steps fail before their effect."""
    stores = Stores(defaultdict(int, {TAKING[BackupKind.LOGICAL]: 50}), dict.fromkeys(failing, "before"), set())
    stores.tries = tries or {}

    async def run() -> RunReport:
        engine = Engine(PLANS[plan], PlanRequest.model_validate({"group": "shop", **request}))
        task = asyncio.create_task(engine.run())
        if cancelled_when is not None:
            await until(lambda: cancelled_when(engine, stores))
            engine.stop("the run was cancelled")
        await asyncio.gather(task, return_exceptions=True)
        return engine.journal.report()

    with temporal(stores):
        return asyncio.run(run())


def counts(report: RunReport) -> dict[str, bool]:
    found = counted_backups(report)
    assert len({each.kind for each in found}) == len(found)
    return {each.kind: each.succeeded for each in found}


def test_one_that_needed_several_attempts_has_succeeded_once() -> None:
    report = ended(tries={TAKING[BackupKind.PHYSICAL]: 3})
    assert next(step.attempts for step in report.steps if step.name == TAKING[BackupKind.PHYSICAL]) == 3
    assert counts(report) == {"physical": True, "logical": True, "rdb": True}


@pytest.mark.parametrize("step", ["check-source", "find-active-region"])
def test_one_that_ended_before_it_took_anything_has_failed_at_every_kind(step: str) -> None:
    assert counts(ended(step)) == {"physical": False, "logical": False, "rdb": False}


def test_a_step_that_ran_out_of_time_has_failed_and_the_points_beside_it_stay() -> None:
    """The second of them was stopped by the first."""
    report = ended(TAKING[BackupKind.PHYSICAL])
    assert report.state is RunState.ROLLED_BACK
    assert counts(report) == {"physical": False, "logical": False, "rdb": True}


def test_a_store_that_keeps_no_other_from_its_point_has_failed_alone() -> None:
    report = ended(TAKING[BackupKind.RDB])
    assert counts(report) == {"physical": True, "logical": True, "rdb": False}


def test_what_failed_after_the_points_were_written_fails_none_of_them() -> None:
    assert counts(ended("judge", "fill-locations")) == {"physical": True, "logical": True, "rdb": True}


def test_only_what_was_asked_for_is_counted() -> None:
    assert counts(ended("check-source", kind="physical")) == {"physical": False}
    assert counts(ended("check-source", store="redis")) == {"rdb": False}
    assert counts(ended("load-configuration")) == {}


def test_what_somebody_cancelled_is_no_failure_and_what_it_had_written_counts() -> None:
    assert counts(ended(cancelled_when=lambda engine, stores: "check-source" in stores.started)) == {}
    halfway = ended(cancelled_when=lambda engine, stores: engine.journal.facts.rdb_point is not None)
    assert counts(halfway) == {"physical": True, "rdb": True}


@pytest.mark.parametrize(("point_id", "verdict"), [(None, False), ("20261122T101500Z-physical-1a2b3c4d", None)])
def test_only_a_validation_of_all_points_has_an_overall_verdict(point_id: str | None, verdict: bool | None) -> None:
    report = ended("choose-points", plan=VALIDATION, point_id=point_id)
    assert report.failed_step == "choose-points"
    assert all_valid(report) is verdict


def test_a_duration_is_that_of_the_step_and_else_of_the_run() -> None:
    report = ended("check-source")
    times = {"started_at": NOW, "ended_at": NOW + timedelta(seconds=70), "waited": timedelta(seconds=10)}
    steps = [step.model_copy(update=times if "physical" in step.name else {}) for step in report.steps]
    slow = report.model_copy(update={"steps": steps, "ended_at": report.started_at + timedelta(seconds=90)})
    assert counted_backups(slow)[:2] == [
        CountedBackup("physical", False, timedelta(seconds=60)),
        CountedBackup("logical", False, timedelta(seconds=90)),
    ]


def test_a_snapshot_takes_as_long_as_the_step_that_takes_what_stands_for_a_whole_cluster() -> None:
    steps = [
        step.model_copy(update={"started_at": NOW, "ended_at": NOW + timedelta(seconds=40)})
        for step in ended().steps
        if step.name == "take-physical-backup"
    ]
    points = ["20261122T101500Z-snapshot-1a2b3c4d"]
    report = ended().model_copy(update={"steps": steps, "kinds": ["snapshot"], "point_ids": points})
    assert counted_backups(report) == [CountedBackup("snapshot", True, timedelta(seconds=40))]


def test_no_other_plan_and_no_run_under_way_is_counted() -> None:
    report = ended()
    assert counts(report.model_copy(update={"ended_at": None})) == {}
    assert counts(report.model_copy(update={"plan": "Retention"})) == {}


def test_each_kind_is_taken_by_one_step() -> None:
    taken = [kind for step in PLANS[BACKUP].steps() if (kind := kind_taken(step.name)) is not None]
    assert sorted(taken) == sorted(set(BackupKind) - {BackupKind.SNAPSHOT}), "a snapshot is RDS's physical backup"
