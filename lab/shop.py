"""The sample shop database: customers, orders, payments, an append-only event table, and what else a backup keeps."""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import Callable
from pathlib import Path

import asyncpg

from lab.errors import LabError

# What a shop cannot do without; the tables that a recovery checks first.
CRITICAL_TABLES = ("customers", "orders", "payments", "events")
_SCHEMA = Path(__file__).with_name("shop.sql")
_MEBIBYTE = 1024 * 1024
_CUSTOMERS_PER_BATCH = 1000
_CONNECTIONS = 2
_LARGEST_MEGABYTES = 100_000

# One batch: customers, 4 orders and payments each, 12 events each. `$1` is the batch's number, from 0. About half of
# the text is random, so that it compresses as real data does. Identifiers are explicit, so batches are independent.
_CUSTOMERS = """
INSERT INTO customers (id, email, full_name, address, registered_at, preferences)
SELECT i, 'customer' || i || '@example.test',
    (ARRAY['Ada','Grace','Edsger','Barbara','Alan','Radia','Donald','Frances'])[1 + i % 8] || ' ' || md5(i::text),
    (i % 199 + 1) || ' ' || (ARRAY['Harbour Street','Mill Lane','Station Road','Market Square'])[1 + i % 4]
        || ', ' || substr(md5(random()::text), 1, 12),
    now() - (i % 1000) * interval '1 day',
    jsonb_build_object('language', (ARRAY['en','de','fr','pl'])[1 + i % 4], 'newsletter', i % 3 = 0,
                       'token', md5(random()::text))
FROM generate_series($1::bigint * $2::bigint + 1, ($1::bigint + 1) * $2::bigint) AS i
"""
_ORDERS = """
INSERT INTO orders (id, customer_id, status, total_cents, placed_at, items)
SELECT i, 1 + (i * 7919) % (($1::bigint + 1) * $2::bigint), (ARRAY['placed','paid','shipped','returned'])[1 + i % 4],
    100 + (i * 37) % 100000, now() - (i % 700) * interval '1 hour',
    jsonb_build_array(
        jsonb_build_object('article', 'A-' || i % 5000, 'name', 'stainless steel bottle', 'count', 1 + i % 3),
        jsonb_build_object('article', 'B-' || i % 700, 'name', 'cotton shirt', 'code', md5(random()::text)))
FROM generate_series($1::bigint * $2::bigint * 4 + 1, ($1::bigint + 1) * $2::bigint * 4) AS i
"""
_PAYMENTS = """
INSERT INTO payments (id, order_id, amount_cents, reference, paid_at)
SELECT i, i, 100 + (i * 37) % 100000, 'transfer ' || md5(random()::text), now() - (i % 700) * interval '1 hour'
FROM generate_series($1::bigint * $2::bigint * 4 + 1, ($1::bigint + 1) * $2::bigint * 4) AS i
"""
_EVENTS = """
INSERT INTO events (id, happened_at, kind, payload, trace)
SELECT i, now() - (i % 100000) * interval '1 second',
    (ARRAY['page-viewed','basket-changed','order-placed','payment-received'])[1 + i % 4],
    jsonb_build_object('session', md5(random()::text), 'page', '/articles/stainless-steel-bottle/' || i % 5000,
        'browser', 'Mozilla/5.0 (X11; Linux x86_64) Gecko/20100101 Firefox/140.0', 'ms', i % 900),
    md5(random()::text) || md5(random()::text)
FROM generate_series($1::bigint * $2::bigint * 12 + 1, ($1::bigint + 1) * $2::bigint * 12) AS i
"""


async def load_shop(dsn: str, megabytes: int, *, progress: Callable[[float], None] | None = None) -> int:
    """Create the shop in the empty database of `dsn` (a superuser's) and fill it to about `megabytes` MiB.

    The size is that of the whole database as PostgreSQL reports it, catalogues included (about 8 MiB); what is smaller
    than 10 gets one batch of rows. `progress` is called with a share from 0 to 1. Returns the size in bytes.
    Raises LabError when there is a shop already, and what asyncpg raises when the server does not answer.
    """
    if not 1 <= megabytes <= _LARGEST_MEGABYTES:
        raise LabError(f"A shop has 1 to {_LARGEST_MEGABYTES} megabytes, not {megabytes}: say, 100.")
    connection = await asyncpg.connect(dsn, timeout=10)
    try:
        if await connection.fetchval("SELECT to_regclass('orders') IS NOT NULL"):
            raise LabError("This database has a shop already: load it into an empty one.")
        await connection.execute(await asyncio.to_thread(_SCHEMA.read_text))
        before = await _size(connection)
        await _load_batch(connection, 0)
        per_batch = max(1, await _size(connection) - before)
        batches = max(1, math.ceil((megabytes * _MEBIBYTE - before) / per_batch))
        await _load_batches(dsn, batches, progress or (lambda share: None))
        await _finish(connection, batches)
        return await _size(connection)
    finally:
        await connection.close(timeout=10)


async def _size(connection: asyncpg.Connection) -> int:
    return int(await connection.fetchval("SELECT pg_database_size(current_database())"))


async def _load_batch(connection: asyncpg.Connection, number: int) -> None:
    async with connection.transaction():
        # The rows are known to fit together: no trigger checks their references one by one.
        await connection.execute("SET LOCAL session_replication_role = replica; SET LOCAL synchronous_commit = off")
        for statement in (_CUSTOMERS, _ORDERS, _PAYMENTS, _EVENTS):
            await connection.execute(statement, number, _CUSTOMERS_PER_BATCH)


async def _load_batches(dsn: str, batches: int, progress: Callable[[float], None]) -> None:
    left = iter(range(1, batches))
    done = 1

    async def loader() -> None:
        nonlocal done
        connection = await asyncpg.connect(dsn, timeout=10)
        try:
            for number in left:
                await _load_batch(connection, number)
                done += 1
                progress(done / batches)
        finally:
            await connection.close(timeout=10)

    async with asyncio.TaskGroup() as loaders:
        for _ in range(min(_CONNECTIONS, batches)):
            loaders.create_task(loader())


async def _finish(connection: asyncpg.Connection, batches: int) -> None:
    """Set the sequences, store a large object and fill the materialised view."""
    for table in CRITICAL_TABLES:
        sequence = f"pg_get_serial_sequence('{table}', 'id')"
        await connection.execute(f"SELECT setval({sequence}, (SELECT max(id) FROM {table}))")
    await connection.execute("SET ROLE app")
    content = b"Terms of trade, scanned. " * 2000 + secrets.token_bytes(50_000)
    async with connection.transaction():
        oid = await connection.fetchval("SELECT lo_from_bytea(0, $1)", content)
        await connection.execute("INSERT INTO documents (name, content) VALUES ('terms-of-trade', $1)", oid)
        # pg_read_all_data covers large objects only from PostgreSQL 18 on.
        if await connection.fetchval("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = 'backup')"):
            await connection.execute(f"GRANT SELECT ON LARGE OBJECT {oid} TO backup")
    await connection.execute("REFRESH MATERIALIZED VIEW daily_revenue")
    await connection.execute("RESET ROLE")
    await connection.execute("VACUUM (ANALYZE)")
