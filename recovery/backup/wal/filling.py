"""Completes a location of a WAL archive from one that has more."""

from __future__ import annotations

import asyncio
import hashlib

from recovery.backup.bounded import for_each
from recovery.backup.sealing import SealedChunk
from recovery.backup.signing import Verifier
from recovery.backup.wal import layout
from recovery.backup.wal.location import ArchiveLocation, StorePatience
from recovery.backup.wal.reader import WalArchive
from recovery.backup.wal.records import read_history, read_piece
from recovery.domain.wal_archive import Branch, WalPiece
from recovery.errors import Corrupt, NotFound
from recovery.ports.object_store import ObjectStore

COPIES = 4  # pieces on their way at once, each in memory whole


async def fill_archive(
    from_store: ObjectStore, to_store: ObjectStore, group: str, system_identifier: str, verifier: Verifier
) -> int:
    """Copies the histories and pieces that ``to_store`` lacks of one server's archive. Idempotent; needs no age key.

    It may run beside an archiver: both write the same names, and equal content is accepted.

    Returns:
        How many pieces were copied.

    Raises:
        NotOurs: ``to_store`` holds other WAL or another history under an equal name.
        Corrupt, WrongKey: what ``from_store`` holds is damaged or forged: it is not spread.
    """
    prefix = layout.archive_prefix(group, system_identifier)
    target = ArchiveLocation(to_store, prefix, verifier, StorePatience())
    there = {
        timeline.branch: set(timeline.pieces)
        for timeline in await WalArchive(to_store, group, system_identifier, verifier).timelines()
    }
    copied = 0
    for timeline in await WalArchive(from_store, group, system_identifier, verifier).timelines():
        branch = timeline.branch
        if branch not in there:
            body, _ = await from_store.get(layout.history_key(prefix, branch.folder))
            await target.put_history(read_history(body, verifier, prefix=prefix, folder=branch.folder), body)
        missing = sorted(set(timeline.pieces) - there.get(branch, set()))

        async def copy(piece: WalPiece, branch: Branch = branch) -> None:
            await _copy(from_store, target, prefix, branch, piece, verifier)

        await for_each(missing, copy, COPIES)
        copied += len(missing)
    return copied


async def _copy(
    from_store: ObjectStore,
    target: ArchiveLocation,
    prefix: str,
    branch: Branch,
    piece: WalPiece,
    verifier: Verifier,
) -> None:
    body, _ = await from_store.get(layout.piece_key(prefix, branch, piece))
    record = read_piece(body, verifier, prefix=prefix, branch=branch, piece=piece)
    try:
        stored, _ = await from_store.get(record.object)
    except NotFound as error:
        raise Corrupt(f"object {record.object} is missing at {from_store.name}") from error
    if await asyncio.to_thread(lambda: hashlib.sha256(stored).hexdigest()) != record.sha256:
        raise Corrupt(f"object {record.object} at {from_store.name} differs from its record")
    await target.put_piece(
        branch,
        record,
        body,
        SealedChunk(body=stored, sha256=record.sha256, size=record.size, plain_size=piece.end - piece.start),
    )
