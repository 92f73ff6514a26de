"""What a database holds, read with SQL of the tests' own: the product's fingerprints are what is under test."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import asyncpg

from lab.workload import read_acknowledged

OWN_SCHEMA = "recovery_plans"

Contents = dict[str, object]


async def contents(dsn: str) -> Contents:
    """Rows and digest of every table and materialised view, sequences, large objects, views, roles, indexes."""
    connection = await asyncpg.connect(dsn)
    try:
        found: Contents = {}
        relations = await connection.fetch(
            """
            SELECT format('%I.%I', n.nspname, c.relname) AS name FROM pg_class c JOIN pg_namespace n
                ON n.oid = c.relnamespace
             WHERE c.relkind IN ('r', 'm') AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', $1)
            """,
            OWN_SCHEMA,
        )
        for row in relations:
            name = row["name"]
            digest = await connection.fetchrow(
                f"SELECT count(*), md5(string_agg(md5(t::text), '' ORDER BY md5(t::text))) FROM {name} t"
            )
            assert digest is not None
            found[f"table {name}"] = tuple(digest)
        for kind, query in _OTHERS.items():
            found[kind] = [tuple(row) for row in await connection.fetch(query)]
        return found
    finally:
        await connection.close()


_OTHERS = {
    "sequences": "SELECT schemaname, sequencename, last_value, increment_by FROM pg_sequences ORDER BY 1, 2",
    "large objects": "SELECT oid, md5(lo_get(oid)) FROM pg_largeobject_metadata ORDER BY 1",
    "views": f"SELECT schemaname, viewname, definition FROM pg_views WHERE schemaname !~ '^pg_' "
    f"AND schemaname NOT IN ('information_schema', '{OWN_SCHEMA}') ORDER BY 1, 2",
    "indexes": f"SELECT schemaname, indexname, indexdef FROM pg_indexes WHERE schemaname !~ '^pg_' "
    f"AND schemaname <> '{OWN_SCHEMA}' ORDER BY 1, 2",
    "roles": "SELECT rolname, rolsuper, rolcanlogin, rolreplication FROM pg_roles WHERE rolname !~ '^pg_' ORDER BY 1",
    "triggers": "SELECT tgname, tgenabled FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1",
    "extensions": "SELECT extname, extversion FROM pg_extension ORDER BY 1",
}


async def torn_transactions(dsn: str) -> int:
    """Transactions of the workload of which only a part is there: it writes the commit's id, a payment and an event."""
    connection = await asyncpg.connect(dsn)
    try:
        torn: int = await connection.fetchval(
            """
            WITH commits AS (SELECT id::text AS id FROM workload_commits),
                 paid AS (SELECT reference AS id, order_id FROM payments WHERE reference ~ '^\\d+$'),
                 noted AS (SELECT trace AS id FROM events WHERE kind = 'order-placed' AND trace ~ '^\\d+$')
            SELECT (SELECT count(*) FROM commits FULL JOIN paid USING (id) FULL JOIN noted USING (id)
                     WHERE commits.id IS NULL OR paid.id IS NULL OR noted.id IS NULL)
                 + (SELECT count(*) FROM paid LEFT JOIN orders ON orders.id = paid.order_id WHERE orders.id IS NULL)
            """
        )
        return torn
    finally:
        await connection.close()


async def missing(dsn: str, identifiers: Iterable[int]) -> set[int]:
    """Those of the workload's commits that the database does not have."""
    connection = await asyncpg.connect(dsn)
    try:
        there = {row["id"] for row in await connection.fetch("SELECT id FROM workload_commits")}
    finally:
        await connection.close()
    return set(identifiers) - there


def acknowledged(file: Path, before: float | None = None) -> set[int]:
    """Identifiers that the workload's clients know as committed, up to a unix time."""
    return {number for number, at in read_acknowledged(file).items() if before is None or at < before}
