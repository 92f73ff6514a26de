"""The signed records of a WAL archive: one per piece, and one per timeline with its history."""

from __future__ import annotations

from datetime import datetime
from typing import TypeVar

from pydantic import ValidationError

from recovery.backup.signing import Signer, Verifier
from recovery.backup.wal import layout
from recovery.domain.base import Recorded
from recovery.domain.wal_archive import Branch, WalPiece
from recovery.errors import Corrupt

FORMAT = 1


class HistoryRecord(Recorded):
    """A timeline that the archive holds. ``history``: the content of its ``.history`` file, empty for the first one."""

    format: int = FORMAT
    group: str
    system_identifier: str
    timeline: int
    history: str
    segment_bytes: int
    epoch: int

    @property
    def branch(self) -> Branch:
        return Branch.from_history(self.timeline, self.history) if self.history else Branch(self.timeline)


class PieceRecord(Recorded):
    """``size`` and ``sha256`` are of the stored object, the ``plain`` ones of the WAL itself (bytes, hex).

    ``written_at`` is the source's clock when it sent the last byte.
    """

    format: int = FORMAT
    group: str
    system_identifier: str
    branch: str
    start: int
    end: int
    epoch: int | None
    object: str
    size: int
    sha256: str
    plain_sha256: str
    written_at: datetime
    run_id: str

    @property
    def piece(self) -> WalPiece:
        return WalPiece(self.start, self.end, self.epoch)


AnyRecord = TypeVar("AnyRecord", HistoryRecord, PieceRecord)


def sign_record(record: HistoryRecord | PieceRecord, signer: Signer) -> bytes:
    return signer.sign(record.model_dump(mode="json"))


def _read(kind: type[AnyRecord], body: bytes, verifier: Verifier, key: str) -> AnyRecord:
    payload = verifier.verify(body).payload
    if payload.get("format") != FORMAT:
        raise Corrupt(f"{key}: its format is {payload.get('format')!r}; this version reads {FORMAT}: use a newer one")
    try:
        return kind.model_validate(payload)
    except ValidationError as error:
        raise Corrupt(
            f"{key} is no record of a WAL archive: {error.error_count()} fields are missing or wrong"
        ) from error


def read_piece(body: bytes, verifier: Verifier, *, prefix: str, branch: Branch, piece: WalPiece) -> PieceRecord:
    """The record stored at a piece's place.

    Raises:
        Corrupt: a byte changed, it is unsigned, or it belongs elsewhere.
        WrongKey: an untrusted key signed it.
    """
    key = layout.piece_key(prefix, branch, piece)
    record = _read(PieceRecord, body, verifier, key)
    home = layout.archive_prefix(record.group, record.system_identifier)
    named = layout.object_key(prefix, branch, piece, record.sha256)
    if (home, record.branch, record.piece, record.object) != (prefix, branch.folder, piece, named):
        raise Corrupt(f"{key} is the record of another piece: {record.branch} {record.piece.name}")
    return record


def read_history(body: bytes, verifier: Verifier, *, prefix: str, folder: str) -> HistoryRecord:
    """The record of a branch. Raises like ``read_piece``."""
    key = layout.history_key(prefix, folder)
    record = _read(HistoryRecord, body, verifier, key)
    if layout.archive_prefix(record.group, record.system_identifier) != prefix or record.branch.folder != folder:
        raise Corrupt(f"{key} is the record of another timeline: {record.branch}")
    return record
