"""What the locations hold of a group's WAL, by its objects alone; one that is silent or damaged hides no other."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from recovery.adapters.wal_listing import LIST_SECONDS, Held, Listed, identifiers_of, windows_of, with_wal
from recovery.backup.bounded import for_each
from recovery.backup.signing import Verifier
from recovery.backup.wal.reader import TimelineStatus, WalArchive, archived_servers
from recovery.domain.recovery_point import RecoveryPoint
from recovery.domain.recovery_target import Window
from recovery.errors import RecoveryError
from recovery.ports.object_store import ObjectStore


@dataclass(frozen=True)
class ServerArchive:
    """One server's WAL at one location. ``error``: why it cannot be used there; empty where it can."""

    system_identifier: str
    timelines: list[TimelineStatus]
    error: str = ""


@dataclass(frozen=True)
class LocationArchive:
    """``error``: why the location's archive could not be listed; empty where it could."""

    location: str
    servers: list[ServerArchive] = field(default_factory=list)
    error: str = ""

    @property
    def has_gap(self) -> bool:
        return any(timeline.gaps for server in self.servers for timeline in server.timelines)

    @property
    def errors(self) -> list[str]:
        """Its own, and those of its servers."""
        of_servers = [f"WAL of {each.system_identifier}: {each.error}" for each in self.servers if each.error]
        return [self.error, *of_servers] if self.error else of_servers


@dataclass(frozen=True)
class ArchivedWal:
    """``windows``: what recoveries reach, the newest point first. ``disbelieved``: records at their ends, and why."""

    locations: list[LocationArchive] = field(default_factory=list)
    windows: list[Window] = field(default_factory=list)
    disbelieved: list[str] = field(default_factory=list)

    @property
    def is_known(self) -> bool:
        """Whether any location could be asked, so that no window means that there is none."""
        return any(not each.errors for each in self.locations)


async def archived_wal(
    stores: Sequence[ObjectStore], group: str, verifier: Verifier, points: Sequence[RecoveryPoint]
) -> ArchivedWal:
    """From the names of the objects at each location, which is asked once, and the points' signed manifests."""
    found: dict[str, list[Listed]] = {}

    async def at(store: ObjectStore) -> LocationArchive:
        return await _at(store, group, verifier, found)

    locations = await for_each(stores, at, max(len(stores), 1))
    windows: list[Window] = []
    disbelieved: list[str] = []
    leading = with_wal(points)
    for identifier in identifiers_of(leading):
        held = Held(identifier, found.get(identifier, []))
        windows += await windows_of(held, leading)
        disbelieved += held.disbelieved
    windows.sort(key=lambda each: (each.first_time, each.timeline), reverse=True)
    return ArchivedWal(locations, windows, disbelieved)


async def _at(store: ObjectStore, group: str, verifier: Verifier, found: dict[str, list[Listed]]) -> LocationArchive:
    """Puts what could be listed into ``found``, by server."""
    try:
        async with asyncio.timeout(LIST_SECONDS):
            identifiers = await archived_servers(store, group)
    except (RecoveryError, TimeoutError) as error:
        return LocationArchive(store.name, error=_words(error))
    servers = []
    for identifier in identifiers:
        archive = WalArchive(store, group, identifier, verifier)
        try:
            timelines = await archive.timelines(silence=LIST_SECONDS)
        except (RecoveryError, TimeoutError) as error:
            servers.append(ServerArchive(identifier, [], _words(error)))
            continue
        found.setdefault(identifier, []).append((archive, timelines))
        servers.append(ServerArchive(identifier, [each.status for each in timelines]))
    return LocationArchive(store.name, servers)


def _words(error: BaseException) -> str:
    return str(error) or f"no answer within {LIST_SECONDS:.0f} s"
