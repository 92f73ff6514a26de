"""The matrix of faults: what strikes where, and how the run has to end all the same."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from recovery.domain.plan import Facts, PlanContext, PlanRequest
from tests.chaos.recording import DAMAGED, FACTS, FENCE, MANAGED, NOW, group, name_of
from tests.chaos.world import Fault, Side
from workflows.plans import PLANS
from workflows.steps import HOLD, WARN, Plan, Step

End = Literal["completed", "rolled-back", "held"]
SIDES: tuple[Side, Side] = ("before", "after")


@dataclass(frozen=True)
class Case:
    """One run: its faults, whether it is cancelled at the first of them, and the only end that is right."""

    plan: str
    what: str
    faults: tuple[Fault, ...]
    end: End
    cancel: bool = False
    missing: frozenset[str] = frozenset()  # steps that failed, with whose absence the plan goes on

    @property
    def name(self) -> str:
        return f"{self.plan}: {self.what} {self.faults[-1].side} {self.faults[-1].at}" + (
            f", {self.faults[0].name}" if len(self.faults) > 1 else ""
        )


def _is_asked_for(plan: Plan, step: Step, unknown: Collection[str] = ()) -> bool:
    """Whether it runs in a rehearsal: of a guarded group with every kind of store, where nothing is taken back.

    What is validated is found damaged, and is repaired. ``unknown``: facts that no step has told.
    """
    context = PlanContext(
        plan=plan.name,
        run_id="run",
        workflow_id="rehearsal",
        step=step.name,
        request=PlanRequest(group="rehearsal"),
        facts=Facts(
            group=group("rehearsal", "queue"),
            source_region="region-a",
            target_region="region-b",
            stale_regions=["region-a"],
            managed=MANAGED,
            fence=FENCE,
            physical_point="point-1",
            logical_point="point-2",
            verdicts=[DAMAGED],
            points_repaired=["point-1"],
        ).model_copy(update=dict.fromkeys(unknown)),
        started_at=NOW,
    )
    return step.when is None or step.when(context)


class Table:
    """A plan's calls in their order: the steps, and what the engine asks in between."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.steps = [step for step in plan.steps() if _is_asked_for(plan, step)]
        self.order = {step.name: number for number, step in enumerate(self.steps)}
        pivots = [step for step in self.steps if step.pivot]
        self.pivot = pivots[0] if pivots else None

    def calls(self, step: Step) -> list[str]:
        """The ids of all activities of a step's forward part."""
        noted = [f"record {step.name}"] if step.pivot else []
        return [*noted, step.name]

    def past_pivot(self, at: str) -> bool:
        """A cancellation at this call does not undo any more."""
        if self.pivot is None:
            return False
        return at == self.pivot.name or self.order.get(at, -1) > self.order[self.pivot.name]

    def lost(self, step: Step, side: Side) -> frozenset[str]:
        """What never happens when the step's only attempt dies on that side of its effect."""
        once = step.retry.maximum_attempts == 1 and step.on_failure is WARN
        return frozenset({step.name} if once and side == "before" else ())

    def beside(self, one: Step, other: Step) -> bool:
        """Whether both run in the same parallel row."""
        return any(one in steps and other in steps for _, steps in self.plan.groups())

    def registered(self, failing: Step) -> list[Step]:
        """The steps that are undone when this one fails, in the order of their undo."""
        row = next(steps for _, steps in self.plan.groups() if failing in steps)
        last = max(self.order[step.name] for step in row if step.name in self.order)
        return [step for step in reversed(self.steps[: last + 1]) if step.undo is not None]

    def left_out(self, failing: Step) -> frozenset[str]:
        """Later steps that are not asked for when this one fails, because of what it would have told."""
        told = FACTS.get(name_of(failing.activity), Facts()).model_fields_set
        later = self.steps[self.order[failing.name] + 1 :]
        return frozenset(step.name for step in later if not _is_asked_for(self.plan, step, told))

    def undone_by(self) -> Step:
        """The step whose failure undoes most."""
        return [step for step in self.steps if self.after_failure(step, "after") == "rolled-back"][-1]

    def after_failure(self, step: Step, side: Side) -> End:
        """What follows when the step fails for good on that side of its effect."""
        if step.pivot and side == "after":
            return "completed"  # it is seen to have taken effect
        if step.on_failure is WARN:
            return "completed"
        if step.on_failure is HOLD or self.past_pivot(step.name):
            return "held"
        return "rolled-back"


