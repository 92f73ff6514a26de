"""What the locations that answer hold of one server's WAL, and how far recoveries get with it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import TypeVar

import structlog

from recovery.backup.wal.reader import ArchivedTimeline, WalArchive
from recovery.domain.recovery_point import BackupKind, RecoveryPoint
from recovery.domain.recovery_target import Window, farthest
from recovery.domain.timelines import lsn_order, lsn_text
from recovery.domain.wal_archive import Branch, WalRange, lineage_ranges, tips
from recovery.errors import Corrupt, RecoveryError, Unreachable, WrongKey

LIST_SECONDS = 15.0  # without a name of one server's archive, after which a location counts as silent
ANSWER_SECONDS = 5.0  # for one record

Listed = tuple[WalArchive, list[ArchivedTimeline]]
_Answer = TypeVar("_Answer")

log = structlog.get_logger("recovery.wal")


async def answers(asked: Mapping[str, Callable[[], Awaitable[_Answer]]], seconds: float | None = None) -> list[_Answer]:
    """What the locations (by name) answer that do: no other one may stop a recovery, whatever is wrong with it.

    Args:
        seconds: for each answer; None: it ends by itself, at last with a TimeoutError.

    Raises:
        Unreachable: none answers. Corrupt, WrongKey: none does, because of damage at all of them.
    """
    failed: dict[str, RecoveryError | TimeoutError] = {}

    async def one(location: str, ask: Callable[[], Awaitable[_Answer]]) -> list[_Answer]:
        try:
            async with asyncio.timeout(seconds):
                return [await ask()]
        except (RecoveryError, TimeoutError) as error:
            log.warning("a location's WAL archive could not be listed", location=location, why=str(error))
            failed[location] = error
            return []

    found = [each for answer in await asyncio.gather(*(one(*each) for each in asked.items())) for each in answer]
    if found:
        return found
    damage = [error for error in failed.values() if isinstance(error, Corrupt | WrongKey)]
    if damage and len(damage) == len(failed):
        raise damage[0]
    words = "; ".join(f"{location}: {str(error) or 'no answer in time'}" for location, error in failed.items())
    raise Unreachable(f"no location's WAL archive could be listed: {words or 'none is configured'}")


async def listed(archives: Sequence[WalArchive], since: int = 0) -> list[Listed]:
    """What each location that answers has, of folders from an LSN on. Raises as ``answers``."""

    async def of(archive: WalArchive) -> Listed:
        return archive, await archive.timelines(since=since, silence=LIST_SECONDS)

    return await answers({archive.location: partial(of, archive) for archive in archives})


class Held:
    """What the locations hold of one server.

    ``disbelieved``: records by which a window was to be told that are damaged, or signed by nobody who is trusted.
    """

    def __init__(self, system_identifier: str, found: Sequence[Listed]) -> None:
        self.system_identifier = system_identifier
        self.disbelieved: list[str] = []
        self._found = found
        timelines = {each.branch: each for _, timelines in found for each in timelines}
        self.branches = sorted(timelines, key=lambda branch: (branch.timeline, branch.folder))
        self._segment_bytes = max((each.record.segment_bytes for each in timelines.values()), default=1)
        self._ranges: dict[Branch, list[list[WalRange]]] = {}
        self._times: dict[tuple[Branch, int], datetime | None] = {}

    async def ranges_of(self, branch: Branch) -> list[list[WalRange]]:
        """Of a lineage, for each location. Of a long archive that is seconds of work, once and beside the loop."""
        if branch not in self._ranges:
            self._ranges[branch] = await asyncio.to_thread(self._merged, branch)
        return self._ranges[branch]

    def _merged(self, branch: Branch) -> list[list[WalRange]]:
        return [
            lineage_ranges(branch, {each.branch: [piece.range for piece in each.pieces] for each in timelines})
            for _, timelines in self._found
        ]

    async def reach(self, branch: Branch, point: RecoveryPoint) -> int | None:
        """How far a recovery gets from the point along the lineage; None: not even to its own end."""
        source = point.manifest.postgres
        start, stop = lsn_order(source.start_lsn or ""), lsn_order(source.stop_lsn or "")
        stretch = branch.stretch_of(source.timeline)
        if stretch is None or start < stretch.begin or (stretch.left_at is not None and stop > stretch.left_at):
            return None
        end = farthest(await self.ranges_of(branch), start, self._segment_bytes)
        return end if end >= stop else None

    async def window(self, branch: Branch, point: RecoveryPoint, end: int) -> Window:
        source = point.manifest.postgres
        return Window(
            system_identifier=self.system_identifier,
            point_id=point.point_id,
            point_timeline=source.timeline,
            timeline=branch.timeline,
            forks=[(number, lsn_text(left)) for number, left in branch.forks],
            fork_times=[await self._written(branch, left) for _, left in branch.forks],
            first=source.stop_lsn or "",
            first_time=point.manifest.finished_at,
            last=lsn_text(end),
            last_time=await self._written(branch, end),
            validated=point.is_valid,
        )

    async def _written(self, branch: Branch, end: int) -> datetime | None:
        """The server's clock when it had sent everything before ``end``; None where no location can say."""
        key = branch.stretch_at(end - 1).branch, end
        if key not in self._times:
            self._times[key] = await self._asked(*key)
        return self._times[key]

    async def _asked(self, branch: Branch, end: int) -> datetime | None:
        for archive, timelines in self._found:
            for each in (timeline for timeline in timelines if timeline.branch == branch):
                pieces = [piece for piece in each.pieces if piece.start < end <= piece.end]
                if not pieces:
                    continue
                piece = min(pieces, key=lambda piece: piece.end)
                try:
                    async with asyncio.timeout(ANSWER_SECONDS):
                        return await archive.written_at(branch, piece)
                except (RecoveryError, TimeoutError) as error:  # another location may know it
                    if isinstance(error, Corrupt | WrongKey):
                        span = f"WAL from {lsn_text(piece.start)} to {lsn_text(piece.end)}"
                        where = f"timeline {branch.timeline} at {archive.location}"
                        self.disbelieved.append(f"{span} of {where}: {error}")
                    log.warning("a piece's time could not be read", location=archive.location, why=str(error))
        return None


def with_wal(points: Sequence[RecoveryPoint]) -> list[RecoveryPoint]:
    """The physical ones that say which WAL they need."""
    return [
        each
        for each in points
        if each.manifest.kind is BackupKind.PHYSICAL
        and each.manifest.postgres.start_lsn
        and each.manifest.postgres.stop_lsn
    ]


def identifiers_of(points: Sequence[RecoveryPoint]) -> list[str]:
    """The servers of points ``with_wal``, each once, in the order of their points."""
    return list(dict.fromkeys(each.manifest.postgres.system_identifier for each in points))


async def windows_of(held: Held, points: Sequence[RecoveryPoint], timeline: int | None = None) -> list[Window]:
    """What can be reached from each point of that server.

    Args:
        timeline: along this one, instead of along those that no other one descends from.
    """
    branches = [each for each in held.branches if each.timeline == timeline] or tips(held.branches)
    own = [each for each in points if each.manifest.postgres.system_identifier == held.system_identifier]
    return [
        await held.window(branch, point, end)
        for branch in branches
        for point in own
        if (end := await held.reach(branch, point)) is not None
    ]
