"""``drctl catalogue``: what can be recovered, rebuilt from the objects at the locations and from nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from drctl import words
from drctl.documents import point_document, sets_document
from drctl.output import (
    DONE,
    FAILED,
    UNREACHABLE,
    ConfigFile,
    Form,
    Output,
    examples,
    note,
    print_json,
)
from drctl.session import config_file, run
from drctl.tables import PIPE_WIDTH, console, points_table, sets_table
from drctl.wal import locations_document, ranges_table, reachable, strays
from drctl.ways_back import Prospects, Remark, Trouble, WayBack, prospects
from recovery.errors import BadInput, NotFound, RecoveryError, Unreachable

if TYPE_CHECKING:
    from recovery.adapters.inventory import GroupInventory, Inventory
    from recovery.config.places import Places
    from recovery.ports.object_store import ObjectStore

SHOWN = 10  # points and windows of a group whose commands the text has; JSON has all

app = typer.Typer(rich_markup_mode="rich")


@app.command(
    epilog=examples(
        "drctl catalogue",
        "drctl catalogue --group shop --output json",
        "drctl catalogue s3://backups/prod --endpoint https://s3.example.com --signer ed25519:11qYAYKxCrfV...",
        "drctl catalogue file:///mnt/vault s3://backups/prod --signer ed25519:11qYAYKxCrfV...",
    )
)
def catalogue(
    urls: Annotated[
        list[str] | None,
        typer.Argument(metavar="[URL...]", help="Look here (s3://bucket/prefix, file:///folder), and read no file."),
    ] = None,
    group: Annotated[str | None, typer.Option("--group", "-g", help="Only this protection group; else all.")] = None,
    signer: Annotated[
        list[str] | None,
        typer.Option("--signer", metavar="KEY", help="With a URL: a public key whose signature counts (ed25519:...)."),
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option("--endpoint", metavar="URL", help="With s3://: the address of an S3 server not AWS's.")
    ] = None,
    region: Annotated[str | None, typer.Option("--region", help="With s3://: the bucket's AWS region.")] = None,
    ca_file: Annotated[
        str | None, typer.Option("--ca-file", metavar="FILE", help="With s3://: authorities to trust, as PEM.")
    ] = None,
    config: ConfigFile = None,
    output: Form = Output.TEXT,
) -> None:
    """List what can be recovered, until when, and by which command, from the objects at the locations alone.

    Neither Temporal nor a database nor a private key is needed. Of the configuration only the locations and
    keys.trusted_signers are read, whatever else is wrong or missing in it; named by URL, a location is opened with the
    machine's own credentials (AWS_ACCESS_KEY_ID and so on). What is damaged, unsigned, signed by somebody else, at one
    location only or unfinished is named.

    Exit code 1: something is damaged or not believed, or there is a gap, or a group has nothing that was proven by a
    restore; 3: a location cannot be read.
    """
    places = _places(urls or [], signer or [], endpoint, region, ca_file, config)
    if places.left_out:
        note(f"the configuration has mistakes; only its locations and signers are used: {places.left_out}", output)
    found = run(_look(places, group))
    outlook = {each.group: prospects(each, _expected(places, each.group)) for each in found.groups}
    if output is Output.JSON:
        print_json(_document(places, found, outlook))
    else:
        _show(places, found, outlook)
    raise typer.Exit(_code(found, outlook))


def _places(
    urls: list[str],
    signers: list[str],
    endpoint: str | None,
    region: str | None,
    ca_file: str | None,
    config: Path | None,
) -> Places:
    from recovery.config.places import Places, place_of, read_places, signers_of

    if not urls:
        given = {"--signer": signers, "--endpoint": endpoint, "--region": region, "--ca-file": ca_file}
        if named := [option for option, value in given.items() if value]:
            raise BadInput(f"{', '.join(named)}: expected a URL, too; a configuration says all of it itself")
        return read_places(config_file(config))
    if not signers:
        raise BadInput(
            "--signer: expected the public key that manifests are signed with (keys.trusted_signers of the "
            "configuration; drctl keys generate printed it): without one nothing here can be believed"
        )
    options = {"endpoint": endpoint, "region": region, "ca_file": ca_file}
    locations = {url: place_of(url, **(options if url.startswith("s3://") else dict.fromkeys(options))) for url in urls}
    return Places(locations, signers_of(signers), from_file=False)


def _expected(places: Places, group: str) -> Sequence[str]:
    return places.groups.get(group, list(places.locations))


async def _look(places: Places, group: str | None) -> Inventory:
    from recovery.adapters.inventory import inventory
    from recovery.backup.signing import Verifier

    async with _opened(places) as (stores, failed):
        if not stores:
            reasons = "; ".join(f"{location}: {why}" for location, why in failed.items())
            raise Unreachable(f"no location can be asked. {reasons}")
        replicating = [name for name, place in places.locations.items() if place.replication is not None]
        found = await inventory(
            stores, Verifier(places.signers), named=places.groups, only=group, replicating=replicating
        )
        return replace(found, unreachable={**failed, **found.unreachable})


@contextlib.asynccontextmanager
async def _opened(places: Places) -> AsyncIterator[tuple[list[ObjectStore], dict[str, str]]]:
    """The locations that can be asked from here, and why the others cannot."""
    from recovery.adapters.secrets import Secrets
    from workers.object_stores import object_store

    secrets = Secrets()
    found: list[ObjectStore] = []
    failed: dict[str, str] = {}
    async with contextlib.AsyncExitStack() as opened:
        opened.callback(secrets.close)
        for name, place in places.locations.items():
            try:
                if place.is_folder and not await _is_folder(Path(place.prefix)):
                    raise NotFound(f"{place.prefix} is no folder on this machine")
                store = await object_store(name, place, secrets)
            except RecoveryError as error:  # a secret of it is not on this machine, say
                failed[name] = str(error)
                continue
            opened.push_async_callback(store.close)
            found.append(store)
        yield found, failed


async def _is_folder(path: Path) -> bool:
    """Asks in a thread of its own, which no one waits for: on a dead mount it never ends.

    Raises:
        Unreachable: there is no answer, or none but an error.
    """
    from recovery.backup.bounded import in_own_thread
    from recovery.backup.catalogue import REQUEST_SECONDS

    def ask() -> bool:
        try:
            return path.is_dir()
        except OSError as error:
            raise Unreachable(f"{path}: {error.strerror}") from None

    try:
        async with asyncio.timeout(REQUEST_SECONDS):
            return await in_own_thread("is-folder", ask)
    except TimeoutError:
        raise Unreachable(f"{path}: no answer within {REQUEST_SECONDS:.0f} s") from None


def _code(found: Inventory, outlook: dict[str, Prospects]) -> int:
    remarks = [remark for each in outlook.values() for remark in each.remarks]
    if found.unreachable or any(remark.trouble is Trouble.UNREADABLE for remark in remarks):
        return UNREACHABLE
    return FAILED if not found.groups or any(remark.trouble.fails for remark in remarks) else DONE


# For programs --------------------------------------------------------------------------------------------------------


def _document(places: Places, found: Inventory, outlook: dict[str, Prospects]) -> dict[str, Any]:
    now = datetime.now(UTC)
    return {
        "looked_at": now.isoformat(),
        "locations": {
            name: {"url": place.url, "error": found.unreachable.get(name, "")}
            for name, place in places.locations.items()
        },
        "groups": [_group_document(each, outlook[each.group], now) for each in found.groups],
        "other_folders": found.others,
    }


def _group_document(found: GroupInventory, outlook: Prospects, now: datetime) -> dict[str, Any]:
    sets = sets_document(found.group, found.sets, outlook.states)["sets"]
    return {
        "group": found.group,
        "points": [
            point_document(point, found.copies.get(point.point_id, {}), found.survey.lacking.get(point.point_id, []))
            for point in found.survey.points
        ],
        "sets": [{**each, "by_hand": outlook.by_hand[each["set_id"]]} for each in sets],
        "wal": locations_document(found.wal.locations, now),
        "windows": [window.model_dump(mode="json") for window in found.wal.windows],
        "recover": [_way_document(way) for way in outlook.ways],
        "remarks": [{"trouble": remark.trouble.value, "text": remark.text} for remark in outlook.remarks],
    }


def _way_document(way: WayBack) -> dict[str, Any]:
    return {
        **asdict(way),
        "since": None if way.since is None else way.since.isoformat(),
        "until": None if way.until is None else way.until.isoformat(),
    }


# For people ----------------------------------------------------------------------------------------------------------


def _show(places: Places, found: Inventory, outlook: dict[str, Prospects]) -> None:
    # In a pipe an id must stay on one line, for whoever searches for it.
    out = console(width=None if sys.stdout.isatty() else PIPE_WIDTH)
    for location, why in found.unreachable.items():
        out.print(_line(f"{location} ({places.locations[location].url}) cannot be read: {why}", "bold red"))
    for each in found.groups:
        _show_group(out, each, outlook[each.group])
    if found.groups and not places.from_file:
        out.print("To run these commands, write a recovery.yaml that names these locations.")
    if not found.groups:
        out.print(Text(f"no recovery points at {', '.join(places.locations)}", "yellow"))
    for location, names in found.others.items():
        out.print(_line(f"{location} has folders of no group: {', '.join(names)}", "dim"), soft_wrap=True)


def _show_group(out: Console, found: GroupInventory, outlook: Prospects) -> None:
    out.print(Text(f"Group {found.group}", "bold"))
    out.print(points_table(found.survey.points, copies=found.copies, lacking=found.survey.lacking))
    if found.sets.sets:
        out.print(sets_table(found.sets.sets, outlook.states))
    if any(location.servers or location.error for location in found.wal.locations):
        out.print(ranges_table(found.wal.locations, datetime.now(UTC)))
        for line in strays(found.wal.locations):
            out.print(_line(line, "yellow"), soft_wrap=True)
        for window in found.wal.windows[:SHOWN]:
            out.print(reachable(window), soft_wrap=True)
    if outlook.ways:
        out.print(Text("\nTo recover", "bold"))
    for way in outlook.ways[:SHOWN]:
        out.print(_way_line(way), soft_wrap=True)
    if len(outlook.ways) > SHOWN:
        out.print(f"  and {len(outlook.ways) - SHOWN} more: --output json has them all")
    for page in list(outlook.by_hand.values())[:1]:
        out.print(f"  without this software, by the newest set: {page}", soft_wrap=True)
    if outlook.remarks:
        out.print(Text("\nTo be looked at", "bold"))
    for remark in outlook.remarks:
        out.print(_remark_line(remark), soft_wrap=True)
    out.print()


def _way_line(way: WayBack) -> Text:
    line = Text(f"  {way.command}", "" if way.proven else "yellow")
    until = words.moment(way.until) if way.until is not None else "the end of its WAL"
    line.append(f"   as of {until}", "dim")
    if way.since is not None:
        line.append(f", or with --to-time any moment since {words.moment(way.since)}", "dim")
    return line if way.proven else line.append(", not validated")


def _remark_line(remark: Remark) -> Text:
    serious = remark.trouble.fails or remark.trouble is Trouble.UNREADABLE
    return Text(f"  {remark.trouble.value}: ", "bold red" if serious else "yellow").append(_line(remark.text))


def _line(text: str, style: str = "") -> Text:
    """Names that anybody may have put there do not reach the terminal as they are."""
    return Text(words.plain(text, words.is_unicode()), style)
