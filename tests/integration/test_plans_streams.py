"""Backup, validation and restore of JetStream streams as whole plans, on real servers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from recovery.adapters.nats.connection import NatsServer, api, connected, stream_info
from recovery.adapters.nats.consumers import positions
from recovery.adapters.nats.restoring import MARK
from recovery.domain.recovery_point import BackupKind, RecoveryPoint
from recovery.domain.recovery_set import SetState, state_of
from recovery.domain.report import RunReport, RunState
from tests.integration.installation import AWAY, HOME, PLAN_SECONDS, REGIONS, STREAM_NAMES, STREAMS, Site
from workers import operations

MESSAGES = 3000


def server(site: Site, region: str) -> NatsServer:
    host, _, port = site.lab.nats(region).removeprefix("nats://").rpartition(":")
    return NatsServer(host, int(port))


async def delete_all(site: Site) -> None:
    for region in REGIONS:
        async with connected(server(site, region)) as client:
            for entry in (await api(client, "STREAM.LIST"))["streams"] or []:
                await api(client, f"STREAM.DELETE.{entry['config']['name']}", timeout=10.0)


@pytest.fixture
async def filled(site: Site) -> AsyncIterator[Site]:
    """Two streams in the home region: with headers, deleted messages, and a consumer that has acknowledged ten."""
    await delete_all(site)
    async with connected(server(site, HOME)) as client:
        for name in STREAM_NAMES:
            numbers = random.Random(name)
            await api(client, f"STREAM.CREATE.{name}", {"name": name, "subjects": [f"{name}.>"], "storage": "file"}, 10)
            for number in range(MESSAGES):
                await client.publish(f"{name}.{number % 7}", numbers.randbytes(900), headers={"Number": str(number)})
            await client.flush(30)
            await client.jetstream().publish(f"{name}.last", b"", timeout=10)
            await api(client, f"STREAM.MSG.DELETE.{name}", {"seq": 17}, 10.0)
            worker = await client.jetstream().pull_subscribe(f"{name}.>", durable="worker")
            for message in await worker.fetch(10, timeout=10):
                await message.ack_sync(timeout=10)
    yield site
    await delete_all(site)


async def contents(of: NatsServer, name: str) -> list[tuple[Any, ...]]:
    """All messages with their sequences, and where the consumer stands."""
    async with connected(of) as client:
        info = await stream_info(client, name)
        assert info is not None, f"{of} has no stream {name}"
        assert MARK not in info["config"]["metadata"]
        subscription = await client.jetstream().subscribe(f"{name}.>", ordered_consumer=True)
        found: list[tuple[Any, ...]] = []
        for _ in range(info["state"]["messages"]):
            message = await subscription.next_msg(10)
            found.append((message.metadata.sequence.stream, message.subject, message.headers, message.data))
        return found + [(each.name, each.handled) for each in await positions(client, name)]


async def everything(site: Site, region: str) -> dict[str, list[tuple[Any, ...]]]:
    return {name: await contents(server(site, region), name) for name in STREAM_NAMES}


async def run(site: Site, plan: str, **request: Any) -> RunReport:
    return await site.run(plan, group=STREAMS, **request)


async def taken(site: Site, **request: Any) -> list[RecoveryPoint]:
    """Points of a backup, validated by the runs that it began."""
    report = await run(site, "Backup", **request)
    assert report.state is RunState.COMPLETED, report.error
    for point_id in report.point_ids:
        validation = await site.ended(await operations.find(site.client, f"validate/{STREAMS}/{point_id}"))
        assert validation.state is RunState.COMPLETED, validation.error
    return [await (await site.catalogue(STREAMS)).point(STREAMS, point_id) for point_id in report.point_ids]


async def test_streams_are_taken_beside_the_database_proven_and_put_back(filled: Site) -> None:
    site = filled
    points = await taken(site)
    assert [point.manifest.kind for point in points] == [BackupKind.PHYSICAL, BackupKind.STREAMS]
    (together,) = (await (await site.catalogue(STREAMS)).sets(STREAMS)).sets
    assert [each.point_id for each in together.members] == [point.point_id for point in points]
    assert state_of(together, points) is SetState.VALID
    assert timedelta() < together.width < timedelta(seconds=PLAN_SECONDS)
    point = points[1]
    assert point.is_valid
    assert point.verdict is not None
    assert sorted(point.locations) == ["store-region-a", "store-region-b"]
    proven = {check.name: check.detail for check in point.verdict.checks}
    for name in STREAM_NAMES:
        assert proven[f"stream {name}"] == "3000 messages, sequences 1 to 3001, consumers worker"
    expected = await everything(site, HOME)

    report = await run(site, "Restore", store="nats", region=AWAY)
    assert report.state is RunState.COMPLETED, report.error
    assert report.point_ids == [point.point_id]
    assert await everything(site, AWAY) == expected

    async with connected(server(site, AWAY)) as client:
        await client.jetstream().publish("orders.late", b"written after the restore", timeout=10)
    refused = await run(site, "Restore", store="nats", region=AWAY)
    assert refused.state is RunState.ROLLED_BACK
    assert "orders (3001 messages up to 3002) already: say --replace" in str(refused.error)
    assert len(await contents(server(site, AWAY), "orders")) == len(expected["orders"]) + 1
    renamed = await run(site, "Restore", store="nats", region=AWAY, streams=["orders"], target_stream="orders-copy")
    assert "orders cannot be restored as orders-copy" in str(renamed.error)

    replaced = await run(site, "Restore", store="nats", region=AWAY, streams=["orders"], replace=True)
    assert replaced.state is RunState.COMPLETED, replaced.error
    assert await everything(site, AWAY) == expected
    await site.no_residue()


async def test_a_recovery_brings_the_streams_of_its_set_back_beside_the_database(filled: Site) -> None:
    """And what is missing in the other region's NATS is said by its name: here nothing is."""
    site = filled
    points = await taken(site)
    (together, *_) = (await (await site.catalogue(STREAMS)).sets(STREAMS)).sets
    expected = await everything(site, HOME)
    report = await run(site, "FullRecovery")
    assert report.state is RunState.COMPLETED, report.error
    assert report.point_ids == [point.point_id for point in points]
    assert await everything(site, AWAY) == expected
    found = report.recovered_set
    assert found is not None
    assert (found.set_id, found.skew) == (together.set_id, together.width)
    assert [(each.store, each.restored, each.left) for each in found.stores] == [
        ("postgres", True, ""), ("nats", True, ""),
    ]  # fmt: skip
    assert all(each.rpo is not None and each.rpo > timedelta() for each in found.stores)

    # Its place holds streams now: the database would come back, and they would be left as they are, by name.
    await site.reset()
    again = await run(site, "FullRecovery")
    assert again.state is RunState.COMPLETED, again.error
    assert again.recovered_set is not None
    (left,) = (each.left for each in again.recovered_set.stores if each.store == "nats")
    assert "already: say --replace" in left
    assert [warning for warning in again.warnings if "nats is not restored" in warning]
    await site.no_residue()


