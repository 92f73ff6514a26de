"""The rows that plans are made of, and the named retry policies."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any

from temporalio.common import RetryPolicy

from recovery.domain.plan import PlanContext, StepOutcome
from recovery.ports.notify import Severity

Activity = Callable[[Any, PlanContext], Awaitable[StepOutcome]]
"""The one signature of every activity in a plan: a method of an activity class, referenced, never called here."""


def s(seconds: float) -> timedelta:
    """So many seconds."""
    return timedelta(seconds=seconds)


def m(minutes: float) -> timedelta:
    """So many minutes."""
    return timedelta(minutes=minutes)


def h(hours: float) -> timedelta:
    """So many hours."""
    return timedelta(hours=hours)


# Retry policies. The budget (schedule-to-close) ends every one of them; permanent errors end them at once, because
# the boundary of the activities marks those as not retryable.
PROBE = RetryPolicy(initial_interval=s(0.2), backoff_coefficient=1.5, maximum_interval=s(2))
"""A question or a small idempotent write: asked again soon."""
PERSIST = RetryPolicy(initial_interval=s(0.5), backoff_coefficient=2.0, maximum_interval=s(30))
"""Work that takes long and may need a while until it can succeed: a copy, a restore."""
COPY = RetryPolicy(initial_interval=s(0.5), backoff_coefficient=2.0, maximum_interval=s(30), maximum_attempts=8)
"""A backup: taken over from lost workers and tried again after passing failures, but not in silence for hours. It fails
instead, so that somebody hears of it, and the next one is not far."""
ONCE = RetryPolicy(maximum_attempts=1)
"""Told to people: better not at all than twice."""

HEARTBEAT = s(2)
"""A worker that is silent for this long is lost and its step goes on elsewhere."""


class Where(StrEnum):
    """Whose worker runs the step."""

    CONTROL = "control"
    SOURCE = "source"
    TARGET = "target"
    VALIDATION = "validation"  # a worker that holds the keys to open recovery points
    KEYHOLDER = "target with keys"  # the same, in the target region


class OnFailure(StrEnum):
    """What follows when a step's budget is used up or it failed for good."""

    UNDO = "undo"  # before a pivot: undo everything; after it: hold
    WARN = "warn"  # note it and go on
    HOLD = "hold"  # wait for the operator


class Silence(StrEnum):
    """What follows when nobody answers a hold within the time that the configuration gives it."""

    ABORT = "abort"  # everything is undone
    SKIP = "skip"  # the step is undone, and the plan goes on without it; it stays held where that fails
    WAIT = "wait"  # it stays held, and people are told again: neither way is right unasked


CONTROL, SOURCE, TARGET = Where.CONTROL, Where.SOURCE, Where.TARGET
VALIDATION, KEYHOLDER = Where.VALIDATION, Where.KEYHOLDER
UNDO, WARN, HOLD = OnFailure.UNDO, OnFailure.WARN, OnFailure.HOLD


def where_required(context: PlanContext) -> bool:
    """The group's configuration asks for approvals."""
    return context.group.require_approval


def approved_beforehand(context: PlanContext) -> bool:
    """Whoever started the run consented with it."""
    return context.request.approve


def never(context: PlanContext) -> bool:
    return False


def nothing_more(context: PlanContext) -> str:
    return ""


@dataclass(frozen=True, slots=True)
class Gate:
    """A person's consent before a step; timeout and default come from the group's configuration.

    ``asks``: whether it asks at all. ``given``: whether whoever started the run consented with it. ``two_persons``:
    whether somebody else than whoever started the run has to. ``only_persons``: nobody's silence is ever a consent.
    ``because``: what a person has to know before answering, beside the question.
    """

    question: str
    asks: Callable[[PlanContext], bool] = where_required
    given: Callable[[PlanContext], bool] = approved_beforehand
    two_persons: Callable[[PlanContext], bool] = never
    only_persons: bool = False
    because: Callable[[PlanContext], str] = nothing_more


@dataclass(frozen=True, slots=True)
class Step:
    """One row of a plan.

    ``attempt`` bounds one try (start-to-close), ``budget`` all tries together (schedule-to-close). ``undo`` reverses
    the effect and must cope with an effect that never happened. ``pivot`` marks the point of no return, ``observe``
    looks whether a pivot that failed took effect all the same. ``when`` is a pure question on what is known so far.
    ``start_within`` gives up where no worker takes the step in time (the lost region's queue).
    ``beside``: the plan goes on without waiting for it, and ends with it; what follows never depends on it.
    ``costs_data``: when held, an operator may accept a loss of data and have it tried again.
    ``apart``: the patch that took it out of the parallel row before it. A run that began before that takes it there.
    ``silence``: what follows where it is held before the pivot and nobody answers in time.
    ``graceful``: started again when an operator makes an orderly switchover an ungraceful one.
    """

    name: str
    activity: Activity
    where: Where
    attempt: timedelta
    budget: timedelta
    retry: RetryPolicy
    undo: Activity | None = None
    undo_where: Where | None = None
    undo_budget: timedelta = timedelta(minutes=5)
    pivot: bool = False
    observe: Activity | None = None
    on_failure: OnFailure = OnFailure.UNDO
    silence: Silence = Silence.ABORT
    apart: str = ""
    gate: Gate | None = None
    when: Callable[[PlanContext], bool] | None = None
    start_within: timedelta | None = None
    beside: bool = False
    costs_data: bool = False
    graceful: bool = False


