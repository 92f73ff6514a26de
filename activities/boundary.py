"""What every activity of a plan has in common: its name, its heartbeat, its errors, its log lines.

An activity heartbeats twice a second while it runs, so that a cancellation reaches it within a second and a lost
worker is noticed within two. A library error becomes an ApplicationError whose type is the error's kind; a permanent
one is not tried again. The number of the attempt travels with it, for failed attempts leave no trace in a history.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, ParamSpec, TypeVar

import structlog
from pydantic import BaseModel
from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities.bounds import bounded, shortened
from activities.lock import demand
from recovery.domain.plan import PlanContext, StepOutcome
from recovery.errors import RecoveryError
from recovery.ports.recovery_points import Progress

HEARTBEAT_EVERY = 0.5  # seconds
PROGRAMMING_ERRORS = (
    AssertionError,
    AttributeError,
    LookupError,
    NameError,
    NotImplementedError,
    TypeError,
    ValueError,
)
"""Another attempt meets the same mistake: the step ends at once, and a person reads of it within the second."""

P = ParamSpec("P")
R = TypeVar("R")
Self = TypeVar("Self")

log = structlog.get_logger("recovery.activities")


class StepProgress(BaseModel):
    """What a long step's heartbeat carries: bytes done, bytes expected (0: unknown), bytes a second, and a word."""

    done: int = 0
    expected: int = 0
    rate: float = 0.0
    note: str = ""


_progress: contextvars.ContextVar[list[Any]] = contextvars.ContextVar("progress")


def report_progress(progress: BaseModel) -> None:
    """Sets what the next heartbeat carries. Outside an activity it does nothing, so adapters' callbacks may call it."""
    with contextlib.suppress(LookupError):
        _progress.get()[:] = [progress]


def told_as(note: str = "") -> Progress:
    """Tells how far a copy came with the next heartbeat, and the rate since this was called."""
    began = time.monotonic()

    def tell(done: int, expected: int, what: str) -> None:
        rate = done / max(time.monotonic() - began, 0.001)
        words = f"{note}: {what}" if note and what else note or what
        report_progress(StepProgress(done=done, expected=expected, rate=rate, note=words))

    return tell


def step(
    name: str,
) -> Callable[
    [Callable[[Self, PlanContext], Awaitable[StepOutcome]]], Callable[[Self, PlanContext], Awaitable[StepOutcome]]
]:
    """Makes a method an activity that a plan's table can name."""

    def make(
        method: Callable[[Self, PlanContext], Awaitable[StepOutcome]],
    ) -> Callable[[Self, PlanContext], Awaitable[StepOutcome]]:
        async def permitted(self: Self, context: PlanContext) -> StepOutcome:
            if not name.startswith("ownership."):  # those decide on the record as they read it
                await demand(context)
            return await method(self, context)

        @functools.wraps(method)
        async def run(self: Self, context: PlanContext) -> StepOutcome:
            with structlog.contextvars.bound_contextvars(
                group=context.request.group, plan=context.plan, run_id=context.run_id, step=context.step
            ):
                outcome = await _bounded(permitted(self, context))
            return bounded(outcome).model_copy(update={"attempt": activity.info().attempt})

        return activity.defn(name=name)(run)

    return make


def service(name: str) -> Callable[[Callable[P, Awaitable[R]]], Callable[P, Awaitable[R]]]:
    """Makes a method an activity of the engine's own, with another signature than a step's."""

    def make(method: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
        @functools.wraps(method)
        async def run(*args: P.args, **kwargs: P.kwargs) -> R:
            return await _bounded(method(*args, **kwargs))

        return activity.defn(name=name)(run)

    return make


async def _bounded(work: Awaitable[R]) -> R:
    try:
        async with _heartbeats():
            return await work
    except RecoveryError as error:
        log.warning("step failed", kind=error.kind, error=str(error), attempt=activity.info().attempt)
        raise _failure(str(error), error.kind, final=not error.retryable) from None
    except PROGRAMMING_ERRORS as error:
        log.exception("step failed by a mistake in this program", attempt=activity.info().attempt)
        words = f"a mistake in this program: {type(error).__name__}: {error}"
        raise _failure(words, "Bug", final=True) from None
    except (OSError, TimeoutError) as error:
        # Not one of ours: the operating system's word about a connection or a file. Another attempt may do better.
        log.warning("step failed", kind=type(error).__name__, error=str(error), attempt=activity.info().attempt)
        raise _failure(f"{type(error).__name__}: {error}", type(error).__name__, final=False) from None
    except ApplicationError:
        raise
    except Exception as error:  # a driver's own: which of them are for good is not known here, so the budget decides
        log.exception("step failed with an error that no adapter translated", attempt=activity.info().attempt)
        raise _failure(f"{type(error).__name__}: {error}", type(error).__name__, final=False) from None


def _failure(words: str, kind: str, *, final: bool) -> ApplicationError:
    """What Temporal keeps of a failed attempt, without its causes: their stacks are in the log.

    The server keeps 4 KiB of the last attempt's failure, and forgets reason and number of the attempt beyond that.
    """
    return ApplicationError(shortened(words), activity.info().attempt, type=kind, non_retryable=final)


@contextlib.asynccontextmanager
async def _heartbeats() -> AsyncIterator[None]:
    details: list[Any] = list(activity.info().heartbeat_details)
    token = _progress.set(details)

    async def beat() -> None:
        # Not at once: a step that is quicker than this needs none, and each one is a write for the server.
        while True:
            await asyncio.sleep(HEARTBEAT_EVERY)
            activity.heartbeat(*details)

    beating = asyncio.create_task(beat())
    try:
        yield
    finally:
        beating.cancel()
        _progress.reset(token)
