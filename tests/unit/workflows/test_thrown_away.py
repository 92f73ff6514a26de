"""A worker that ends drops the runs it holds: each coroutine is closed where it stands, and must not wait there."""

from __future__ import annotations

import asyncio
from typing import Any

from recovery.domain.plan import PlanContext, PlanRequest, StepOutcome
from tests.unit.workflows.harness import Script, temporal
from workflows.engine import Engine
from workflows.steps import CONTROL, PROBE, Parallel, Step, plan, s


async def act(self: Any, context: PlanContext) -> StepOutcome:
    raise AssertionError("only referenced")


def test_a_parallel_row_that_is_dropped_lets_go_at_once() -> None:
    names = ("one", "two")
    steps = tuple(Step(name, act, CONTROL, s(1), s(1), PROBE) for name in names)
    script = Script(ticks=dict.fromkeys(names, 1_000), fails={}, undo_fails=set())

    async def drop() -> None:
        with temporal(script):
            forward = Engine(plan("Any", "any table", Parallel(steps)), PlanRequest(group="shop"))._go_forward()
            forward.send(None)  # up to where it waits for both
            while len(script.started) < len(names):
                await asyncio.sleep(0)
            forward.close()  # RuntimeError: coroutine ignored GeneratorExit

    asyncio.run(drop())
    assert script.present == set()
