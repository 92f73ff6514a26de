"""Streams under guard on real servers: what a promoted mirror goes on with, a planned end, and what is saved."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from recovery.adapters.nats.connection import LOST, connected
from recovery.domain.guarding import StoreRole
from recovery.errors import Refused, Unreachable
from tests.integration.nats_pair import STREAMS, Pair, a_pair, a_pair_with_events, accepts_writes, guard_of, until
from tests.integration.nats_servers import OwnNats, publish
from tests.integration.put_aside import the_one_below
from tests.integration.redis_servers import demoted


@pytest_asyncio.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    async with a_pair_with_events(tmp_path) as made:
        yield made


async def test_a_mirror_goes_on_with_the_sequences_when_its_source_is_gone(pair: Pair) -> None:
    state = await pair.guard_b.observe()
    assert (state.role, state.position, state.order, state.lag_seconds) == (
        StoreRole.STANDBY,
        "audit=0, events=100",
        100,
        0.0,
    )
    pair.a.end()
    began = time.monotonic()
    promotion = await pair.guard_b.promote(2)
    async with connected(pair.b.application) as client:
        assert await publish(client, "events.order", "the next") == 101
    print(f"JetStream was promoted, with a first publish, in {time.monotonic() - began:.3f} s")
    assert promotion.before == "audit=0, events=100"
    assert "Nats-Msg-Id" in promotion.note
    config = (await pair.b.stream("events"))["config"]
    assert config["subjects"] == ["events.>"]
    assert "mirror" not in config
    assert config["metadata"]["recovery-history"] == "1@0,2@100"
    assert (await pair.guard_b.promote(2)).already
    assert (await pair.guard_b.promote(3)).already  # its guard began a new epoch: nothing of the streams changes
    assert (await pair.b.stream("events"))["config"]["metadata"]["recovery-history"] == "1@0,2@100"


async def test_a_repeated_message_id_is_stored_again_after_a_promotion_as_the_note_says(pair: Pair) -> None:
    header = {"Nats-Msg-Id": "order-7"}
    async with connected(pair.a.application) as client:
        assert await publish(client, "events.order", "7", **header) == 101
        assert await publish(client, "events.order", "7", **header) == 101
    await pair.caught_up()
    await demoted(pair.guard_a)
    await pair.a.is_alive()
    await pair.guard_b.promote(2)
    async with connected(pair.b.application) as client:
        assert await publish(client, "events.order", "7", **header) == 102


async def test_consumers_go_on_where_they_were(pair: Pair) -> None:
    async with connected(pair.a.application) as client:
        stream = client.jetstream()
        worker = await stream.pull_subscribe("events.>", durable="worker")
        for message in await worker.fetch(40, timeout=2):
            await message.ack_sync()
        await worker.fetch(10, timeout=2)  # delivered and not acknowledged: they come again
        await stream.pull_subscribe("events.>", durable="fresh")
    await pair.caught_up()
    pair.a.end()

    promotion = await pair.guard_b.promote(2)

    assert "its consumers fresh, worker go on" in promotion.note
    async with connected(pair.b.application) as client:
        stream = client.jetstream()
        worker = await stream.pull_subscribe_bind("worker", "events")
        (message,) = await worker.fetch(1, timeout=2)
        assert (message.metadata.sequence.stream, message.data) == (41, b"event 40")
        fresh = await stream.pull_subscribe_bind("fresh", "events")
        (message,) = await fresh.fetch(1, timeout=2)
        assert message.metadata.sequence.stream == 1
        await stream.delete_consumer("events", "fresh")
    await demoted(pair.guard_b)
    await pair.b.is_alive()
    await pair.guard_b.promote(3, owner=True)
    listed = await pair.b.ask("CONSUMER.LIST.events")
    assert [each["name"] for each in listed["consumers"]] == ["worker"]  # one that was deleted stays so


async def test_a_consumer_that_was_ahead_of_the_mirror_skips_nothing(pair: Pair) -> None:
    """The copied position may be newer than the mirrored messages: their sequences are given to others then."""
    pair.b.end()
    async with connected(pair.a.application) as client:
        for number in range(20):
            await publish(client, "events.order", f"late {number}")
        worker = await client.jetstream().pull_subscribe("events.>", durable="worker")
        for message in await worker.fetch(120, timeout=3):
            await message.ack_sync()
    seen = guard_of(pair.b, pair.a)
    async with connected(pair.a.server) as owner:
        from recovery.adapters.nats.following import sources

        await seen._memory.saw(await sources(owner, list(STREAMS)))
        await seen._memory.write()
    pair.a.end()
    await pair.b.start()

    promotion = await seen.promote(2)

    assert "20 messages were not here yet" in promotion.note
    async with connected(pair.b.application) as client:
        sequence = await publish(client, "events.order", "new")
        worker = await client.jetstream().pull_subscribe_bind("worker", "events")
        (message,) = await worker.fetch(1, timeout=2)
        assert (message.metadata.sequence.stream, sequence, message.data) == (101, 101, b"new")


async def test_a_planned_end_loses_nothing_under_load(pair: Pair) -> None:
    acknowledged: dict[int, str] = {}

    async def write(writer: int) -> None:
        async with connected(pair.a.application) as client:
            with contextlib.suppress(*LOST):
                for number in range(1_000_000):
                    body = f"load {writer} {number}"
                    acknowledged[await publish(client, "events.load", body)] = body

    writers = [asyncio.create_task(write(number)) for number in range(4)]
    await until(lambda: _reached(acknowledged, 500))
    began = time.monotonic()
    final = await pair.guard_a.end_in_order(5)
    ended = time.monotonic()
    await pair.guard_b.wait_for(final, 5)
    promotion = await pair.guard_b.promote(2)
    print(
        f"planned: ended after {ended - began:.3f} s, writable again after {time.monotonic() - began:.3f} s,"
        f" {len(acknowledged)} messages"
    )
    await asyncio.gather(*writers)
    assert promotion.before == final
    state = (await pair.b.stream("events"))["state"]
    assert state["last_seq"] >= max(acknowledged)
    for sequence, body in acknowledged.items():
        stored = (await pair.b.ask("STREAM.MSG.GET.events", {"seq": sequence}))["message"]
        assert base64.b64decode(stored["data"]).decode() == body
    assert not await accepts_writes(pair.a)

    state_a = await pair.guard_a.follow(pair.upstream(pair.b))
    assert state_a.divergence is None
    await until(lambda: _holds(pair.a, state["last_seq"]))


async def _reached(found: dict[int, str], count: int) -> bool:
    return len(found) >= count


async def _keeps(server: OwnNats, messages: int) -> bool:
    return bool((await server.stream("events"))["state"]["messages"] == messages)


async def _holds(server: OwnNats, last: int) -> bool:
    return bool((await server.stream("events"))["state"]["last_seq"] >= last)


async def test_a_planned_end_without_a_complete_mirror_is_no_success(pair: Pair) -> None:
    pair.b.send(signal.SIGSTOP)
    with pytest.raises(Unreachable, match="no other region has all of it"):
        await pair.guard_a.end_in_order(0.7)
    assert not await accepts_writes(pair.a)  # it stays fenced, until its guard promotes it again
    pair.b.send(signal.SIGCONT)
    await pair.guard_a.promote(2, owner=True)
    assert await accepts_writes(pair.a)


async def test_what_only_a_returned_region_holds_is_saved_before_it_mirrors(pair: Pair, tmp_path: Path) -> None:
    pair.b.end()
    async with connected(pair.a.application) as client:
        for number in range(7):
            await publish(client, "events.order", f"lost {number}", Kind="tail")
    pair.a.end()
    await pair.b.start()
    await pair.guard_b.promote(2)
    async with connected(pair.b.application) as client:
        for number in range(30):
            await publish(client, "events.order", f"new {number}")
    await pair.a.start()
    assert not await accepts_writes(pair.a)
    await pair.guard_a.tend(pair.upstream(pair.b))
    assert (await pair.guard_a.observe()).role is StoreRole.STALE  # by itself it gives nothing up

    state = await pair.guard_a.follow(pair.upstream(pair.b))

    aside = pair.a.folder / "state" / "divergence" / "nats-default"
    assert state.divergence is not None and state.divergence.messages == 7
    (file,) = state.divergence.files
    assert file.startswith(f"{aside}/") and file.endswith("/events-101-107.jsonl.*.zst.age")
    saved = await the_one_below(aside, tmp_path / "opened")
    assert state.divergence.listed[0].startswith("events 101 events.order ")
    assert (await pair.guard_a.follow(pair.upstream(pair.b))).divergence == state.divergence  # asked again
    messages = [json.loads(line) for line in saved.read_text().splitlines()]
    assert [message["seq"] for message in messages] == list(range(101, 108))
    assert base64.b64decode(messages[-1]["data"]) == b"lost 6"
    assert b"Kind: tail" in base64.b64decode(messages[-1]["hdrs"])
    assert state.role is StoreRole.STANDBY
    await until(lambda: _holds(pair.a, 130))
    stored = (await pair.a.ask("STREAM.MSG.GET.events", {"seq": 101}))["message"]
    assert base64.b64decode(stored["data"]) == b"new 0"


async def test_a_returned_region_without_a_known_history_is_compared_by_its_messages(pair: Pair) -> None:
    info = await pair.a.stream("events")
    await pair.a.ask("STREAM.UPDATE.events", info["config"] | {"metadata": {"recovery-history": "9@0"}})
    await demoted(pair.guard_a)
    await pair.a.is_alive()
    await pair.guard_b.promote(2)
    async with connected(pair.b.application) as client:
        await publish(client, "events.order", "new")
    async with connected(pair.a.server) as client:
        await publish(client, "events.order", "by somebody who may")
    state = await pair.guard_a.follow(pair.upstream(pair.b))
    assert state.divergence is not None
    assert "1 messages of events after 100 were saved" in state.divergence.detail


async def test_nothing_crosses_between_the_regions_but_mirrors(pair: Pair) -> None:
    """With its subjects an old source would store, and acknowledge, what is published in the new region."""
    await demoted(pair.guard_a)
    await pair.a.is_alive()
    await pair.guard_b.promote(2)
    async with connected(pair.b.application) as client:
        await publish(client, "events.order", "for b only")
    assert (await pair.a.stream("events"))["state"]["last_seq"] == 100


async def test_a_work_queue_is_refused_as_a_mirror_and_keeps_its_messages(tmp_path: Path) -> None:
    settings = {"commands": {"retention": "workqueue"}}
    async with a_pair(tmp_path, streams=("commands", "events"), **settings) as pair:
        async with connected(pair.a.application) as client:
            for number in range(5):
                await publish(client, "commands.do", f"command {number}")
            await publish(client, "events.order", "event")
        state = await pair.guard_b.follow(pair.upstream(pair.a))
        assert "commands is a work queue: a mirror of it would consume its messages" in state.detail
        assert "commands: a work queue, which is not mirrored" in state.detail
        await until(lambda: _holds(pair.b, 1))
        assert (await pair.a.stream("commands"))["state"]["messages"] == 5
        with pytest.raises(Refused, match=r"commands \(5\)"):
            await pair.guard_a.end_in_order(2)
        assert await accepts_writes(pair.a)

        await pair.guard_b.tend(pair.upstream(pair.a))
        pair.a.end()
        promotion = await pair.guard_b.promote(2)
        assert "begins empty: 5 messages waited" in promotion.note
        async with connected(pair.b.application) as client:
            assert await publish(client, "commands.do", "in b") > 5
        await pair.a.start()
        state = await pair.guard_a.follow(pair.upstream(pair.b))
        assert state.divergence is not None
        assert "messages of commands after 0 were saved" in state.divergence.detail


async def test_an_interest_stream_is_promoted_with_its_consumers_and_its_retention(tmp_path: Path) -> None:
    settings = {"events": {"retention": "interest"}}
    async with a_pair(tmp_path, streams=("events",), **settings) as pair:
        async with connected(pair.a.application) as client:
            worker = await client.jetstream().pull_subscribe("events.>", durable="worker")
            for number in range(10):
                await publish(client, "events.order", f"event {number}")
            await until(lambda: _holds(pair.b, 10))
            for message in await worker.fetch(4, timeout=2):
                await message.ack_sync()
        await pair.caught_up()
        # A mirror says once a second how far it is: until then its source keeps what its workers have acknowledged.
        await until(lambda: _keeps(pair.a, 6))
        assert (await pair.b.stream("events"))["state"]["messages"] == 10  # a mirror keeps what its source dropped
        pair.a.end()
        promotion = await pair.guard_b.promote(2)
        print(promotion.note)
        info = await pair.b.stream("events")
        assert info["config"]["retention"] == "interest"
        async with connected(pair.b.application) as client:
            worker = await client.jetstream().pull_subscribe_bind("worker", "events")
            found = await worker.fetch(6, timeout=2)
            assert [message.data.decode() for message in found] == [f"event {number}" for number in range(4, 10)]


async def test_a_source_that_was_made_anew_is_not_followed(pair: Pair) -> None:
    await pair.guard_b.stop_receiving()
    await demoted(pair.guard_a)
    await pair.a.is_alive()
    await pair.guard_b.promote(2)
    info = await pair.b.stream("events")
    await pair.b.ask("STREAM.DELETE.events")
    await pair.b.ask("STREAM.CREATE.events", info["config"] | {"metadata": {}})
    with pytest.raises(Refused, match="was made anew there"):
        await pair.guard_a.follow(pair.upstream(pair.b))
    assert (await pair.a.stream("events"))["state"]["messages"] == 100
