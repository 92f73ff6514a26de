"""What a restored server really holds, read to the last row."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import asyncpg

from recovery.adapters.postgres.canary import read_canaries
from recovery.adapters.postgres.connection import PASSING, Connection, connected, quoted, words_of
from recovery.adapters.postgres.fingerprint import (
    Checksum,
    Content,
    LargeObjects,
    Table,
    read_content,
    read_large_objects,
    read_sequences,
    read_tables,
)
from recovery.adapters.postgres.identity import read_actual_collations, read_extensions, read_roles
from recovery.errors import RestoreFailed
from recovery.ports.postgres import PostgresLogin

READERS = 2


@dataclass
class Observation:
    """Keys are ``database.schema.name`` with the names of the databases at the source."""

    contents: dict[str, Content] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)  # table -> the server's words
    tables: set[str] = field(default_factory=set)  # all that exist
    catalogue_tables: int = 0
    sequences: dict[str, tuple[int, int]] = field(default_factory=dict)  # last value, increment
    large_objects: dict[str, LargeObjects] = field(default_factory=dict)
    roles: list[str] = field(default_factory=list)
    extensions: list[str] = field(default_factory=list)
    canaries: set[str] = field(default_factory=set)
    indexes_checked: int | None = None  # None: they were not checked, for the reason below
    indexes_why_not: str = "indexes are checked by a validation only"
    broken_indexes: dict[str, str] = field(default_factory=dict)
    sorted_by: dict[str, set[str]] = field(default_factory=dict)  # broken index -> its collations, as in `collations`
    collations: dict[str, str | None] = field(default_factory=dict)  # database[.collation] -> version of this server
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Scope:
    """What to look at. ``only``: tables to read; None reads all of them. ``checksum``: as the point recorded them."""

    checksum: Checksum = Checksum.TEXT
    only: Callable[[Table], bool] | None = None
    catalogue: bool = False
    indexes: bool = False
    large_objects: Collection[str] = ()  # databases whose large objects are read


async def observe(login: PostgresLogin, databases: dict[str, str], scope: Scope) -> Observation:
    """Reads a server. ``databases``: name at the source -> name there.

    Raises:
        RestoreFailed: a database cannot even be opened.
        Unreachable: the server was ended meanwhile, which says nothing of its data.
    """
    seen = Observation()
    for source_name, name in databases.items():
        here = login.at(name)
        began = time.monotonic()
        async with connected(here, f"read database {name}", failure=RestoreFailed, stable_text=True) as connection:
            await _describe(connection, source_name, scope, seen)
            tables = await read_tables(connection, source_name)
            seen.tables |= {table.key for table in tables}
            wanted = [table for table in tables if table.populated and (scope.only is None or scope.only(table))]
            system = await read_tables(connection, source_name, system=True) if scope.catalogue else []
        seen.contents |= await _read_all(here, wanted, scope.checksum, seen)
        await _read_all(here, system, Checksum.NONE, seen)
        seen.catalogue_tables += len(system)
        seen.seconds["tables-readable"] = seen.seconds.get("tables-readable", 0.0) + time.monotonic() - began
        if scope.indexes:
            began = time.monotonic()
            await _check_indexes(here, source_name, seen)
            seen.seconds["indexes"] = seen.seconds.get("indexes", 0.0) + time.monotonic() - began
    return seen


async def _describe(connection: Connection, database: str, scope: Scope, seen: Observation) -> None:
    seen.roles = await read_roles(connection)
    seen.extensions += await read_extensions(connection, database)
    seen.collations |= await read_actual_collations(connection, database)
    values = await read_sequences(connection, database)
    rows = await connection.fetch(
        "SELECT schemaname::text AS schema, sequencename::text AS name, increment_by AS step FROM pg_sequences"
    )
    steps = {f"{database}.{row['schema']}.{row['name']}": int(row["step"]) for row in rows}
    seen.sequences |= {key: (value, steps[key]) for key, value in values.items()}
    seen.canaries |= await read_canaries(connection)
    if database in scope.large_objects:
        try:
            seen.large_objects[database] = await read_large_objects(connection)
        except PASSING:
            raise
        except asyncpg.PostgresError as error:
            seen.unreadable[f"{database}.pg_catalog.pg_largeobject"] = words_of(error)


async def _read_all(
    login: PostgresLogin, tables: Sequence[Table], checksum: Checksum, seen: Observation
) -> dict[str, Content]:
    """A few sessions take tables, the largest first, until none is left."""
    left = sorted(tables, key=lambda table: table.bytes)
    contents: dict[str, Content] = {}

    async def reader() -> None:
        async with connected(login, "read tables", failure=RestoreFailed, stable_text=True) as connection:
            while left:
                table = left.pop()
                try:
                    content = await read_content(connection, table, checksum)
                except PASSING:
                    raise
                except asyncpg.PostgresError as error:
                    seen.unreadable[table.key] = words_of(error)
                else:
                    contents[table.key] = content

    readers = [asyncio.create_task(reader()) for _ in range(min(READERS, len(left)))]
    try:
        await asyncio.gather(*readers)
    finally:
        for task in readers:
            task.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
    return contents


async def _check_indexes(login: PostgresLogin, database: str, seen: Observation) -> None:
    """``amcheck`` over every valid B-tree index, against its table's rows.

    Creates the extension: only for scratch servers.
    """
    async with connected(login, "check indexes", failure=RestoreFailed) as connection:
        if not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'amcheck')"):
            seen.indexes_why_not = "PostgreSQL's extension amcheck is not installed here, so indexes were not checked"
            return
        schema = "recovery_plans_amcheck"
        await connection.execute(
            f"CREATE SCHEMA IF NOT EXISTS {schema}; DROP EXTENSION IF EXISTS amcheck; "
            f"CREATE EXTENSION amcheck SCHEMA {schema}"
        )
        rows = await connection.fetch(
            """
            SELECT c.oid::bigint AS oid, n.nspname::text AS schema, c.relname::text AS name,
                   ARRAY(SELECT l.collname::text FROM pg_collation l WHERE l.oid = ANY(i.indcollation::oid[])) AS sorted
            FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
            JOIN pg_am a ON a.oid = c.relam
            WHERE a.amname = 'btree' AND c.relkind = 'i' AND c.relpersistence = 'p' AND i.indisvalid AND i.indisready
            """
        )
        seen.indexes_checked = seen.indexes_checked or 0
        for row in rows:
            try:
                await connection.execute(f"SELECT {quoted(schema)}.bt_index_check({row['oid']}::oid::regclass, true)")
            except PASSING:
                raise
            except asyncpg.PostgresError as error:
                key = f"{database}.{row['schema']}.{row['name']}"
                seen.broken_indexes[key] = words_of(error)
                seen.sorted_by[key] = {
                    database if name == "default" else f"{database}.{name}" for name in row["sorted"]
                }
            seen.indexes_checked += 1
