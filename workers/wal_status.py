"""What a group's WAL archive holds, and how its archiver is, for the command line."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from pydantic import ValidationError
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from recovery.adapters.key_ring import KeyRing
from recovery.adapters.wal_archives import PostgresWalArchives
from recovery.backup.sealing import Sealer
from recovery.backup.signing import Verifier
from recovery.backup.wal.reader import TimelineStatus, WalArchive, archived_servers
from recovery.domain.group import GroupSnapshot
from recovery.domain.recovery_target import Window
from recovery.domain.wal_progress import WalProgress
from recovery.errors import RecoveryError
from recovery.ports.object_store import ObjectStore
from workers.wiring import Wiring

LOCATION_SECONDS = 15.0  # without an answer


@dataclass(frozen=True)
class ServerArchive:
    """One server's WAL at one location."""

    system_identifier: str
    timelines: list[TimelineStatus]


@dataclass(frozen=True)
class LocationArchive:
    """``error``: why the location's archive could not be listed; empty where it could."""

    location: str
    servers: list[ServerArchive] = field(default_factory=list)
    error: str = ""

    @property
    def has_gap(self) -> bool:
        return any(timeline.gaps for server in self.servers for timeline in server.timelines)


@dataclass(frozen=True)
class ArchiveStatus:
    """``windows``: what recoveries reach, the newest point first; ``unknown``: why that could not be found out."""

    group: str
    configured: bool
    locations: list[LocationArchive]
    windows: list[Window]
    unknown: str = ""


async def archive_status(wiring: Wiring, name: str) -> ArchiveStatus:
    """From the names of the objects at each location, and the signed manifests of the recovery points."""
    group = wiring.config.snapshot(name)
    of_group = await wiring.locations()
    verifier = Verifier(wiring.config.keys.trusted_signers)
    locations = await asyncio.gather(*(_location(store, group, verifier) for store in of_group(group)))
    archives = PostgresWalArchives(of_group, KeyRing(Sealer(wiring.config.keys.recipients), verifier), wiring)
    try:
        windows, unknown = await archives.all_windows(group), ""
    except RecoveryError as error:
        windows, unknown = [], str(error)
    return ArchiveStatus(name, group.wal is not None, list(locations), _newest_first(windows), unknown)


async def _location(store: ObjectStore, group: GroupSnapshot, verifier: Verifier) -> LocationArchive:
    try:
        async with asyncio.timeout(LOCATION_SECONDS):
            identifiers = await archived_servers(store, group.name)
        archives = [WalArchive(store, group.name, identifier, verifier) for identifier in identifiers]
        servers = [
            ServerArchive(identifier, await archive.status(silence=LOCATION_SECONDS))
            for identifier, archive in zip(identifiers, archives, strict=True)
        ]
    except (RecoveryError, TimeoutError) as error:
        return LocationArchive(store.name, error=str(error) or f"no answer within {LOCATION_SECONDS:.0f} s")
    return LocationArchive(store.name, servers)


def _newest_first(windows: Sequence[Window]) -> list[Window]:
    return sorted(windows, key=lambda each: (each.first_time, each.timeline), reverse=True)


@dataclass(frozen=True)
class ArchiverStatus:
    """``state``: a word for people; ``progress`` None: no session tells how far it is."""

    state: str
    progress: WalProgress | None = None
    at: datetime = field(default_factory=lambda: datetime.now(UTC))


async def archiver_status(client: Client, group: str) -> ArchiverStatus:
    """How the run ``wal/<group>`` and its session are, from the session's heartbeats."""
    try:
        description = await client.get_workflow_handle(f"wal/{group}").describe()
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return ArchiverStatus("it was never started: run drctl worker in a region of the group")
        raise
    if description.status is None or description.status.name != "RUNNING":
        ended = "unknown" if description.status is None else description.status.name.lower()
        return ArchiverStatus(f"its run has ended ({ended}): a worker of the group starts it again when it begins")
    for pending in description.raw_description.pending_activities:
        if pending.activity_type.name != "wal.archive":
            continue
        if pending.HasField("heartbeat_details") and pending.heartbeat_details.payloads:
            try:
                payloads = list(pending.heartbeat_details.payloads)
                found = (await client.data_converter.decode(payloads, [WalProgress]))[0]
            except (ValidationError, RuntimeError, IndexError):
                continue
            if isinstance(found, WalProgress):
                return ArchiverStatus("archives", found)
        return ArchiverStatus("its session begins")
    return ArchiverStatus("no session runs: it waits for a worker of the owner, or the last session failed")
