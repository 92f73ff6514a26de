"""``drctl schedules apply | list``."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import typer
from rich.table import Table

from drctl import words
from drctl.output import ConfigFile, Form, Output, examples, print_json
from drctl.session import load_config, run, session
from drctl.tables import console

if TYPE_CHECKING:
    from workers.schedules import Applied, ScheduleLine

app = typer.Typer(
    name="schedules",
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Put the configured schedules into Temporal, and list them.",
)


@app.command(epilog=examples("drctl schedules apply", "drctl schedules apply --config staging.yaml -o json"))
def apply(config: ConfigFile = None, output: Form = Output.TEXT) -> None:
    """Make Temporal's schedules those of the configuration: backups, validations, retention of every group.

    New ones are created, changed ones updated (a pause is kept), removed ones deleted; what is the same and what is
    running is left alone. Applying twice changes nothing.
    """
    loaded = load_config(config)

    async def work() -> Applied:
        from workers.schedules import apply_schedules

        async with session(loaded) as ours:
            return await apply_schedules(ours.client, loaded)

    applied = run(work())
    if output is Output.JSON:
        print_json(asdict(applied))
        return
    out = console()
    for what, names in (("created", applied.created), ("updated", applied.updated), ("deleted", applied.deleted)):
        for name in names:
            out.print(f"{what}    {name}", soft_wrap=True)
    out.print(f"{words.plural(len(applied.unchanged), 'schedule')} unchanged")


@app.command("list", epilog=examples("drctl schedules list", "drctl schedules list -o json"))
def list_all(config: ConfigFile = None, output: Form = Output.TEXT) -> None:
    """List our schedules as Temporal has them, with their next and last start (UTC)."""
    loaded = load_config(config)

    async def work() -> list[ScheduleLine]:
        from workers.schedules import list_schedules

        async with session(loaded) as ours:
            return sorted([line async for line in list_schedules(ours.client)], key=lambda line: line.schedule_id)

    lines = run(work())
    if output is Output.JSON:
        print_json([asdict(line) for line in lines])
        return
    out = console()
    if not lines:
        out.print("No schedules. drctl schedules apply creates those of the configuration.")
        return
    table = Table("Schedule", "Plan", "Next", "Last", "State", box=None, pad_edge=False)
    for line in lines:
        state = f"paused: {line.note}" if line.paused and line.note else "paused" if line.paused else "active"
        table.add_row(line.schedule_id, line.plan, words.moment(line.next_at), words.moment(line.last_at), state)
    out.print(table)
