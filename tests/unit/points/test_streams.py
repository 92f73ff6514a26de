"""Recovery points of JetStream streams: taken, proven, kept and put back, on a server in memory."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from recovery.adapters.nats import validation
from recovery.adapters.nats.connection import NatsServer
from recovery.adapters.nats.recovery import JetStreamSnapshots
from recovery.adapters.nats.restoring import MARK, marked
from recovery.adapters.nats.validation import validate_streams
from recovery.adapters.restores_by_store import RestoresByStore
from recovery.backup.layout import manifest_key
from recovery.backup.pipeline import write_point
from recovery.backup.reader import open_point
from recovery.domain.group import ALL_STREAMS, RetentionRule
from recovery.domain.jetstream import ConsumerPosition, JetStreamSource, StreamPart
from recovery.domain.plan import RestoredServer
from recovery.domain.recovery_point import BackupKind, DataStore, RecoveryPoint, VerdictState
from recovery.domain.retention import plan_retention
from recovery.errors import BadInput, NotFound, NotOurs, Refused, Unreachable
from recovery.ports.jetstream import archive_name, description_name
from recovery.ports.postgres import BackupSource
from recovery.ports.recovery_points import Restores
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
)
from tests.fakes.points import NOW, FakeSource, identity, signer
from tests.unit.points.rig import BUDGET, REGION, Rig
from tests.unit.points.stream_rig import POINT, Streams, nothing


async def test_a_point_of_streams_stands_beside_those_of_postgresql(streams: Streams) -> None:
    seen: list[tuple[int, int, str]] = []
    taken = await streams.points.take(streams.backup(), lambda *state: seen.append(state))
    manifest = taken.manifest
    assert taken.complete == ["a", "b"]
    assert (manifest.store, manifest.kind) == ("nats", BackupKind.STREAMS)
    assert [(part.stream, part.messages, part.last_seq) for part in manifest.jetstream.streams] == [
        ("events", 20, 20), ("orders", 7, 9),
    ]  # fmt: skip
    assert {part.created_at for part in manifest.jetstream.streams} == {CREATED}
    keys = [entry.key for artefact in manifest.artefacts for entry in artefact.objects]
    assert all(key.startswith(f"shop/nats/{POINT}/attempt-1-") for key in keys)
    assert manifest_key("shop", POINT) == f"shop/nats/{POINT}/manifest.json"
    assert seen[-1][1] == 27_000  # what the streams' stores hold
    listed = await streams.points.points(streams.rig.group)
    assert {point.point_id: point.manifest for point in listed} == {
        POINT: manifest,
        streams.rig.point_id: streams.rig.manifest,
    }
    with pytest.raises(BadInput, match="is of nats, and not of PostgreSQL"):
        _ = manifest.postgres
    again = await streams.points.take(streams.backup(), nothing)
    assert again.manifest == manifest  # found, not written again


async def test_all_streams_are_those_that_the_account_has_then(streams: Streams) -> None:
    streams.rig.group = streams.rig.group.model_copy(update={"streams": [ALL_STREAMS]})
    streams.server.streams["audit"] = FakeStream(config_of("audit"), state_of(3))
    part = streams.points.part(BackupKind.STREAMS)
    (check,) = await part.check_source(streams.rig.group, REGION)
    assert (check.passed, check.detail.rpartition(" has ")[2]) == (True, "audit, events, orders")
    assert [each.stream for each in (await streams.take()).jetstream.streams] == ["audit", "events", "orders"]
    streams.server.streams.clear()
    (check,) = await part.check_source(streams.rig.group, REGION)
    assert not check.passed
    with pytest.raises(NotFound, match="has no stream in this account"):
        await streams.points.take(streams.backup("20261122T111500Z-streams-1a2b3c4d"), nothing)


async def test_what_an_unfinished_backup_left_is_removed(streams: Streams) -> None:
    store = streams.rig.stores[0]
    await store.put(f"shop/nats/{POINT}/attempt-1-x/events%2Fstream.tar.s2.000000.zst.age", b"x")
    await store.put("shop/nats/20261122T101500Z-physical-1a2b3c4d/attempt-1-x/a.000000.zst.age", b"no point's place")
    assert [orphan.point_id for orphan in await streams.points.catalogue(streams.rig.group).orphans("shop")] == [POINT]
    assert await streams.points.remove_unfinished(streams.rig.group, POINT) == 1


async def test_the_source_is_asked_for_each_store(streams: Streams) -> None:
    del streams.server.streams["orders"]
    checks = await streams.points.check_source(streams.rig.group, REGION, [DataStore.NATS])
    assert (checks[0].passed, checks[0].detail) == (False, "127.0.0.1:4222 has no stream orders: it has events")
    with pytest.raises(NotFound, match="has no stream 'orders': it has events"):
        await streams.points.take(streams.backup(), nothing)
    both = await streams.points.check_source(streams.rig.group, REGION, [DataStore.POSTGRES, DataStore.NATS])
    names = [check.name for check in both if not check.passed]
    assert names == [f"{REGION} postgres", f"{REGION} nats"]  # neither keeps the other from being looked at


# Validation.


async def _validated(streams: Streams, folder: Path, program: Path | None = None) -> tuple[VerdictState, str, int]:
    point = await streams.points.point(streams.rig.group, POINT)
    reader = open_point(streams.rig.stores[0], point.manifest, streams.points.keys.opening())
    state, reason, checks = await validate_streams(reader, folder, find_program=lambda: program)
    return state, reason, len(checks)


async def test_without_a_server_archives_are_read_and_nothing_is_called_valid(streams: Streams, tmp_path: Path) -> None:
    await streams.take()
    state, reason, checks = await _validated(streams, tmp_path)
    assert (state, checks) == (VerdictState.FAILED, 2)
    assert "all 2 archives are whole, and none was restored: this worker has no nats-server" in reason
    verdict = await streams.points.validate(streams.rig.group, POINT, "run-2", nothing)
    assert verdict.state is VerdictState.FAILED
    assert [check.name for check in verdict.checks if check.name.startswith("archive")] == [
        "archive events", "archive orders",
    ]  # fmt: skip
    assert not (await streams.points.point(streams.rig.group, POINT)).is_valid


async def test_a_scratch_folder_that_cannot_be_made_says_nothing_of_the_point(streams: Streams, tmp_path: Path) -> None:
    await streams.take()
    (tmp_path / "file").write_text("")
    state, reason, _ = await _validated(streams, tmp_path / "file" / "scratch", Path("/bin/false"))
    assert state is VerdictState.FAILED
    assert "could not be set up in" in reason


async def test_a_server_that_does_not_start_is_no_valid_point(streams: Streams, tmp_path: Path) -> None:
    await streams.take()
    state, reason, _ = await _validated(streams, tmp_path, Path("/bin/false"))
    assert state is VerdictState.FAILED
    assert "the scratch nats-server ended while it started" in reason
    assert list(tmp_path.iterdir()) == []


async def test_a_disk_without_room_for_streams_and_an_archive_says_nothing_of_the_point(
    streams: Streams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = await streams.take()
    held = sum(part.bytes for part in manifest.jetstream.streams)
    free = int(held * 1.2) + max(part.archive_bytes for part in manifest.jetstream.streams) - 1
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: _Usage(free))
    state, reason, _ = await _validated(streams, tmp_path, Path("/bin/false"))
    assert state is VerdictState.FAILED
    assert "the scratch server needs" in reason
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: _Usage(free + 1))
    assert (
        "the scratch nats-server ended while it started" in (await _validated(streams, tmp_path, Path("/bin/false")))[1]
    )


@dataclass
class _Usage:
    free: int


async def test_a_disk_that_fills_up_meanwhile_says_nothing_of_the_point(
    streams: Streams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await streams.take()
    full = FakeJetStream(refuse_piece=1, refusal=b"-ERR 'storage failure during restore'")

    @asynccontextmanager
    async def started(parent: Path, binary: Path) -> AsyncIterator[NatsServer]:
        yield SERVER

    monkeypatch.setattr(validation, "scratch_server", started)
    monkeypatch.setattr(validation, "JetStreamSnapshots", partial(JetStreamSnapshots, connect=full.connect_apart))
    state, reason, _ = await _validated(streams, tmp_path, Path("/bin/false"))
    assert state is VerdictState.FAILED
    assert "it has no room for it: -ERR 'storage failure during restore'" in reason


@dataclass
class _Source(FakeSource):
    kind: BackupKind = BackupKind.STREAMS

    async def finish(self) -> JetStreamSource:  # type: ignore[override]
        return JetStreamSource(server_version="2.15.1", api_level=5, streams=[_part("events", 20)])


def _described(name: str) -> bytes:
    return json.dumps({"config": config_of(name), "state": state_of(20)}).encode()


def _part(stream: str, messages: int, created: str = CREATED) -> StreamPart:
    return StreamPart(
        stream=stream, created_at=created, storage="file", replicas=1, retention="limits", archive_format=2,
        server_version="2.15.1", messages=messages, at_least=messages, bytes=1, archive_bytes=1, first_seq=1,
        first_seq_after=1, last_seq=messages, began_at=NOW, finished_at=NOW,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("contents", "said"),
    [
        ({archive_name("events"): [framed(b"not an archive" * 100)]}, "archive of stream events is damaged"),
        ({archive_name("events"): [archive(state_of(20))[:-3]]}, "in the middle of an S2 frame"),
        ({description_name("events"): [b"{}"]}, "no backup.json of a stream"),
        ({description_name("events"): [_described("other")]}, "description of stream events is that of other"),
    ],
)
async def test_bytes_that_are_no_stream_are_corrupt(
    streams: Streams, tmp_path: Path, contents: dict[str, list[bytes]], said: str
) -> None:
    """Whoever wrote such a point signed it: its objects are as the manifest says."""
    whole = {
        archive_name("events"): [archive(state_of(20))],
        description_name("events"): [_described("events")],
    }  # fmt: skip
    source = _Source({**whole, **contents})
    await write_point(
        cast(BackupSource, source), identity=identity(point_id=POINT), stores=streams.rig.stores,
        sealer=streams.points.keys.sealer, signer=signer(), budget=BUDGET,
    )  # fmt: skip
    state, reason, _ = await _validated(streams, tmp_path)
    assert state is VerdictState.CORRUPT
    assert said in reason


# Retention.


def _points_of(rig: Rig, *made: tuple[int, str]) -> list[RecoveryPoint]:
    base = {"store": "nats", "kind": BackupKind.STREAMS}
    points = []
    for number, (messages, created) in enumerate(made):
        source = JetStreamSource(server_version="2.15.1", api_level=5, streams=[_part("events", messages, created)])
        at = NOW + timedelta(days=number)
        manifest = rig.manifest.model_copy(
            update={**base, "point_id": f"point-{number}", "source": source, "finished_at": at}
        )
        points.append(RecoveryPoint(manifest=manifest, locations=["a"]))
    return points


def test_a_stream_that_was_made_anew_pushes_out_nothing(rig: Rig) -> None:
    """The account was emptied by mistake, and five backups of the empty one followed."""
    points = _points_of(rig, (900, CREATED), (1000, CREATED), *[(0, "2026-11-23T00:00:00Z")] * 5)
    plan = plan_retention(points, RetentionRule(count=1), NOW + timedelta(days=9), {})
    assert plan.keep == ["point-6", "point-1"]
    assert plan.reasons["point-1"] == "the newest point"


def test_points_of_one_stream_stand_by_its_sequences_whatever_the_clocks_say(rig: Rig) -> None:
    points = _points_of(rig, (1000, CREATED), (900, CREATED))  # the second one's worker has a clock that runs ahead
    assert plan_retention(points, RetentionRule(count=1), NOW + timedelta(days=9), {}).keep == ["point-0"]


# Restores.


async def test_streams_come_back_marked_until_they_are_opened(streams: Streams) -> None:
    manifest = await streams.take()
    seen: list[tuple[int, int, str]] = []
    assert await streams.refusals() == {}
    restored = await streams.restores.restore(streams.order(), lambda *state: seen.append(state))
    assert (restored.streams, restored.kind, restored.restored_bytes) == (
        ["events", "orders"], BackupKind.STREAMS, sum(part.archive_bytes for part in manifest.jetstream.streams),
    )  # fmt: skip
    assert seen[-1][0] == seen[-1][1] == restored.restored_bytes
    assert restored.last_commit_at == manifest.jetstream.held_until
    group, target = streams.rig.group, streams.target.streams
    assert {name: stream.state["last_seq"] for name, stream in target.items()} == {"events": 20, "orders": 9}
    assert not await streams.restores.accepts_writes(group, restored)
    again = await streams.restores.restore(streams.order(), nothing)  # another attempt starts over
    assert again == restored.model_copy(update={"restore_id": again.restore_id})
    with pytest.raises(NotOurs, match="another attempt of this restore"):  # an earlier one's work is gone
        await streams.restores.open_writes(group, restored)
    restored = again
    assert all(check.passed for check in await streams.restores.verify(group, restored))
    await streams.restores.open_writes(group, restored)
    await streams.restores.open_writes(group, restored)
    assert await streams.restores.accepts_writes(group, restored)
    assert MARK not in target["events"].config["metadata"]
    assert not await streams.restores.remove(streams.order())  # they are the clients' now
    assert set(target) == {"events", "orders"}
    with pytest.raises(Refused, match="nothing is published"):
        await streams.restores.write_probe(group, restored, "run")


async def test_an_attempt_that_was_taken_for_dead_replaces_nothing_that_clients_use(streams: Streams) -> None:
    await streams.take()
    streams.target.streams["orders"] = FakeStream(config_of("orders"), state_of(4))
    restored = await streams.restores.restore(streams.order(replace=True), nothing)
    await streams.restores.open_writes(streams.rig.group, restored)
    streams.target.streams["orders"].state = state_of(8, first=3)  # a client published
    streams.target.requests.clear()
    with pytest.raises(NotOurs, match="is its clients' since"):
        await streams.restores.restore(streams.order(replace=True), nothing)
    assert not [name for name in streams.target.requests if name.startswith("STREAM.DELETE")]
    assert streams.target.streams["orders"].state == state_of(8, first=3)


async def test_everything_is_taken_back_until_then(streams: Streams) -> None:
    await streams.take()
    streams.target.streams["invoices"] = FakeStream(config_of("invoices"), state_of(1))
    await streams.restores.restore(streams.order(), nothing)
    assert await streams.restores.remove(streams.order())
    assert set(streams.target.streams) == {"invoices"}
    assert not await streams.restores.remove(streams.order())


async def test_a_restore_is_taken_back_without_any_location(streams: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
    await streams.take()
    streams.target.streams["invoices"] = FakeStream(config_of("invoices"), state_of(1))
    await streams.restores.restore(streams.order(), nothing)

    async def silent(*arguments: object) -> Any:
        raise Unreachable("down")

    for store in streams.rig.stores:
        for request in ("get", "head", "folders"):
            monkeypatch.setattr(store, request, silent)
    assert await streams.restores.remove(streams.order())
    assert set(streams.target.streams) == {"invoices"}


async def test_only_the_streams_that_were_asked_for_are_restored(streams: Streams) -> None:
    await streams.take()
    restored = await streams.restores.restore(streams.order(streams=("orders",)), nothing)
    assert restored.streams == list(streams.target.streams) == ["orders"]
    with pytest.raises(NotFound, match="has no stream 'order': it has events, orders"):
        await streams.restores.restore(streams.order(streams=("order",)), nothing)


async def test_what_stands_in_the_way_is_said_before_anything_changes(streams: Streams) -> None:
    await streams.take()
    streams.target.streams["orders"] = FakeStream(config_of("orders"), state_of(4))
    streams.target.version = "2.12.3"
    found = await streams.refusals(target_stream="orders", replicas=3)
    assert "events cannot be restored as orders" in found["names"]
    assert "format 2 (NATSARC1), which NATS reads from 2.15 on, and this server is 2.12.3" in found["server version"]
    assert "say --replicas 1" in found["replicas"]
    assert "has orders (4 messages up to 4) already: say --replace" in found["empty target"]
    assert list(await streams.refusals(replace=True)) == ["server version"]
    assert streams.target.requests.count("STREAM.DELETE.orders") == 0
    assert not [name for name in streams.target.requests if name.startswith("STREAM.RESTORE")]


async def test_another_restores_half_is_not_ours(streams: Streams) -> None:
    await streams.take()
    half = FakeStream(marked(config_of("events"), "restore-0"), state_of(2))
    streams.target.streams["events"] = half
    assert "has events (2 messages up to 2) already" in (await streams.refusals())["empty target"]
    restored = RestoredServer(
        region="region-b", host="", port=1, database="", kind=BackupKind.STREAMS, streams=["events"],
        restore_id="restore-1", point_id=POINT,
    )  # fmt: skip
    with pytest.raises(NotOurs, match="mark of another restore"):
        await streams.restores.open_writes(streams.rig.group, restored)
    assert not await streams.restores.remove(streams.order())
    assert streams.target.streams["events"] is half


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (state_of(20), None),
        (state_of(25), None),  # clients published since
        (state_of(19), "its last sequence is 19 and not 20"),
        (state_of(15, first=6), "its first sequence is 6 and not 1"),
        (None, "stream events is not there"),
    ],
)
async def test_a_restored_stream_is_held_against_its_point(
    streams: Streams, now: dict[str, Any] | None, said: str | None
) -> None:
    await streams.take()
    restored = await streams.restores.restore(streams.order(streams=("events",)), nothing)
    if now is None:
        del streams.target.streams["events"]
    else:
        streams.target.streams["events"].state = now
    (check,) = await streams.restores.verify(streams.rig.group, restored)
    assert check.passed is (said is None), check
    assert said is None or said in check.detail


async def test_a_consumer_that_is_missing_is_named(streams: Streams) -> None:
    part = _part("events", 20).model_copy(
        update={"consumers": {"worker": ConsumerPosition(handled=4, handled_after=4, delivered_after=6)}}
    )
    recovery = await streams.jetstream("shop", REGION)
    assert await recovery.differences(part) == ["consumer worker is missing"]
    streams.server.streams["events"].consumers = [consumer("worker", 4, 6)]
    assert await recovery.differences(part) == []


async def test_an_order_goes_to_the_store_that_its_point_names(streams: Streams) -> None:
    await streams.take()
    by_store = RestoresByStore({DataStore.NATS: cast(Restores, streams.restores)})
    restored = await by_store.restore(streams.order(), nothing)
    assert await by_store.verify(streams.rig.group, restored)
    with pytest.raises(BadInput, match="is of postgres, which is restored by other means"):
        await by_store.remove(replace(streams.order(), point_id=streams.rig.point_id))