TABLES = {name: Table(plan) for name, plan in PLANS.items()}


def forward_kills() -> Iterator[Case]:
    """The worker is killed on either side of every step's effect: all goes on as if nothing had happened."""
    for name, table in TABLES.items():
        for step in table.steps:
            for at in table.calls(step):
                for side in SIDES:
                    missing = table.lost(step, side)
                    yield Case(name, "kill", (Fault("kill", at, side),), "completed", missing=missing)
                    if not missing:  # what is told only once is told late by a worker that was frozen
                        yield Case(name, "freeze", (Fault("freeze", at, side),), "completed")


def kills_before_a_failure() -> Iterator[Case]:
    """The worker is killed at one step, and a later one fails for good."""
    for name, table in TABLES.items():
        for killed, failing in combinations(table.steps, 2):
            if table.beside(killed, failing) or killed.beside or failing.beside:
                continue  # they run at the same time: which comes first is not said
            for side, failing_side in zip(SIDES, reversed(SIDES), strict=True):
                end = table.after_failure(failing, failing_side)
                absent = failing.on_failure is WARN and failing_side == "before"
                missing = table.lost(killed, side) | ({failing.name} if absent else set())
                if failing.on_failure is WARN:
                    missing |= table.left_out(failing)
                faults = (Fault("fail", failing.name, failing_side), Fault("kill", killed.name, side))
                yield Case(name, "kill+fail", faults, end, missing=missing)


def cancellations() -> Iterator[Case]:
    """The run is cancelled while a step is blocked on either side of its effect, or just after its worker's death."""
    for name, table in TABLES.items():
        for step in table.steps:
            if step.beside:
                continue  # the plan goes on meanwhile: where the cancellation meets it is not said
            for at in table.calls(step):
                for side in SIDES:
                    end: End = "rolled-back"
                    if table.past_pivot(at):
                        end = "completed" if step is table.steps[-1] else "held"
                    yield Case(name, "cancel", (Fault("block", at, side),), end, cancel=True)
                    lost = table.lost(step, side)
                    yield Case(name, "kill+cancel", (Fault("kill", at, side),), end, cancel=True, missing=lost)


def faults_in_undo() -> Iterator[Case]:
    """All is undone, and an undo's worker is killed, or the run is cancelled meanwhile."""
    for name, table in TABLES.items():
        if not any(step.undo for step in table.steps):
            continue
        failing = table.undone_by()
        undone = table.registered(failing)
        asked = [f"permit undo from {undone[0].name}"] if table.plan.locks_group else []
        failure = Fault("fail", failing.name, "after")
        for at in [*asked, *(f"undo {step.name}" for step in undone)]:
            for side in SIDES:
                yield Case(name, "undo-kill", (failure, Fault("kill", at, side)), "rolled-back")
                yield Case(name, "undo-cancel", (failure, Fault("block", at, side)), "rolled-back", cancel=True)


def everything() -> list[Case]:
    return [*forward_kills(), *kills_before_a_failure(), *cancellations(), *faults_in_undo()]


def pairwise(cases: Iterable[Case]) -> list[Case]:
    """A choice in which every pair (call, side), (plan, kind), (side, kind) and (kind, end) occurs: greedy, stable."""
    open_cases = list(cases)
    uncovered = {pair for case in open_cases for pair in _pairs(case)}
    chosen: list[Case] = []
    while uncovered:
        best = max(open_cases, key=lambda case: len(_pairs(case) & uncovered))
        chosen.append(best)
        uncovered -= _pairs(best)
        open_cases.remove(best)
    return chosen


def _pairs(case: Case) -> frozenset[tuple[str, str]]:
    fault = case.faults[-1]
    return frozenset(
        {
            (fault.at, fault.side),
            (case.plan, case.what),
            (fault.side, case.what),
            (case.what, case.end),
        }
    )
