"""``drctl plan list | show``."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from drctl import words
from drctl.output import ConfigFile, Form, GroupName, Output, examples, print_json
from drctl.session import chosen_group, load_config
from drctl.tables import console
from recovery.errors import BadInput, NotFound

if TYPE_CHECKING:
    from recovery.domain.group import GroupSnapshot
    from workflows.steps import Plan, Step

app = typer.Typer(
    name="plan", no_args_is_help=True, rich_markup_mode="rich", help="Show what plans do, step by step, with budgets."
)


@app.command("list", epilog=examples("drctl plan list", "drctl plan list -o json"))
def list_plans(output: Form = Output.TEXT) -> None:
    """List all plans with what they are for."""
    from workflows.plans import PLANS

    if output is Output.JSON:
        print_json(
            [
                {
                    "plan": plan.name,
                    "key": plan.key,
                    "purpose": plan.purpose,
                    "steps": len(list(plan.steps())),
                    "locks_group": plan.locks_group,
                }
                for plan in PLANS.values()
            ]
        )
        return
    table = Table("Plan", "Steps", "What it does", box=None, pad_edge=False)
    for plan in PLANS.values():
        table.add_row(plan.name, str(len(list(plan.steps()))), plan.purpose)
    console().print(table)


@app.command(epilog=examples("drctl plan show FullRecovery", "drctl plan show full-recovery --group shop -o json"))
def show(
    plan_name: Annotated[str, typer.Argument(metavar="PLAN", help="FullRecovery or full-recovery; see plan list.")],
    group: GroupName = None,
    config: ConfigFile = None,
    output: Form = Output.TEXT,
) -> None:
    """Show a plan's steps with their budgets and undo, and its critical path against the group's RTO.

    Without a configuration the plan's own budgets are shown.
    """
    plan = _plan(plan_name)
    snapshot = _snapshot(config, group)
    budgets = snapshot.budgets if snapshot is not None else {}
    if output is Output.JSON:
        print_json(_document(plan, snapshot, budgets))
        return
    out = console()
    of_group = f" for {snapshot.name}" if snapshot is not None else ""
    out.print(f"{plan.name}{of_group}: {plan.purpose}")
    out.print(_table(plan, budgets))
    for line in _remarks(plan, snapshot, budgets):
        out.print(line, soft_wrap=True)


def _plan(name: str) -> Plan:
    from recovery.config.mistakes import suggestion
    from workflows.plans import PLANS

    for plan in PLANS.values():
        if name.lower() in (plan.name.lower(), plan.key):
            return plan
    raise NotFound(f"there is no plan {name!r}{suggestion(name, PLANS)}; known: {', '.join(PLANS)}")


def _snapshot(config: Any, group: str | None) -> GroupSnapshot | None:
    """Of the named group, or of the only one; None where no group is meant."""
    try:
        loaded = load_config(config)
    except BadInput:
        if config is not None or group is not None:
            raise
        return None
    if group is None and len(loaded.groups) > 1:
        return None
    return loaded.snapshot(chosen_group(loaded, group))


def _table(plan: Plan, budgets: dict[str, float]) -> Table:
    table = Table("#", "Step", "Where", "Attempt", "Budget", "Undo", "If it fails", box=None, pad_edge=False)
    for number, steps in plan.groups():
        for step in steps:
            budget = plan.budget(step, budgets)
            table.add_row(
                f"{number + 1}{'‖' if len(steps) > 1 else ''}",
                step.name,
                step.where.value,
                words.duration(min(step.attempt, budget)),
                words.duration(budget) + (" *" if budget != step.budget else ""),
                _undo(step),
                _on_failure(plan, step),
            )
    return table


def _undo(step: Step) -> str:
    if step.pivot:
        return "point of no return"
    return _activity(step.undo) if step.undo is not None else ""


def _on_failure(plan: Plan, step: Step) -> str:
    if step.on_failure.value == "warn":
        return "warn, go on"
    names = [other.name for other in plan.steps()]
    pivots = [other.name for other in plan.steps() if other.pivot]
    after_pivot = bool(pivots) and names.index(step.name) >= names.index(pivots[0])
    held = step.on_failure.value == "hold" or after_pivot
    return ("hold for the operator" if held else "undo all") + ("; asks first" if step.gate is not None else "")


def _activity(activity: Any) -> str:
    definition = getattr(activity, "__temporal_activity_definition", None)
    return str(definition.name) if definition is not None else str(activity.__name__)


def _remarks(plan: Plan, snapshot: GroupSnapshot | None, budgets: dict[str, float]) -> list[str]:
    path = plan.critical_path(budgets)
    lines = []
    if any(plan.budget(step, budgets) != step.budget for step in plan.steps()):
        lines.append("* from the configuration")
    if any(len(steps) > 1 for _, steps in plan.groups()):
        lines.append("‖ at the same time")
    lines.append(f"Critical path of the budgets: {words.duration(path)}; waiting for people is not in it.")
    if snapshot is not None and plan.has_rto:
        lines.append(_against_rto(path, snapshot.objectives.rto, snapshot.objectives.tier))
    return lines


def _against_rto(path: timedelta, rto: timedelta, tier: str) -> str:
    said = f"RTO of tier {tier}: {words.duration(rto)}: "
    if path <= rto:
        return f"{said}kept even if every step takes its whole budget, with {words.duration(rto - path)} to spare."
    return f"{said}not guaranteed, the budgets are {words.duration(path - rto)} longer. Each step may take its budget."


def _document(plan: Plan, snapshot: GroupSnapshot | None, budgets: dict[str, float]) -> dict[str, Any]:
    path = plan.critical_path(budgets)
    rto = snapshot.objectives.rto if snapshot is not None else None
    return {
        "plan": plan.name,
        "purpose": plan.purpose,
        "group": snapshot.name if snapshot is not None else None,
        "locks_group": plan.locks_group,
        "critical_path_seconds": path.total_seconds(),
        "rto_seconds": rto.total_seconds() if rto is not None else None,
        "within_rto": path <= rto if rto is not None else None,
        "steps": [
            {
                "row": number + 1,
                "step": step.name,
                "activity": _activity(step.activity),
                "where": step.where.value,
                "attempt_seconds": min(step.attempt, plan.budget(step, budgets)).total_seconds(),
                "budget_seconds": plan.budget(step, budgets).total_seconds(),
                "undo": _activity(step.undo) if step.undo is not None else None,
                "pivot": step.pivot,
                "on_failure": step.on_failure.value,
                "gate": step.gate.question if step.gate is not None else None,
            }
            for number, steps in plan.groups()
            for step in steps
        ],
    }
