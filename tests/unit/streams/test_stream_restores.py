"""Restores of streams: what is refused, what is deleted, and what is compared."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from recovery.adapters.nats import restoring
from recovery.adapters.nats.folder import read_folder
from recovery.adapters.nats.recovery import JetStreamSnapshots, stored_stream
from recovery.adapters.nats.restoring import MARK, RESTORED
from recovery.adapters.nats.stream_state import state_differences
from recovery.domain.jetstream import ConsumerPosition, StreamPart
from recovery.errors import BadInput, Corrupt, NoSpace, NotFound, NotOurs, Refused, RestoreFailed, Unreachable
from recovery.ports.jetstream import StoredStream, StreamRestoreOptions
from tests.fakes.jetstream import (
    CREATED,
    SERVER,
    FakeJetStream,
    FakeStream,
    archive,
    config_of,
    consumer,
    framed,
    state_of,
    tar_archive,
)

OPTIONS = StreamRestoreOptions("restore-1", consumers_seconds=0.2)
FULL = b'{"error": {"err_code": 10062, "description": "restore failed: write 1.blk: no space left on device"}}'
EXCEEDED = {"error": {"err_code": 10047, "description": "insufficient storage resources available"}}
NOW = datetime(2026, 11, 22, tzinfo=UTC)


def _part(messages: int = 20, version: str = "2.15.1", **fields: Any) -> StreamPart:
    values = {
        "stream": "events", "storage": "file", "replicas": 1, "retention": "limits", "archive_format": 2,
        "server_version": version, "messages": messages, "at_least": messages, "bytes": 1, "archive_bytes": 1,
        "first_seq": 1, "first_seq_after": 1, "last_seq": messages, "began_at": NOW, "finished_at": NOW,
    }  # fmt: skip
    return StreamPart.model_validate(values | fields)


def _stored(part: StreamPart | None = None, messages: int = 20, **config: Any) -> StoredStream:
    return StoredStream(config_of("events", **config), state_of(messages), part)


async def _pieces(data: bytes, size: int = 3000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        await asyncio.sleep(0)
        yield data[start : start + size]


def _existing(**metadata: str) -> FakeStream:
    return FakeStream(config_of("events", metadata=metadata), state_of(4))


def _recovery(server: FakeJetStream) -> JetStreamSnapshots:
    return JetStreamSnapshots(SERVER, connect=server.connect)


async def test_a_restored_stream_has_every_byte_and_no_mark() -> None:
    server = FakeJetStream()
    data = archive(state_of(20))
    done = await _recovery(server).restore(_stored(_part()), _pieces(data), OPTIONS)
    assert (done.messages, done.first_seq, done.last_seq, done.archive_bytes) == (20, 1, 20, len(data))
    assert b"".join(server.pieces) == data
    assert all(server.pieces)  # an empty one would have ended the archive
    assert MARK not in server.streams["events"].config["metadata"]


async def test_replicas_may_be_fewer_on_a_single_server() -> None:
    server = FakeJetStream({"events": _existing()})
    with pytest.raises(Refused, match="had 3 replicas, and NATS 127.0.0.1:4222 is a single server"):
        await _recovery(server).restore(
            _stored(num_replicas=3), _pieces(archive(state_of(20))), replace(OPTIONS, replace=True)
        )
    assert server.streams["events"].state == state_of(4)
    del server.streams["events"]
    await _recovery(server).restore(
        _stored(num_replicas=3), _pieces(archive(state_of(20))), replace(OPTIONS, replicas=1)
    )
    assert server.streams["events"].config["num_replicas"] == 1


async def test_another_name_is_refused_with_the_way_out() -> None:
    server = FakeJetStream()
    with pytest.raises(Refused, match="cannot be restored as orders.*into another account"):
        await _recovery(server).restore(_stored(), _pieces(b""), replace(OPTIONS, stream="orders"))
    assert server.requests == []


async def test_an_existing_stream_is_refused_and_stays() -> None:
    server = FakeJetStream({"events": _existing()})
    with pytest.raises(Refused, match="has a stream events already, with 4 messages up to sequence 4.*--replace"):
        await _recovery(server).restore(_stored(), _pieces(archive(state_of(20))), OPTIONS)
    assert server.streams["events"].state == state_of(4)


async def test_an_existing_stream_is_replaced_where_that_was_said() -> None:
    server = FakeJetStream({"events": _existing()})
    await _recovery(server).restore(_stored(), _pieces(archive(state_of(20))), replace(OPTIONS, replace=True))
    assert server.streams["events"].state == state_of(20)


@pytest.mark.parametrize("data", [b"", framed(b"not an archive" * 100), b"\0" * 100])
async def test_nothing_is_replaced_by_what_is_no_archive(data: bytes) -> None:
    server = FakeJetStream({"events": _existing()})
    with pytest.raises(Corrupt, match="archive of stream events is damaged"):
        await _recovery(server).restore(_stored(), _pieces(data), replace(OPTIONS, replace=True))
    assert server.streams["events"].state == state_of(4)


async def test_what_an_earlier_attempt_left_is_deleted_before_the_next() -> None:
    server = FakeJetStream({"events": _existing(**{MARK: "restore-1"})})
    await _recovery(server).restore(_stored(), _pieces(archive(state_of(20))), OPTIONS)
    assert server.requests.index("STREAM.DELETE.events") < server.requests.index("STREAM.RESTORE.events")
    assert server.streams["events"].state == state_of(20)


async def test_what_another_restore_left_is_not_touched() -> None:
    server = FakeJetStream({"events": _existing(**{MARK: "restore-0"})})
    recovery = _recovery(server)
    with pytest.raises(Refused, match="left by another restore"):
        await recovery.restore(_stored(), _pieces(archive(state_of(20))), OPTIONS)
    with pytest.raises(NotOurs, match="does not carry the mark of restore restore-1"):
        await recovery.remove_restored("events", "restore-1")
    assert await recovery.remove_restored("events", "restore-0")
    assert not await recovery.remove_restored("events", "restore-0")


def _stuck(data: bytes, begun: asyncio.Event) -> AsyncIterator[bytes]:
    async def pieces() -> AsyncIterator[bytes]:
        yield data[:3000]
        begun.set()
        await asyncio.Event().wait()

    return pieces()


async def test_an_attempt_that_was_taken_for_dead_leaves_the_next_ones_stream_alone() -> None:
    """Its worker is cut off from the plan and not from NATS, and is told later that it is over."""
    server = FakeJetStream()
    recovery = JetStreamSnapshots(SERVER, connect=server.connect_apart)
    first, second = replace(OPTIONS, attempt="1", keep_mark=True), replace(OPTIONS, attempt="2", keep_mark=True)
    begun, data = asyncio.Event(), archive(state_of(20))
    lost = asyncio.create_task(recovery.restore(_stored(), _stuck(data, begun), first))
    await begun.wait()
    await recovery.restore(_stored(), _pieces(data), second)
    lost.cancel()
    await asyncio.gather(lost, return_exceptions=True)
    assert server.streams["events"].state == state_of(20)
    with pytest.raises(NotOurs, match="mark of another attempt of this restore"):
        await recovery.complete("events", first.mark)
    assert await recovery.complete("events", second.mark)
    assert server.streams["events"].config["metadata"] == config_of("events")["metadata"] | {RESTORED: "restore-1"}


async def test_a_completed_stream_is_replaced_by_another_restore_only() -> None:
    server = FakeJetStream()
    recovery = _recovery(server)
    await recovery.restore(_stored(), _pieces(archive(state_of(20))), OPTIONS)
    server.streams["events"].state = state_of(21)  # a client published
    with pytest.raises(NotOurs, match="restored by another attempt of this restore"):
        again = replace(OPTIONS, attempt="2", replace=True)
        await recovery.restore(_stored(), _pieces(archive(state_of(20))), again)
    assert server.streams["events"].state == state_of(21)
    later = StreamRestoreOptions("restore-2", replace=True, keep_mark=True, consumers_seconds=0.2)
    config = server.streams["events"].config  # as a backup of it has it
    await recovery.restore(StoredStream(config, state_of(20)), _pieces(archive(state_of(20))), later)
    assert RESTORED not in server.streams["events"].config["metadata"]
    assert await recovery.remove_restored("events", "restore-2")


async def _damaged(data: bytes) -> AsyncIterator[bytes]:
    yield data[:2000]
    raise Corrupt("an object differs from the manifest")


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"refuse_piece": 1}, RestoreFailed, "refused the archive of stream events: restore failed: unexpected"),
        ({"refuse_piece": 1, "refusal": b"-ERR 'storage failure during restore'"}, NoSpace, "storage failure"),
        (
            {"refuse_piece": 1, "refusal": FULL},
            NoSpace,
            "has no room for it: restore failed: write 1.blk: no space left",
        ),
        ({"answers": {"STREAM.RESTORE.events": EXCEEDED}}, NoSpace, "insufficient storage resources available"),
        ({"silent_after": 1}, Unreachable, "gave up on the restore of stream events"),
        ({"restored_state": lambda state: state | {"messages": 19}}, RestoreFailed, "19 messages and not 20"),
        ({"restored_state": lambda state: state | {"last_seq": 19}}, RestoreFailed, "last sequence is 19 and not 20"),
        ({"restored_state": lambda state: state | {"first_seq": 2}}, RestoreFailed, "first sequence is 2 and not 1"),
        ({"refuse_end": True}, RestoreFailed, "could not restore stream events: unexpected EOF"),
    ],
)
async def test_a_failed_restore_leaves_no_stream(settings: dict[str, Any], error: type[Exception], words: str) -> None:
    server = FakeJetStream(**settings)
    with pytest.raises(error, match=words):
        await _recovery(server).restore(_stored(), _pieces(archive(state_of(20))), OPTIONS)
    assert server.streams == {}


@pytest.mark.parametrize("cut", [1, 5, 1500])
async def test_a_truncated_archive_leaves_no_stream(cut: int) -> None:
    server = FakeJetStream()
    with pytest.raises(Corrupt, match="archive of stream events is damaged"):
        await _recovery(server).restore(_stored(), _pieces(archive(state_of(20))[:-cut]), OPTIONS)
    assert server.streams == {}
    assert server.given_up == 1  # and the server does not wait for more


async def test_a_damaged_object_leaves_no_stream() -> None:
    server = FakeJetStream()
    with pytest.raises(Corrupt, match="differs from the manifest"):
        await _recovery(server).restore(_stored(), _damaged(archive(state_of(20))), OPTIONS)
    assert server.streams == {}


async def test_a_cancelled_restore_leaves_no_stream() -> None:
    server = FakeJetStream()
    begun = asyncio.Event()
    restore = asyncio.create_task(_recovery(server).restore(_stored(), _stuck(archive(state_of(20)), begun), OPTIONS))
    await begun.wait()
    assert "events" in server.streams
    restore.cancel()
    await asyncio.gather(restore, return_exceptions=True)
    assert restore.cancelled()
    assert server.streams == {}


async def test_a_slow_location_goes_in_drops(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server gives up after 5 s without a piece."""
    monkeypatch.setattr(restoring, "DRIP_SECONDS", 0.01)
    server = FakeJetStream()
    data = archive(state_of(20))

    async def slow() -> AsyncIterator[bytes]:
        yield data[:3000]
        while len(server.pieces) < 3:
            await asyncio.sleep(0.005)
        yield data[3000:]

    await _recovery(server).restore(_stored(), slow(), OPTIONS)
    assert b"".join(server.pieces) == data
    assert len(server.pieces[0]) == restoring.DRIP_BYTES


