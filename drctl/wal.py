"""``drctl wal status``: what is archived of a group's WAL, what is missing, and how far a recovery gets with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import typer
from rich.table import Column, Table
from rich.text import Text

from drctl import words
from drctl.output import (
    DONE,
    FAILED,
    UNREACHABLE,
    ConfigFile,
    Form,
    GroupName,
    Output,
    examples,
    print_json,
)
from drctl.session import chosen_group, load_config, run, session, stores
from drctl.tables import console
from recovery.domain.words import duration, size
from recovery.errors import RecoveryError

if TYPE_CHECKING:
    from recovery.adapters.wal_status import LocationArchive
    from recovery.backup.wal.reader import TimelineStatus
    from recovery.config import Config
    from recovery.domain.recovery_target import Window
    from workers.wal_status import ArchiverStatus, ArchiveStatus

WINDOWS_SHOWN = 10
STRAYS_SHOWN = 5

app = typer.Typer(
    name="wal", no_args_is_help=True, rich_markup_mode="rich", help="Show what is archived of a group's WAL."
)


@app.callback()
def wal() -> None:
    """Show what is archived of a group's WAL."""


@app.command(epilog=examples("drctl wal status", "drctl wal status --group shop --output json"))
def status(group: GroupName = None, config: ConfigFile = None, output: Form = Output.TEXT) -> None:
    """Show a group's WAL archive: ranges and gaps of each timeline, the archiver's lag, and what recoveries reach.

    The archive is read from the locations themselves. Exit code 1: there is a gap, or nobody archives what the
    configuration asks for; 3: a location did not answer.
    """
    loaded = load_config(config)
    name = chosen_group(loaded, group)
    found, archiver = run(_status(loaded, name))
    now = datetime.now(UTC)
    if output is Output.JSON:
        print_json(document(found, archiver, now))
    else:
        show(found, archiver, now)
    if any(location.errors for location in found.locations):
        raise typer.Exit(UNREACHABLE)
    idle = found.configured and (archiver is None or archiver.progress is None)
    raise typer.Exit(FAILED if idle or any(location.has_gap for location in found.locations) else DONE)


async def _status(config: Config, name: str) -> tuple[ArchiveStatus, ArchiverStatus | None]:
    from workers.wal_status import ArchiverStatus, archive_status, archiver_status

    async with stores(config) as wiring:
        found = await archive_status(wiring, name)
    if not found.configured:
        return found, None
    try:
        async with session(config) as ours:
            return found, await archiver_status(ours.client, name)
    except RecoveryError as error:
        return found, ArchiverStatus(f"not known: {error}")


def document(found: ArchiveStatus, archiver: ArchiverStatus | None, now: datetime) -> dict[str, Any]:
    """What ``--output json`` prints. Ages are in seconds."""
    progress = archiver.progress if archiver is not None else None
    age = progress.age(now) if progress is not None else None
    return {
        "group": found.group,
        "configured": found.configured,
        "archiver": None
        if archiver is None
        else {
            "state": archiver.state,
            "achieved_rpo_seconds": None if age is None else age.total_seconds(),
            **({} if progress is None else progress.model_dump(mode="json")),
        },
        "locations": locations_document(found.locations, now),
        "windows": [window.model_dump(mode="json") for window in found.windows],
        "windows_unknown": found.unknown,
    }


def locations_document(locations: Sequence[LocationArchive], now: datetime) -> list[dict[str, Any]]:
    """What each location holds. Ages are in seconds."""
    return [
        {
            "location": location.location,
            "error": location.error,
            "servers": [
                {
                    "system_identifier": server.system_identifier,
                    "error": server.error,
                    "timelines": [
                        asdict(timeline) | {"age_seconds": _seconds(_age(timeline, now))}
                        for timeline in server.timelines
                    ],
                }
                for server in location.servers
            ],
        }
        for location in locations
    ]


