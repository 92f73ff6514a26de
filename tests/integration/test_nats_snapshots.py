"""Backup and restore of streams with real servers: single ones, and a cluster of three."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from nats.js.errors import ServiceUnavailableError

from recovery.adapters.nats.connection import NatsServer, api, connected, stream_info
from recovery.adapters.nats.consumers import Position, positions
from recovery.adapters.nats.guarded import GuardedStreams
from recovery.adapters.nats.recovery import JetStreamSnapshots, stored_stream
from recovery.adapters.nats.restoring import MARK, mark_of
from recovery.backup.pipeline import write_point
from recovery.backup.reader import open_point
from recovery.backup.sealing import Opener, Sealer
from recovery.backup.upload import WriteBudget
from recovery.domain.jetstream import JetStreamSource
from recovery.domain.ownership import Strength
from recovery.domain.restore_marks import restore_of
from recovery.errors import Corrupt, NotFound, Refused, RestoreFailed, Unreachable
from recovery.ports.jetstream import StreamRestoreOptions, archive_name, description_name
from tests.fakes.object_store import MemoryStore
from tests.fakes.points import AGE, identity, signer
from tests.integration.nats_cluster import NatsCluster, a_cluster
from tests.integration.nats_pair import until
from tests.integration.nats_servers import OwnNats, own_nats
from tests.integration.put_aside import RECIPIENTS

POINT = "20261122T101500Z-streams-1a2b3c4d"
OPTIONS = StreamRestoreOptions("restore-1")
MESSAGES = 2000
HANDLED = 60, 100


class _Plain(OwnNats):
    """At rest nobody is fenced."""

    async def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.fence_file.write_text("\n")
        await super().start()


@pytest.fixture(scope="module")
async def servers(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[OwnNats, OwnNats]]:
    folder = tmp_path_factory.mktemp("nats")
    a, b = _Plain(folder / "a", "east"), _Plain(folder / "b", "west")
    with own_nats(a, b):
        await a.start()
        await b.start()
        yield a, b


@pytest.fixture(scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[NatsCluster]:
    async with a_cluster(tmp_path_factory.mktemp("cluster")) as made:
        yield made


async def _fill(
    server: NatsServer, name: str, messages: int = MESSAGES, *, longest: int = 400, **settings: Any
) -> None:
    """Messages of many sizes, some with headers, some deleted; a consumer that has acknowledged 60, and a new one."""
    numbers = random.Random(name)
    async with connected(server) as client:
        config = {"name": name, "subjects": [f"{name}.>"], "num_replicas": 1, "storage": "file"} | settings
        await api(client, f"STREAM.CREATE.{name}", config, 10.0)
        for number in range(messages):
            headers = {"Kind": f"k{number % 3}"} if number % 5 == 0 else None
            await client.publish(f"{name}.{number % 7}", numbers.randbytes(numbers.randrange(longest)), headers=headers)
        await client.flush(30)
        await until(lambda: _has(client, name, messages))
        for number in (messages - 50, messages - 20, messages):
            await api(client, f"STREAM.MSG.DELETE.{name}", {"seq": number}, 10.0)
        worker = await client.jetstream().pull_subscribe(f"{name}.>", durable="worker")
        fetched: list[Any] = []
        await until(lambda: _fetched(worker, fetched))
        for message in fetched[:60]:
            await message.ack_sync(timeout=10)
        await client.jetstream().pull_subscribe(f"{name}.1", durable="fresh")


async def _fetched(consumer: Any, messages: list[Any]) -> bool:
    """A cluster's new consumer has nobody to answer for a moment: its subscription has not reached each server yet."""
    with contextlib.suppress(ServiceUnavailableError):
        messages += await consumer.fetch(100, timeout=10)
    return bool(messages)


async def _has(client: Any, name: str, messages: int) -> bool:
    info = await stream_info(client, name)
    return info is not None and int(info["state"]["last_seq"]) == messages


async def _contents(server: NatsServer, name: str) -> list[tuple[Any, ...]]:
    """All messages: sequence, subject, time, headers, data."""
    async with connected(server) as client:
        subscription = await client.jetstream().subscribe(f"{name}.>", ordered_consumer=True)
        info = await stream_info(client, name)
        assert info is not None
        found = []
        for _ in range(info["state"]["messages"]):
            message = await subscription.next_msg(10)
            place = message.metadata
            found.append((place.sequence.stream, message.subject, place.timestamp, message.headers, message.data))
        return found


