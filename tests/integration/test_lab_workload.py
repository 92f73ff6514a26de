"""The shop is of the size that was asked for, and lost commits are counted exactly."""

from __future__ import annotations

import asyncio

import asyncpg
import dns.asyncquery
import dns.tsigkeyring
import dns.update
import pytest

from lab import Lab, LabError
from lab.shop import load_shop
from lab.workload import Workload, longest_gap, lost_commits


async def test_the_shop_has_the_size_that_was_asked_for(lab: Lab) -> None:
    place = lab.postgres("region-a")
    connection = await asyncpg.connect(place.dsn(database="postgres"))
    await connection.execute("CREATE DATABASE sized OWNER app")
    try:
        size = await load_shop(place.dsn(database="sized"), 40)
        assert 32 <= size / 2**20 <= 48
        with pytest.raises(LabError, match="has a shop already"):
            await load_shop(place.dsn(database="sized"), 40)
        shop = await asyncpg.connect(place.dsn(database="sized"))
        for table in ("customers", "orders", "payments", "events", "daily_revenue", "open_orders", "documents"):
            assert await shop.fetchval(f"SELECT EXISTS (SELECT FROM {table})"), table
        top = await shop.fetchval("SELECT max(id) FROM orders")
        assert await shop.fetchval("SELECT nextval(pg_get_serial_sequence('orders', 'id'))") == top + 1
        assert await shop.fetchval("SELECT length(lo_get(content)) FROM documents") == 100_000
        with pytest.raises(asyncpg.RaiseError, match="append-only"):
            await shop.execute("DELETE FROM events WHERE id = 1")
        orphans = "SELECT count(*) FROM orders o LEFT JOIN customers c ON c.id = o.customer_id WHERE c.id IS NULL"
        assert await shop.fetchval(orphans) == 0
        await shop.close()
    finally:
        await connection.execute("DROP DATABASE sized WITH (FORCE)")
        await connection.close()


async def test_lost_commits_are_counted_exactly(lab: Lab) -> None:
    place = lab.postgres("region-a")
    workload = Workload(lab, transactions_per_second=200, connections=3)
    async with workload:
        await workload.wait_for(150)
    before = await lost_commits(workload.file, place.dsn())
    assert (before.lost, before.lost_ids, before.lost_seconds) == (0, [], 0.0)
    assert before.acknowledged == before.present == workload.acknowledged() >= 150
    assert before.unacknowledged <= 3  # at most one commit per connection was under way at the kill

    connection = await asyncpg.connect(place.dsn())
    rows = await connection.fetch(
        "WITH doomed AS (SELECT id FROM workload_commits WHERE id = ANY($1) ORDER BY id DESC LIMIT 7)"
        " DELETE FROM workload_commits USING doomed WHERE workload_commits.id = doomed.id"
        " RETURNING workload_commits.id",
        [int(line.split()[0]) for line in workload.file.read_text().splitlines()],
    )
    doomed = sorted(row["id"] for row in rows)
    await connection.execute("INSERT INTO workload_commits VALUES (1, now())")
    after = await lost_commits(workload.file, place.dsn())
    await connection.execute("DELETE FROM workload_commits WHERE id = 1")
    await connection.close()
    assert after.lost_ids == doomed
    assert (after.lost, after.present) == (7, before.present - 7)
    assert after.unacknowledged == before.unacknowledged + 1
    assert after.last_acknowledged_at == before.last_acknowledged_at
    assert after.last_acknowledged_at is not None and after.last_present_at is not None
    assert after.first_lost_at is not None
    assert after.lost_seconds == pytest.approx(after.last_acknowledged_at - after.last_present_at)


async def test_every_transaction_writes_to_all_of_its_tables(lab: Lab) -> None:
    connection = await asyncpg.connect(lab.postgres("region-a").dsn())
    counts = await connection.fetchrow(
        "SELECT count(*) AS commits, count(p.id) AS payments, count(o.id) AS orders, count(e.id) AS events"
        " FROM workload_commits c LEFT JOIN payments p ON p.reference = c.id::text"
        " LEFT JOIN orders o ON o.id = p.order_id LEFT JOIN events e ON e.trace = c.id::text"
    )
    await connection.close()
    assert counts is not None
    assert counts["commits"] > 0
    assert len(set(counts.values())) == 1


async def test_the_workload_survives_an_outage_and_goes_where_the_name_points(lab: Lab) -> None:
    workload = Workload(lab, transactions_per_second=100, file=lab.folder / "workload" / "outage.log")
    async with workload:
        await lab.kill("region-a", "postgres")
        stopped_at = workload.acknowledged()
        await point_at(lab, "region-b")
        await asyncio.sleep(0.3)  # long enough for the client to try the standby, which refuses to write
        assert workload.acknowledged() == stopped_at
        await lab.restart("region-a", "postgres")
        await point_at(lab, "region-a")
        await workload.wait_for(stopped_at + 20)
    start, end = longest_gap(workload.file)
    assert 0.3 < end - start < 10
    report = await lost_commits(workload.file, lab.postgres("region-a").dsn())
    assert report.lost == 0


async def point_at(lab: Lab, region: str) -> None:
    place = lab.dns()
    keyring = dns.tsigkeyring.from_text({place.tsig_key_name: place.tsig_secret})
    update = dns.update.UpdateMessage(place.zone, keyring=keyring)
    update.replace("db.shop.test.", 1, "A", lab.postgres(region).host)
    await dns.asyncquery.tcp(update, place.host, port=place.port, timeout=3)
