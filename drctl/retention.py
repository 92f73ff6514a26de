"""``drctl retention``."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from drctl import words
from drctl.options import Actor, Reason, Wait
from drctl.output import ConfigFile, Form, GroupName, Output, examples, print_json
from drctl.session import catalogue, chosen_group, load_config, operator, run
from drctl.starting import run_plan
from drctl.tables import console
from recovery.domain.plan import PlanRequest

if TYPE_CHECKING:
    from recovery.backup.survey import Orphan
    from recovery.config import Config
    from recovery.domain.retention import RetentionPlan

app = typer.Typer(rich_markup_mode="rich")


@dataclass(frozen=True)
class Preview:
    plan: RetentionPlan
    orphans: list[Orphan]


@app.command(epilog=examples("drctl retention --dry-run", "drctl retention --group shop"))
def retention(
    group: GroupName = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed, and why.")] = False,
    wait: Wait = True,
    reason: Reason = "asked for",
    actor: Actor = None,
    config: ConfigFile = None,
    output: Form = Output.TEXT,
) -> None:
    """Remove the recovery points that the group's rules no longer keep, and what unfinished backups left.

    The last validated recovery point is never removed.
    """
    loaded = load_config(config)
    name = chosen_group(loaded, group)
    if dry_run:
        _show(name, run(_preview(loaded, name)), output)
        return
    request = PlanRequest(group=name, reason=reason, requested_by=operator(actor))
    run_plan(loaded, "Retention", request, wait=wait, output=output)


async def _preview(config: Config, group: str) -> Preview:
    from recovery.domain.retention import plan_retention

    rule = config.snapshot(group).retention
    async with catalogue(config, group) as found:
        points = await found.points(group)
        plan = plan_retention(points, rule, datetime.now(UTC), await found.stored_at(points))
        return Preview(plan, await found.orphans(group))


def _show(group: str, preview: Preview, output: Output) -> None:
    plan = preview.plan
    if output is Output.JSON:
        print_json(
            {
                "group": group,
                "dry_run": True,
                "remove": {point_id: plan.reasons.get(point_id, "") for point_id in plan.remove},
                "keep": {point_id: plan.reasons.get(point_id, "") for point_id in plan.keep},
                "warnings": plan.warnings,
                "unfinished": [
                    {"point_id": o.point_id, "location": o.location, "objects": o.objects, "bytes": o.size}
                    for o in preview.orphans
                ],
            }
        )
        return
    table = Table("Recovery point", "Would be", "Why", box=None, pad_edge=False)
    for fate, points in (("removed", plan.remove), ("kept", plan.keep)):
        for point_id in points:
            table.add_row(point_id, fate, plan.reasons.get(point_id, ""))
    out = console()
    out.print(table)
    for warning in plan.warnings:
        out.print(f"warning: {warning}")
    for orphan in preview.orphans:
        objects = words.plural(orphan.objects, "object")
        out.print(f"unfinished: {orphan.point_id} at {orphan.location}, {objects}, {words.size(orphan.size)}")
