"""Faults have real effects, and what was broken can be mended."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import asyncpg
import httpx
import pytest
import redis.asyncio

from lab import Lab, LabError
from lab.readiness import s3_client


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 15) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.02)


@pytest.fixture
async def primary(lab: Lab) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(lab.postgres("region-a").dsn())
    yield connection
    await connection.close()


async def count_on_standby(lab: Lab, table: str) -> int | None:
    connection = await asyncpg.connect(lab.postgres("region-b").dsn(), timeout=5)
    try:
        if await connection.fetchval("SELECT to_regclass($1)", table) is None:
            return None
        return int(await connection.fetchval(f"SELECT count(*) FROM {table}"))
    finally:
        await connection.close()


async def test_a_killed_service_refuses_and_comes_back_with_its_data(lab: Lab) -> None:
    url = lab.redis("region-b")
    async with redis.asyncio.from_url(url) as client:
        await client.set("kept", "yes")
        await client.bgrewriteaof()
        await until(lambda: _saved(client))
    await lab.kill("region-b", "redis")
    host, port = lab.seen_from("region-b", "region-b", "redis")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, port), timeout=2)
    assert lab.describe().server("region-b/redis").state == "killed"
    await lab.restart("region-b", "redis")
    async with redis.asyncio.from_url(url) as client:
        assert await client.get("kept") == b"yes"
    assert lab.describe().server("region-b/redis").state == "running"


async def _saved(client: redis.asyncio.Redis) -> bool:
    facts = await client.info("persistence")
    return bool(facts["aof_rewrite_in_progress"] == 0 and facts["aof_last_bgrewrite_status"] == "ok")


async def test_a_killed_database_comes_back_with_every_commit(lab: Lab, primary: asyncpg.Connection) -> None:
    await primary.execute("CREATE TABLE survived AS SELECT 42 AS answer")
    await lab.kill("region-a", "postgres")
    with pytest.raises(OSError):
        await asyncpg.connect(lab.postgres("region-a").dsn(), timeout=2)
    await lab.restart("region-a", "postgres")
    again = await asyncpg.connect(lab.postgres("region-a").dsn())
    assert await again.fetchval("SELECT answer FROM survived") == 42
    await again.execute("DROP TABLE survived")
    await again.close()


async def test_a_frozen_database_is_silent_until_it_is_thawed(lab: Lab, primary: asyncpg.Connection) -> None:
    await lab.freeze("region-a", "postgres")
    try:
        assert lab.describe().server("region-a/postgres").state == "frozen"
        with pytest.raises(TimeoutError):
            await asyncpg.connect(lab.postgres("region-a").dsn(), timeout=0.5)
        waiting = asyncio.ensure_future(primary.fetchval("SELECT 1"))
        done, _ = await asyncio.wait([waiting], timeout=0.3)
        assert not done
    finally:
        await lab.thaw("region-a", "postgres")
    assert await asyncio.wait_for(waiting, 5) == 1
    assert lab.describe().server("region-a/postgres").state == "running"


async def test_a_partition_stops_replication_and_healing_lets_it_catch_up(
    lab: Lab, primary: asyncpg.Connection
) -> None:
    await primary.execute("CREATE TABLE crossed AS SELECT 1 AS n")

    async def has(rows: int) -> bool:
        return await count_on_standby(lab, "crossed") == rows

    await until(lambda: has(1))
    host, port = lab.seen_from("region-b", "region-a", "redis")
    await lab.partition("region-a", "region-b")
    try:
        assert lab.describe().partitions == [("region-a", "region-b")]
        await primary.execute("INSERT INTO crossed VALUES (2)")
        wrote = await primary.fetchval("SELECT pg_current_wal_flush_lsn()")
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(b"PING\r\n")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.5)
        got = await primary.fetchval("SELECT flush_lsn FROM pg_stat_replication")
        assert got is None or got < wrote
        assert await has(1)
    finally:
        await lab.heal()
    await until(lambda: has(2))
    assert (await asyncio.wait_for(reader.read(100), 5)).startswith(b"-NOAUTH")  # what was held is delivered
    writer.close()
    await primary.execute("DROP TABLE crossed")


async def test_a_partition_spares_other_vantage_points(lab: Lab) -> None:
    await lab.partition("region-a", "region-b")
    try:
        host, port = lab.seen_from("outside", "region-a", "redis")
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(b"PING\r\n")
        assert (await asyncio.wait_for(reader.read(100), 5)).startswith(b"-NOAUTH")
        writer.close()
    finally:
        await lab.heal()


async def test_the_application_tells_which_part_is_down(lab: Lab) -> None:
    async with httpx.AsyncClient(base_url=lab.app("region-b"), timeout=10) as http:
        healthy = await http.get("/api/v1/health")
        assert healthy.status_code == 200
        assert healthy.json()["checks"]["database"]["role"] == "standby"
        await lab.freeze("region-b", "redis")
        try:
            sick = await http.get("/api/v1/health")
            assert sick.status_code == 503
            assert sick.json()["checks"]["redis"]["status"] == "down"
            assert (await http.get("/api/v1/health/db")).status_code == 200
            assert (await http.get("/api/v1/health/redis")).status_code == 503
            assert (await http.get("/healthz")).status_code == 200
        finally:
            await lab.thaw("region-b", "redis")
        assert (await http.get("/readyz")).status_code == 200


async def test_a_flipped_bit_in_a_page_is_noticed_by_postgresql(lab: Lab, primary: asyncpg.Connection) -> None:
    await primary.execute("CREATE TABLE fragile AS SELECT generate_series(1, 5000) AS n")
    said = await lab.corrupt("region-a", "postgres-page", table="fragile", block=3)
    assert "block 3" in said
    await lab.restart("region-a", "postgres")
    again = await asyncpg.connect(lab.postgres("region-a").dsn())
    with pytest.raises(asyncpg.DataCorruptedError, match="invalid page in block 3"):
        await again.fetchval("SELECT sum(n) FROM fragile")
    await again.execute("DROP TABLE fragile")
    await again.close()
    with pytest.raises(LabError, match="no table 'nowhere'"):
        await lab.corrupt("region-a", "postgres-page", table="nowhere")


@pytest.mark.parametrize(("missing", "expected"), [(False, b"abCd"), (True, b"abd")])
async def test_a_stored_object_is_changed_by_one_byte(lab: Lab, missing: bool, expected: bytes) -> None:
    place = lab.s3("region-b")
    client = s3_client(place)
    client.put_object(Bucket=place.bucket, Key="fragile", Body=b"ab\x53d")
    await lab.corrupt("region-b", "s3-object", key="fragile", offset=2, missing=missing)
    assert client.get_object(Bucket=place.bucket, Key="fragile")["Body"].read() == expected


async def test_a_killed_temporal_server_comes_back_with_its_state(lab: Lab) -> None:
    from temporalio.client import Client

    place = lab.temporal()
    client = await Client.connect(place.address)
    await client.start_workflow("Nobody", id="before-the-kill", task_queue="nobody")
    await lab.kill("temporal")
    await lab.restart("temporal")
    client = await Client.connect(place.address)
    handle = client.get_workflow_handle("before-the-kill")
    assert (await handle.describe()).id == "before-the-kill"
    await handle.terminate()