@pytest.mark.parametrize(
    ("version", "part", "data", "config", "words"),
    [
        ("2.14.3", None, archive(state_of(20)), {}, r"format 2 \(NATSARC1\).*from 2.15 on, and this server is 2.14.3"),
        ("2.10.29", _part(version="2.14.0"), tar_archive(), {}, "written by NATS 2.14.0, and this server is 2.10.29"),
        ("2.15.1", None, archive(state_of(20)), {"metadata": {"_nats.req.level": "6"}}, "needs JetStream API level 6"),
    ],
)
async def test_an_older_server_is_refused_by_name(
    version: str, part: StreamPart | None, data: bytes, config: dict[str, Any], words: str
) -> None:
    server = FakeJetStream({"events": _existing()}, version=version)
    with pytest.raises(Refused, match=words):
        await _recovery(server).restore(_stored(part, **config), _pieces(data), replace(OPTIONS, replace=True))
    assert server.streams["events"].state == state_of(4)


async def test_a_cluster_without_a_leader_is_worth_another_attempt() -> None:
    answer = {"error": {"err_code": 10008, "description": "JetStream system temporarily unavailable"}}
    server = FakeJetStream(answers={"STREAM.RESTORE.events": answer})
    with pytest.raises(Unreachable, match="cannot restore stream events now"):
        await _recovery(server).restore(_stored(), _pieces(archive(state_of(20))), OPTIONS)


