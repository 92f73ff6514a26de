"""One writer whose commits are known with their places in the WAL: what a recovery to an LSN must hold, and no more."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import asyncpg

from recovery.adapters.postgres.connection import Connection
from recovery.domain.timelines import lsn_order, lsn_text

SCHEMA = "CREATE TABLE commits (id bigint PRIMARY KEY, filler text); ALTER TABLE commits ALTER filler SET STORAGE PLAIN"
FILLED = "INSERT INTO commits VALUES ($1, repeat(md5(($1::bigint)::text), 200))"


@dataclass
class Ledger:
    """What one writer committed, in order: id, with the server's insert positions before and after the commit."""

    connect: Callable[[], Awaitable[Connection]]
    pause: float = 0.002  # seconds between two commits
    commits: list[tuple[int, int, int]] = field(default_factory=list)
    begun: list[tuple[int, int]] = field(default_factory=list)  # committed or not: nobody was left to hear it

    async def write(self) -> None:
        connection = await self.connect()
        try:
            position = "SELECT pg_current_wal_insert_lsn()::text"
            before = lsn_order(await connection.fetchval(position))
            number = await connection.fetchval("SELECT coalesce(max(id), 0) FROM commits")
            while True:
                number += 1
                self.begun.append((number, before))
                await connection.execute(FILLED, number)
                after = lsn_order(await connection.fetchval(position))
                self.commits.append((number, before, after))
                before = after
                await asyncio.sleep(self.pause)
        finally:
            connection.terminate()

    def expect(self, ids: list[int], position: int) -> None:
        """Fails unless these are exactly the commits up to ``position``."""
        sure = max((number for number, _, after in self.commits if after <= position), default=0)
        possible = max((number for number, before in self.begun if before < position), default=0)
        assert ids == list(range(1, len(ids) + 1)), "one was left out"
        assert sure <= len(ids) <= possible, f"{lsn_text(position)}: {sure} <= {len(ids)} <= {possible}"


@contextlib.asynccontextmanager
async def writing(ledger: Ledger) -> AsyncIterator[None]:
    task = asyncio.create_task(ledger.write())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            await task
