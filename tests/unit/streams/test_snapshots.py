"""Snapshots of streams: what the server sends is believed only when it is whole."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from recovery.adapters.nats import s2
from recovery.adapters.nats.archive import ArchiveCheck
from recovery.adapters.nats.receiving import SnapshotLimits
from recovery.adapters.nats.snapshots import SnapshotSource
from recovery.domain.jetstream import ConsumerPosition, JetStreamSource
from recovery.errors import Corrupt, NotFound, SourceFailed, Unreachable
from tests.fakes.jetstream import (
    SERVER,
    FakeJetStream,
    FakeStream,
    Message,
    Sent,
    archive,
    config_of,
    consumer,
    cut,
    framed,
    state_of,
    tar_archive,
)

CHUNK = 1024
LIMITS = SnapshotLimits(
    chunk_bytes=CHUNK, window_bytes=4 * CHUNK, buffer_bytes=16 * CHUNK, drip_seconds=0.02, idle_seconds=0.3,
    reply_seconds=1.0,
)  # fmt: skip


def _server(messages: int = 20, **settings: Any) -> FakeJetStream:
    stream = FakeStream(config_of("events"), state_of(messages), [consumer("worker", 3, 7)])
    return FakeJetStream({"events": stream}, **settings)


def _source(server: FakeJetStream, streams: list[str] | None = None, limits: SnapshotLimits = LIMITS) -> SnapshotSource:
    return SnapshotSource(SERVER, streams, connect=server.connect, limits=limits)


async def _take(server: FakeJetStream, streams: list[str] | None = None) -> tuple[dict[str, bytes], JetStreamSource]:
    async with _source(server, streams) as source:
        read = {
            stream.name: b"".join([chunk async for chunk in stream.chunks()]) async for stream in source.artefacts()
        }
        return read, await source.finish()


async def test_a_stream_becomes_the_two_files_of_the_nats_command() -> None:
    server = _server()
    read, found = await _take(server)
    assert read["events/stream.tar.s2"] == archive(state_of(20))
    assert json.loads(read["events/backup.json"]) == {"config": config_of("events"), "state": state_of(20)}
    part = found.part("events")
    assert (part.archive_format, part.messages, part.at_least, part.last_seq) == (2, 20, 20, 20)
    assert part.archive_bytes == len(read["events/stream.tar.s2"])
    assert part.consumers == {"worker": ConsumerPosition(handled=3, handled_after=3, delivered_after=7)}
    assert server.acknowledged == len(read["events/stream.tar.s2"]) // CHUNK


async def test_chosen_streams_must_exist() -> None:
    with pytest.raises(NotFound, match="no stream 'orders': it has events"):
        await _take(_server(), ["orders"])


def _swapped(sent: Sent) -> Sent:
    return [sent[1], sent[0], *sent[2:]]


def _dropped(sent: Sent) -> Sent:
    return [*sent[:3], *sent[4:]]


def _shortened(sent: Sent) -> Sent:
    return [sent[0], Message(sent[1].data[:-1], sent[1].reply), *sent[2:]]


def _placeless(sent: Sent) -> Sent:
    return [Message(sent[0].data), *sent[1:]]


def _going_on(sent: Sent) -> Sent:
    return [*sent[:-1], Message(b"more"), sent[-1]]


def _ending(status: str | None) -> Callable[[Sent], Sent]:
    return lambda sent: [*sent[:-1], Message(b"", headers={"Status": status} if status else None)]


def _truncated(sent: Sent) -> Sent:
    """Three whole chunks and a good status: only the archive itself can tell."""
    return [*sent[:3], sent[-1]]


@pytest.mark.parametrize(
    ("tamper", "error", "words"),
    [
        (_swapped, SourceFailed, "chunk 2 came where chunk 1 was expected"),
        (_dropped, SourceFailed, "chunk 5 came where chunk 4 was expected"),
        (_shortened, SourceFailed, "chunk 2 has 1023 of 1024 bytes"),
        (_placeless, SourceFailed, "a full chunk came without its place"),
        (_going_on, SourceFailed, "after the one that should have been the last"),
        (_ending("500 disk failed"), SourceFailed, "could not complete.*500 disk failed"),
        (_ending("408 No Flow Response"), Unreachable, "ended the snapshot.*408"),
        (_ending(None), SourceFailed, "ended without a status"),
        (_truncated, SourceFailed, "not whole: it ends in the middle of an S2 frame"),
        (lambda sent: sent[:-1], Unreachable, "sent nothing of stream events for 0.3 s"),
    ],
)
async def test_an_incomplete_snapshot_is_refused(
    tamper: Callable[[Sent], Sent], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        await _take(_server(tamper=tamper))


async def test_a_server_from_before_the_status_may_end_without_one() -> None:
    _, found = await _take(_server(tamper=_ending(None), version="2.9.10"))
    assert found.part("events").server_version == "2.9.10"


def _purged(stream: FakeStream) -> None:
    stream.state = state_of(5, first=16)


async def test_what_a_stream_dropped_meanwhile_is_not_promised() -> None:
    _, found = await _take(_server(after_snapshot=_purged))
    part = found.part("events")
    assert (part.messages, part.at_least, part.first_seq, part.first_seq_after) == (20, 5, 1, 16)
    assert "the archive has 5 to 20" in found.notes[0]


def _made_again(stream: FakeStream) -> None:
    stream.created = "2026-11-22T10:00:01Z"


def _gone_back(stream: FakeStream) -> None:
    stream.state = state_of(3)


@pytest.mark.parametrize(
    ("after", "words"), [(_made_again, "deleted and made again"), (_gone_back, "its last_seq is 20")]
)
async def test_a_state_that_does_not_fit_the_stream_is_refused(after: Callable[[FakeStream], None], words: str) -> None:
    with pytest.raises(SourceFailed, match=words):
        await _take(_server(after_snapshot=after))


async def test_an_archive_of_another_state_is_refused() -> None:
    def other(sent: Sent) -> Sent:
        return cut("events", archive(state_of(7)), CHUNK)

    with pytest.raises(SourceFailed, match="says messages 7, and the server said 20"):
        await _take(_server(tamper=other))


async def test_memory_streams_of_old_servers_are_refused_with_the_version_that_can() -> None:
    server = _server(version="2.10.29")
    server.answers["STREAM.SNAPSHOT.events"] = {"error": {"err_code": 10064, "description": "no impl"}}
    with pytest.raises(SourceFailed, match="from NATS 2.15 on"):
        await _take(server)


async def test_a_reader_that_rests_keeps_the_servers_patience_and_little_memory() -> None:
    server = _server(200)
    async with _source(server) as source:
        stream = await anext(source.artefacts())
        chunks = stream.chunks()
        await anext(chunks)
        before = server.acknowledged
        while server.acknowledged < before + 3:  # one each drip_seconds, though nothing is read
            await asyncio.sleep(0.005)
        assert server.acknowledged < 20
        rest = [chunk async for chunk in chunks]
        assert sum(map(len, rest)) == len(archive(state_of(200))) - CHUNK
    assert server.most_unread <= 16
    assert server.acknowledged == len(archive(state_of(200))) // CHUNK  # each once


async def test_a_reader_that_rests_for_ever_is_told_so() -> None:
    server = _server(200)
    async with _source(server) as source:
        chunks = (await anext(source.artefacts())).chunks()
        await anext(chunks)
        seen = -1
        while seen != server.acknowledged:  # until it is given up: one each drip_seconds before
            seen = server.acknowledged
            await asyncio.sleep(10 * LIMITS.drip_seconds)
        with pytest.raises(Unreachable, match="read too slowly"):
            await anext(chunks)
        assert server.acknowledged < 40


async def test_a_server_that_does_not_wait_cannot_fill_the_memory() -> None:
    server = _server(200, unasked=True)
    async with _source(server) as source:
        chunks = (await anext(source.artefacts())).chunks()
        await anext(chunks)
        with pytest.raises(Unreachable, match="read too slowly"):
            while True:
                await asyncio.sleep(0.01)
                await anext(chunks)


async def test_a_snapshot_that_is_left_ends_at_the_server() -> None:
    server = _server(200)
    async with _source(server) as source:
        chunks = (await anext(source.artefacts())).chunks()
        await anext(chunks)
        await chunks.aclose()  # type: ignore[attr-defined]
    assert server.snapshots_ended == 1


async def test_finish_needs_all_archives() -> None:
    async with _source(_server()) as source:
        with pytest.raises(RuntimeError, match="before the archive of events"):
            await source.finish()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (archive(state_of(3), ending=b""), "without the mark of its end"),
        (archive(state_of(3))[:-1], "in the middle of an S2 frame"),
        (tar_archive(ending=b"x" * 512), "without the empty block"),
        (framed(b"something else" * 100), "neither a tar nor"),
        (b"\x1f\x8b" * 10, "does not begin as an S2 stream"),
        (framed(), "without content"),
        (framed(b"NATSARC1" + b"\x0a\x00\x00\x00\x50state.json"), "ends before its state.json"),
        (b"", "in the middle of an S2 frame"),
    ],
)
def test_what_is_no_whole_archive(data: bytes, words: str) -> None:
    check = ArchiveCheck()
    with pytest.raises(Corrupt, match=words):
        for start in range(0, len(data), 100):
            check.feed(data[start : start + 100])
        check.finish()


def test_both_formats_are_known_in_pieces_of_any_size() -> None:
    for data, number in ((tar_archive(), 1), (archive(state_of(3)), 2)):
        for size in (1, 7, 5000):
            check = ArchiveCheck()
            for start in range(0, len(data), size):
                check.feed(data[start : start + size])
            assert check.finish().format == number


def test_a_block_of_zeros_is_unpacked_in_no_time() -> None:
    """A tar ends with zeros. One byte that is repeated four million times is not copied byte by byte."""
    size = 4 << 20
    literal, copy = b"\x00\x00", b"\x01\x01"  # one byte; four more, each like the one before it
    repeat = b"\x1d\x00" + (size - 1 - 4 - 4 - (1 << 16)).to_bytes(3, "little")  # and so on
    began = time.thread_time()
    assert s2.unpacked(0, b"crc " + b"\x80\x80\x80\x02" + literal + copy + repeat) == bytes(size)
    assert time.thread_time() - began < 0.2
