"""The matrix of faults: what strikes where, and how the run has to end all the same."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

from recovery.domain.plan import Facts, PlanContext, PlanRequest
from tests.chaos.recording import name_of
from tests.chaos.variants import NOW, PLAIN, VARIANTS, Variant, group
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
    added: frozenset[str] = frozenset()  # steps that are asked for only because of that
    variant: str = PLAIN.name

    @property
    def name(self) -> str:
        plan = self.plan if self.variant == PLAIN.name else f"{self.plan} {self.variant}"
        return f"{plan}: {self.what} {self.faults[-1].side} {self.faults[-1].at}" + (
            f", {self.faults[0].name}" if len(self.faults) > 1 else ""
        )


def asked_for(plan: Plan, variant: Variant, silent: Step | None = None) -> list[Step]:
    """The steps that run in a rehearsal; ``silent`` fails there and tells nothing."""
    facts = Facts(group=group(variant.name, "queue"), source_region="region-a", target_region="region-b")
    found = []
    for step in plan.steps():
        context = PlanContext(
            plan=plan.name,
            run_id="run",
            workflow_id="rehearsal",
            step=step.name,
            request=PlanRequest(group=variant.name),
            facts=facts,
            started_at=NOW,
        )
        if step.when is None or step.when(context):
            found.append(step)
            facts = facts if step is silent else facts.merged(variant.told_by(name_of(step.activity)))
    return found


class Table:
    """A plan's calls in their order, in a rehearsal of a variant: the steps, and what the engine asks in between.

    ``new``: those steps that occur in no rehearsal of the variants before it: what its cases are about.
    """

    def __init__(self, plan: Plan, variant: Variant, known: Collection[str] = ()) -> None:
        self.plan = plan
        self.variant = variant
        self.steps = asked_for(plan, variant)
        self.new = [step for step in self.steps if step.name not in known]
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

    def without(self, failing: Step) -> tuple[frozenset[str], frozenset[str]]:
        """The steps that are not asked for when this one fails, because of what it would have told; and those that are
        asked for only then."""
        then = {step.name for step in asked_for(self.plan, self.variant, silent=failing)}
        return frozenset(self.order.keys() - then), frozenset(then - self.order.keys())

    def case(self, what: str, faults: tuple[Fault, ...], end: End, **more: Any) -> Case:
        return Case(self.plan.name, what, faults, end, variant=self.variant.name, **more)

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


def _tables() -> Iterator[Table]:
    for plan in PLANS.values():
        known: set[str] = set()
        for variant in VARIANTS.values():
            table = Table(plan, variant, known)
            known |= table.order.keys()
            if table.new:
                yield table


REHEARSALS = {(table.plan.name, table.variant.name): table for table in _tables()}
TABLES = {name: REHEARSALS[name, PLAIN.name] for name in PLANS}
"""As most cases play them, and as histories are recorded."""


def forward_kills() -> Iterator[Case]:
    """The worker is killed on either side of every step's effect: all goes on as if nothing had happened."""
    for table in REHEARSALS.values():
        for step in table.new:
            for at in table.calls(step):
                for side in SIDES:
                    missing = table.lost(step, side)
                    yield table.case("kill", (Fault("kill", at, side),), "completed", missing=missing)
                    if not missing:  # what is told only once is told late by a worker that was frozen
                        yield table.case("freeze", (Fault("freeze", at, side),), "completed")


def kills_before_a_failure() -> Iterator[Case]:
    """The worker is killed at one step, and a later one fails for good."""
    for table in REHEARSALS.values():
        struck = [*table.new, table.undone_by()]
        for killed, failing in combinations(table.steps, 2):
            if killed not in table.new or failing not in struck:
                continue
            if table.beside(killed, failing) or killed.beside or failing.beside:
                continue  # they run at the same time: which comes first is not said
            for side, failing_side in zip(SIDES, reversed(SIDES), strict=True):
                end = table.after_failure(failing, failing_side)
                absent = failing.on_failure is WARN and failing_side == "before"
                missing, added = table.lost(killed, side) | ({failing.name} if absent else set()), frozenset[str]()
                if failing.on_failure is WARN:
                    left_out, added = table.without(failing)
                    missing |= left_out
                faults = (Fault("fail", failing.name, failing_side), Fault("kill", killed.name, side))
                yield table.case("kill+fail", faults, end, missing=missing, added=added)


def cancellations() -> Iterator[Case]:
    """The run is cancelled while a step is blocked on either side of its effect, or just after its worker's death."""
    for table in REHEARSALS.values():
        for step in table.new:
            if step.beside:
                continue  # the plan goes on meanwhile: where the cancellation meets it is not said
            for at in table.calls(step):
                for side in SIDES:
                    end: End = "rolled-back"
                    if table.past_pivot(at):
                        end = "completed" if step is table.steps[-1] else "held"
                    yield table.case("cancel", (Fault("block", at, side),), end, cancel=True)
                    lost = table.lost(step, side)
                    yield table.case("kill+cancel", (Fault("kill", at, side),), end, cancel=True, missing=lost)


def faults_in_undo() -> Iterator[Case]:
    """All is undone, and an undo's worker is killed, or the run is cancelled meanwhile."""
    for table in REHEARSALS.values():
        if not any(step.undo for step in table.new):
            continue
        failing = table.undone_by()
        undone = table.registered(failing)
        asked = [f"permit undo from {undone[0].name}"] if table.plan.locks_group and table.variant is PLAIN else []
        failure = Fault("fail", failing.name, "after")
        for at in [*asked, *(f"undo {step.name}" for step in undone if step in table.new)]:
            for side in SIDES:
                yield table.case("undo-kill", (failure, Fault("kill", at, side)), "rolled-back")
                yield table.case("undo-cancel", (failure, Fault("block", at, side)), "rolled-back", cancel=True)


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
