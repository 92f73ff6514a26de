"""The WAL archives of groups: PostgreSQL's replication protocol, the object stores and the keys put together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from recovery.adapters.key_ring import KeyRing
from recovery.adapters.logins import Logins
from recovery.adapters.postgres.connection import connected
from recovery.adapters.postgres.wal_slot import follow_archive
from recovery.adapters.postgres.wal_stream import WalStream
from recovery.adapters.wal_listing import (
    LIST_SECONDS,
    Held,
    answers,
    identifiers_of,
    listed,
    windows_of,
    with_wal,
)
from recovery.adapters.wal_locations import ArchiveLocations, OptionalLocations
from recovery.adapters.wal_read_back import read_back_of
from recovery.backup.catalogue import Catalogue
from recovery.backup.layout import manifest_key
from recovery.backup.survey import Survey
from recovery.backup.wal.archiver import ArchiveBudget, WalArchiver
from recovery.backup.wal.expiry import expire_branch
from recovery.backup.wal.handing import WalIntake
from recovery.backup.wal.location import StorePatience
from recovery.backup.wal.reader import WalArchive, archived_servers
from recovery.backup.wal.writer import ArchiveKeys
from recovery.domain.chains import is_recoverable
from recovery.domain.group import GroupSnapshot, WalRule
from recovery.domain.recovery_point import BackupKind, RecoveryPoint, kind_of
from recovery.domain.recovery_target import ChosenRecovery, RecoveryTarget, Window, choose
from recovery.domain.timelines import lsn_order, lsn_text
from recovery.domain.wal_progress import ArchiveState, HeldWal, WalOrder, WalProgress
from recovery.domain.wal_read_back import WalReadBack
from recovery.errors import BadInput, NotFound, Refused
from recovery.ports.object_store import ObjectStore
from recovery.ports.postgres import PostgresLogin
from recovery.ports.recovery_points import ExpiredWal, Progress

_HELD = """
SELECT pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() ELSE pg_current_wal_lsn() END,
                       restart_lsn)::bigint AS retained, wal_status, safe_wal_size
