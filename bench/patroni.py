"""Patroni as the peer of ``bench.failover``: two nodes and an etcd, lost as a region is lost."""

from __future__ import annotations

import asyncio
import time

import asyncpg

from lab.patroni import Cluster


async def failover_seconds(cluster: Cluster, how: str) -> float:
    """From the loss of the leader to the first write that the other node acknowledged."""
    old, new = cluster.nodes
    connection = await asyncpg.connect(**cluster.login(old), timeout=5)
    try:
        await connection.execute("CREATE TABLE IF NOT EXISTS beats (at timestamptz)")
    finally:
        await connection.close()
    lost = time.monotonic()
    cluster.lose(old, how)
    while True:
        written = await cluster.value(new, "INSERT INTO beats VALUES (now()) RETURNING 1")
        if written:
            return time.monotonic() - lost
        if time.monotonic() - lost > 4 * cluster.timing.ttl:
            raise TimeoutError(f"no write after {4 * cluster.timing.ttl} s: see {cluster.folder}")
        await asyncio.sleep(0.05)
