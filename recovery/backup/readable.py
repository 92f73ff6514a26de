"""Artefacts that are compressed and not encrypted: what a later backup must read, and backups hold no private key.

Their SHA-256 stand in the signed manifest like those of all objects: they can be read by whoever reads the location,
and changed by nobody.
"""

from __future__ import annotations

import asyncio
import hashlib

import zstandard

from recovery.backup.sealing import SealedChunk
from recovery.backup.sealing_process import Unsealable, check_stored, unpack
from recovery.domain.recovery_point import StoredObject
from recovery.errors import Corrupt


async def compressed(chunk: bytes, level: int = 1) -> SealedChunk:
    """One zstd frame. ``level`` is zstd's."""
    return await asyncio.to_thread(_compressed, chunk, level)


def _compressed(chunk: bytes, level: int) -> SealedChunk:
    body = zstandard.ZstdCompressor(level=level).compress(chunk)
    return SealedChunk(body, hashlib.sha256(body).hexdigest(), len(body), len(chunk))


async def decompressed(entry: StoredObject, body: bytes) -> bytes:
    """The plain bytes. Raises Corrupt: size, SHA-256 or compression are not those of the manifest's entry."""
    return await asyncio.to_thread(_decompressed, entry, body)


def _decompressed(entry: StoredObject, body: bytes) -> bytes:
    try:
        check_stored(body, {"size": entry.size, "sha256": entry.sha256})
        return unpack(body, entry.plain_size)
    except Unsealable as error:
        raise Corrupt(f"object {entry.key}: {error}") from error
