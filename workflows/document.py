"""Writes ``docs/plans.md`` from the tables: ``python -m workflows.document > docs/plans.md``; ``--check`` compares."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from recovery.domain.words import duration
from workflows.plans import PLANS
from workflows.steps import COPY, HOLD, ONCE, PERSIST, PROBE, WARN, Plan, Silence, Step

ROOT = Path(__file__).parent.parent
TARGET = ROOT / "docs" / "plans.md"
EXAMPLE = ROOT / "recovery.example.yaml"
RETRIES = {id(PROBE): "soon", id(PERSIST): "patiently", id(COPY): "seven times", id(ONCE): "never"}
SILENCE = {
    Silence.SKIP: "undone and left out when `approvals.hold_timeout` is over",
    Silence.WAIT: "`approvals.hold_timeout` does not end that, and people are told again",
}
UNITS = {"min": "minutes", "m": "minutes", "minute": "minutes", "h": "hours", "hour": "hours", "s": "seconds"}
INTRODUCTION = """# Plans

<!-- Written by `python -m workflows.document > docs/plans.md`. Change the tables in `workflows/plans/`, not this. -->

A plan is a table of steps. *Attempt* bounds one try of a step, *budget* all of its tries together; budgets can be
configured per tier and group. *Tried again*: `soon` (after 0.2 to 2 seconds), `patiently` (after 0.5 to 30 seconds),
`seven times` (as patiently, and then never), `never`; an error that another try cannot mend ends the step at once.
*Where* is the region whose workers run the step: `control` is wherever the plan itself runs, `validation` any worker
that holds an age identity, and `target with keys` one of the target region that does. Rows that share a number run at
the same time.

