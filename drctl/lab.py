"""`drctl lab`: start two regions of real servers on this machine, break them, and end them."""

from __future__ import annotations

import asyncio
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from drctl.lab_faults import faults
from drctl.lab_output import FolderOption, attached, default_folder, done, fail, run, show
from drctl.output import Form, Output, examples, messages
from lab.errors import LabError
from lab.lab import Lab
from lab.packages import check_platform
from lab.shop import load_shop
from lab.state import LabState
from lab.workload import Workload

app = typer.Typer(
    name="lab",
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Two regions of real servers on this machine, to try recoveries on.\n\n"
    "Start one with: drctl lab up. Passwords and keys stand in lab.json in the lab's folder.",
)


class Standby(StrEnum):
    """What the regions after the first have of PostgreSQL."""

    STREAMING = "streaming"
    NONE = "none"


@app.command(epilog=examples("drctl lab up --megabytes 100 --workload 50", "drctl lab up --postgres 18 --standby none"))
def up(
    folder: FolderOption = None,
    postgres: Annotated[int, typer.Option(help="Major version of PostgreSQL: 16 or 18.")] = 16,
    standby: Annotated[Standby, typer.Option(help="The second region's PostgreSQL: a replica, or none yet.")] = (
        Standby.STREAMING
    ),
    megabytes: Annotated[int, typer.Option(min=0, help="Load a sample shop of so many MB; 0: none.")] = 0,
    workload: Annotated[float, typer.Option(min=0, help="Keep so many transactions a second going; 0: none.")] = 0,
    output: Form = Output.TEXT,
) -> None:
    """Start a lab that runs until `drctl lab down`."""
    show(run(_up(folder or default_folder(), postgres, standby, megabytes, workload)), output)


async def _up(folder: Path, postgres: int, standby: Standby, megabytes: int, workload: float) -> LabState:
    check_platform()
    if workload and not megabytes:
        megabytes = 10  # a workload needs a shop
    said = messages()
    progress = said.status("Starting the lab ...") if said.is_terminal else None
    lab = None
    if progress is not None:
        progress.start()

    def say(line: str) -> None:
        if progress is not None:
            progress.update(line)

    try:
        lab = await Lab.start(folder, postgres=postgres, standby=standby.value, progress=say)
        if megabytes:
            say(f"Loading a shop of {megabytes} MB ...")
            await load_shop(lab.postgres(lab.describe().regions[0]).dsn(), megabytes)
        if workload:
            say("Starting the workload ...")
            await Workload(lab, transactions_per_second=workload).start()
        await lab.detach()
        return lab.describe()
    except BaseException:
        if lab is not None:
            await asyncio.shield(lab.stop())
        raise
    finally:
        if progress is not None:
            progress.stop()


@app.command(epilog=examples("drctl lab status --output json"))
def status(folder: FolderOption = None, output: Form = Output.TEXT) -> None:
    """Show every server, its address and its state."""
    try:
        state = attached(folder).describe()
    except LabError as error:
        fail(error)
    show(state, output)


@app.command(epilog=examples("drctl lab down"))
def down(folder: FolderOption = None, output: Form = Output.TEXT) -> None:
    """End the lab and remove its folder."""
    where = folder or default_folder()

    async def work() -> None:
        await attached(folder).stop()

    run(work())
    done(output, done=f"The lab in {where} has ended.", folder=str(where))


app.add_typer(faults)
