"""Who writes to Patroni's clusters, what has arrived, and which of their nodes are primaries."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from lab.patroni import Cluster

_AWAY = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
TABLE = "CREATE TABLE orders (id bigint PRIMARY KEY)"


@pytest.fixture(scope="session")
def program() -> Path:
    made = subprocess.run(["requirements/patroni.sh"], stdout=subprocess.PIPE, text=True, check=True, timeout=300)
    return Path(made.stdout.strip())


async def primaries(*clusters: Cluster) -> list[str]:
    """The nodes that are no standby at this moment."""
    places = [(each, node) for each in clusters for node in each.nodes]
    found = await asyncio.gather(*(each.value(node, "SELECT NOT pg_is_in_recovery()") for each, node in places))
    return [node for (_, node), writable in zip(places, found, strict=True) if writable]


@asynccontextmanager
async def never_two(*clusters: Cluster) -> AsyncIterator[None]:
    """Looks all the time, and fails in the end where two nodes were primaries at once."""
    seen: list[list[str]] = []

    async def look() -> None:
        while True:
            seen.append(await primaries(*clusters))
            await asyncio.sleep(0.05)

    task = asyncio.create_task(look())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert len(seen) > 10 and not [each for each in seen if len(each) > 1]


class Writer:
    """Writes one row after the other, to whichever node takes it, and keeps the ids that were acknowledged."""

    def __init__(self, places: Iterable[tuple[Cluster, str]]) -> None:
        self._places = list(places)
        self.acknowledged: list[int] = []
        self.task: asyncio.Task[None] | None = None

    async def __call__(self) -> None:
        number = 0
        while True:
            for place, node in self._places:
                number += 1
                try:
                    connection = await asyncpg.connect(**place.login(node), timeout=2)
                except _AWAY:
                    continue
                try:
                    while True:
                        await connection.execute("INSERT INTO orders VALUES ($1)", number, timeout=2)
                        self.acknowledged.append(number)
                        number += 1
                        await asyncio.sleep(0.01)
                except _AWAY:
                    pass
                finally:
                    connection.terminate()
            await asyncio.sleep(0.05)

    async def more(self, than: int) -> None:
        async with asyncio.timeout(30):
            while len(self.acknowledged) <= than:
                if self.task is not None and self.task.done():
                    self.task.result()
                await asyncio.sleep(0.02)


@asynccontextmanager
async def writing(*places: tuple[Cluster, str]) -> AsyncIterator[Writer]:
    writer = Writer(places)
    writer.task = asyncio.create_task(writer())
    try:
        await writer.more(20)
        yield writer
    finally:
        writer.task.cancel()
        await asyncio.gather(writer.task, return_exceptions=True)


async def missing(place: Cluster, node: str, acknowledged: list[int]) -> set[int]:
    connection = await asyncpg.connect(**place.login(node), timeout=5)
    try:
        return set(acknowledged) - {row[0] for row in await connection.fetch("SELECT id FROM orders")}
    finally:
        await connection.close()


async def arrived(place: Cluster, node: str, acknowledged: list[int]) -> bool:
    return not await missing(place, node, acknowledged)


async def streams(of: Cluster, node: str) -> bool:
    return bool(await of.value(node, "SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'"))
