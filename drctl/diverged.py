"""``drctl diverged list | fetch``: the WAL that returned primaries alone had, which a reprotect put aside."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Column, Table

from drctl import words
from drctl.output import ConfigFile, Form, Output, examples, print_json
from drctl.session import load_config, run, stores
from drctl.tables import console
from recovery.domain.divergence import SealedWal
from recovery.errors import BadInput, NotFound

if TYPE_CHECKING:
    from recovery.config import Config

GroupFilter = Annotated[str | None, typer.Option("--group", "-g", help="Only of this group.")]

app = typer.Typer(
    name="diverged",
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="List and open the WAL that returned primaries alone had.",
)


@dataclass(frozen=True)
class PutAside:
    """What one reprotect put aside on this machine."""

    group: str
    region: str
    folder: Path
    index: SealedWal

    @property
    def document(self) -> dict[str, Any]:
        return {
            "id": self.folder.name,
            "group": self.group,
            "region": self.region,
            "folder": str(self.folder),
            **self.index.model_dump(mode="json"),
        }


@app.callback()
def diverged() -> None:
    """List and open the WAL that returned primaries alone had."""


@app.command("list", epilog=examples("drctl diverged list", "drctl diverged list --group shop --output json"))
def show(group: GroupFilter = None, config: ConfigFile = None, output: Form = Output.TEXT) -> None:
    """List what was put aside on this machine, beside the data directories of the configuration.

    Run it on the host of the returned primary. Which transactions are in it stands in the report of the reprotect.
    """
    found = run(_found(load_config(config), group))
    if output is Output.JSON:
        print_json([each.document for each in found])
        return
    table = Table(
        "Id", "Group", "Region", "Put aside", Column("Files", justify="right"), Column("WAL", justify="right"),
        Column("Folder", overflow="fold"),
    )  # fmt: skip
    for each in found:
        files = each.index.files
        table.add_row(
            each.folder.name, each.group, each.region, words.moment(each.index.saved_at), str(len(files)),
            words.size(sum(file.size for file in files)), str(each.folder),
        )  # fmt: skip
    out = console()
    out.print(table if found else "nothing was put aside on this machine")


@app.command(epilog=examples("drctl diverged fetch 1a2b3c4d5e6f --into /var/tmp/diverged"))
def fetch(
    name: Annotated[str, typer.Argument(metavar="ID", help="Which one, as drctl diverged list shows it.")],
    into: Annotated[Path, typer.Option("--into", file_okay=False, help="The folder that gets the WAL files.")],
    group: GroupFilter = None,
    config: ConfigFile = None,
    output: Form = Output.TEXT,
) -> None:
    """Open what was put aside, with this machine's age key (keys.identities), and check it.

    The files are those of the old primary's pg_wal; read them with pg_waldump.
    """
    loaded = load_config(config)
    files = run(_fetch(loaded, group, name, into.resolve()))
    if output is Output.JSON:
        print_json({"id": name, "files": [str(file) for file in files]})
        return
    segments = [file.name for file in files if not file.name.endswith(".history")]
    out = console()
    out.print(f"{words.plural(len(files), 'file')} opened into {into.resolve()}, and whole", soft_wrap=True)
    if segments:
        out.print(f"Read them: pg_waldump --path {into.resolve()} {segments[0]} {segments[-1]}", soft_wrap=True)


async def _found(config: Config, group: str | None) -> list[PutAside]:
    from recovery.adapters.postgres.diverged_folder import diverged_beside, read_index, runs_below

    def look() -> list[PutAside]:
        return [
            PutAside(name, region, folder, read_index(folder))
            for name in ([group] if group is not None else config.groups)
            for region, own in config.group(name).regions.items()
            if own.postgres.data_directory is not None
            for folder in runs_below(diverged_beside(Path(own.postgres.data_directory)))
        ]

    return await asyncio.to_thread(look)


async def _fetch(config: Config, group: str | None, name: str, into: Path) -> list[Path]:
    from recovery.adapters.postgres.diverged_folder import open_diverged

    found = await _found(config, group)
    chosen = [each for each in found if each.folder.name == name]
    if not chosen:
        known = ", ".join(each.folder.name for each in found) or "none"
        raise NotFound(f"nothing with the id {name} was put aside on this machine; known: {known}")
    async with stores(config) as wiring:
        opener = (await wiring.keys()).opener
        if opener is None:
            raise BadInput("no private key is on this machine: expected keys.identities with one that is at hand here")
        return await open_diverged(chosen[0].folder, opener, into)
