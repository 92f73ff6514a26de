"""``drctl diverged list | fetch``: what returned primaries alone had, put aside before they followed again."""

from __future__ import annotations

import asyncio
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Column, Table

from drctl import words
from drctl.output import ConfigFile, Form, Output, examples, print_json
from drctl.session import load_config, run, stores
from drctl.tables import console
from recovery.domain.divergence import SealedFiles
from recovery.errors import BadInput, NotFound

if TYPE_CHECKING:
    from recovery.config import Config

GroupFilter = Annotated[str | None, typer.Option("--group", "-g", help="Only of this group.")]

app = typer.Typer(
    name="diverged",
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="List and open what returned primaries alone had.",
)


@dataclass(frozen=True)
class PutAside:
    """What was put aside on this machine at one return: by a reprotect (PostgreSQL), or by the region's guard."""

    group: str
    region: str
    store: str
    folder: Path
    index: SealedFiles

    @property
    def document(self) -> dict[str, Any]:
        return {
            "id": self.folder.name,
            "group": self.group,
            "region": self.region,
            "store": self.store,
            "folder": str(self.folder),
            **self.index.model_dump(mode="json"),
        }


@app.callback()
def diverged() -> None:
    """List and open what returned primaries alone had."""


@app.command("list", epilog=examples("drctl diverged list", "drctl diverged list --group shop --output json"))
def show(group: GroupFilter = None, config: ConfigFile = None, output: Form = Output.TEXT) -> None:
    """List what was put aside on this machine: WAL beside the data directories, Redis's data and the messages of
    streams in the guards' state folder.

    Run it on the host of the returned primary. Which transactions and messages are in it stands in the run's report.
    """
    found = run(_found(load_config(config), group))
    if output is Output.JSON:
        print_json([each.document for each in found])
        return
    table = Table(
        "Id", "Group", "Region", "Store", "Put aside", Column("Files", justify="right"),
        Column("Size", justify="right"), Column("Folder", overflow="fold"),
    )  # fmt: skip
    for each in found:
        files = each.index.files
        table.add_row(
            each.folder.name, each.group, each.region, each.store, words.moment(each.index.saved_at),
            str(len(files)), words.size(sum(file.size for file in files)), str(each.folder),
        )  # fmt: skip
    out = console()
    out.print(table if found else "nothing was put aside on this machine")


@app.command(epilog=examples("drctl diverged fetch 1a2b3c4d5e6f --into /var/tmp/diverged"))
def fetch(
    name: Annotated[str, typer.Argument(metavar="ID", help="Which one, as drctl diverged list shows it.")],
    into: Annotated[Path, typer.Option("--into", file_okay=False, help="The folder that gets the files.")],
    group: GroupFilter = None,
    config: ConfigFile = None,
    output: Form = Output.TEXT,
) -> None:
    """Open what was put aside, with this machine's age key (keys.identities), and check it.

    WAL is read with pg_waldump, an RDB file by a redis-server; messages are JSON, one a line.
    """
    loaded = load_config(config)
    store, files = run(_fetch(loaded, group, name, into.resolve()))
    if output is Output.JSON:
        print_json({"id": name, "files": [str(file) for file in files]})
        return
    out = console()
    out.print(f"{words.plural(len(files), 'file')} opened into {into.resolve()}, and whole", soft_wrap=True)
    if how := _read_with(store, files, into.resolve()):
        out.print(how, soft_wrap=True)


def _read_with(store: str, files: list[Path], folder: Path) -> str:
    match store:
        case "postgres":
            segments = [file.name for file in files if not file.name.endswith(".history")]
            command = shlex.join(["pg_waldump", "--path", str(folder), *segments[:1], *segments[-1:]])
            return f"Read them: {command}" if segments else ""
        case "redis":
            # Without --save '' the server would write the file anew when it ends, without the keys whose time ran out.
            server = ["redis-server", "--port", "7777", "--dir", str(folder), "--dbfilename", files[0].name]
            command = shlex.join([*server, "--appendonly", "no", "--save", ""])
            return f"Look into it: {command} (it hides keys whose time ran out since; the file keeps them)"
        case _:
            return "Each line is a message: seq, subject, time, hdrs and data (base64)"


async def _found(config: Config, group: str | None) -> list[PutAside]:
    from recovery.adapters.diverged_folder import read_index, runs_below

    def look() -> list[PutAside]:
        return [
            PutAside(name, region, store, folder, read_index(folder))
            for name in ([group] if group is not None else config.groups)
            for region in config.group(name).regions
            for store, place in _places(config, name, region)
            for folder in runs_below(place)
        ]

    return await asyncio.to_thread(look)


def _places(config: Config, group: str, region: str) -> list[tuple[str, Path]]:
    """Where something may have been put aside, by store."""
    from recovery.adapters.diverged_folder import diverged_below, diverged_beside

    data_directory = config.group(group).regions[region].postgres.data_directory
    places = [("postgres", diverged_beside(Path(data_directory)))] if data_directory is not None else []
    state_folder = Path(config.guards.state_folder) / region
    return places + [(store, diverged_below(state_folder, store, group)) for store in ("redis", "nats")]


async def _fetch(config: Config, group: str | None, name: str, into: Path) -> tuple[str, list[Path]]:
    """Of which store it is, and the files."""
    from recovery.adapters.diverged_folder import open_diverged

    found = await _found(config, group)
    chosen = [each for each in found if each.folder.name == name]
    if not chosen:
        known = ", ".join(each.folder.name for each in found) or "none"
        raise NotFound(f"nothing with the id {name} was put aside on this machine; known: {known}")
    async with stores(config) as wiring:
        opener = (await wiring.keys()).opener
        if opener is None:
            raise BadInput("no private key is on this machine: expected keys.identities with one that is at hand here")
        return chosen[0].store, await open_diverged(chosen[0].folder, opener, into)
