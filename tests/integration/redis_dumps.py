"""Taking a dump of a Redis and giving it to a restore."""

from __future__ import annotations

from collections.abc import AsyncIterator

from recovery.adapters.redis.recovery import RedisDumps
from recovery.domain.redis import RedisSource
from recovery.ports.redis import StoredDump


async def taken(recovery: RedisDumps) -> tuple[bytes, RedisSource]:
    async with recovery.source() as source:
        (data,) = [b"".join([chunk async for chunk in artefact.chunks()]) async for artefact in source.artefacts()]
        return data, await source.finish()


async def pieces(data: bytes, size: int = 50_000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def stored(data: bytes, source: RedisSource | None = None) -> StoredDump:
    return StoredDump(pieces(data), source)
