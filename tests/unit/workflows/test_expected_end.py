"""When a run is expected to end, from what earlier runs of its plan took."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from recovery.domain.durations import expected_seconds
from recovery.domain.plan import Facts, PlanRequest, StepOutcome
from recovery.domain.report import RunReport, RunState, StepState
from recovery.domain.report_text import markdown_table, remaining
from tests.fakes.handover import group_of
from tests.unit.workflows.harness import NOW, Script, temporal
from workflows.journal import Journal
from workflows.plans import PLANS
from workflows.steps import WARN, Plan, Step

TOOK = timedelta(seconds=10)
BEFORE = NOW - timedelta(days=7)


def left_out(step: Step) -> bool:
    return step.when is not None


def ran(plan: Plan, began: datetime = BEFORE, **states: StepState) -> RunReport:
    """An earlier run: what has a condition was not asked for, what may warn did, all else was done."""
    with temporal(Script({}, {}, set())):
        empty = Journal(plan, PlanRequest(group="shop")).report()
    table = {step.name: step for step in plan.steps()}
    rows = []
    for row in empty.steps:
        step = table[row.name]
        state = StepState.SKIPPED if left_out(step) else StepState.WARNED if step.on_failure is WARN else StepState.DONE
        state = states.get(row.name.replace("-", "_"), state)
        times = {} if state is StepState.SKIPPED else {"started_at": began, "ended_at": began + TOOK}
        rows.append(row.model_copy(update={"state": state, **times}))
    return empty.model_copy(update={"steps": rows, "state": RunState.COMPLETED})


def begun(plan: Plan, earlier: list[RunReport]) -> RunReport:
    """A run that has loaded its configuration and what the earlier ones teach."""
    with temporal(Script({}, {}, set())):
        journal = Journal(plan, PlanRequest(group="shop"))
        facts = Facts(group=group_of("a", "b"), expected_seconds=expected_seconds(earlier, plan.name))
        journal.done(plan.first(), StepOutcome(facts=facts))
        return journal.report()


@pytest.mark.parametrize("name", PLANS)
def test_every_plan_has_an_expected_end_once_it_has_run(name: str) -> None:
    plan = PLANS[name]
    rows = [steps for _, steps in list(plan.groups())[1:] if not all(left_out(step) for step in steps)]
    report = begun(plan, [ran(plan)])
    assert report.eta == NOW + TOOK * len(rows)
    assert f"expected end {report.eta:%H:%M:%S}" in markdown_table(report, NOW)


@pytest.mark.parametrize("name", PLANS)
def test_what_brings_a_lost_service_back_is_held_against_the_rto(name: str) -> None:
    report = begun(PLANS[name], [])
    assert report.rto_ends_at == (NOW + timedelta(minutes=15) if PLANS[name].has_rto else None)
    late = NOW + timedelta(minutes=16)
    assert ("**RTO**: it is not confirmed yet that the service answers" in markdown_table(report, late)) is PLANS[
        name
    ].has_rto


@pytest.mark.parametrize("name", PLANS)
def test_nothing_is_expected_of_a_plan_that_never_ran(name: str) -> None:
    assert begun(PLANS[name], []).eta is None


def test_a_row_is_expected_to_take_what_it_mostly_takes() -> None:
    plan = PLANS["BackupValidation"]
    once = ran(plan, repair_copies=StepState.DONE)
    assert expected_seconds([ran(plan), once, ran(plan)], plan.name)["repair-copies"] == 0
    assert expected_seconds([ran(plan), once, once], plan.name)["repair-copies"] == TOOK.total_seconds()


def test_what_an_operator_skipped_or_never_began_teaches_nothing() -> None:
    plan = PLANS["Retention"]
    unbegun = ran(plan, expire_points=StepState.PENDING)
    skipped = ran(plan, expire_points=StepState.SKIPPED)
    skipped = skipped.model_copy(update={"steps": [row.model_copy(update={"error": "odd"}) for row in skipped.steps]})
    failed = ran(plan, expire_points=StepState.FAILED)
    assert "expire-points" not in expected_seconds([unbegun, skipped, failed], plan.name)
    assert begun(plan, [unbegun]).eta is None


def test_a_row_that_was_left_out_before_and_runs_now_is_not_said_to_be_about_to_end() -> None:
    plan = PLANS["BackupValidation"]
    row = next(row for row in begun(plan, [ran(plan)]).steps if row.name == "repair-copies")
    assert row.expected == timedelta()
    running = row.model_copy(update={"state": StepState.RUNNING, "started_at": NOW})
    assert remaining(running, NOW) is None
