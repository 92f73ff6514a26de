"""The link from a replica to its primary, and when it may be built again.

A Redis primary that restarted empty empties its replicas: they ask for a full synchronisation as soon as they reach it.
No watcher that merely looks often is quick enough, so the link is closed behind the replica as soon as it stands: the
replica's ``masterauth`` becomes one that no primary accepts. An open link does not care; a broken one is not built
again before the guard looked at the primary and opened it.

The rule, applied while the link is broken:

- The primary continues the replica's history (same replication id, or its predecessor's): open.
- Otherwise it will replace all data. It holds no key while the replica held one, or less than ``COLLAPSE`` of at least
  ``MANY`` keys: *collapsed*. The replica becomes one of nowhere, keeps its data and can be promoted.
- Otherwise (restarted with its data): open.

What is deleted by commands (``FLUSHALL``, ``DEL``) comes over the open link as every write does: only a recovery point
helps there.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from recovery.adapters.redis.connection import LOST, Connection, RedisServer, ServerSaid, connected
from recovery.adapters.redis.replication import NOWHERE, Replication, replication

COLLAPSE = 0.5
MANY = 100  # keys
GRACE = 3.0  # seconds that an opened link may take to stand: a replica tries once a second
CLOSED = "closed-by-its-guard-until-the-primary-was-looked-at"
LOOK = 1.0  # seconds for one look at the primary

log = logging.getLogger(__name__)


def collapsed(ours: int, primary: Replication) -> str:
    """Why the primary's data look lost, in words; empty where they do not. ``ours``: keys while the link stood."""
    lost = (ours > 0 and primary.keys == 0) or (ours >= MANY and primary.keys < ours * COLLAPSE)
    if not lost:
        return ""
    return f"its primary came back with {primary.keys} keys and another history, and this replica holds {ours}"


async def look_at(server: RedisServer, seconds: float = LOOK) -> Replication | None:
    """What a primary says of itself; None where it does not answer, loads its data, or does not let us in."""
    try:
        async with asyncio.timeout(seconds), connected(server) as connection:
            return await replication(connection)
    except (*LOST, ServerSaid, KeyError) as error:
        log.debug("Redis %s does not say what it is: %s", server, error)
        return None


class Link:
    """Opens and closes the way to the primary. One per guarded Redis."""

    def __init__(self, own: RedisServer, clock: Callable[[], float] = time.monotonic) -> None:
        self._own = own
        self._clock = clock
        self._open: bool | None = None  # None: not known since our start
        self._opened_at = 0.0

    async def open(self, connection: Connection) -> None:
        """From now on the replica reaches its primary. Raises ServerSaid where CONFIG is forbidden."""
        login = self._own.login
        await connection.run("CONFIG", "SET", "masteruser", login.user or "")
        await connection.run("CONFIG", "SET", "masterauth", login.password or "")
        self._open, self._opened_at = True, self._clock()

    async def close(self, connection: Connection) -> None:
        """From now on a broken link stays broken. A standing one is not touched."""
        if self._open is not False:
            await connection.run("CONFIG", "SET", "masterauth", CLOSED)
            self._open = False

    async def attach(self, connection: Connection, upstream: tuple[str, int]) -> None:
        """Makes it a replica of ``upstream``, open until the link stands (``tend`` closes it then)."""
        await self.open(connection)
        await connection.run("REPLICAOF", *upstream)

    async def detach(self, connection: Connection) -> None:
        """Makes it a replica of nowhere; it keeps its data."""
        await connection.run("REPLICAOF", *NOWHERE)

    async def tend(self, connection: Connection, own: Replication, keys: int) -> str:
        """One look; returns why the replica was detached, or nothing. ``keys``: what it held while the link stood."""
        assert own.upstream is not None
        if own.link_up:
            await self.close(connection)
            return ""
        if own.syncing:
            return ""
        if not self._has_grace():
            await self.close(connection)
        host, port = own.upstream
        primary = await look_at(RedisServer(host, port, self._own.login))
        if primary is None or not primary.is_primary:
            await self.close(connection)
            return ""
        if not primary.descends_from(own) and (reason := collapsed(max(keys, own.keys), primary)):
            await self.detach(connection)
            await self.close(connection)
            return reason
        if not self._open:
            await self.open(connection)
        return ""

    def _has_grace(self) -> bool:
        return bool(self._open) and self._clock() - self._opened_at < GRACE
