"""No step changes the outside for a run that lost its group or forgot its point of no return.

The engine asks the ownership record before it records a pivot and before it undoes anything. But an operator may reset
a workflow to just after such a question, and what follows is then repeated without it. So each attempt of a step that
changes something asks again, in the same breath as it begins.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from recovery.domain.ownership import OwnershipRecord, Phase
from recovery.domain.plan import LockDemand, PlanContext
from recovery.errors import Refused
from recovery.ports.ownership import OwnershipStore

_store: contextvars.ContextVar[OwnershipStore] = contextvars.ContextVar("ownership store")


class LockGuard(Interceptor):
    """Gives every step of a worker the ownership records to ask. A step that has to ask and cannot is refused."""

    def __init__(self, store: OwnershipStore) -> None:
        self._store = store

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        return _Guarded(next, self._store)


class _Guarded(ActivityInboundInterceptor):
    def __init__(self, next: ActivityInboundInterceptor, store: OwnershipStore) -> None:
        super().__init__(next)
        self._store = store

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        with guarded_by(self._store):
            return await self.next.execute_activity(input)


@contextlib.contextmanager
def guarded_by(store: OwnershipStore) -> Iterator[None]:
    """Steps that run in this context ask this store."""
    token = _store.set(store)
    try:
        yield
    finally:
        _store.reset(token)


async def demand(context: PlanContext) -> None:
    """Lets a step begin that its context's lock allows.

    Raises:
        Refused: the group is not this run's, or its point of no return began; or this worker cannot know.
        Unreachable: the witness does not answer.
    """
    if context.lock is None:
        return
    record = await standing(context)
    if context.lock is LockDemand.UNDO:
        check_undo(record, context)
        return
    held = check_held(record, context)
    if context.lock is LockDemand.BEFORE_PIVOT and is_pivoted(held):
        raise Refused(f"{context.step} was not started: {no_return(held)}")


async def standing(context: PlanContext) -> OwnershipRecord | None:
    """The group's ownership record as it stands now.

    Raises:
        Refused: this worker cannot know. Unreachable: the witness does not answer.
    """
    store = _store.get(None)
    if store is None:
        raise Refused(
            f"this worker cannot ask who holds group {context.request.group}, so it does not start {context.step}: "
            "it was put together without a LockGuard"
        )
    found = await store.read(context.request.group)
    return found[0] if found else None


def is_held_by(record: OwnershipRecord, context: PlanContext) -> bool:
    return record.run is not None and record.run == context.holder


def is_pivoted(record: OwnershipRecord) -> bool:
    return record.phase is Phase.PIVOTED or record.pivot is not None


def check_held(record: OwnershipRecord | None, context: PlanContext) -> OwnershipRecord:
    """The record, which names this run. Raises Refused with who holds the group instead."""
    if record is None or not is_held_by(record, context):
        raise Refused(_not_held(record, context))
    return record


def check_undo(record: OwnershipRecord | None, context: PlanContext) -> str:
    """Why this run may undo. Raises Refused when a point of no return of it had begun, even if it forgot that.

    It refuses as well when the run once held the group and does not any more: it was completed and then reset, or
    another run took the group over. What it made may be in use by clients.
    """
    if record is None:
        return "the group was never claimed"
    if is_held_by(record, context):
        if is_pivoted(record):
            raise Refused(no_return(record))
        return "no point of no return had begun"
    if context.facts.ownership is not None:
        raise Refused(_not_held(record, context))
    return "this run never held the group"


def no_return(record: OwnershipRecord) -> str:
    pivot = record.pivot
    began = f" ({pivot.step}) began at {pivot.at:%Y-%m-%d %H:%M:%S} UTC" if pivot else " began"
    return (
        f"the point of no return of run {pivot.run_id if pivot else record.run}{began}. Look at the real state of both "
        "regions: go forward with a new run, or stop here and leave it as it is"
    )


def _not_held(record: OwnershipRecord | None, context: PlanContext) -> str:
    holder = "nobody" if record is None or record.run is None else f"run {record.run}"
    return (
        f"group {context.request.group} is held by {holder}, not by this run: nothing was changed. "
        "Look at the other run and at the real state of the group before starting again"
    )
