"""Removes from a WAL archive what no recovery needs any more."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection

from recovery.backup.wal import layout
from recovery.domain.wal_archive import Branch, WalPiece, WalRange
from recovery.ports.object_store import ObjectStore

MOST_KEYS = 500  # in one request

_OBJECT = re.compile(r"([0-9A-F]{16})-([0-9A-F]{16})\.[0-9a-f]{16}\.zst\.age")


def superseded(pieces: Collection[WalPiece], keep_from: int) -> list[WalPiece]:
    """Pieces that end before ``keep_from`` (LSN), and partials of a unit that is there as a whole."""
    whole = [piece.range for piece in pieces if piece.epoch is None]
    starts = {each.start: each.end for each in whole}
    unit = max((each.size for each in whole), default=0)

    def is_covered(piece: WalPiece) -> bool:
        if piece.epoch is None or not unit:
            return False
        begin = piece.start - piece.start % unit
        return starts.get(begin, 0) >= piece.end

    return [piece for piece in pieces if piece.end <= keep_from or is_covered(piece)]


async def expire_branch(
    store: ObjectStore, group: str, system_identifier: str, branch: Branch, pieces: Collection[WalPiece], keep_from: int
) -> int:
    """Removes superseded pieces of one branch at one location, records first: an object without one does not exist.

    The history stays: it is small, and its number must not be used again.

    Returns:
        How many pieces were removed.

    Raises:
        Unreachable, Refused: in the location's words; what is left is removed by the next call.
    """
    prefix = layout.archive_prefix(group, system_identifier)
    gone = await asyncio.to_thread(superseded, pieces, keep_from)
    await _delete(store, [layout.piece_key(prefix, branch, piece) for piece in gone])
    kept = {piece.range for piece in set(pieces) - set(gone)}
    spans = {piece.range for piece in gone} - kept
    objects: list[str] = []
    for folder in sorted({span.start >> 32 for span in spans}):
        async for info in store.list(f"{prefix}{branch.folder}/objects/{folder:08X}/"):
            found = _OBJECT.fullmatch(info.key.rpartition("/")[2])
            if found is not None and WalRange(int(found[1], 16), int(found[2], 16)) in spans:
                objects.append(info.key)
    await _delete(store, objects)
    return len(gone)


async def _delete(store: ObjectStore, keys: list[str]) -> None:
    for first in range(0, len(keys), MOST_KEYS):
        await store.delete(keys[first : first + MOST_KEYS])