async def test_an_older_archive_goes_into_a_newer_server() -> None:
    server = FakeJetStream()
    await _recovery(server).restore(_stored(_part(version="2.10.29")), _pieces(tar_archive()), OPTIONS)
    assert server.streams["events"].state == state_of(20)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ([], "consumer worker is missing"),
        ([consumer("worker", 2, 7)], "worker goes on after 2, and was between 3 and 5"),
        ([consumer("worker", 6, 7)], "worker goes on after 6, and was between 3 and 5"),
        ([consumer("worker", 4, 9)], "worker is at 9, beyond 8"),
        ([consumer("worker", 4, 8)], None),
        ([consumer("worker", 5, 5)], None),
    ],
)
async def test_consumers_are_compared(found: list[dict[str, Any]], words: str | None) -> None:
    position = ConsumerPosition(handled=3, handled_after=5, delivered_after=8)
    server = FakeJetStream(answers={"CONSUMER.LIST.events": {"total": len(found), "consumers": found}})
    restoring_ = _recovery(server).restore(
        _stored(_part(consumers={"worker": position})), _pieces(archive(state_of(20))), OPTIONS
    )
    if words is None:
        assert (await restoring_).consumers == ["worker"]
    else:
        with pytest.raises(RestoreFailed, match=words):
            await restoring_
        assert server.streams == {}


