"""`drctl lab`: start two regions of real servers on this machine, break them, and end them."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Coroutine
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from lab.errors import LabError, LabUnreachableError
from lab.lab import Lab
from lab.packages import check_platform
from lab.shop import load_shop
from lab.state import OUTSIDE, LabState
from lab.workload import Workload

Result = TypeVar("Result")
_USAGE_ERROR, _UNREACHABLE = 2, 3
_STATE_STYLES = {"running": "green", "frozen": "cyan", "killed": "red", "exited": "red", "absent": "dim"}

app = typer.Typer(
    name="lab",
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Two regions of real servers on this machine, to try recoveries on.\n\n"
    "Start one with: drctl lab up. Passwords and keys stand in lab.json in the lab's folder.",
)
_messages = Console(stderr=True, highlight=False)


class Output(StrEnum):
    """How results are printed."""

    TABLE = "table"
    JSON = "json"


class Standby(StrEnum):
    """What the regions after the first have of PostgreSQL."""

    STREAMING = "streaming"
    NONE = "none"


class Damage(StrEnum):
    """What can be corrupted."""

    POSTGRES_PAGE = "postgres-page"
    S3_OBJECT = "s3-object"


def default_folder() -> Path:
    """Return $DRCTL_LAB, or the lab's place among this user's state."""
    named = os.environ.get("DRCTL_LAB")
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(named) if named else Path(state) / "recovery-plans" / "lab"


FolderOption = Annotated[
    Path | None, typer.Option("--folder", help="The lab's folder. Default: $DRCTL_LAB or ~/.local/state.")
]
OutputOption = Annotated[Output, typer.Option("--output", "-o", help="table or json.")]
RegionArgument = Annotated[str, typer.Argument(help="A region (region-a), witness, or a lone server (temporal, dns).")]
ServiceArgument = Annotated[
    str | None,
    typer.Argument(
        help="postgres, nats, redis, s3 or app; where guards run: guard, companion, worker, monitor. Without it: the "
        "whole region."
    ),
]


def _run(work: Coroutine[Any, Any, Result]) -> Result:
    """Run one command; a mistake or an absent lab is one sentence and an exit code."""
    try:
        return asyncio.run(work)
    except LabError as error:
        _fail(error)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _fail(error: LabError) -> NoReturn:
    _messages.print(f"drctl lab: {error}", markup=False, soft_wrap=True)
    raise typer.Exit(_UNREACHABLE if isinstance(error, LabUnreachableError) else _USAGE_ERROR) from None


def _attached(folder: Path | None) -> Lab:
    return Lab.attach(folder or default_folder())


def _public(state: LabState) -> dict[str, Any]:
    """What may be shown: everything but passwords and keys."""
    public = {"folder", "regions", "standby", "postgres_version", "partitions", "one_way", "delays", "guarded"}
    shown = state.model_dump(mode="json", include=public)
    shown["servers"] = [
        {**server.model_dump(mode="json", exclude={"port", "host"}), "address": server.address}
        for server in state.servers
    ]
    if state.temporal is not None:
        shown["temporal"] = state.temporal.model_dump(mode="json")
    if state.dns is not None:
        shown["dns"] = state.dns.model_dump(mode="json", exclude={"tsig_secret"})
    return shown


def _show(state: LabState, output: Output) -> None:
    if output is Output.JSON:
        print(json.dumps(_public(state), indent=2))
        return
    table = Table(title=f"Lab in {state.folder}", title_justify="left")
    for column in ("region", "service", "address", "state", "processes"):
        table.add_column(column, no_wrap=True)
    for server in sorted(state.servers, key=lambda server: (server.region in state.regions, server.region)):
        style = _STATE_STYLES[server.state]
        at = server.address if server.port else ""
        table.add_row(server.region, server.service, at, f"[{style}]{server.state}[/]", str(len(server.pids) or ""))
    console = Console(highlight=False)
    console.print(table)
    for one, other in state.partitions:
        console.print(f"{one} and {other} cannot hear each other (heal with: drctl lab heal)")
    for sender, receiver in state.one_way:
        console.print(f"{receiver} does not hear {sender}")
    for delay in state.delays:
        console.print(f"{_name(delay.place, delay.service)} answers {delay.seconds:g} s late each way")
    if state.temporal is not None:
        console.print(f"Temporal UI: {state.temporal.ui_address}")
    console.print(f"Passwords and keys: {state.folder / 'lab.json'}", soft_wrap=True)


def _done(output: Output, **facts: Any) -> None:
    """Say what was done: a sentence under "done", or the facts as JSON."""
    if output is Output.JSON:
        print(json.dumps(facts))
    else:
        Console(highlight=False).print(facts["done"], markup=False, soft_wrap=True)


def _name(region: str, service: str | None) -> str:
    return f"{region}/{service}" if service else region


@app.command()
def up(
    folder: FolderOption = None,
    postgres: Annotated[int, typer.Option(help="The version of PostgreSQL: 16 or 18.")] = 16,
    standby: Annotated[Standby, typer.Option(help="The second region's PostgreSQL: a replica, or none yet.")] = (
        Standby.STREAMING
    ),
    megabytes: Annotated[int, typer.Option(min=0, help="Load a sample shop of this size (0: none).")] = 0,
    workload: Annotated[float, typer.Option(min=0, help="Keep this many transactions per second going (0: none).")] = 0,
    output: OutputOption = Output.TABLE,
) -> None:
    """Start a lab that runs until `drctl lab down`.

    Examples: drctl lab up --megabytes 100 --workload 50; drctl lab up --postgres 18 --standby none
    """
    _show(_run(_up(folder or default_folder(), postgres, standby, megabytes, workload)), output)


async def _up(folder: Path, postgres: int, standby: Standby, megabytes: int, workload: float) -> LabState:
    check_platform()
    if workload and not megabytes:
        megabytes = 10  # a workload needs a shop
    progress = _messages.status("Starting the lab ...") if _messages.is_terminal else None
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


@app.command()
def status(folder: FolderOption = None, output: OutputOption = Output.TABLE) -> None:
    """Show every server, its address and its state.

    Example: drctl lab status --output json
    """
    try:
        state = _attached(folder).describe()
    except LabError as error:
        _fail(error)
    _show(state, output)


@app.command()
def kill(
    region: RegionArgument,
    service: ServiceArgument = None,
    with_disks: Annotated[bool, typer.Option("--with-disks", help="Remove the data too.")] = False,
    folder: FolderOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Kill a service or a whole region at once, as a power cut would.

    Examples: drctl lab kill region-a --with-disks; drctl lab kill region-a postgres; drctl lab kill temporal
    """

    async def work() -> None:
        await _attached(folder).kill(region, service, with_disks=with_disks)

    _run(work())
    disks = " with its disks" if with_disks else ""
    _done(output, done=f"Killed {_name(region, service)}{disks}.", region=region, service=service)