A step's undo is noted before the step starts, and undoing goes backwards. An operator can `pause`, `resume`, `retry`,
`skip`, `approve`, `decline` and `abort` a run, each with a name and a reason, which the report keeps.
"""


def document() -> str:
    """The whole page, as Markdown."""
    tiers = _tiers()
    pages = ["\n".join(_plan(plan, tiers)) for plan in PLANS.values()]
    return INTRODUCTION + "\n" + "\n\n".join(pages) + "\n"


def _plan(plan: Plan, tiers: dict[str, timedelta]) -> Iterator[str]:
    yield f"## {plan.name}"
    yield ""
    yield f'{_sentence(plan.purpose)} Start it with `{{"group": "shop"}}`.'
    yield ""
    yield "| # | step | what it does | where | attempt | budget | tried again | undo | when it fails for good |"
    yield "|--:|---|---|---|--:|--:|---|---|---|"
    for number, steps in plan.groups():
        for step in steps:
            yield _row(plan, number + 1, step)
    yield ""
    yield from _critical_path(plan, tiers)
    yield ""
    yield from _failure(plan)


def _row(plan: Plan, number: int, step: Step) -> str:
    notes = [_said(step.activity)]
    if step.gate is not None:
        notes.append(f"*Where approvals are required, it asks first:* {step.gate.question}")
    if step.when is not None:
        notes.append("*Only where asked for or configured.*")
    if step.beside:
        notes.append("*The plan goes on beside it.*")
    if step.graceful:
        notes.append("*Begins again when an operator makes the switchover ungraceful.*")
    if step.start_within is not None:
        notes.append(f"*Given up when no worker takes it within {duration(step.start_within)}.*")
    cells = [
        str(number),
        f"`{step.name}`" + (" **pivot**" if step.pivot else ""),
        " ".join(notes),
        step.where.value,
        duration(step.attempt),
        duration(step.budget),
        RETRIES.get(id(step.retry), "as its policy says"),
        _said(step.undo) if step.undo is not None else "",
        _policy(plan, step),
    ]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _policy(plan: Plan, step: Step) -> str:
    if step.on_failure is WARN:
        return "a warning; the plan goes on"
    if step.costs_data:
        return "held where data would be lost; else all is undone"
    if step.pivot:
        return "its real state is looked at; then forward, or held"
    if step.silence is not Silence.ABORT:
        return f"held for the operator; {SILENCE[step.silence]}"
    if step.on_failure is HOLD or _past_pivot(plan, step):
        return "held for the operator"
    return "all is undone" if any(each.undo for each in plan.steps()) else "the run fails"


def _critical_path(plan: Plan, tiers: dict[str, timedelta]) -> Iterator[str]:
    path = plan.critical_path()
    if not plan.has_rto:
        yield f"All budgets together: {duration(path)}. No RTO hangs on this plan."
        return
    yield (
        f"**Critical path.** The budgets add up to {duration(path)}; of steps that run at the same time only the "
        "longest counts, and waiting for people is not in it. A longer path than the RTO is a warning, never a "
        "refusal: each step may take its budget, but seldom does."
    )
    yield ""
    yield "| tier of `recovery.example.yaml` | RTO | critical path | |"
    yield "|---|--:|--:|---|"
    for tier, rto in tiers.items():
        verdict = (
            "within the RTO" if path <= rto else f"{duration(path - rto)} more: shorten budgets in the configuration"
        )
        yield f"| {tier} | {duration(rto)} | {duration(path)} | {verdict} |"


def _failure(plan: Plan) -> Iterator[str]:
    pivots = [step for step in plan.steps() if step.pivot]
    undone = [f"`{step.name}`" for step in reversed(list(plan.steps())) if step.undo is not None]
    if not undone:
        yield "**When it fails.** Nothing has to be undone: the run ends with the reason, and can be started again."
        return
    order = ", ".join(undone)
    if not pivots:
        yield (
            f"**When it fails, is cancelled or aborted.** Every step that had started is undone, backwards ({order}). "
            "An undo that fails is reported, and the others still run."
        )
        return
    pivot = pivots[0].name
    yield (
        f"**Before `{pivot}`.** A failure, a cancellation or an abort undoes every step that had started, backwards "
        f"({order}), shielded from further cancellations. An undo that fails is reported with a critical alert, and "
        "the others still run."
    )
    yield ""
    yield (
        f"**From `{pivot}` on.** The point of no return is written into the ownership record first. From then on "
        "nothing is undone automatically: the plan goes forward, or it is held with a critical alert, and the operator "
        "retries, skips or aborts. An abort leaves everything as it is and releases the group. A reset of the workflow "
        "does not forget the point of no return."
    )
    if plan.locks_group:
        yield ""
        yield "**Lock.** Only one run at a time changes the group; a second one is refused with the id of the first."


def _past_pivot(plan: Plan, step: Step) -> bool:
    names = [each.name for each in plan.steps()]
    pivots = [each.name for each in plan.steps() if each.pivot]
    return bool(pivots) and names.index(step.name) > names.index(pivots[0])


def _said(method: Callable[..., Any]) -> str:
    """The first paragraph of the activity's docstring; of an undo, without the words that it is one."""
    text = " ".join((inspect.getdoc(method) or "").split("\n\n")[0].split()).replace("``", "`")
    return _sentence(re.sub(r"^Undo of [^:]*: ", "", text)) if text else ""


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:].rstrip(".") + "."


def _tiers() -> dict[str, timedelta]:
    """Tier -> RTO, as the example has them; its checker (``drctl config check``) is not for workflow code to import."""
    example = YAML(typ="safe").load(EXAMPLE.read_text())
    return {name: _span(str(tier["rto"])) for name, tier in example["tiers"].items()}


def _span(text: str) -> timedelta:
    number, unit = re.fullmatch(r"(\d+) *([a-z]+?)s?", text).groups()  # type: ignore[union-attr]
    return timedelta(**{UNITS[unit]: int(number)})


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--check"]):
        sys.stderr.write("usage: python -m workflows.document [--check]\n")
        return 2
    if not arguments:
        sys.stdout.write(document())
        return 0
    if TARGET.exists() and TARGET.read_text() == document():
        return 0
    sys.stderr.write("docs/plans.md does not say what the tables say: python -m workflows.document > docs/plans.md\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