def show(found: ArchiveStatus, archiver: ArchiverStatus | None, now: datetime) -> None:
    """The same for people."""
    out = console()
    out.print(_headline(found, archiver, now))
    out.print(ranges_table(found.locations, now))
    for line in strays(found.locations):
        out.print(Text(words.plain(line, words.is_unicode()), "yellow"), soft_wrap=True)
    if found.unknown:
        out.print(Text(f"What recoveries reach is not known: {found.unknown}", "yellow"))
    elif not found.windows:
        out.print(Text("No recovery point lies within archived WAL: take one with drctl backup run", "yellow"))
    for window in found.windows[:WINDOWS_SHOWN]:
        out.print(reachable(window))
    if len(found.windows) > WINDOWS_SHOWN:
        out.print(f"and from {len(found.windows) - WINDOWS_SHOWN} more recovery points")


def reachable(window: Window) -> str:
    """One window as a line."""
    return f"reachable: {window}{'' if window.validated else ', not validated'}"


def strays(locations: Sequence[LocationArchive]) -> list[str]:
    """A line for each timeline at each location that has objects among its pieces which are none."""
    lines = []
    for location in locations:
        for timeline in (each for server in location.servers for each in server.timelines if each.strays):
            named = ", ".join(timeline.strays[:STRAYS_SHOWN])
            further = f" and {len(timeline.strays) - STRAYS_SHOWN} more" if len(timeline.strays) > STRAYS_SHOWN else ""
            lines.append(
                f"warning: no piece of WAL, but among those of timeline {timeline.ancestry} at {location.location}, "
                f"where it is passed over: {named}{further}"
            )
    return lines


def ranges_table(locations: Sequence[LocationArchive], now: datetime) -> Table:
    """What is archived, what is missing and how old the newest piece is: by location, server and timeline."""
    table = Table(
        "Location", "Server", Column("Timeline", justify="right"), "Archived", "Missing",
        Column("Newest", justify="right"), box=None, pad_edge=False,
    )  # fmt: skip
    for location in locations:
        if location.error:
            table.add_row(location.location, "", "", Text(location.error, "bold red"), "", "")
        elif not location.servers:
            table.add_row(location.location, "", "", "nothing", "", "")
        for server in location.servers:
            if server.error:
                table.add_row(location.location, server.system_identifier, "", Text(server.error, "bold red"), "", "")
            for timeline in server.timelines:
                table.add_row(location.location, server.system_identifier, *_cells(timeline, now))
    return table


def _headline(found: ArchiveStatus, archiver: ArchiverStatus | None, now: datetime) -> Text:
    text = Text(f"{found.group}  ", "bold")
    if archiver is None:
        return text.append("its WAL is not archived (backup.wal.enabled)", "yellow")
    progress = archiver.progress
    if progress is None:
        return text.append(archiver.state, "yellow")
    text.append(
        f"archived at {progress.region} (epoch {progress.epoch}) to {progress.archived} on timeline "
        f"{progress.timeline}, {size(progress.lag_bytes)} behind; achieved RPO {duration(progress.age(now))}",
        "green",
    )
    if progress.held is not None:
        text.append(f"; the slot holds {size(progress.held.retained_bytes)}")
    for region, kept in progress.standbys.items():
        text.append(f"\n  standby {region} holds WAL from {kept}")
    for location, why in progress.behind.items():
        text.append(f"\n  {location}: {why}", "yellow")
    if progress.gap is not None:
        text.append(f"\n  GAP: {progress.gap}", "bold red")
    return text


def _cells(timeline: TimelineStatus, now: datetime) -> tuple[str, str, Text, str]:
    missing = Text("\n".join(f"{start} to {end}" for start, end in timeline.gaps), "bold red")
    archived = "\n".join(f"{start} to {end}" for start, end in timeline.ranges) or "nothing"
    age = _age(timeline, now)
    return timeline.ancestry, archived, missing or Text("nothing"), "" if age is None else f"{duration(age)} ago"


def _age(timeline: TimelineStatus, now: datetime) -> timedelta | None:
    return None if timeline.archived_at is None else max(now - timeline.archived_at, timedelta())


def _seconds(age: timedelta | None) -> float | None:
    return None if age is None else age.total_seconds()
