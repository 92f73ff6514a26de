"""JetStream under guard on real servers: who may publish, and what ends that."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from recovery.adapters.nats.connection import LOST, connected
from recovery.adapters.nats.fence import FENCED, OPEN, Fence
from recovery.adapters.nats.guarded import GuardedStreams
from recovery.domain.guarding import StoreRole
from recovery.domain.ownership import Strength
from recovery.errors import Contended, Refused, Unreachable
from recovery.guard import companion
from recovery.ports.guard import BoundPromotion, Catching, Tended
from tests.integration.nats_pair import Pair, a_pair_with_events, accepts_writes, add_stream, guard_of, until
from tests.integration.nats_servers import OwnNats, own_nats, publish
from tests.integration.redis_servers import demoted, limit
from tests.integration.waiting import eventually


@pytest_asyncio.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    async with a_pair_with_events(tmp_path) as made:
        yield made


async def test_a_started_server_is_fenced_until_it_is_promoted_and_after_every_restart(tmp_path: Path) -> None:
    own = OwnNats(tmp_path / "a", "east")
    with own_nats(own):
        await own.start()
        store = guard_of(own, streams=("events",))
        assert isinstance(store, Tended)
        assert isinstance(store, Catching)
        await add_stream(own, "events")
        assert (await store.observe()).role is StoreRole.STANDBY
        assert not await accepts_writes(own)

        promotion = await store.promote(3)

        assert (promotion.epoch, promotion.already, promotion.before) == (3, False, "events=0")
        assert own.fence_file.read_text() == FENCED  # on disk it never stays open
        assert await accepts_writes(own)
        assert (await store.observe()).role is StoreRole.PRIMARY
        assert (await store.promote(3)).already

        own.end()
        assert (await store.observe()).role is StoreRole.STOPPED
        await own.start()
        assert not await accepts_writes(own)
        assert (await store.observe()).role is StoreRole.STALE
        with pytest.raises(Refused, match="epoch 3"):
            await store.promote(4)
        await store.promote(4, owner=True)
        assert await accepts_writes(own)


async def test_a_connected_publisher_is_refused_within_a_second_of_the_demotion(pair: Pair) -> None:
    async with connected(pair.a.application) as client:
        last = await publish(client, "events.order", "before")
        position, seconds = await demoted(pair.guard_a)
        with pytest.raises(LOST):
            await publish(client, "events.order", "after")
    print(f"NATS was demoted in {seconds:.3f} s")
    assert seconds < limit(1.0)
    assert position == f"audit=0, events={last}"
    assert (await pair.a.stream("events"))["state"]["last_seq"] == last

    async def told() -> str | None:
        """A busy server does not always say its position in the fifth of a second that a demotion leaves it."""
        return (await demoted(pair.guard_a))[0]

    assert await eventually(told, 10) == position


async def test_a_frozen_server_is_dead_within_a_second(pair: Pair) -> None:
    process = pair.a.process
    assert process is not None
    pair.a.send(signal.SIGSTOP)
    _, seconds = await demoted(pair.guard_a)
    print(f"a frozen NATS was demoted in {seconds:.3f} s")
    assert process.wait(1) == -signal.SIGKILL
    assert seconds < limit(1.0)
    assert (await demoted(pair.guard_a))[0] is None
    await pair.a.start()
    assert not await accepts_writes(pair.a)


async def test_a_promotion_that_is_paused_past_its_lease_between_check_and_act_changes_nothing(pair: Pair) -> None:
    """The companion kills the server at the deadline; whatever is started in its place was never promoted."""
    await demoted(pair.guard_a)
    await pair.a.is_alive()
    process = pair.a.process
    assert process is not None
    asked = 0

    def paused() -> str | None:
        nonlocal asked
        asked += 1
        if asked == 2:  # the last question before the act: the answer is yes, and then nothing moves for long
            companion.end("listener", pair.guard_a.emergency().detail)
            process.wait(5)
        return None

    with pytest.raises(Unreachable, match="ended while it was to be promoted"):
        await pair.guard_a.promote_if(2, paused, owner=True)
    await pair.a.start()
    assert pair.a.fence_file.read_text() == FENCED
    assert not await accepts_writes(pair.a)
    with pytest.raises(Contended, match="must not become primary: the lease ended"):
        await pair.guard_a.promote_if(2, lambda: "the lease ended", owner=True)
    assert isinstance(pair.guard_a, BoundPromotion)
    assert not (await pair.guard_a.promote_if(2, lambda: None, owner=True)).already
    assert await accepts_writes(pair.a)


async def test_a_demotion_during_a_promotion_has_the_last_word(pair: Pair) -> None:
    assert (await pair.guard_b.observe()).strength is Strength.GUARD, "a leaf node is no cluster"
    fenced = 0
    for pause in (0.0, 0.005, 0.01, 0.02, 0.03, 0.04, 0.06):
        promotion = asyncio.create_task(pair.guard_a.promote(1, owner=True))
        await asyncio.sleep(pause)
        await demoted(pair.guard_a)
        assert not await accepts_writes(pair.a)
        await asyncio.gather(promotion, return_exceptions=True)
        assert not await accepts_writes(pair.a)
        assert pair.a.fence_file.read_text() == FENCED
        fenced += await pair.a.is_alive()
    assert fenced, "it was killed each time"


async def test_a_cancelled_promotion_leaves_the_fence_on_the_disk(pair: Pair) -> None:
    await demoted(pair.guard_a)
    await pair.a.is_alive()
    for pause in (0.01, 0.02, 0.03, 0.04, 0.05):
        promotion = asyncio.create_task(pair.guard_a.promote(1, owner=True))
        await asyncio.sleep(pause)
        promotion.cancel()
        await asyncio.gather(promotion, return_exceptions=True)
        assert pair.a.fence_file.read_text() == FENCED
        await demoted(pair.guard_a)
        await pair.a.is_alive()
        assert not await accepts_writes(pair.a)


async def test_a_write_that_outlives_its_promotion_does_not_open_the_disk(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cancelled promotion's thread goes on: it must not write what the promotion has taken back."""
    await demoted(pair.guard_a)
    await pair.a.is_alive()
    begun, go_on = threading.Event(), threading.Event()
    write = Fence._write

    def slowly(fence: Fence, text: str, attempt: int | None = None) -> None:
        if text == OPEN:
            begun.set()
            assert go_on.wait(10)
        write(fence, text, attempt)
        if text == OPEN:
            begun.clear()

    monkeypatch.setattr(Fence, "_write", slowly)
    promotion = asyncio.create_task(pair.guard_a.promote(1, owner=True))
    assert await asyncio.to_thread(begun.wait, 10)
    promotion.cancel()
    await asyncio.gather(promotion, return_exceptions=True)
    go_on.set()
    await until(lambda: _cleared(begun))
    assert pair.a.fence_file.read_text() == FENCED
    assert not await accepts_writes(pair.a)


async def _cleared(event: threading.Event) -> bool:
    return not event.is_set()


async def test_a_server_without_the_probe_is_refused_and_not_believed(tmp_path: Path) -> None:
    own = OwnNats(tmp_path / "a", "east")
    with own_nats(own):
        await own.start()
        configuration = own.folder / "nats.conf"
        configuration.write_text(configuration.read_text().replace("user: recovery-probe", "user: somebody"))
        await add_stream(own, "events")  # before the reload, in which the server knows nobody for a moment
        own.send(signal.SIGHUP)
        store = guard_of(own, streams=("events",))
        await until(lambda: _role(store, StoreRole.UNREACHABLE))
        assert "recovery-probe" in (await store.observe()).detail
        with pytest.raises(Refused, match="recovery-probe"):
            await store.promote(1)


async def _role(store: GuardedStreams, role: StoreRole) -> bool:
    return (await store.observe()).role is role
