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

Told = Literal["all", "recovery", "failover"]


@app.command(epilog=examples("drctl demo", "drctl demo --story recovery", "drctl demo --keep -o json"))
def demo(
    story: Annotated[
        Told,
        typer.Option("--story", help="recovery from backups, failover to a standby and home again, or all: both."),
    ] = "all",
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything up at the end, until Ctrl-C.")] = False,
    report_file: Annotated[
        Path | None,
        typer.Option(
            "--report-file",
            dir_okay=False,
            help="The HTML report; else recovery-report-TIME.html here. "
            "Of two stories the second one's goes beside it, as NAME-failover.html.",
        ),
    ] = None,
    output: Form = Output.TEXT,
) -> None:
    """Show the main job on real servers: prove backups, lose a region, go on in the other one, come home again.

    --story recovery: the region is lost with its disks, and all stores are recovered from backups; then a plan fails
    and is undone. --story failover: a standby takes over by itself, and everything moves home again; then the network
    is cut.

    Everything runs on this machine, on free ports and in a temporary folder, and is gone at the end.
    Exit code 1: a scene did not end as it should; 4: a region accepted writes that was not to.
    """
    if REAPED not in os.environ:
        _leave_nothing_behind()
    from drctl.demo import Story, report_files, run_demo

    target = report_file or Path(f"recovery-report-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.html")
    as_json = output is Output.JSON
    code = run(
        run_demo(console(sys.stderr if as_json else None), story=Story(story), keep=keep, report_file=target.resolve()),
        lambda: "the demo was ended; its servers are stopped",
    )
    if as_json:
        written = {
            each: str(file) for each, file in report_files(Story(story), target.resolve()).items() if file.exists()
        }
        print_json({"report_file": str(target.resolve()), "report_files": written, "exit": int(code)})
    raise typer.Exit(code)


def _leave_nothing_behind() -> None:
    """Becomes the process that runs this command again and, however that ends, ends what it left."""
    os.environ[REAPED] = "1"
    reap = [sys.executable, "-m", "lab.reap", "--", sys.executable, "-m", "drctl"]
    os.execv(sys.executable, [*reap, *sys.argv[1:]])
