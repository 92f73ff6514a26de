"""Artefacts that are compressed and not encrypted: what a later backup must read, and backups hold no private key.

Their SHA-256 stand in the signed manifest like those of all objects: they can be read by whoever reads the location,
and changed by nobody.
"""

from __future__ import annotations

import asyncio

from recovery.backup.sealing import SealedChunk, check_stored, described, packed, unpacked
from recovery.domain.recovery_point import StoredObject
from recovery.errors import Corrupt


async def compressed(chunk: bytes, level: int = 1) -> SealedChunk:
    """One zstd frame. ``level`` is zstd's."""
    return await asyncio.to_thread(lambda: described(packed(chunk, level), len(chunk)))


async def decompressed(entry: StoredObject, body: bytes) -> bytes:
    """The plain bytes. Raises Corrupt: size, SHA-256 or compression are not those of the manifest's entry."""
    return await asyncio.to_thread(_decompressed, entry, body)


def _decompressed(entry: StoredObject, body: bytes) -> bytes:
    try:
        check_stored(entry, body)
        return unpacked(body, entry.plain_size)
    except Corrupt as error:
        raise Corrupt(f"object {entry.key}: {error}") from error
