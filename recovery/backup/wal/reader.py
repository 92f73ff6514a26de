"""Reads a WAL archive from its objects alone: what is there, what is missing, the files that a recovery asks for."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from recovery.backup.bounded import for_each
from recovery.backup.sealing import Opener
from recovery.backup.signing import Verifier
from recovery.backup.wal import layout
from recovery.backup.wal.records import HistoryRecord, PieceRecord, read_history, read_piece
from recovery.domain.recovery_point import StoredObject
from recovery.domain.timelines import lsn_text
from recovery.domain.wal_archive import (
    Branch,
    WalPiece,
    WalRange,
    contiguous_end,
    folder_timeline,
    gaps_between,
    history_timeline,
    lineage_ranges,
    merged,
    pieces_for,
    segment_range,
    served_range,
)
from recovery.errors import BadInput, Corrupt, NotFound, RecoveryError
from recovery.ports.object_store import ObjectStore

LISTED_AT_ONCE = 8  # folders of 4 GiB
PIECES_KEPT = 4  # opened pieces: a segment of partials is asked for once, a larger one unit by unit


@dataclass(frozen=True)
class TimelineStatus:
    """One timeline at one location.

    ``ranges`` and ``gaps`` are (from, to) LSNs. ``last_contiguous`` is the end of the first range, beyond which a
    recovery from before it cannot get on this timeline; ``archived_at`` is when its last piece was stored, by the
    store's clock: the age of the newest WAL, and an upper bound of the achieved RPO while the server writes.
    ``strays``: keys of objects among its pieces that are none; they are passed over, and never removed.
    """

    branch: str
    timeline: int
    ancestry: str
    ranges: list[tuple[str, str]]
    gaps: list[tuple[str, str]]
    last_contiguous: str | None
    archived_at: datetime | None
    strays: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class ArchivedTimeline:
    """What the reader found of one timeline: its pieces by position, when each was stored, and what is no piece."""

    record: HistoryRecord
    pieces: dict[WalPiece, datetime]
    strays: list[str]

    @property
    def branch(self) -> Branch:
        return self.record.branch

    @property
    def status(self) -> TimelineStatus:
        ranges = merged(piece.range for piece in self.pieces)
        last = ranges[0].end if ranges else None
        within = [at for piece, at in self.pieces.items() if last is not None and piece.end == last]
        return TimelineStatus(
            branch=self.branch.folder,
            timeline=self.branch.timeline,
            ancestry=str(self.branch),
            ranges=[(lsn_text(each.start), lsn_text(each.end)) for each in ranges],
            gaps=[(lsn_text(each.start), lsn_text(each.end)) for each in gaps_between(ranges)],
            last_contiguous=None if last is None else lsn_text(last),
            archived_at=min(within, default=None),
            strays=self.strays,
        )


async def archived_servers(store: ObjectStore, group: str) -> list[str]:
    """The system identifiers of all servers whose WAL a location has for a group."""
    return [name for name in await store.folders(layout.archives_prefix(group)) if name.isdigit()]


class WalArchive:
    """One server's archive at one location.

    Args:
        opener: to fetch WAL; None is enough to list it.
    """

    def __init__(
        self,
        store: ObjectStore,
        group: str,
        system_identifier: str,
        verifier: Verifier,
        opener: Opener | None = None,
    ) -> None:
        self.store = store
        self._prefix = layout.archive_prefix(group, system_identifier)
        self._verifier = verifier
        self._opener = opener
        self._plain: OrderedDict[str, bytes] = OrderedDict()

    @property
    def location(self) -> str:
        return self.store.name

    async def timelines(self, *, since: int = 0, silence: float | None = None) -> list[ArchivedTimeline]:
        """All that are archived, by number. Folders without a history are not: their first session never got so far.

        Args:
            since: an LSN; what stands in folders (of 4 GiB) before it is left out.
            silence: seconds without a single name after which it is given up. The whole may take longer: the archive of
                a year has hundreds of thousands of names.

        Raises:
            Corrupt, WrongKey: a history is damaged or forged. TimeoutError: see ``silence``.
        """
        now = asyncio.get_running_loop().time
        found = []
        async with asyncio.timeout(silence) as limit:

            def heard() -> None:
                due = limit.when()
                if silence is not None and due is not None and due < now() + 0.9 * silence and not limit.expired():
                    limit.reschedule(now() + silence)

            for folder in await self.store.folders(self._prefix):
                if folder_timeline(folder) is None:
                    continue
                try:
                    body, _ = await self.store.get(layout.history_key(self._prefix, folder))
                except NotFound:
                    continue
                heard()
                record = read_history(body, self._verifier, prefix=self._prefix, folder=folder)
                found.append(ArchivedTimeline(record, *await self._pieces(record.branch, since, heard)))
        return sorted(found, key=lambda each: (each.branch.timeline, each.branch.folder))

    async def status(self, *, silence: float | None = None) -> list[TimelineStatus]:
        """For ``drctl wal status``: per timeline, from the names of the objects. Raises as ``timelines``."""
        return [each.status for each in await self.timelines(silence=silence)]

    async def _pieces(
        self, branch: Branch, since: int, heard: Callable[[], None]
    ) -> tuple[dict[WalPiece, datetime], list[str]]:
        """And the keys of stray objects among them."""
        strays: list[str] = []
        folders = await self.store.folders(layout.pieces_prefix(self._prefix, branch))
        heard()

        async def pieces_in(folder: str) -> dict[WalPiece, datetime]:
            return await self._pieces_in(branch, folder, heard, strays)

        wanted = [folder for folder in folders if folder >= layout.folder_of(since)]
        found = await for_each(wanted, pieces_in, LISTED_AT_ONCE)
        return {piece: at for pieces in found for piece, at in pieces.items()}, sorted(strays)

    async def _pieces_in(
        self, branch: Branch, folder: str, heard: Callable[[], None] = lambda: None, strays: list[str] | None = None
    ) -> dict[WalPiece, datetime]:
        """Puts the keys of stray objects into ``strays``."""
        found = {}
        async for info in self.store.list(f"{layout.pieces_prefix(self._prefix, branch)}{folder}/"):
            heard()
            piece = layout.piece_of(info.key)
            if piece is not None:
                found[piece] = info.modified
            elif strays is not None:
                strays.append(info.key)
        return found

    async def pieces_around(self, branch: Branch, position: int) -> list[WalPiece]:
        """Those in the folder of a position."""
        return list(await self._pieces_in(branch, layout.folder_of(position)))

    async def lineage(self, branch: Branch) -> LineageReader:
        """What a recovery along ``branch`` may read. Raises as ``timelines`` and ``lineage_of``."""
        return self.lineage_of(branch, await self.timelines())

    def lineage_of(self, branch: Branch, timelines: Sequence[ArchivedTimeline]) -> LineageReader:
        """The same of timelines that were listed already.

        Raises:
            NotFound: no timeline of this ancestry is archived.
            Corrupt: they are not of one server.
        """
        known = {each.branch: each for each in timelines}
        relevant = [known[each.branch] for each in branch.stretches() if each.branch in known]
        if not relevant:
            raise NotFound(f"location {self.location} has no WAL of the timelines {branch}")
        sizes = {each.record.segment_bytes for each in relevant}
        if len(sizes) != 1:
            raise Corrupt(f"location {self.location} names segments of different sizes in one history: {sorted(sizes)}")
        return LineageReader(self, branch, relevant, sizes.pop())

    async def written_at(self, branch: Branch, piece: WalPiece) -> datetime:
        """The source's clock when it sent the piece's last byte. Raises Corrupt, WrongKey, NotFound."""
        body, _ = await self.store.get(layout.piece_key(self._prefix, branch, piece))
        return read_piece(body, self._verifier, prefix=self._prefix, branch=branch, piece=piece).written_at

    async def plain(self, branch: Branch, piece: WalPiece) -> bytes:
        """The WAL of one piece, checked against its signed record.

        Raises:
            Corrupt, WrongKey, NotFound
        """
        key = layout.piece_key(self._prefix, branch, piece)
        if key in self._plain:
            self._plain.move_to_end(key)
            return self._plain[key]
        if self._opener is None:
            raise BadInput("to read archived WAL, not only to list it, an age identity is needed")
        body, _ = await self.store.get(key)
        record = read_piece(body, self._verifier, prefix=self._prefix, branch=branch, piece=piece)
        plain = await self._opened(record, self._opener)
        self._plain[key] = plain
        while len(self._plain) > PIECES_KEPT:
            self._plain.popitem(last=False)
        return plain

    async def _opened(self, record: PieceRecord, opener: Opener) -> bytes:
        size = record.end - record.start
        stored, _ = await self.store.get(record.object)
        entry = StoredObject(key=record.object, size=record.size, sha256=record.sha256, plain_size=size)
        plain = await opener.open(entry, stored)
        if await asyncio.to_thread(lambda: hashlib.sha256(plain).hexdigest()) != record.plain_sha256:
            raise Corrupt(f"object {record.object} holds other WAL than its record says")
        return plain


class LineageReader:
    """The files of one lineage, as PostgreSQL names them: what ``restore_command`` asks for.

    No timeline that is no ancestor is served, and no ancestor beyond the LSN at which it was left. A segment that is
    not archived to its end is filled with zeros, which PostgreSQL takes for the end of the WAL. So what was listed once
    is served or an error: less of it would end a recovery early.
    """

    def __init__(
        self, archive: WalArchive, branch: Branch, timelines: Sequence[ArchivedTimeline], segment_bytes: int
    ) -> None:
        self.branch = branch
        self.segment_bytes = segment_bytes
        self._archive = archive
        self._histories = {each.branch.timeline: each.record.history for each in timelines}
        self._pieces: dict[tuple[Branch, str], list[WalPiece]] = {}  # by branch and folder
        for each in timelines:
            for piece in each.pieces:
                self._pieces.setdefault((each.branch, layout.folder_of(piece.start)), []).append(piece)
        self.ranges = lineage_ranges(
            branch, {each.branch: [piece.range for piece in each.pieces] for each in timelines}
        )

    def reachable_from(self, position: int) -> int:
        """The last LSN that a recovery can reach which needs the WAL from ``position`` on."""
        return contiguous_end(self.ranges, position)

    async def fetch(self, name: str, *, until: int | None = None) -> bytes:
        """A segment or a ``.history`` file.

        Args:
            until: nothing at or after this LSN is served.

        Raises:
            NotFound: it is not archived, or not part of this lineage: PostgreSQL goes on without it.
            BadInput: no such file is ever archived.
            Corrupt, WrongKey: what is there cannot be believed; a recovery must not go on without it.
        """
        found, _ = await self.part(name, until)
        return found if history_timeline(name) is not None else found.ljust(self.segment_bytes, b"\0")

    async def part(self, name: str, until: int | None) -> tuple[bytes, bool]:
        """The file as far as this location has it, and whether that is all that there can be. Raises like ``fetch``."""
        timeline = history_timeline(name)
        if timeline is not None:
            return self._history(timeline), True
        allowed = self._allowed(name, until)
        body = b"" if allowed is None else await self._assembled(allowed)
        if allowed is None or not body:
            raise NotFound(f"location {self._archive.location} has no {name} of the timelines {self.branch}")
        return body, len(body) == allowed.size

    def listed_bytes(self, name: str, until: int | None) -> int:
        """How much of a segment this location has by its list. Raises BadInput as ``fetch``."""
        allowed = None if history_timeline(name) is not None else self._allowed(name, until)
        return 0 if allowed is None else self._promised(allowed)

    def _allowed(self, name: str, until: int | None) -> WalRange | None:
        parsed = segment_range(name, self.segment_bytes)
        if parsed is None:
            raise BadInput(f"{name!r} is no segment or history file of a server with these segments")
        return served_range(self.branch, *parsed, until=until)

    def _promised(self, wanted: WalRange) -> int:
        return min(self.reachable_from(wanted.start), wanted.end) - wanted.start

    def _history(self, timeline: int) -> bytes:
        stretch = self.branch.stretch_of(timeline)
        if stretch is None or not stretch.branch.forks:
            raise NotFound(f"timeline {timeline} has no history in the timelines {self.branch}")
        text = self._histories.get(timeline)
        if not text:  # its own archiver never ran: the descendant's file tells as much
            lines = [f"{number}\t{lsn_text(left)}\tas a later timeline says" for number, left in stretch.branch.forks]
            text = "\n".join(lines) + "\n"
        return text.encode()

    async def _assembled(self, wanted: WalRange) -> bytes:
        """Bytes from the begin of ``wanted`` on, as far as they are there without a gap: what was listed at least.

        Raises:
            Corrupt: something that was listed is not there any more.
        """
        try:
            body = await self._joined(wanted)
        except NotFound:
            # A unit that became whole since the list was made lost its partials to retention.
            try:
                await self._list_again(wanted.start)
                body = await self._joined(wanted)
            except NotFound as error:
                raise Corrupt(f"archived WAL is listed at {self._archive.location} and missing: {error}") from error
        if len(body) < self._promised(wanted):
            raise Corrupt(
                f"WAL from {lsn_text(wanted.start + len(body))} on was listed at {self._archive.location} and is not "
                "there any more"
            )
        return body

    async def _joined(self, wanted: WalRange) -> bytes:
        """A timeline's first segment begins with its parent's bytes, so it is put together across the fork."""
        parts: list[bytes] = []
        position = wanted.start
        while position < wanted.end:
            stretch = self.branch.stretch_at(position)
            end = wanted.end if stretch.left_at is None else min(wanted.end, stretch.left_at)
            before = position
            # No segment crosses a folder's end: 4 GiB is a multiple of every size that segments have.
            pieces = self._pieces.get((stretch.branch, layout.folder_of(wanted.start)), ())
            for piece in pieces_for(pieces, WalRange(position, end)):
                plain = await self._archive.plain(stretch.branch, piece)
                taken = plain[position - piece.start : end - piece.start]
                parts.append(taken)
                position += len(taken)
            if position < end or position == before:
                break
        return b"".join(parts)

    async def _list_again(self, position: int) -> None:
        folder = layout.folder_of(position)
        for branch in [branch for branch, name in list(self._pieces) if name == folder]:
            self._pieces[branch, folder] = await self._archive.pieces_around(branch, position)


def readers_of(found: Sequence[tuple[WalArchive, Sequence[ArchivedTimeline]]], branch: Branch) -> list[LineageReader]:
    """One per location that has any of the lineage, of what was listed there. Of a long archive it takes seconds.

    Raises:
        NotFound, Corrupt: none has; the last location's own words.
    """
    readers: list[LineageReader] = []
    failure: RecoveryError = NotFound("no location of the WAL archive is configured")
    for archive, timelines in found:
        try:
            readers.append(archive.lineage_of(branch, timelines))
        except (NotFound, Corrupt) as error:
            failure = error
    if not readers:
        raise failure
    return readers


async def fetch_from_any(readers: Sequence[LineageReader], name: str, *, until: int | None = None) -> bytes:
    """Like ``LineageReader.fetch``, from the first location that has the file whole, else from that with most of it.

    What one location lacks, refuses or has damaged is asked of the next. Less than what a location that failed has
    listed is not given: its error is raised, first of all one that another attempt may mend.
    """
    listed = [reader.listed_bytes(name, until) for reader in readers]  # a name that no file has is no location's fault
    best = b""
    missing: NotFound | None = None
    failed: list[tuple[int, RecoveryError]] = []
    for reader, there in zip(readers, listed, strict=True):
        try:
            found, whole = await reader.part(name, until)
        except NotFound as error:
            missing = missing or error
        except RecoveryError as error:
            failed.append((there, error))
        else:
            best = max(best, found, key=len)
            if whole:
                break
    lost = [error for there, error in failed if there > len(best)]
    if lost:
        raise min(lost, key=lambda error: not error.retryable)
    if not best:
        raise missing or NotFound(f"no location has {name}")
    return best if history_timeline(name) is not None else best.ljust(readers[0].segment_bytes, b"\0")
