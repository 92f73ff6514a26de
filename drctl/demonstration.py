"""``drctl demo``: what ``make demo`` runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from drctl.output import examples
from drctl.session import run
from drctl.tables import console

app = typer.Typer(rich_markup_mode="rich")


@app.command(epilog=examples("drctl demo", "drctl demo --keep"))
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything up at the end, until Ctrl-C.")] = False,
    report_file: Annotated[
        Path | None, typer.Option("--report-file", dir_okay=False, help="Where the HTML report goes.")
    ] = None,
) -> None:
    """Show the main job on real servers: back up, prove it, lose a region, recover in the other one, undo a failure.

    Everything runs on this machine, on free ports and in a temporary folder, and is gone at the end.
    """
    from drctl.demo import run_demo

    raise typer.Exit(
        run(
            run_demo(console(), keep=keep, report_file=report_file),
            lambda: "the demo was ended; its servers are stopped",
        )
    )