@app.command()
def freeze(
    region: RegionArgument,
    service: ServiceArgument = None,
    folder: FolderOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Freeze a service or a region: connections stay open and nothing answers.

    Example: drctl lab freeze region-a postgres
    """

    async def work() -> None:
        await _attached(folder).freeze(region, service)

    _run(work())
    _done(output, done=f"Froze {_name(region, service)}.", region=region, service=service)


@app.command()
def thaw(
    region: RegionArgument,
    service: ServiceArgument = None,
    folder: FolderOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Let what was frozen go on.

    Example: drctl lab thaw region-a
    """

    async def work() -> None:
        await _attached(folder).thaw(region, service)

    _run(work())
    _done(output, done=f"Thawed {_name(region, service)}.", region=region, service=service)


@app.command()
def restart(
    region: RegionArgument,
    service: ServiceArgument = None,
    folder: FolderOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Start a service again on its data, ending it first if it runs.

    Examples: drctl lab restart region-a redis; drctl lab restart temporal
    """

    async def work() -> None:
        await _attached(folder).restart(region, service)

    _run(work())
    _done(output, done=f"Restarted {_name(region, service)}.", region=region, service=service)


@app.command()
def partition(
    one: Annotated[str, typer.Argument(help="A region, witness, control or outside.")],
    other: Annotated[str, typer.Argument(help="The place that it shall hear nothing of.")] = OUTSIDE,
    one_way: Annotated[
        bool, typer.Option("--one-way", help="Only what the first sends to the second is lost.")
    ] = False,
    folder: FolderOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Cut the network between two places, without closing a connection.

    Examples: drctl lab partition region-a region-b; drctl lab partition region-a region-b --one-way
    """

    async def work() -> None:
        await _attached(folder).partition(one, other, one_way=one_way)

    _run(work())
    done = f"{other} does not hear {one}." if one_way else f"{one} and {other} cannot hear each other."
    _done(output, done=done, one=one, other=other, one_way=one_way)


@app.command()
def isolate(
    place: Annotated[str, typer.Argument(help="A region, witness, control, outside or clients.")],
    keep: Annotated[list[str] | None, typer.Option("--keep", help="A place that it still hears.")] = None,
    folder: FolderOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Cut a place off from all others: a region that is lost without a word.

    Examples: drctl lab isolate region-a; drctl lab isolate region-a --keep witness
    """

    async def work() -> None:
        await _attached(folder).isolate(place, keep=keep or ())

    _run(work())
    left = f" but {', '.join(keep)}" if keep else ""
    _done(output, done=f"{place} hears nobody{left}, and nobody hears it.", place=place, keep=keep or [])


@app.command()
def slow(
    place: Annotated[str, typer.Argument(help="A region, witness, control, outside or clients.")],
    service: Annotated[str | None, typer.Argument(help="One service of it; without it all that it sends.")] = None,
    seconds: Annotated[float, typer.Option(help="How late everything arrives, each way; 0 ends it.")] = 1.0,
    folder: FolderOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Let what a place or a service sends and gets arrive late.

    Examples: drctl lab slow region-a postgres --seconds 3; drctl lab slow region-a postgres --seconds 0
    """

    async def work() -> None:
        await _attached(folder).slow(place, service, seconds=seconds)

    _run(work())
    done = f"{_name(place, service)} is {seconds:g} s late each way." if seconds else "It is as fast as before."
    _done(output, done=done, place=place, service=service, seconds=seconds)


@app.command()
def heal(folder: FolderOption = None, output: OutputOption = Output.TABLE) -> None:
    """End every partition and every delay.

    Example: drctl lab heal
    """

    async def work() -> None:
        await _attached(folder).heal()

    _run(work())
    _done(output, done="The network is whole.")


@app.command()
def corrupt(
    region: Annotated[str, typer.Argument(help="A region, or witness for its S3 store.")],
    what: Annotated[Damage, typer.Argument(help="postgres-page or s3-object.")],
    table: Annotated[str | None, typer.Option(help="The table (default: orders).")] = None,
    block: Annotated[int | None, typer.Option(help="The table's block (default: 0).")] = None,
    key: Annotated[str | None, typer.Option(help="The object (default: the largest).")] = None,
    offset: Annotated[int | None, typer.Option(help="The byte in the page or object (default: the middle).")] = None,
    missing: Annotated[bool, typer.Option("--missing", help="Leave the object's byte out, not flip a bit.")] = False,
    folder: FolderOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Damage one bit of what is stored, without telling anybody.

    Examples: drctl lab corrupt region-a postgres-page --table orders; drctl lab corrupt region-b s3-object --key KEY
    """
    page, stored = {"table": table, "block": block}, {"key": key, "missing": missing or None}
    wrong = stored if what is Damage.POSTGRES_PAGE else page
    if any(value is not None for value in wrong.values()):
        given = ", ".join(f"--{name}" for name, value in wrong.items() if value is not None)
        _fail(LabError(f"{given} does not go with {what.value}: see drctl lab corrupt --help"))
    choice = {**(page if what is Damage.POSTGRES_PAGE else stored), "offset": offset}

    async def work() -> str:
        chosen = {name: value for name, value in choice.items() if value is not None}
        return await _attached(folder).corrupt(region, what.value, **chosen)

    _done(output, done=_run(work()), region=region, what=what.value)


@app.command()
def down(folder: FolderOption = None, output: OutputOption = Output.TABLE) -> None:
    """End the lab and remove its folder.

    Example: drctl lab down
    """
    where = folder or default_folder()

    async def work() -> None:
        await _attached(folder).stop()

    _run(work())
    _done(output, done=f"The lab in {where} has ended.", folder=str(where))


if __name__ == "__main__":
    sys.exit(app())
