"""The orderly end of a primary: writes are paused until the replicas have the last of them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection

from recovery.adapters.redis.connection import LOST, Connection, RedisServer, ServerSaid, connected
from recovery.adapters.redis.link import look_at
from recovery.adapters.redis.replication import Replication, replication
from recovery.errors import Unreachable
from recovery.ports.guard import Upstream

ANSWER = 0.3  # seconds
SILENT = 2  # seconds without an acknowledgement after which a replica is not waited for
POLL = 0.02

log = logging.getLogger(__name__)


async def resume(server: RedisServer) -> None:
    """Ends the pause of writes now; without an answer it ends by itself, for it has a limit."""
    try:
        async with asyncio.timeout(ANSWER), connected(server) as connection:
            await connection.run("CLIENT", "UNPAUSE")
    except (*LOST, ServerSaid) as error:
        log.warning("Redis %s keeps writes paused for its limit: %s", server, error)


async def replicas_have_all(
    connection: Connection, server: RedisServer, peers: Collection[Upstream], until: float
) -> None:
    """Writes are paused: waits until every replica that still answers has the last of them, at most until ``until``.

    A replica acknowledges by itself once a second, and is not asked to while writes are paused; ``peers`` are asked
    how far they are.

    After half of the time one of them is enough: which is the target is the plan's knowledge, and it looks at the
    target itself before it promotes.

    Raises:
        Unreachable: none has everything; what the connection raises.
    """
    half = time.monotonic() + (until - time.monotonic()) / 2
    while True:
        now = await replication(connection)
        online = [each for each in now.replicas if each.online]
        known = [each.offset for each in online if each.silent_for <= SILENT]
        said = await asyncio.gather(*(_offset_of(peer, server, now) for peer in peers))
        for offsets in (known, [offset for offset in said if offset is not None]):
            enough = min if time.monotonic() < half else max
            if offsets and enough(offsets) >= now.offset:
                return
        if time.monotonic() > until:
            behind = ", ".join(f"{each.address} {now.offset - each.offset} bytes behind" for each in online)
            raise Unreachable(
                f"Redis {server} was not ended: its replicas do not have everything"
                f" ({behind or 'none is connected'}). Writes go on."
            )
        await asyncio.sleep(POLL)


async def _offset_of(peer: Upstream, server: RedisServer, own: Replication) -> int | None:
    """How far a peer is that replicates from here; None for any other."""
    seen = await look_at(RedisServer(peer.host, peer.port, server.login), ANSWER)
    return seen.offset if seen and not seen.is_primary and seen.link_up and seen.replid == own.replid else None