async def _positions(server: NatsServer, name: str) -> dict[str, Position]:
    async with connected(server) as client:
        return {position.name: position for position in await positions(client, name)}


async def _taken(server: NatsServer, *streams: str) -> tuple[dict[str, bytes], JetStreamSource]:
    async with JetStreamSnapshots(server).source(streams or None) as source:
        read = {
            stream.name: b"".join([chunk async for chunk in stream.chunks()]) async for stream in source.artefacts()
        }
        return read, await source.finish()


async def _pieces(data: bytes, size: int = 100_000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def _delete(server: NatsServer, *streams: str) -> None:
    async with connected(server) as client:
        for stream in streams:
            await api(client, f"STREAM.DELETE.{stream}", timeout=10.0)


@pytest.mark.parametrize("storage", ["file", "memory"])
async def test_streams_come_back_through_the_pipeline(servers: tuple[OwnNats, OwnNats], storage: str) -> None:
    a, b = servers[0].server, servers[1].server
    names = [f"{storage}-{number}" for number in range(3)]
    for name in names:
        await _fill(a, name, storage=storage)
    location = MemoryStore("a")
    async with Sealer([AGE.public]) as sealer, JetStreamSnapshots(a).source(names) as source:
        written = await write_point(
            source, identity=identity(point_id=POINT), stores=[location], sealer=sealer, signer=signer(),
            budget=WriteBudget(chunk_bytes=50_000), at_once=source.at_once,
        )  # fmt: skip
    taken = written.manifest.jetstream
    async with Opener([AGE.secret]) as opener:
        point = open_point(location, written.manifest, opener)
        for name in names:
            text = b"".join([piece async for piece in point.stream(description_name(name))])
            stored = stored_stream(text, taken.part(name))
            done = await JetStreamSnapshots(b).restore(stored, point.stream(archive_name(name)), OPTIONS)
            assert (done.messages, done.last_seq, done.consumers) == (MESSAGES - 3, MESSAGES, ["fresh", "worker"])
            assert await _contents(b, name) == await _contents(a, name)
            ours, theirs = await _positions(a, name), await _positions(b, name)
            assert (theirs["worker"].handled, theirs["worker"].delivered) == HANDLED
            assert theirs["fresh"].handled == ours["fresh"].handled
    assert [artefact.name for artefact in written.manifest.artefacts[:3]] == [archive_name(name) for name in names]
    async with connected(b) as client:  # sequences go on, and what was not acknowledged comes again
        assert (await client.jetstream().publish(f"{names[0]}.1", b"next", timeout=10)).seq == MESSAGES + 1
    await _delete(a, *names)
    await _delete(b, *names)


async def test_the_account_under_load_is_taken_whole(servers: tuple[OwnNats, OwnNats]) -> None:
    """Each stream as it was at one moment, though its limit drops messages meanwhile."""
    a, b = servers[0].server, servers[1].server
    await _fill(a, "kept")
    await _fill(a, "limited", max_msgs=1500)
    taken_now = asyncio.Event()
    writing = asyncio.create_task(_write_until(taken_now, a, "kept.1", "limited.1"))
    try:
        read, taken = await _taken(a)
    finally:
        taken_now.set()
        await writing
    for name in ("kept", "limited"):
        stored = stored_stream(read[description_name(name)], taken.part(name))
        done = await JetStreamSnapshots(b).restore(stored, _pieces(read[archive_name(name)]), OPTIONS)
        assert done.last_seq == taken.part(name).last_seq >= MESSAGES
        before = {entry[0]: entry for entry in await _contents(a, name)}
        restored = {entry[0]: entry for entry in await _contents(b, name)}
        assert all(before[number] == entry for number, entry in restored.items() if number in before)
        if name == "kept":
            assert set(before) >= set(restored) >= {number for number in before if number <= done.last_seq}
    await _delete(a, "kept", "limited")
    await _delete(b, "kept", "limited")


async def _write_until(end: asyncio.Event, server: NatsServer, *subjects: str) -> None:
    async with connected(server) as client:
        while not end.is_set():
            for subject in subjects:
                await client.jetstream().publish(subject, b"more", timeout=10)


async def test_an_existing_stream_and_a_missing_one(servers: tuple[OwnNats, OwnNats]) -> None:
    a = servers[0].server
    recovery = JetStreamSnapshots(a)
    with pytest.raises(NotFound, match="no stream 'nothing'"):
        await _taken(a, "nothing")
    await _fill(a, "orders", 200)
    read, taken = await _taken(a, "orders")
    stored = stored_stream(read["orders/backup.json"], taken.part("orders"))
    archive = read["orders/stream.tar.s2"]
    contents = await _contents(a, "orders")
    with pytest.raises(Refused, match="has a stream orders already, with 197 messages"):
        await recovery.restore(stored, _pieces(archive), OPTIONS)
    async with connected(a) as client:
        await client.jetstream().publish("orders.1", b"after the backup", timeout=10)
    await recovery.restore(stored, _pieces(archive), StreamRestoreOptions("restore-2", replace=True))
    assert await _contents(a, "orders") == contents
    await _delete(a, "orders")


async def test_a_restore_that_breaks_leaves_nothing_and_can_be_repeated(servers: tuple[OwnNats, OwnNats]) -> None:
    a, b = servers[0].server, servers[1].server
    await _fill(a, "broken", longest=4000)  # several blocks: a part of it is restored at once
    read, taken = await _taken(a, "broken")
    stored = stored_stream(read["broken/backup.json"], taken.part("broken"))
    archive = read["broken/stream.tar.s2"]
    recovery = JetStreamSnapshots(b)
    for damaged in (archive[:-1], archive[: len(archive) // 2], archive[:200_000] + archive[200_100:]):
        with pytest.raises((Corrupt, RestoreFailed)):
            await recovery.restore(stored, _pieces(damaged), OPTIONS)
        await _gone(b, "broken")
    await _left_half_restored(b, stored.config, stored.state, archive)
    async with connected(b) as client:
        await until(lambda: _is_marked(client, "broken", "restore-1"))
    with pytest.raises(Refused, match="left by another restore"):
        await recovery.restore(stored, _pieces(archive), StreamRestoreOptions("restore-2"))
    done = await recovery.restore(stored, _pieces(archive), OPTIONS)
    assert done.messages == MESSAGES - 3
    assert await _contents(b, "broken") == await _contents(a, "broken")
    await _delete(a, "broken")
    await _delete(b, "broken")


async def _is_marked(client: Any, stream: str, restore_id: str) -> bool:
    info = await stream_info(client, stream)
    return info is not None and restore_of(mark_of(info)) == restore_id


async def _gone(server: NatsServer, stream: str) -> None:
    async with connected(server) as client:
        assert await stream_info(client, stream) is None


async def _left_half_restored(server: NatsServer, config: dict[str, Any], state: dict[str, Any], data: bytes) -> None:
    """As a worker leaves it that is killed: nobody gives the restore up."""
    async with connected(server) as client:
        body = {"config": config | {"metadata": {MARK: "restore-1"}}, "state": state}
        subject = (await api(client, f"STREAM.RESTORE.{config['name']}", body))["deliver_subject"]
        for start in range(0, len(data) // 2, 500_000):
            await client.request(subject, data[start : start + 500_000], timeout=10)


async def test_a_cancelled_snapshot_ends_at_the_server(servers: tuple[OwnNats, OwnNats]) -> None:
    a = servers[0].server
    await _fill(a, "large", 200)
    ended: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    async with connected(a) as client:
        for _ in range(600):
            await client.publish("large.1", random.randbytes(20_000))

        async def heard(message: Any) -> None:
            ended.put_nowait(json.loads(message.data))

        await client.subscribe("$JS.EVENT.ADVISORY.STREAM.SNAPSHOT_COMPLETE.large", cb=heard)
        await client.flush()
        async with JetStreamSnapshots(a).source(["large"]) as source:
            stream = await anext(source.artefacts())
            async with contextlib.aclosing(stream.chunks()) as chunks:  # type: ignore[type-var]
                await anext(chunks)
        advisory = await asyncio.wait_for(ended.get(), 4)  # before 5 s without an acknowledgement
        assert advisory["error"] == "no interest"
    await _delete(a, "large")


async def test_a_server_that_dies_is_noticed_and_what_it_kept_is_deleted(
    servers: tuple[OwnNats, OwnNats], tmp_path: Path
) -> None:
    a = servers[0].server
    await _fill(a, "events", longest=10_000)
    read, taken = await _taken(a, "events")
    stored = stored_stream(read["events/backup.json"], taken.part("events"))
    archive = read["events/stream.tar.s2"]
    mortal = _Plain(tmp_path / "mortal", "north")
    recovery = JetStreamSnapshots(mortal.server)

    async def deadly() -> AsyncIterator[bytes]:
        async for piece in _pieces(archive[: len(archive) // 2]):
            yield piece
        async with connected(mortal.server) as client:
            await until(lambda: _is_marked(client, "events", "restore-1"))
        mortal.end()
        yield archive[len(archive) // 2 :]

    with own_nats(mortal):
        await mortal.start()
        async with asyncio.timeout(10):
            with pytest.raises(Unreachable, match="gave up on the restore of stream events"):
                await recovery.restore(stored, deadly(), OPTIONS)
        await mortal.start()
        await recovery.restore(stored, _pieces(archive), OPTIONS)
        assert await _contents(mortal.server, "events") == await _contents(a, "events")
        async with recovery.source() as source:
            chunks = (await anext(source.artefacts())).chunks()
            await anext(chunks)
            mortal.end()
            async with asyncio.timeout(10):
                with pytest.raises(Unreachable, match="was lost during the snapshot|connection to stream"):
                    while True:
                        await anext(chunks)
    await _delete(a, "events")


async def test_of_a_cluster_the_fence_of_one_server_is_none(
    cluster: NatsCluster, servers: tuple[OwnNats, OwnNats], tmp_path: Path
) -> None:
    def guarding(server: NatsServer) -> GuardedStreams:
        place = tmp_path / "fence.conf"
        return GuardedStreams(server, ["events"], fence_file=place, state_folder=tmp_path, recipients=RECIPIENTS)

    seen = await guarding(cluster.servers[0]).observe()
    assert seen.strength is Strength.MANUAL and "the cluster three" in seen.detail
    alone = await guarding(servers[0].server).observe()
    assert alone.strength is Strength.GUARD and "cluster" not in alone.detail


async def test_a_cluster_takes_and_gets_back_its_streams(
    cluster: NatsCluster, servers: tuple[OwnNats, OwnNats]
) -> None:
    node = cluster.servers[0]
    for name, storage in (("disk", "file"), ("ram", "memory")):
        await _fill(node, name, longest=4000, num_replicas=3, storage=storage)
        contents = await _contents(node, name)
        read, taken = await _taken(cluster.servers[1], name)
        part = taken.part(name)
        assert (part.replicas, taken.cluster, part.archive_format) == (3, "three", 2)
        stored = stored_stream(read[description_name(name)], part)
        data = read[archive_name(name)]
        replaced = await JetStreamSnapshots(cluster.servers[2]).restore(
            stored, _pieces(data), StreamRestoreOptions("restore-2", replace=True)
        )
        assert replaced.consumers == ["fresh", "worker"]
        assert await _contents(node, name) == contents
        assert (await _positions(node, name))["worker"].handled == HANDLED[0]
        async with connected(node) as client:
            info = await stream_info(client, name)
            assert info is not None
            assert len(info["cluster"]["replicas"]) == 2
        for damaged in (data[:-1], data[: len(data) // 2]):
            assert len(damaged) > 1 << 20  # else nothing is begun, and nothing replaced
            with pytest.raises(Corrupt, match="in the middle of an S2 frame"):
                await JetStreamSnapshots(node).restore(
                    stored, _pieces(damaged), StreamRestoreOptions("restore-3", replace=True)
                )
            await _gone(node, name)
        single = servers[1].server
        with pytest.raises(Refused, match="restore it with one replica"):
            await JetStreamSnapshots(single).restore(stored, _pieces(data), OPTIONS)
        await JetStreamSnapshots(single).restore(stored, _pieces(data), StreamRestoreOptions("restore-1", replicas=1))
        assert await _contents(single, name) == contents
        await _delete(single, name)
