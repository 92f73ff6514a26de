"""A Redis with something of everything in it; taking a dump of it and giving that to a restore."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

from lab import Lab
from recovery.adapters.redis.connection import RedisLogin, RedisServer, connected
from recovery.adapters.redis.recovery import RedisDumps
from recovery.adapters.redis.server_info import RESTORED_KEY
from recovery.domain.redis import RedisSource
from recovery.ports.redis import StoredDump


def redis_of(lab: Lab, region: str) -> RedisServer:
    """A lab's Redis, as whoever may do everything."""
    url = urlsplit(lab.redis(region))
    assert url.hostname is not None and url.port is not None
    return RedisServer(url.hostname, url.port, RedisLogin(password=url.password))


async def taken(recovery: RedisDumps) -> tuple[bytes, RedisSource]:
    async with recovery.source() as source:
        (data,) = [b"".join([chunk async for chunk in artefact.chunks()]) async for artefact in source.artefacts()]
        return data, await source.finish()


async def pieces(data: bytes, size: int = 50_000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def stored(data: bytes, source: RedisSource | None = None) -> StoredDump:
    return StoredDump(pieces(data), source)


async def contents(server: RedisServer) -> dict[tuple[int, str], tuple[str, int]]:
    """DEBUG DIGEST-VALUE and the time of expiry (milliseconds) of every key, by database and name, but for what
    says that it was restored."""
    found: dict[tuple[int, str], tuple[str, int]] = {}
    async with asyncio.timeout(30), connected(server) as connection:
        for number in (0, 3, 9):
            await connection.run("SELECT", number)
            keys = [name for name in await connection.run("KEYS", "*") if name != RESTORED_KEY]
            for name in keys:
                ttl = -1
                while True:
                    before, ttl, after = await connection.pipeline([("TIME",), ("PTTL", name), ("TIME",)])
                    now = [int(moment[0]) * 1000 + int(moment[1]) // 1000 for moment in (before, after)]
                    if ttl < 0 or now[0] == now[1]:
                        break
                (digest,) = await connection.run("DEBUG", "DIGEST-VALUE", name)
                found[number, name] = digest, ttl if ttl < 0 else now[0] + ttl
    return found


async def fill(server: RedisServer, keys: int) -> None:
    """All types, binary names and values, three databases, keys that expire and one whose time has come."""
    async with asyncio.timeout(20), connected(server) as connection:
        commands: list[tuple[str | int | bytes, ...]] = [
            *[("SET", f"key:{number}", number) for number in range(keys)],
            ("RPUSH", "list", *range(500)),
            ("SADD", "set", "a", "b", b"\xff\x00\r\n"),
            ("ZADD", "sorted", "1.5", "x", "2.5", "y"),
            ("HSET", "hash", "field", "value", "other", 12),
            ("XADD", "stream", "*", "field", "value"),
            ("XGROUP", "CREATE", "stream", "group", 0),
            ("PFADD", "log", *range(100)),
            ("SETBIT", "bits", 1000, 1),
            ("SET", b"binary \x00\xff\r\n", b"\x80\r\n$5\r\n"),
            ("SET", "large", b"x" * 3_000_000),
            ("SELECT", 3),
            *[("SET", f"volatile:{number}", number, "PX", 600_000 + number) for number in range(200)],
            ("SELECT", 9),
            ("SET", "lonely", "value", "PX", 60_000_000),
            ("SET", "short", "value", "PX", 1),
        ]
        replies = await connection.pipeline(commands)
        assert not [reply for reply in replies if isinstance(reply, Exception)]
        while await connection.run("DBSIZE") != 1:
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def writing(server: RedisServer) -> AsyncIterator[list[int]]:
    """Numbered writes, one after another; the list has those that were acknowledged."""
    acknowledged: list[int] = []
    ended = False

    async def write() -> None:
        async with connected(server) as connection:
            while not ended:
                await connection.run("SET", f"load:{len(acknowledged)}", len(acknowledged))
                acknowledged.append(len(acknowledged))

    task = asyncio.create_task(write())
    try:
        yield acknowledged
    finally:
        ended = True
        await task
