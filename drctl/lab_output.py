"""What the commands of `drctl lab` share: their options, and what they print."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from rich.table import Table

from drctl.output import Output, console, print_json
from lab.errors import LabError, LabUnreachableError
from lab.lab import Lab
from lab.state import LabState
from recovery.errors import BadInput, Unreachable

Result = TypeVar("Result")
_STATE_STYLES = {"running": "green", "frozen": "cyan", "killed": "red", "exited": "red", "absent": "dim"}


def default_folder() -> Path:
    """Return $DRCTL_LAB, or the lab's place among this user's state."""
    named = os.environ.get("DRCTL_LAB")
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(named) if named else Path(state) / "recovery-plans" / "lab"


FolderOption = Annotated[
    Path | None,
    typer.Option("--folder", help="The lab's folder. Else $DRCTL_LAB, else ~/.local/state/recovery-plans/lab."),
]


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """Run one command; a mistake or an absent lab is one sentence and an exit code."""
    try:
        return asyncio.run(work)
    except LabError as error:
        fail(error)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def fail(error: LabError) -> NoReturn:
    """Raises what ``drctl`` explains: Unreachable (exit 3) or BadInput (exit 2)."""
    kind = Unreachable if isinstance(error, LabUnreachableError) else BadInput
    raise kind(str(error)) from None


def attached(folder: Path | None) -> Lab:
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


def show(state: LabState, output: Output) -> None:
    if output is Output.JSON:
        print_json(_public(state))
        return
    table = Table(title=f"Lab in {state.folder}", title_justify="left")
    for column in ("region", "service", "address", "state", "processes"):
        table.add_column(column, no_wrap=True)
    for server in sorted(state.servers, key=lambda server: (server.region in state.regions, server.region)):
        style = _STATE_STYLES[server.state]
        at = server.address if server.port else ""
        table.add_row(server.region, server.service, at, f"[{style}]{server.state}[/]", str(len(server.pids) or ""))
    out = console()
    out.print(table)
    for one, other in state.partitions:
        out.print(f"{one} and {other} cannot hear each other (heal with: drctl lab heal)")
    for sender, receiver in state.one_way:
        out.print(f"{receiver} does not hear {sender}")
    for delay in state.delays:
        out.print(f"{name_of(delay.place, delay.service)} answers {delay.seconds:g} s late each way")
    if state.temporal is not None:
        out.print(f"Temporal UI: {state.temporal.ui_address}")
    out.print(f"Passwords and keys: {state.folder / 'lab.json'}", soft_wrap=True)


def done(output: Output, **facts: Any) -> None:
    """Say what was done: a sentence under "done", or the facts as JSON."""
    if output is Output.JSON:
        print_json(facts)
    else:
        console().print(facts["done"], markup=False, soft_wrap=True)


def act(
    what: Callable[[Lab], Awaitable[None]], folder: Path | None, output: Output, sentence: str, **facts: Any
) -> None:
    """Do it to the running lab, and say so."""

    async def work() -> None:
        await what(attached(folder))

    run(work())
    done(output, done=sentence, **facts)


def name_of(region: str, service: str | None) -> str:
    return f"{region}/{service}" if service else region
