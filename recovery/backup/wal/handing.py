"""WAL by files: what a server's ``archive_command`` hands over.

Beside the stream, and into the same archive: a file that is archived already is accepted when it is equal, and refused
when it is not.
"""

from __future__ import annotations

import asyncio
import re
import struct
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import UTC, datetime

from recovery.backup.wal.location import StorePatience
from recovery.backup.wal.units import CutPiece
from recovery.backup.wal.writer import ArchiveKeys, ArchiveWriter
from recovery.domain.wal_archive import (
    Branch,
    WalPiece,
    WalRange,
    history_timeline,
    segment_range,
    unit_bytes,
)
from recovery.errors import BadInput, Corrupt, Refused
from recovery.ports.object_store import ObjectStore
from recovery.ports.wal import WalServer, WalSource

# XLogLongPageHeaderData, access/xlog_internal.h: magic, info, timeline, page address, remainder, identifier, sizes.
_HEADER = struct.Struct("<HHIQIxxxxQII")
_NOT_KEPT = re.compile(r"[0-9A-F]{24}(\.partial|\.[0-9A-F]{8}\.backup)")


class WalIntake:
    """Takes files of one group's server.

    Args:
        source: opens a session to the server, to ask who it is and where its timelines came from.
        optional: locations that nobody waits for.
    """

    def __init__(
        self,
        keys: ArchiveKeys,
        stores: Sequence[ObjectStore],
        source: Callable[[], Awaitable[WalSource]],
        optional: Collection[str] = (),
        patience: StorePatience | None = None,
    ) -> None:
        self._keys, self._stores, self._source = keys, list(stores), source
        self._optional, self._patience = frozenset(optional), patience or StorePatience()
        self._server: WalServer | None = None
        self._branches: dict[int, Branch] = {1: Branch(1)}
        self._writer: ArchiveWriter | None = None
        self._asking = asyncio.Lock()

    async def push(self, name: str, body: bytes) -> None:
        """Returns when every required location has the file.

        The end of a timeline that was left (``.partial``) is in the next one's first segment, and what says where a
        base backup began (``.backup``) is in the recovery point: both are accepted and not kept.

        Raises:
            NotOurs: other WAL is archived under this name: nothing was overwritten.
            Corrupt: it is not what its name says. Refused: it is another server's.
            BadInput: no such file is archived. Unreachable: a location or the server does not answer.
        """
        if _NOT_KEPT.fullmatch(name):
            return
        number = history_timeline(name)
        if number is not None:
            branch = Branch.from_history(number, body.decode(errors="replace"))
            writer = await self._ready(None)
            self._branches[number] = branch
            await writer.put_history(branch, body.decode())
            return
        segment = _header_of(name, body)
        writer = await self._ready(segment)
        branch = await self._branch(segment.timeline)
        unit = unit_bytes(len(body))
        moment = datetime.now(UTC)
        for offset in range(0, len(body), unit):
            start = segment.span.start + offset
            await writer.put_piece(
                branch, CutPiece(WalPiece(start, start + unit), body[offset : offset + unit], moment)
            )

    async def close(self) -> None:
        if self._writer is not None:
            await self._writer.close()

    async def _ready(self, segment: _Segment | None) -> ArchiveWriter:
        async with self._asking:
            if self._writer is None or self._server is None or not self._is_of(segment):
                await self._ask()
        assert self._writer is not None and self._server is not None, "they were asked for"
        if segment is not None and not self._is_of(segment):
            raise Refused(
                f"this WAL is of the PostgreSQL {segment.system_identifier}, and the group's is "
                f"{self._server.system_identifier}: a copy must not archive into its source's archive. Switch its "
                "archive_mode off"
            )
        return self._writer

    def _is_of(self, segment: _Segment | None) -> bool:
        """Whether this is the WAL of the server that was asked last; a history file does not tell."""
        known = self._server.system_identifier if self._server is not None else None
        return segment is not None and segment.system_identifier == known

    async def _ask(self) -> None:
        """Who the server is now: one that was made anew in the same place has another archive."""
        source = await self._source()
        try:
            server = await source.identify()
        finally:
            await source.close()
        if self._writer is not None:
            if self._server is not None and self._server.system_identifier == server.system_identifier:
                return
            await self._writer.close()
        writer = ArchiveWriter(self._keys, server, self._stores, self._optional, self._patience)
        await writer.put_history(Branch(1), "")
        self._server, self._writer, self._branches = server, writer, {1: Branch(1)}

    async def _branch(self, timeline: int) -> Branch:
        if timeline not in self._branches:
            source = await self._source()
            try:
                await source.identify()
                text = await source.history(timeline)
            finally:
                await source.close()
            assert self._writer is not None, "whoever has a segment has a writer"
            branch = Branch.from_history(timeline, text)
            await self._writer.put_history(branch, text)
            self._branches[timeline] = branch
        return self._branches[timeline]


class _Segment:
    """A segment file by its name and its first page."""

    def __init__(self, timeline: int, span: WalRange, system_identifier: str) -> None:
        self.timeline, self.span, self.system_identifier = timeline, span, system_identifier


def _header_of(name: str, body: bytes) -> _Segment:
    if len(body) < _HEADER.size:
        raise Corrupt(f"{name} has {len(body)} bytes: that is no segment of WAL")
    _, _, timeline, address, _, identifier, size, _ = _HEADER.unpack_from(body)
    try:
        unit_bytes(size)
        found = segment_range(name, size)
    except BadInput as error:
        raise Corrupt(f"{name} is no segment of WAL: {error}") from error
    if found is None:
        raise BadInput(f"{name!r} is neither a segment nor a history file of WAL")
    number, span = found
    if address != span.start or len(body) != size or timeline > number:
        raise Corrupt(
            f"{name} is not what its name says: its first page is {address:X} of timeline {timeline}, it has "
            f"{len(body)} bytes of {size}. A file that was renamed or cut must not be archived"
        )
    return _Segment(number, span, str(identifier))
