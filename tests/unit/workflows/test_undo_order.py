"""For any table, failures, failing undos and cancellations: undone is what was started, backwards, and all of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from hypothesis import event, given, settings
from hypothesis import strategies as some
from temporalio.exceptions import ApplicationError

from recovery.domain.plan import PlanContext, PlanRequest, StepOutcome
from recovery.domain.report import RunReport, RunState, StepState
from tests.unit.workflows.harness import Script, temporal
from workflows.engine import Engine
from workflows.steps import CONTROL, PROBE, UNDO, WARN, Parallel, Plan, Step, plan, s


async def act(self: Any, context: PlanContext) -> StepOutcome:
    raise AssertionError("only referenced")


@dataclass(frozen=True)
class Run:
    """A table, what the outside does to it, and after how many turns of the event loop it is cancelled."""

    table: Plan
    script: Script
    cancel_after: int | None


@some.composite
def runs(draw: some.DrawFn) -> Run:
    sizes = draw(some.lists(some.integers(1, 4), min_size=1, max_size=6))
    rows: list[Step | Parallel] = []
    for row, size in enumerate(sizes):
        steps = tuple(
            Step(
                f"step-{row}-{number}", act, CONTROL, s(1), s(1), PROBE,
                undo=act if draw(some.booleans()) else None,
                on_failure=draw(some.sampled_from([UNDO, UNDO, WARN])),
            )
            for number in range(size)
        )  # fmt: skip
        rows.append(steps[0] if size == 1 else Parallel(steps))
    table = plan("Any", "any table", *rows)
    names = [step.name for step in table.steps()]
    script = Script(
        ticks={name: draw(some.integers(0, 4)) for name in names},
        fails=draw(some.dictionaries(some.sampled_from(names), some.sampled_from(["before", "after"]), max_size=2)),
        undo_fails=draw(some.sets(some.sampled_from(names), max_size=2)),
    )
    return Run(table, script, draw(some.none() | some.integers(1, 60)))


async def played(run: Run) -> tuple[RunReport, BaseException | None]:
    with temporal(run.script):
        engine = Engine(run.table, PlanRequest(group="shop"))
        task = asyncio.create_task(engine.run())
        if run.cancel_after is not None:
            for _ in range(run.cancel_after):
                await asyncio.sleep(0)
            task.cancel()
        ended = (await asyncio.gather(task, return_exceptions=True))[0]
        report = engine.journal.report()
    return report, ended if isinstance(ended, BaseException) else None


@settings(max_examples=200, deadline=None)
@given(runs())
def test_undone_is_what_was_started_backwards_and_nothing_else(run: Run) -> None:
    report, error = asyncio.run(played(run))
    event(report.state)
    script, steps = run.script, {step.name: step for step in run.table.steps()}
    if report.state is RunState.COMPLETED:
        assert error is None and script.undone == []
        return
    registered = [name for name in script.started if steps[name].undo is not None]
    assert script.undone == report.undo_order == registered[::-1]
    left = script.present & {name for name in steps if steps[name].undo is not None}
    assert left <= script.undo_fails
    failed = [name for name in script.undone if name in script.undo_fails]
    assert report.state is (RunState.ROLLBACK_INCOMPLETE if failed else RunState.ROLLED_BACK)
    states = {step.name: step.state for step in report.steps}
    assert {name for name, state in states.items() if state is StepState.UNDO_FAILED} == set(failed)
    assert not {StepState.RUNNING, StepState.UNDOING} & set(states.values())
    assert isinstance(error, (ApplicationError, asyncio.CancelledError))
    if isinstance(error, asyncio.CancelledError):
        assert report.state is RunState.ROLLED_BACK and run.cancel_after is not None