async def test_messages_that_are_too_old_by_now_are_said_and_not_missed() -> None:
    server = FakeJetStream(restored_state=lambda state: state | {"messages": 15, "first_seq": 6})
    old = _stored(max_age=60_000_000_000)
    assert old.state["first_ts"] == CREATED
    done = await _recovery(server).restore(old, _pieces(archive(state_of(20))), OPTIONS)
    assert done.notes == ["5 messages of events have expired, or were dropped by its limits"]


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"config": {}, "state": {}}', b'{"config": {"name": "a"}}'])
def test_what_is_no_description(text: bytes) -> None:
    with pytest.raises(Corrupt, match=r"no backup\.json"):
        stored_stream(text)


def test_the_description_of_the_nats_command_is_read() -> None:
    text = json.dumps({"config": config_of("events"), "state": state_of(3)}, indent=2)
    assert stored_stream(text.encode()) == StoredStream(config_of("events"), state_of(3))


@pytest.mark.parametrize("name", ["stream.tar.s2", "stream.arc.s2"])
async def test_a_folder_of_the_nats_command_is_restored(tmp_path: Path, name: str) -> None:
    (tmp_path / "backup.json").write_text(json.dumps({"config": config_of("events"), "state": state_of(20)}))
    (tmp_path / name).write_bytes(archive(state_of(20)))
    server = FakeJetStream()
    done = await _recovery(server).restore(*read_folder(tmp_path), OPTIONS)
    assert (done.stream, done.messages) == ("events", 20)


@pytest.mark.parametrize(
    ("names", "error", "words"),
    [
        (["stream.tar.s2"], NotFound, "has no backup.json"),
        (["backup.json"], NotFound, "has no stream.tar.s2 and no stream.arc.s2"),
        (["backup.json", "stream.tar.s2", "stream.arc.s2"], BadInput, "has both"),
        (["backup.json", "stream.tar.s2", "empty"], Corrupt, "no backup.json of a stream"),
    ],
)
def test_what_is_no_folder_of_the_nats_command(
    tmp_path: Path, names: list[str], error: type[Exception], words: str
) -> None:
    text = "" if "empty" in names else json.dumps({"config": config_of("events"), "state": state_of(3)})
    for name in names:
        (tmp_path / name).write_text(text)
    with pytest.raises(error, match=words):
        read_folder(tmp_path)


EMPTY = {"messages": 0, "first_seq": 0, "last_seq": 0}


@pytest.mark.parametrize(
    ("stored", "restored", "differences"),
    [
        (EMPTY, EMPTY, []),
        (EMPTY, EMPTY | {"first_seq": 1}, []),  # as NATS says it after a restore
        (EMPTY | {"first_seq": 8, "last_seq": 7}, EMPTY | {"first_seq": 8, "last_seq": 7}, []),  # purged
        (EMPTY, EMPTY | {"first_seq": 9}, ["its first sequence is 9 and not 0"]),
        (EMPTY | {"messages": 3, "first_seq": 1, "last_seq": 3}, EMPTY | {"first_seq": 4, "last_seq": 3},
         ["it has 0 messages and not 3"]),
    ],
)  # fmt: skip
def test_an_empty_stream_has_no_first_message(
    stored: dict[str, int], restored: dict[str, int], differences: list[str]
) -> None:
    found = state_differences(
        stored, restored, at_least=stored["messages"], first_after=stored["first_seq"], expiring=False
    )
    assert found == differences