async def test_a_worker_that_dies_in_the_middle_of_a_restore_leaves_no_half_stream(filled: Site) -> None:
    site = filled
    (point,) = await taken(site, store="nats")
    expected = await everything(site, HOME)
    site.arm("Upload.finish", step="restore-database", number=2)  # one stream is whole, the other has all but its end
    handle = await site.start("Restore", group=STREAMS, point_id=point.point_id, region=AWAY)
    assert await site.fallen() == []
    report = await site.ended(handle)
    assert report.state is RunState.COMPLETED, report.error
    assert [step.attempts for step in report.steps if step.name == "restore-database"] == [2]
    assert await everything(site, AWAY) == expected

    # A restore that fails for good takes back what it made, and nothing else.
    await asyncio.gather(*(_drop(site, name) for name in STREAM_NAMES))
    site.arm("Upload.finish", "after", step="restore-database", action="fail", error="RestoreFailed", words="no more")
    failed = await run(site, "Restore", point_id=point.point_id, region=AWAY)
    assert failed.state is RunState.ROLLED_BACK
    assert "no more" in str(failed.error)
    async with connected(server(site, AWAY)) as client:
        assert not (await api(client, "STREAM.LIST"))["streams"]
    await site.crew.complete()


async def _drop(site: Site, name: str) -> None:
    async with connected(server(site, AWAY)) as client:
        await api(client, f"STREAM.DELETE.{name}", timeout=10.0)
