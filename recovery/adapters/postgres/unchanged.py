"""Fingerprints of the tables that did not change while a base backup ran.

A base backup holds what was committed before its stop LSN, which no snapshot can be taken at. But a table whose row
versions and whose counters of changes are the same in a snapshot taken before the stop and in one taken after it held
just that at the stop LSN. A row that was inserted and deleted again in between, by a session whose statistics had not
arrived yet, is what this cannot see: the comparison then fails without need, it never passes without right.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field

import asyncpg

from recovery.adapters.postgres.connection import Connection, close_connection, open_connection
from recovery.adapters.postgres.fingerprint import (
    Checksum,
    Content,
    LargeObjects,
    Table,
    count_versions,
    read_content,
    read_definitions,
    read_horizon,
    read_large_objects,
    read_sequences,
    read_tables,
)
from recovery.domain.recovery_point import TableFingerprint
from recovery.ports.postgres import PostgresLogin

OWN_SCHEMA = "recovery_plans"


@dataclass(frozen=True)
class FingerprintBudget:
    """How much reading the comparison may cost the source: bytes of tables, and seconds before and after the stop."""

    table_bytes: int = 128 << 20
    seconds: float = 60.0
    databases: int = 16


@dataclass
class UnchangedTables:
    """Outcome of the comparison. ``changed`` and ``left_out`` count tables; the latter did not fit the budget."""

    fingerprints: list[TableFingerprint] = field(default_factory=list)
    table_count: int = 0
    changed: int = 0
    left_out: int = 0
    sequences_before: dict[str, int] = field(default_factory=dict)
    sequences_after: dict[str, int] = field(default_factory=dict)
    large_objects: int = 0
    large_object_checksums: dict[str, str] = field(default_factory=dict)  # by database, where they did not change


@dataclass
class _Database:
    name: str
    connection: Connection
    tables: list[Table] = field(default_factory=list)
    contents: dict[str, Content] = field(default_factory=dict)
    sequences: dict[str, int] = field(default_factory=dict)
    definitions: str = ""
    horizon: int = 0
    large_objects: LargeObjects | None = None


class UnchangedTablesProof:
    """``begin`` before the backup, ``conclude`` after its stop, ``close`` in any case.

    The first reading runs beside the backup, in snapshots that ``begin`` took.
    """

    def __init__(self, login: PostgresLogin, databases: list[str], budget: FingerprintBudget) -> None:
        self._login = login
        self._names = databases[: budget.databases]
        self._budget = budget
        self._before: list[_Database] = []
        self._reading: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Takes the first snapshots. Raises what the driver raises."""
        for name in self._names:
            database = _Database(name, await open_connection(self._login.at(name), stable_text=True))
            self._before.append(database)
            await database.connection.transaction(isolation="repeatable_read", readonly=True).start()
            database.tables = _comparable(await read_tables(database.connection, name))
            database.sequences = await read_sequences(database.connection, name)
            database.definitions = await read_definitions(database.connection)
            database.horizon = await read_horizon(database.connection)
        self._reading = asyncio.create_task(self._read_all())

    async def _read_all(self) -> None:
        left = self._budget.table_bytes
        deadline = time.monotonic() + self._budget.seconds
        for database in self._before:
            database.large_objects = await _large_objects(database.connection, left, deadline)
            for table in database.tables:
                if table.bytes <= left and time.monotonic() < deadline:
                    with contextlib.suppress(asyncpg.InsufficientPrivilegeError):  # counted as left out
                        async with asyncio.timeout(max(deadline - time.monotonic(), 0.01)):
                            content = await read_content(database.connection, table, Checksum.VALUES)
                            database.contents[table.key] = content
                    left -= table.bytes
            await close_connection(database.connection)

    async def conclude(self) -> UnchangedTables:
        """Takes the second snapshots and compares. Raises what the driver raises."""
        if self._reading is None:
            raise RuntimeError("conclude() before begin()")
        with contextlib.suppress(TimeoutError):  # what was read within the budget counts
            await self._reading
        outcome = UnchangedTables()
        deadline = time.monotonic() + self._budget.seconds
        for before in self._before:
            after = await open_connection(self._login.at(before.name), stable_text=True)
            try:
                async with after.transaction(isolation="repeatable_read", readonly=True):
                    await self._compare(before, after, outcome, deadline)
            finally:
                await close_connection(after)
        return outcome

    async def _compare(
        self, before: _Database, connection: Connection, outcome: UnchangedTables, deadline: float
    ) -> None:
        earlier = {table.key: table for table in before.tables}
        defined_alike = await read_definitions(connection) == before.definitions
        for table in _comparable(await read_tables(connection, before.name)):
            outcome.table_count += 1
            known, content = earlier.get(table.key), before.contents.get(table.key)
            if known is None or (known.filenode, known.changes) != (table.filenode, table.changes):
                outcome.changed += 1
            elif content is None or time.monotonic() > deadline:
                outcome.left_out += 1
            elif await holds(connection, table, content, before.horizon if defined_alike else None):
                outcome.fingerprints.append(content.fingerprint(table))
            else:
                outcome.changed += 1
        outcome.sequences_before |= before.sequences
        outcome.sequences_after |= await read_sequences(connection, before.name)
        now = await _large_objects(connection, self._budget.table_bytes, deadline)
        outcome.large_objects += now.count if now is not None else 0
        if now is not None and now.checksum is not None and now == before.large_objects:
            outcome.large_object_checksums[before.name] = now.checksum

    async def close(self) -> None:
        """Ends all sessions, in mid-reading, too."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        for database in self._before:
            if not database.connection.is_closed():
                database.connection.terminate()


async def holds(connection: Connection, table: Table, content: Content, horizon: int | None) -> bool:
    """Whether it holds what was read before. Its values are read again only where their definitions changed (there is
    no ``horizon`` then), where they were too long to be read, or where rows may be younger than what was read."""
    if horizon is not None and content.values is not None:
        rows, later = await count_versions(connection, table, horizon)
        if rows != content.rows or not later:
            return rows == content.rows
    return await read_content(connection, table, Checksum.VALUES) == content


def _comparable(tables: list[Table]) -> list[Table]:
    # Unlogged tables come back empty, and our own canary table changes by design.
    return [table for table in tables if table.persistence == "p" and table.populated and table.schema != OWN_SCHEMA]


async def _large_objects(connection: Connection, byte_limit: int, deadline: float) -> LargeObjects | None:
    size = await connection.fetchval("SELECT pg_table_size('pg_catalog.pg_largeobject')")
    if size > byte_limit or time.monotonic() > deadline:
        return None
    try:
        return await read_large_objects(connection)
    except asyncpg.PostgresError:
        return None