FROM pg_replication_slots WHERE slot_name = $1
"""

PATIENCE = StorePatience(attempt_seconds=20.0, whole_seconds=60.0)
"""For one piece at a location that a session waits for; then the session ends, and the next begins without it."""


@dataclass
class PostgresWalArchives:
    """``recovery.ports.wal_archives.WalArchives``."""

    stores: Callable[[GroupSnapshot], Sequence[ObjectStore]]
    keys: KeyRing
    logins: Logins

    # The archiver.

    async def archive(self, group: GroupSnapshot, order: WalOrder, report: Callable[[WalProgress], None]) -> None:
        """See the port."""
        rule, region = _rule(group), order.region
        if region is None:
            raise BadInput(f"group {group.name} has no region whose WAL could be archived")
        keys = ArchiveKeys(
            group.name, order.run_id, order.epoch, self.keys.sealer, self.keys.signing(), self.keys.verifier
        )
        login, stores = await self.logins.backup(group.name, region), self.stores(group)
        required = [store for store in stores if store.name not in rule.optional_locations]
        identifier = await _identifier(login, rule.slot)
        locations = ArchiveLocations(required, group.name, identifier, self.keys.verifier)
        standing = await locations.standing()
        optional = OptionalLocations([store for store in stores if store not in required], locations)
        budget = ArchiveBudget(flush_seconds=rule.flush_interval.total_seconds(), patience=PATIENCE)
        archiver = WalArchiver(keys, stores, optional=[*rule.optional_locations, *standing.away], budget=budget)

        def told(state: ArchiveState) -> None:
            known = {**dict(state), "behind": {**standing.away, **optional.behind(state.behind)}}
            report(WalProgress(region=region, epoch=order.epoch, **known))

        await _first_of(
            archiver.run(WalStream(login, rule.slot), told),
            locations.returned(standing) if standing.away else None,
            optional.keep_filled(standing.waited[0]) if rule.optional_locations else None,
        )

    async def follow(self, group: GroupSnapshot, region: str, archived: str) -> str:
        """See the port."""
        return await follow_archive(await self.logins.backup(group.name, region), _rule(group).slot, archived)

    async def held(self, group: GroupSnapshot, region: str) -> HeldWal | None:
        """See the port."""
        login = await self.logins.backup(group.name, region)
        async with connected(login, "look at the archive's slot") as session:
            row = await session.fetchrow(_HELD, _rule(group).slot)
        if row is None or row["retained"] is None:
            return None
        return HeldWal(
            retained_bytes=max(row["retained"], 0), state=row["wal_status"] or "", safe_bytes=row["safe_wal_size"]
        )

    async def lacks_base(
        self, group: GroupSnapshot, system_identifier: str, timeline: int, archived: str
    ) -> str | None:
        """See the port."""
        points = [
            each for each in await self._points(group) if each.manifest.postgres.system_identifier == system_identifier
        ]
        newest = max((lsn_order(each.manifest.postgres.start_lsn or "") for each in points), default=0)
        end = None
        for since in dict.fromkeys((newest, 0)):  # all names are needed only where the newest point does not reach
            held = await self._held(group, system_identifier, since)
            branches = [each for each in held.branches if each.timeline == timeline]
            ranges = [each for branch in branches[-1:] for there in await held.ranges_of(branch) for each in there]
            if not ranges:
                continue
            end = min(max(each.end for each in ranges), lsn_order(archived))
            reached = [await held.reach(branches[-1], point) for point in points]
            if any(position is not None and position >= end for position in reached):
                return None
        if end is None:
            return None  # nothing is archived yet
        return f"no recovery point leads to the WAL before {lsn_text(end)} on timeline {timeline} without a gap"

    def intake(self, group: GroupSnapshot, region: str) -> WalIntake:
        """Takes WAL files of the region's server. Raises WrongKey: this worker cannot sign."""
        rule = _rule(group)

        async def source() -> WalStream:
            return WalStream(await self.logins.backup(group.name, region), rule.slot)

        keys = ArchiveKeys(group.name, "archive_command", 0, self.keys.sealer, self.keys.signing(), self.keys.verifier)
        return WalIntake(keys, self.stores(group), source, rule.optional_locations)

    # Recoveries.

    async def choose(
        self, group: GroupSnapshot, target: RecoveryTarget, point_id: str | None = None
    ) -> tuple[RecoveryPoint, ChosenRecovery]:
        """See ``recovery.ports.recovery_points.RecoveryTargets``. The configuration need not archive any more."""
        points = await self._points(group)
        if point_id is not None:
            points = [each for each in points if each.point_id == point_id]
            if not points:
                raise NotFound(f"group {group.name} has no physical recovery point {point_id!r}")
        else:
            known = {each.point_id for each in points}
            points = [each for each in points if is_recoverable(each, known)]
        window, chosen = choose(target, await self.windows(group, points, target.timeline))
        return next(each for each in points if each.point_id == window.point_id), chosen

    async def all_windows(self, group: GroupSnapshot) -> list[Window]:
        """What can be reached from each physical point, validated or not. Raises as ``choose``."""
        return await self.windows(group, await self._points(group))

    async def windows(
        self, group: GroupSnapshot, points: Sequence[RecoveryPoint], timeline: int | None = None
    ) -> list[Window]:
        """What can be reached from each point, the newest server's first.

        Args:
            timeline: along this one, instead of along those that no other one descends from.
        """
        return [
            window
            for identifier in identifiers_of(points)
            for window in await windows_of(await self._held(group, identifier), points, timeline)
        ]

    async def expire(self, group: GroupSnapshot) -> ExpiredWal:
        """See ``recovery.ports.recovery_points.RecoveryTargets``."""
        survey = await Catalogue(self.stores(group), self.keys.verifier).survey(group.name)
        unseen = _unseen(group.name, survey)
        if unseen:
            return ExpiredWal(0, f"recovery points that are not seen may need it: {unseen}")
        points = with_wal(survey.points)
        removed = 0
        for identifier in await self.servers(group):
            starts = [
                lsn_order(each.manifest.postgres.start_lsn or "")
                for each in points
                if each.manifest.postgres.system_identifier == identifier
            ]
            if not starts:
                continue  # the first base backup may be under way, and of a lost server somebody may want everything
            for archive, timelines in await listed(await self.archives(group, identifier)):
                for each in timelines:
                    keep_from = min(starts) - min(starts) % each.record.segment_bytes
                    removed += await expire_branch(
                        archive.store, group.name, identifier, each.branch, each.pieces, keep_from
                    )
        return ExpiredWal(removed)

    async def read_back(self, group: GroupSnapshot, since: datetime, progress: Progress) -> WalReadBack:
        """See ``recovery.ports.recovery_points.RecoveryTargets``."""
        return WalReadBack.joined(
            [
                await read_back_of(await self.archives(group, identifier, opened=True), since, progress)
                for identifier in await self.servers(group)
            ]
        )

    async def archives(self, group: GroupSnapshot, system_identifier: str, *, opened: bool = False) -> list[WalArchive]:
        """One server's archive at each location; ``opened``: to read WAL, not only to list it."""
        opener = self.keys.opening() if opened else None
        return [
            WalArchive(store, group.name, system_identifier, self.keys.verifier, opener) for store in self.stores(group)
        ]

    async def servers(self, group: GroupSnapshot) -> list[str]:
        """System identifiers of all servers whose WAL any location that answers has. Raises Unreachable: none does."""
        asked = {store.name: partial(archived_servers, store, group.name) for store in self.stores(group)}
        found = await answers(asked, LIST_SECONDS)
        return sorted({identifier for there in found for identifier in there})

    async def _points(self, group: GroupSnapshot) -> list[RecoveryPoint]:
        return with_wal(await Catalogue(self.stores(group), self.keys.verifier).points(group.name))

    async def _held(self, group: GroupSnapshot, system_identifier: str, since: int = 0) -> Held:
        return Held(system_identifier, await listed(await self.archives(group, system_identifier), since))


async def _identifier(login: PostgresLogin, slot: str) -> str:
    stream = WalStream(login, slot)
    try:
        return (await stream.identify()).system_identifier
    finally:
        await stream.close()


async def _first_of(*work: Coroutine[Any, Any, Any] | None) -> None:
    """Ends with the archiver's error, or when a location that was away is complete again."""
    tasks = [asyncio.create_task(each) for each in work if each is not None]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _unseen(group: str, survey: Survey) -> str:
    """Why there may be recovery points beside those that were seen; empty where there are none."""
    silent = [f"{location} did not answer: {why}" for location, why in sorted(survey.unreachable.items())]
    rejected = [
        f"{each.point_id} at {each.location} is not believed: {each.reason}"
        for each in survey.rejected
        if each.key == manifest_key(group, each.point_id) and _may_need_wal(each.point_id)
    ]
    return "; ".join([*silent, *rejected])


def _may_need_wal(point_id: str) -> bool:
    try:
        return kind_of(point_id) is BackupKind.PHYSICAL
    except ValueError:
        return True


def _rule(group: GroupSnapshot) -> WalRule:
    if group.wal is None:
        raise Refused(
            f"group {group.name} has no WAL archive: set groups.{group.name}.backup.wal.enabled in the configuration"
        )
    return group.wal
