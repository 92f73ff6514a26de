"""``drctl demo``: what ``make demo`` runs."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import typer

from drctl.output import Form, Output, examples, print_json
from drctl.session import run
from drctl.tables import console

REAPED = "DRCTL_DEMO_IS_REAPED"

app = typer.Typer(rich_markup_mode="rich")

Told = Literal["failover", "recovery"]


@app.command(epilog=examples("drctl demo", "drctl demo --story recovery", "drctl demo --keep -o json"))
def demo(
    story: Annotated[
        Told, typer.Option("--story", help="failover to a standby and home again, or recovery from a backup.")
    ] = "failover",
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything up at the end, until Ctrl-C.")] = False,
    report_file: Annotated[
        Path | None,
        typer.Option("--report-file", dir_okay=False, help="The HTML report; else recovery-report-TIME.html here."),
    ] = None,
    output: Form = Output.TEXT,
) -> None:
    """Show the main job on real servers: prove a backup, lose a region, go on in the other one, come home again.

    With --story recovery the region is lost with its disks: recovered from a backup; then a plan fails and is undone.

    Everything runs on this machine, on free ports and in a temporary folder, and is gone at the end.
    Exit code 1: a scene did not end as it should; 4: a region accepted writes that was not to.
    """
    if REAPED not in os.environ:
        _leave_nothing_behind()
    from drctl.demo import Story, run_demo

    target = report_file or Path(f"recovery-report-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.html")
    as_json = output is Output.JSON
    code = run(
        run_demo(console(sys.stderr if as_json else None), story=Story(story), keep=keep, report_file=target.resolve()),
        lambda: "the demo was ended; its servers are stopped",
    )
    if as_json:
        print_json({"report_file": str(target.resolve()), "exit": int(code)})
    raise typer.Exit(code)


def _leave_nothing_behind() -> None:
    """Becomes the process that runs this command again and, however that ends, ends what it left."""
    os.environ[REAPED] = "1"
    reap = [sys.executable, "-m", "lab.reap", "--", sys.executable, "-m", "drctl"]
    os.execv(sys.executable, [*reap, *sys.argv[1:]])
