"""Cuts a stream of WAL into pieces: whole units, and partials of the running one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from recovery.domain.wal_archive import WalPiece, WalRange
from recovery.errors import SourceFailed


@dataclass(frozen=True)
class CutPiece:
    """A piece and its WAL. ``written_at``: the source's clock when it sent the last byte."""

    piece: WalPiece
    body: bytes
    written_at: datetime


class UnitCutter:
    """Takes the stream from a unit's begin on and holds one unit in memory at most.

    Args:
        start: where the stream begins: a multiple of ``unit``.
        archived: what is archived already; no partial is cut before it, whole units are.
        unit: size of a unit in bytes.
        epoch: the group's, for the names of partials.
    """

    def __init__(self, start: int, archived: int, unit: int, epoch: int) -> None:
        self._unit = unit
        self._epoch = epoch
        self._start = start
        self._cut = max(archived, start)
        self._body = bytearray()
        self._written_at: datetime | None = None

    @property
    def position(self) -> int:
        """Where the next byte of the stream belongs."""
        return self._start + len(self._body)

    def add(self, start: int, body: bytes, written_at: datetime) -> list[CutPiece]:
        """The units that became whole.

        Raises:
            SourceFailed: the stream jumped.
        """
        if start != self.position:
            raise SourceFailed(
                f"the server sent WAL from {start:#x} where {self.position:#x} was due: a proxy or a bug between us"
            )
        whole = []
        view = memoryview(body)
        while view:
            taken = view[: self._unit - len(self._body)]
            self._body += taken
            view = view[len(taken) :]
            self._written_at = written_at
            if len(self._body) == self._unit:
                whole.append(CutPiece(WalPiece(self._start, self.position), bytes(self._body), written_at))
                self._start = self._cut = self.position
                self._body = bytearray()
        return whole

    def partial(self) -> CutPiece | None:
        """What came since the last piece; None when nothing did."""
        if self._written_at is None or self._cut >= self.position:
            return None
        piece = WalPiece(self._cut, self.position, self._epoch)
        self._cut = self.position
        return CutPiece(piece, bytes(self._body[piece.start - self._start :]), self._written_at)

    def bytes_of(self, wanted: WalRange) -> bytes:
        """Bytes of the running unit."""
        return bytes(self._body[wanted.start - self._start : wanted.end - self._start])
