"""Keeps a server's WAL at every location while it is written, and tells the server only then that it is safe.

A session of ``WalArchiver.run`` ends with an error and never by itself. Whoever runs it starts it again, here or on
another machine: it takes the slot from a session that is left, and goes on where the archive ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from recovery.backup.wal.location import ArchiveLocation, StorePatience
from recovery.backup.wal.moments import Moments
from recovery.backup.wal.units import CutPiece, UnitCutter
from recovery.backup.wal.writer import ArchiveKeys, ArchiveWriter, first_of
from recovery.domain.timelines import lsn_text
from recovery.domain.wal_archive import (
    Branch,
    Stretch,
    WalPiece,
    WalRange,
    contiguous_end,
    lineage_ranges,
    merged,
    resume_position,
    unit_bytes,
)
from recovery.domain.wal_progress import ArchiveState
from recovery.errors import BadInput, NotFound, NotOurs, SourceFailed
from recovery.ports.object_store import ObjectStore
from recovery.ports.wal import WalBytes, WalEnd, WalEvent, WalIdle, WalServer, WalSource

REPORT_SECONDS = 1.0
URGENT_SECONDS = 1.0  # between two partials that the server asked for


@dataclass(frozen=True)
class ArchiveBudget:
    """Limits of an archiver in time and memory.

    Args:
        flush_seconds: how often the running partial is archived: the RPO of a server that writes little.
        in_flight: pieces on their way at once, each of one unit (16 MiB) at most, plain and sealed.
        patience: for each piece at each required location; then the session ends with the location's error.
    """

    flush_seconds: float = 10.0
    in_flight: int = 4
    patience: StorePatience = field(default_factory=StorePatience)


Report = Callable[[ArchiveState], None]


class WalArchiver:
    """Archives one server's WAL: one object for many sessions.

    Args:
        stores: the locations. A position is acknowledged when all of them have it, except the ``optional`` ones
            (names), which may miss pieces and are filled afterwards.

    Raises:
        BadInput: no location is left that must acknowledge.
    """

    def __init__(
        self,
        keys: ArchiveKeys,
        stores: Sequence[ObjectStore],
        *,
        optional: Collection[str] = (),
        budget: ArchiveBudget | None = None,
    ) -> None:
        self._keys = keys
        self._stores = list(stores)
        self._optional = frozenset(optional)
        if all(store.name in self._optional for store in self._stores):
            raise BadInput("no location must acknowledge the WAL: name at least one that is not optional")
        self._budget = budget or ArchiveBudget()

    async def run(self, source: WalSource, report: Report) -> None:
        """Opens the source, archives until an error or a cancellation ends it, and closes the source.

        ``report`` is called about every second and at every change that somebody should know at once.

        Raises:
            Unreachable: the source or a required location went away: run it again.
            NotOurs: the archive holds other WAL at this place; the message says what to do.
            Refused, SourceFailed, Corrupt, WrongKey: in the words of whoever says so.
        """
        try:
            server = await source.identify()
            writer = ArchiveWriter(self._keys, server, self._stores, self._optional, self._budget.patience)
            try:
                async with asyncio.TaskGroup() as uploads:
                    await _Session(source, server, writer, self._budget, self._keys.epoch, report, uploads).run()
            except BaseExceptionGroup as group:
                raise first_of(group) from group
            finally:
                await asyncio.shield(writer.close())
        finally:
            await asyncio.shield(source.close())


class _Session:
    """One session: from the source's identity to the error that ends it."""

    def __init__(
        self,
        source: WalSource,
        server: WalServer,
        writer: ArchiveWriter,
        budget: ArchiveBudget,
        epoch: int,
        report: Report,
        uploads: asyncio.TaskGroup,
    ) -> None:
        self._source, self._server, self._writer, self._budget, self._epoch = source, server, writer, budget, epoch
        self._report, self._uploads = report, uploads
        self._unit = unit_bytes(server.segment_bytes)
        self._slots = asyncio.Semaphore(budget.in_flight)
        self._moments = Moments(server.position)
        self._stored: list[WalRange] = []
        self._archived = 0
        self._progress = asyncio.Event()
        self._told = 0.0
        self._state = ArchiveState(
            system_identifier=server.system_identifier,
            timeline=server.timeline,
            archived="0/0",
            server_position=lsn_text(server.position),
            lag_bytes=0,
        )

    async def run(self) -> None:
        branch = await self._archive_histories(self._server.timeline)
        restart = await self._source.take_slot()
        position = await self._resume(branch, restart)
        while True:
            end = await self._follow(branch.stretch_at(position), position, restart)
            branch, position = await self._archive_histories(end.timeline), end.position

    async def _archive_histories(self, timeline: int) -> Branch:
        """The ancestry of the server's timeline, at every location before any WAL of it."""
        if timeline == 1:
            await self._writer.put_history(Branch(1), "")
            return Branch(1)
        text = await self._source.history(timeline)
        branch = Branch.from_history(timeline, text)
        for stretch in branch.stretches()[:-1]:
            number = stretch.branch.timeline
            try:
                ancestor = await self._source.history(number) if number > 1 else ""
            except SourceFailed:  # cloned later than that: its descendants' files tell as much
                continue
            if not ancestor or Branch.from_history(number, ancestor) == stretch.branch:
                await self._writer.put_history(stretch.branch, ancestor)
        await self._writer.put_history(branch, text)
        return branch

    async def _resume(self, branch: Branch, restart: int) -> int:
        """Where the archive of this lineage ends, at the location that has least of it."""
        found = await asyncio.gather(*(_resume_at(location, branch, restart) for location in self._writer.required))
        return min(found)

    async def _follow(self, stretch: Stretch, position: int, restart: int) -> WalEnd:
        """Archives one timeline from ``position`` on, to its end."""
        position = await self._start(stretch, position, restart)
        begin = position - position % self._unit
        cutter = UnitCutter(begin, position, self._unit, self._epoch)
        self._stored, self._archived = [], position
        earlier = await self._archived_in(stretch.branch, WalRange(begin, position))
        self._note(timeline=stretch.branch.timeline)
        due, urgent_after = _now() + self._budget.flush_seconds, 0.0
        while True:
            for event in await self._source.receive(max(min(due - _now(), REPORT_SECONDS), 0.01)):
                if isinstance(event, WalEnd):
                    await self._finish(stretch.branch, cutter)
                    return event
                # What comes after `position` may be cut only when what came before it is known to be the archive's.
                urgent = await self._take(stretch.branch, cutter, event, earlier)
                if urgent and _now() >= urgent_after:
                    due, urgent_after = _now(), _now() + URGENT_SECONDS  # its shutdown waits for us
            if _now() >= due and not earlier:
                due = _now() + self._budget.flush_seconds
                await self._send(stretch.branch, cutter.partial())
            self._tell(cutter)

    async def _start(self, stretch: Stretch, position: int, restart: int) -> int:
        """Starts the stream at the unit's begin; where the server has that no more, at what it has, with a gap."""
        timeline = stretch.branch.timeline
        try:
            await self._source.start(timeline, position - position % self._unit)
            return position
        except NotFound:
            if restart <= position:
                raise
        self._note(gap=f"{lsn_text(position)} to {lsn_text(restart)}, timeline {timeline}")
        self._report(self._state)
        first = restart - restart % self._unit
        await self._source.start(timeline, first)
        return first

    async def _archived_in(self, branch: Branch, span: WalRange) -> list[tuple[ArchiveLocation, WalPiece]]:
        """Partials of the unit in which the stream begins: the server must send the same bytes again."""
        return [
            (location, piece)
            for location in self._writer.required
            for piece in await location.pieces_since(branch, span.start)
            if span.start <= piece.start and piece.end <= span.end
        ]

    async def _take(
        self, branch: Branch, cutter: UnitCutter, event: WalEvent, earlier: list[tuple[ArchiveLocation, WalPiece]]
    ) -> bool:
        """True when the server waits for an answer about everything that it sent."""
        if isinstance(event, WalBytes):
            self._moments.wal(event.server_end, event.server_time)
            whole = cutter.add(event.start, event.body, event.server_time)
            running = cutter.position - cutter.position % self._unit
            if earlier and (whole or cutter.position >= self._archived):
                first = whole[0].body if whole else cutter.bytes_of(WalRange(running, cutter.position))
                begin = whole[0].piece.start if whole else running
                await _refuse_other_wal(branch, begin, first, earlier)
                earlier.clear()
            for cut in whole:
                await self._send(branch, cut)
        elif isinstance(event, WalIdle):
            self._moments.idle(event.position, event.server_time)
            return event.urgent and event.position == cutter.position
        return False

    async def _finish(self, branch: Branch, cutter: UnitCutter) -> None:
        """Waits until everything before the fork is archived."""
        await self._send(branch, cutter.partial())
        while self._archived < cutter.position:
            self._progress.clear()
            self._tell(cutter)
            await self._progress.wait()
        self._tell(cutter, now=True)

    async def _send(self, branch: Branch, cut: CutPiece | None) -> None:
        if cut is not None:
            await self._slots.acquire()
            self._uploads.create_task(self._upload(branch, cut))

    async def _upload(self, branch: Branch, cut: CutPiece) -> None:
        await self._writer.put_piece(branch, cut)
        self._slots.release()
        self._stored = merged([*self._stored, cut.piece.range])
        self._archived = max(self._archived, contiguous_end(self._stored, self._archived))
        self._source.acknowledge(self._archived)
        state = self._state
        self._note(pieces=state.pieces + 1, archived_bytes=state.archived_bytes + cut.piece.range.size)
        self._progress.set()

    def _tell(self, cutter: UnitCutter, *, now: bool = False) -> None:
        archived = lsn_text(self._archived)
        if not now and archived == self._state.archived and _now() < self._told + REPORT_SECONDS:
            return
        self._told = _now()
        known = max(self._moments.server_end, cutter.position)
        self._note(
            archived=archived, server_position=lsn_text(known), lag_bytes=max(known - self._archived, 0),
            current_at=self._moments.current_at(self._archived), behind=dict(self._writer.behind),
        )  # fmt: skip
        self._report(self._state)

    def _note(self, **changes: Any) -> None:
        self._state = self._state.model_copy(update=changes)


async def _resume_at(location: ArchiveLocation, branch: Branch, restart: int) -> int:
    pieces = {
        stretch.branch: [piece.range for piece in await location.pieces_since(stretch.branch, restart)]
        for stretch in branch.stretches()
    }
    return resume_position(lineage_ranges(branch, pieces), restart)


async def _refuse_other_wal(
    branch: Branch, begin: int, body: bytes, earlier: list[tuple[ArchiveLocation, WalPiece]]
) -> None:
    for location, piece in earlier:
        if not await location.agrees(branch, piece, body[piece.start - begin : piece.end - begin]):
            raise NotOurs(location.differs(branch, piece))


def _now() -> float:
    return asyncio.get_running_loop().time()
