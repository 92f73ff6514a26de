"""The engine on a plain event loop: Temporal's workflow functions replaced by the least that they promise.

Made for thousands of runs in a few seconds; that Temporal keeps these promises is tested in ``tests/workflows``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from temporalio.exceptions import ActivityError, ApplicationError, CancelledError, RetryState

from recovery.domain.plan import PlanContext, StepOutcome

NOW = datetime(2026, 11, 22, tzinfo=UTC)
PATIENCE = 50  # turns of the event loop, for which a wait with a timeout waits, however long that is


@dataclass
class Script:
    """What the outside does in one run."""

    ticks: dict[str, int]  # how often a step yields to others before its effect
    fails: dict[str, str]  # step -> "before" or "after" its effect
    undo_fails: set[str]
    started: list[str] = field(default_factory=list)
    present: set[str] = field(default_factory=set)
    undone: list[str] = field(default_factory=list)
    owned: list[str] = field(default_factory=list)  # what the engine itself asked of the ownership record
    refuses: set[str] = field(default_factory=set)  # of these
    error: str = ""  # the type of the errors by which steps fail

    async def call(self, name: str) -> StepOutcome:
        """An activity, with the cancellation type that waits until the activity has ended."""
        if name.startswith("undo "):
            return await self._undo(name.removeprefix("undo "))
        if " " in name:  # an observation, or a question of the engine's own
            self.owned.append(name)
            if name in self.refuses:
                raise failed(name) from ApplicationError("refused")
            return StepOutcome()
        self.started.append(name)
        try:
            for _ in range(self.ticks[name]):
                await asyncio.sleep(0)
            self._fail(name, "before")
            self.present.add(name)
            await asyncio.sleep(0)
            self._fail(name, "after")
        except asyncio.CancelledError as error:
            raise failed(name) from _as_temporal(error)
        return StepOutcome(summary=name)

    async def _undo(self, name: str) -> StepOutcome:
        self.undone.append(name)
        await asyncio.sleep(0)
        if name in self.undo_fails:
            raise failed(name) from ApplicationError("cannot undo")
        self.present.discard(name)
        await asyncio.sleep(0)
        return StepOutcome(summary=name)

    def _fail(self, name: str, side: str) -> None:
        if self.fails.get(name) == side:
            raise failed(name) from ApplicationError("told to fail", type=self.error or None)


def failed(name: str) -> ActivityError:
    return ActivityError(
        name,
        scheduled_event_id=1,
        started_event_id=2,
        identity="",
        activity_type=name,
        activity_id=name,
        retry_state=RetryState.NON_RETRYABLE_FAILURE,
    )


def _as_temporal(error: asyncio.CancelledError) -> CancelledError:
    cancelled = CancelledError("cancelled")
    cancelled.__cause__ = error
    return cancelled


async def until(condition: Callable[[], bool]) -> None:
    """Lets the others go on until it is so; AssertionError where it never is."""
    for _ in range(10_000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it did not become true")


@contextmanager
def temporal(script: Script) -> Iterator[None]:
    """Temporal's functions, as far as the engine uses them."""

    async def execute(call: Any, argument: Any, *, activity_id: str = "", **options: Any) -> Any:
        return await script.call(activity_id) if isinstance(argument, PlanContext) else None

    async def wait(tasks: Any, **options: Any) -> Any:
        return await asyncio.wait(tasks, **options)

    async def wait_condition(condition: Callable[[], bool], *, timeout: timedelta | None = None) -> None:
        turns = 0
        while not condition():
            if timeout is not None and turns >= PATIENCE:
                raise TimeoutError
            turns += 1
            await asyncio.sleep(0)

    info = SimpleNamespace(run_id="run", first_execution_run_id="run", workflow_id="wf", workflow_start_time=NOW)
    with patch.multiple(
        "temporalio.workflow",
        execute_activity_method=execute,
        wait=wait,
        wait_condition=wait_condition,
        all_handlers_finished=lambda: True,
        set_current_details=lambda text: None,
        info=lambda: info,
        now=lambda: NOW,
        patched=lambda name: True,
    ):
        yield
