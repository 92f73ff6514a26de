"""One contract for ``JetStreamRecovery``: the server in memory that other tests use, and a real one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from recovery.adapters.nats.connection import api, connected
from recovery.adapters.nats.fence import OPEN
from recovery.adapters.nats.recovery import JetStreamSnapshots, stored_stream
from recovery.domain.jetstream import JetStreamSource
from recovery.domain.recovery_point import BackupKind
from recovery.errors import Corrupt, NotFound, NotOurs, Refused, RestoreFailed
from recovery.ports.jetstream import (
    JetStreamRecovery,
    StoredStream,
    StreamRestoreOptions,
    StreamSeen,
    archive_name,
    description_name,
)
from tests.fakes.jetstream import SERVER, FakeJetStream, FakeStream, config_of, state_of
from tests.integration.nats_servers import OwnNats, own_nats

MESSAGES = 20
OPTIONS = StreamRestoreOptions("restore-1", attempt="first", consumers_seconds=1.0)


@dataclass
class Account:
    """``make`` gives it a stream with so many messages; ``publish`` one more message."""

    recovery: JetStreamRecovery
    make: Callable[[str, int], Awaitable[None]]
    publish: Callable[[str], Awaitable[None]]

    async def taken(self, *streams: str) -> tuple[dict[str, bytes], JetStreamSource]:
        async with self.recovery.source(streams or None) as source:
            content = {
                each.name: b"".join([chunk async for chunk in each.chunks()]) async for each in source.artefacts()
            }
            return content, await source.finish()

    async def stored(self, stream: str) -> tuple[StoredStream, bytes]:
        content, source = await self.taken(stream)
        return stored_stream(content[description_name(stream)], source.part(stream)), content[archive_name(stream)]

    async def seen(self, stream: str) -> StreamSeen | None:
        return (await self.recovery.look()).streams.get(stream)


def pieces(data: bytes, size: int = 3000) -> AsyncIterator[bytes]:
    async def each() -> AsyncIterator[bytes]:
        for start in range(0, len(data), size):
            yield data[start : start + size]

    return each()


def fake_account() -> Account:
    server = FakeJetStream()

    async def make(stream: str, messages: int) -> None:
        server.streams[stream] = FakeStream(config_of(stream), state_of(messages))

    async def publish(stream: str) -> None:
        held = server.streams[stream]
        held.state = state_of(held.state["messages"] + 1)

    return Account(JetStreamSnapshots(SERVER, connect=server.connect_apart), make, publish)


def real_account(server: OwnNats) -> Account:
    async def make(stream: str, messages: int) -> None:
        async with connected(server.server) as client:
            await api(client, f"STREAM.CREATE.{stream}", {**config_of(stream), "metadata": {}}, 10.0)
            for _ in range(messages):
                await client.jetstream().publish(f"{stream}.x", b"m" * 1000, timeout=10)

    async def publish(stream: str) -> None:
        async with connected(server.server) as client:
            await client.jetstream().publish(f"{stream}.x", b"since", timeout=10)

    return Account(JetStreamSnapshots(server.server), make, publish)


@pytest.fixture(params=["fake", "real"])
async def account(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Account]:
    """Without any stream."""
    if request.param == "fake":
        yield fake_account()
        return
    server = OwnNats(tmp_path / "one", "east")
    server.folder.mkdir()
    server.fence_file.write_text(OPEN)
    with own_nats(server):
        await server.start()
        yield real_account(server)


async def test_an_account_says_what_it_holds(account: Account) -> None:
    assert (await account.recovery.look()).streams == {}
    with pytest.raises(NotFound, match="no stream in this account"):
        await account.taken()
    await account.make("events", MESSAGES)
    await account.make("orders", 3)
    seen = await account.recovery.look()
    assert seen.streams == {"events": StreamSeen(MESSAGES, 1, MESSAGES), "orders": StreamSeen(3, 1, 3)}
    assert not seen.clustered and seen.api_level > 0 and seen.room is None


async def test_a_source_gives_archives_then_descriptions_and_then_what_they_are(account: Account) -> None:
    await account.make("events", MESSAGES)
    await account.make("orders", 3)
    content, source = await account.taken()
    streams = sorted(part.stream for part in source.streams)
    assert streams == ["events", "orders"]
    names = list(content)
    assert sorted(names[:2]) == [archive_name(stream) for stream in streams]
    assert sorted(names[2:]) == [description_name(stream) for stream in streams]
    part = source.part("events")
    assert (part.messages, part.first_seq, part.last_seq) == (MESSAGES, 1, MESSAGES)
    assert part.archive_bytes == len(content[archive_name("events")])
    with pytest.raises(NotFound, match="no stream 'nothing'.*events"):
        await account.taken("events", "nothing")


async def test_finish_before_the_end_is_a_programming_error(account: Account) -> None:
    await account.make("events", MESSAGES)
    async with account.recovery.source() as source:
        assert source.kind is BackupKind.STREAMS and source.expected_bytes > 0 and source.at_once > 0
        with pytest.raises(RuntimeError, match="before the archive of events was read"):
            await source.finish()


async def test_a_stream_comes_back_where_it_is_missing_or_may_be_replaced(account: Account) -> None:
    await account.make("events", MESSAGES)
    stored, archive = await account.stored("events")
    with pytest.raises(Refused, match=f"has a stream events already, with {MESSAGES} messages.*--replace"):
        await account.recovery.restore(stored, pieces(archive), OPTIONS)
    with pytest.raises(Refused, match="cannot be restored as orders"):
        await account.recovery.restore(stored, pieces(archive), replace(OPTIONS, stream="orders"))
    await account.publish("events")
    assert await account.seen("events") == StreamSeen(MESSAGES + 1, 1, MESSAGES + 1)
    told: list[int] = []
    done = await account.recovery.restore(
        stored, pieces(archive), replace(OPTIONS, replace=True), lambda count, total: told.append(count)
    )
    assert (done.stream, done.messages, done.first_seq, done.last_seq) == ("events", MESSAGES, 1, MESSAGES)
    assert done.archive_bytes == len(archive) == told[-1]
    assert await account.seen("events") == StreamSeen(MESSAGES, 1, MESSAGES)


async def test_a_restored_stream_is_its_restores_until_it_is_completed(account: Account) -> None:
    await account.make("events", MESSAGES)
    stored, archive = await account.stored("events")
    kept = replace(OPTIONS, replace=True, keep_mark=True)
    await account.recovery.restore(stored, pieces(archive), kept)
    assert await account.seen("events") == StreamSeen(MESSAGES, 1, MESSAGES, "restore-1")
    with pytest.raises(Refused, match="left by another restore"):
        await account.recovery.restore(stored, pieces(archive), StreamRestoreOptions("restore-2"))
    for other in ("restore-2", StreamRestoreOptions("restore-1", "second").mark):
        with pytest.raises(NotOurs):
            await account.recovery.complete("events", other)
        with pytest.raises(NotOurs):
            await account.recovery.remove_restored("events", other)
    # Another attempt goes on in its place, and can be taken back.
    second = replace(OPTIONS, attempt="second", keep_mark=True)
    await account.recovery.restore(stored, pieces(archive), second)
    assert await account.recovery.remove_restored("events", "restore-1")
    assert not await account.recovery.remove_restored("events", "restore-1")
    assert await account.seen("events") is None
    with pytest.raises(RestoreFailed):
        await account.recovery.complete("events", second.mark)
    await account.recovery.restore(stored, pieces(archive), second)
    assert await account.recovery.complete("events", second.mark)
    assert not await account.recovery.complete("events", second.mark)
    assert await account.seen("events") == StreamSeen(MESSAGES, 1, MESSAGES)
    with pytest.raises(NotOurs):
        await account.recovery.remove_restored("events", "restore-1")
    with pytest.raises(NotOurs, match="is its clients' since"):
        await account.recovery.restore(stored, pieces(archive), replace(OPTIONS, attempt="third", replace=True))
    assert await account.seen("events") == StreamSeen(MESSAGES, 1, MESSAGES)


async def test_a_damaged_archive_leaves_nothing(account: Account) -> None:
    await account.make("events", MESSAGES)
    stored, archive = await account.stored("events")
    with pytest.raises(Corrupt, match="archive of stream events is damaged"):
        await account.recovery.restore(stored, pieces(b"no archive" * 100), replace(OPTIONS, replace=True))
    assert await account.seen("events") == StreamSeen(MESSAGES, 1, MESSAGES), "nothing was begun"
    await account.recovery.restore(stored, pieces(archive), replace(OPTIONS, replace=True, keep_mark=True))
    await account.recovery.remove_restored("events", "restore-1")
    for damaged in (archive[:-1], archive[: len(archive) // 2]):
        with pytest.raises((Corrupt, RestoreFailed)):
            await account.recovery.restore(stored, pieces(damaged), OPTIONS)
        assert await account.seen("events") is None


async def test_a_stream_is_held_against_its_point(account: Account) -> None:
    await account.make("events", MESSAGES)
    _, source = await account.taken("events")
    part = source.part("events")
    assert await account.recovery.differences(part) == []
    await account.publish("events")
    assert await account.recovery.differences(part) == [], "what clients published since is no difference"
    fewer = part.model_copy(update={"messages": MESSAGES + 9, "last_seq": MESSAGES + 9, "at_least": MESSAGES + 9})
    assert await account.recovery.differences(fewer)
    assert await account.recovery.differences(part.model_copy(update={"stream": "orders"})) == [
        "stream orders is not there"
    ]