@dataclass(frozen=True, slots=True)
class Parallel:
    """Steps that do not depend on each other and run at the same time.

    ``since``: the patch that made them a row. A run that began before it takes them one after the other, to its end.
    """

    steps: tuple[Step, ...]
    since: str = ""


def parallel(*steps: Step, since: str = "") -> Parallel:
    return Parallel(steps, since)


@dataclass(frozen=True, slots=True)
class Plan:
    """A table of steps.

    ``locks_group``: the plan changes who owns the group or where its clients go, so only one such run at a time.
    ``planned``: nothing is lost while it runs, so its budgets are held against no RTO.
    ``severity``: of the message that it did not complete. ``told_by``: the step that has said so, where it was done.
    """

    name: str
    purpose: str
    rows: tuple[Step | Parallel, ...]
    locks_group: bool = False
    planned: bool = False
    severity: Severity = Severity.CRITICAL
    told_by: str = ""

    def groups(self) -> Iterator[tuple[int, tuple[Step, ...]]]:
        """Rows with their number; a parallel row holds several steps."""
        for number, row in enumerate(self.rows):
            yield number, row.steps if isinstance(row, Parallel) else (row,)

    def steps(self) -> Iterator[Step]:
        for _, steps in self.groups():
            yield from steps

    @property
    def key(self) -> str:
        """The name as configuration and command line write it: ``FullRecovery`` is ``full-recovery``."""
        return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", self.name).lower()

    @property
    def has_rto(self) -> bool:
        """It brings a lost service back, and so its critical path is held against the group's RTO."""
        return self.locks_group and not self.planned

    def first(self) -> Step:
        return next(self.steps())

    def budget(self, step: Step, overrides: dict[str, float]) -> timedelta:
        """The step's budget, as configured (``"FullRecovery.restore-database"``: seconds) or as the table has it."""
        configured = overrides.get(f"{self.name}.{step.name}")
        return step.budget if configured is None else timedelta(seconds=configured)

    def critical_path(self, overrides: dict[str, float] | None = None) -> timedelta:
        """Sum of the forward budgets; of a parallel row only its longest counts. Waiting for people is not in it."""
        waited_for = ([step for step in steps if not step.beside] for _, steps in self.groups())
        return sum(
            (max(self.budget(step, overrides or {}) for step in steps) for steps in waited_for if steps), timedelta()
        )


def plan(
    name: str,
    purpose: str,
    *rows: Step | Parallel,
    locks_group: bool = False,
    planned: bool = False,
    severity: Severity = Severity.CRITICAL,
    told_by: str = "",
) -> Plan:
    """A plan whose step names are unique; at most one pivot, never inside a parallel row."""
    table = Plan(name, purpose, rows, locks_group, planned, severity, told_by)
    names = [step.name for step in table.steps()]
    if len(set(names)) != len(names):
        raise ValueError(f"plan {name}: step names must be unique: {names}")
    pivots = [step for step in table.steps() if step.pivot]
    if len(pivots) > 1 or any(step.pivot for row in rows if isinstance(row, Parallel) for step in row.steps):
        raise ValueError(f"plan {name}: at most one pivot, and not beside other steps")
    if any(step.beside and (step.on_failure is not WARN or step.undo or step.gate) for step in table.steps()):
        raise ValueError(f"plan {name}: what runs beside the plan can only warn, and has neither undo nor gate")
    pairs = zip((None, *rows), rows, strict=False)
    if any(isinstance(row, Step) and row.apart and not isinstance(former, Parallel) for former, row in pairs):
        raise ValueError(f"plan {name}: a step that was taken out of a parallel row stands right after it")
    if any(step.silence is not Silence.ABORT and step.on_failure is not HOLD for step in table.steps()):
        raise ValueError(f"plan {name}: only at a step that is held when it fails can silence mean anything else")
    if any(step.beside for row in rows if isinstance(row, Step) for step in (row,)):
        raise ValueError(f"plan {name}: what runs beside the plan begins in a parallel row, beside something")
    if told_by and told_by not in names:
        raise ValueError(f"plan {name}: there is no step {told_by} that tells how it ended")
    if pivots and not locks_group:
        raise ValueError(f"plan {name}: a plan with a pivot must lock its group, for the lock's record keeps the pivot")
    return table
