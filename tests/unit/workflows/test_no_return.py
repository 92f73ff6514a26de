"""From a pivot on nothing is undone, whatever fails, is aborted or cancelled, or was forgotten by a reset."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from recovery.domain.plan import PlanContext, PlanRequest, StepOutcome
from recovery.domain.report import RunState, StepState
from tests.unit.workflows.harness import Script, temporal, until
from workflows.control import OperatorCommand
from workflows.engine import Engine
from workflows.steps import CONTROL, PROBE, Plan, Step, plan, s

ANA = OperatorCommand(actor="ana", reason="looked at both regions")
NAMES = ("before", "pivot", "after")


async def act(self: Any, context: PlanContext) -> StepOutcome:
    raise AssertionError("only referenced")


def table() -> Plan:
    before, pivot, after = NAMES
    return plan(
        "Any", "any table",
        Step(before, act, CONTROL, s(1), s(1), PROBE, undo=act),
        Step(pivot, act, CONTROL, s(1), s(1), PROBE, pivot=True),
        Step(after, act, CONTROL, s(1), s(1), PROBE, undo=act),
        locks_group=True,
    )  # fmt: skip


def script(fails: dict[str, str], **ticks: int) -> Script:
    return Script(ticks=dict.fromkeys(NAMES, 0) | ticks, fails=fails, undo_fails=set())


async def aborted_when_held() -> Engine:
    engine = Engine(table(), PlanRequest(group="shop"))
    task = asyncio.create_task(engine.run())
    await until(lambda: bool(engine.control.holds) or task.done())
    engine.abort(ANA)
    await asyncio.gather(task, return_exceptions=True)
    return engine


@pytest.mark.parametrize("failing", ["pivot", "after"])
def test_a_failure_is_held_and_an_abort_leaves_everything_as_it_is(failing: str) -> None:
    outside = script({failing: "after"})

    with temporal(outside):
        report = asyncio.run(aborted_when_held()).journal.report()
    assert (report.state, report.undo_order, outside.undone) == (RunState.STOPPED, [], [])
    assert "before" in outside.present and outside.owned == ["record pivot", "release after before"]


def test_an_abort_in_the_pivot_does_not_cut_in() -> None:
    outside = script({}, pivot=50)

    async def run() -> Engine:
        engine = Engine(table(), PlanRequest(group="shop"))
        task = asyncio.create_task(engine.run())
        await until(lambda: "pivot" in outside.started)
        engine.abort(ANA)
        await until(lambda: bool(engine.control.holds) or task.done())
        assert "pivot" in outside.present
        engine.abort(ANA)
        await asyncio.gather(task, return_exceptions=True)
        return engine

    with temporal(outside):
        report = asyncio.run(run()).journal.report()
    assert (report.state, outside.undone) == (RunState.STOPPED, [])


def test_the_point_of_no_return_is_recorded_before_its_step_starts() -> None:
    outside = script({})

    async def run() -> None:
        engine = Engine(table(), PlanRequest(group="shop"))
        task = asyncio.create_task(engine.run())
        await until(lambda: "pivot" in outside.started)
        assert outside.owned == ["record pivot"]
        await task

    with temporal(outside):
        asyncio.run(run())


def test_nothing_is_undone_that_the_ownership_record_does_not_permit() -> None:
    """A reset has forgotten the pivot; the record has not."""
    outside = script({})
    outside.refuses = {"record pivot", "permit undo from before"}

    with temporal(outside):
        report = asyncio.run(aborted_when_held()).journal.report()
    assert outside.undone == [] and "before" in outside.present
    assert {step.state for step in report.steps if step.name == "before"} == {StepState.UNDO_REFUSED}
