"""Redis under guard on real servers: who accepts writes, when it stops, and what is lost."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from recovery.adapters.redis.connection import LOST, ServerSaid, connected
from recovery.adapters.redis.guarded import GuardedRedis
from recovery.domain.guarding import StoreRole
from recovery.domain.ownership import Strength
from recovery.errors import Refused, Unreachable
from recovery.ports.guard import Catching, Tended, Upstream
from tests.integration.put_aside import RECIPIENTS, the_one_below
from tests.integration.redis_servers import OwnRedis, demoted, limit, own_redis


@dataclass
class Pair:
    """``a`` is the primary of epoch 1, ``b`` its replica."""

    a: OwnRedis
    b: OwnRedis
    guard_a: GuardedRedis
    guard_b: GuardedRedis

    def upstream(self, which: OwnRedis) -> Upstream:
        return Upstream("region", "127.0.0.1", which.port)

    @contextlib.asynccontextmanager
    async def tended(self) -> AsyncIterator[None]:
        """What a guard does between orders."""

        async def tend(store: GuardedRedis) -> None:
            while True:
                await store.tend()
                await asyncio.sleep(0.25)

        tasks = [asyncio.create_task(tend(store)) for store in (self.guard_a, self.guard_b)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < end, f"not true within {seconds} s"
        await asyncio.sleep(0.02)


def guard_of(own: OwnRedis, state: Path, **peers: Upstream) -> GuardedRedis:
    return GuardedRedis(own.server, state, recipients=RECIPIENTS, peers=peers)


@contextlib.asynccontextmanager
async def a_pair(folder: Path, **settings: object) -> AsyncIterator[Pair]:
    a = OwnRedis(folder / "a", **settings)  # type: ignore[arg-type]
    b = OwnRedis(folder / "b", **settings)  # type: ignore[arg-type]
    with own_redis(a, b):
        await asyncio.gather(a.start(), b.start())
        pair = Pair(a, b, *(guard_of(each, folder / f"state-{each.folder.name}") for each in (a, b)))
        await pair.guard_a.promote(1, owner=True)
        await a.fill(1000)
        await pair.guard_b.follow(pair.upstream(a))
        yield pair


@pytest_asyncio.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    async with a_pair(tmp_path) as made:
        yield made


async def accepts_writes(server: OwnRedis) -> bool:
    try:
        return bool(await server.ask("SET", "probe", "1") == "OK")
    except (ServerSaid, *LOST):
        return False


async def test_a_started_server_refuses_writes_until_it_is_promoted(tmp_path: Path) -> None:
    own = OwnRedis(tmp_path / "a")
    with own_redis(own):
        await own.start()
        store = guard_of(own, tmp_path / "state")
        assert isinstance(store, Tended)
        assert isinstance(store, Catching)
        await store.secure()
        assert (await store.observe()).role is StoreRole.STANDBY
        assert not await accepts_writes(own)

        promotion = await store.promote(4)

        assert (promotion.epoch, promotion.already) == (4, False)
        assert await accepts_writes(own)
        assert (await store.promote(4)).already
        assert (await store.observe()).role is StoreRole.PRIMARY

        own.end(signal.SIGKILL)
        assert (await store.observe()).role is StoreRole.STOPPED
        await own.start()
        assert not await accepts_writes(own)
        assert (await store.observe()).role is StoreRole.STALE  # it was a primary, and knows it
        with pytest.raises(Refused, match="primary of epoch 4"):
            await store.promote(5)
        assert not await accepts_writes(own)
        assert not (await store.promote(4)).already  # of the same epoch: an attempt that did not come to its end
        await store.demote()
        await store.promote(5, owner=True)
        assert await accepts_writes(own)


async def test_a_configuration_that_would_start_a_primary_is_no_fence(tmp_path: Path) -> None:
    own = OwnRedis(tmp_path / "a", lines=("replicaof no one",))
    with own_redis(own):
        await own.start()
        store = guard_of(own, tmp_path / "state")
        await store.tend()
        state = await store.observe()
        assert state.strength is Strength.MANUAL
        assert "would start as a primary" in state.detail
        (own.folder / "redis.conf").write_text("replicaof 127.0.0.1 1\n")
        await store.secure()
        assert (await store.observe()).strength is Strength.GUARD


async def test_a_replica_follows_and_tells_its_position(pair: Pair) -> None:
    await pair.guard_b.wait_for((await pair.guard_a.observe()).position or "", 5)
    state = await pair.guard_b.observe()
    assert (state.role, state.order, state.lag_seconds) == (
        StoreRole.STANDBY,
        (await pair.guard_a.observe()).order,
        0.0,
    )
    assert await pair.b.ask("DBSIZE") == 1000


async def test_a_demotion_ends_writes_and_clients_within_a_second(pair: Pair) -> None:
    async with connected(pair.a.server) as client:
        await client.run("SET", "before", "1")
        position, seconds = await demoted(pair.guard_a)
        assert seconds < limit(1.0)
        assert position is not None and int(position) > 0
        with pytest.raises(LOST):
            await client.run("SET", "after", "1")
    assert not await accepts_writes(pair.a)
    assert await pair.a.ask("DBSIZE") == 1001
    assert await pair.guard_a.demote() == position  # again: nothing changes


async def test_a_frozen_server_is_dead_within_a_second(pair: Pair) -> None:
    process = pair.a.process
    assert process is not None
    pair.a.send(signal.SIGSTOP)
    _, seconds = await demoted(pair.guard_a)
    assert process.wait(1) == -signal.SIGKILL
    print(f"a frozen Redis was demoted in {seconds:.3f} s")
    assert seconds < limit(1.0)
    assert await pair.guard_a.demote() is None  # a dead one accepts nothing
    await pair.a.start()
    assert not await accepts_writes(pair.a)


async def test_a_server_that_only_runs_a_script_is_dead_within_a_second(pair: Pair) -> None:
    async with connected(pair.a.server) as client:
        busy = asyncio.create_task(client.run("EVAL", "redis.call('SET','x','1') while true do end", 0))
        await asyncio.sleep(0.1)
        _, seconds = await demoted(pair.guard_a)
        assert seconds < limit(1.0)
        with pytest.raises(LOST):
            await busy


async def test_a_demotion_during_a_promotion_has_the_last_word(pair: Pair) -> None:
    await pair.guard_b.stop_receiving()
    for pause in (0.0, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02):
        promotion = asyncio.create_task(pair.guard_b.promote(2))
        await asyncio.sleep(pause)
        await pair.guard_b.demote()
        assert not await accepts_writes(pair.b)
        await asyncio.gather(promotion, return_exceptions=True)
        assert not await accepts_writes(pair.b)


@pytest.mark.parametrize("asks_peers", [True, False])
async def test_a_planned_end_loses_nothing_under_load(pair: Pair, asks_peers: bool) -> None:
    acknowledged: list[int] = []

    async def write(writer: int) -> None:
        async with connected(pair.a.server) as client:
            with contextlib.suppress(*LOST, ServerSaid):
                for number in range(1_000_000):
                    await client.run("SET", f"load:{writer}:{number}", number)
                    acknowledged.append(writer * 1_000_000 + number)

    writers = [asyncio.create_task(write(number)) for number in range(4)]
    await until(lambda: _reached(acknowledged, 500))
    guard_a = pair.guard_a
    if asks_peers:
        guard_a = guard_of(pair.a, pair.a.folder / "state", b=pair.upstream(pair.b))
    began = time.monotonic()
    final = await guard_a.end_in_order(5)
    ended = time.monotonic()
    await asyncio.gather(*writers)
    await pair.guard_b.wait_for(final, 5)
    await pair.guard_b.stop_receiving()
    promotion = await pair.guard_b.promote(2)
    print(
        f"planned: ended after {ended - began:.3f} s, writable again after {time.monotonic() - began:.3f} s,"
        f" {len(acknowledged)} writes"
    )
    assert promotion.before == final
    async with connected(pair.b.server) as client:
        for write_id in acknowledged:
            key = f"load:{write_id // 1_000_000}:{write_id % 1_000_000}"
            assert await client.run("GET", key) == str(write_id % 1_000_000), key
    assert not await accepts_writes(pair.a)
    assert await accepts_writes(pair.b)

    # No divergence: the old primary follows without a copy of all data, and nothing is saved.
    state = await pair.guard_a.follow(pair.upstream(pair.b))
    assert state.role is StoreRole.STANDBY
    assert state.divergence is None


async def _reached(writes: list[int], count: int) -> bool:
    return len(writes) >= count


async def test_a_planned_end_without_a_complete_replica_leaves_the_primary_as_it_was(pair: Pair) -> None:
    pair.b.send(signal.SIGSTOP)
    await pair.a.fill(10, "more")
    with pytest.raises(Unreachable, match="do not have everything"):
        await pair.guard_a.end_in_order(0.7)
    assert await accepts_writes(pair.a)
    pair.b.send(signal.SIGCONT)


async def test_a_returned_primary_is_saved_before_it_follows(pair: Pair, tmp_path: Path) -> None:
    await pair.guard_b.wait_for((await pair.guard_a.observe()).position or "", 5)
    await pair.guard_b.stop_receiving()
    await pair.a.fill(7, "acknowledged-and-not-taken-over")
    await pair.guard_a.demote()
    await pair.guard_b.promote(2)
    await pair.b.fill(3, "new")

    state = await pair.guard_a.follow(pair.upstream(pair.b))

    assert state.role is StoreRole.STANDBY
    aside = pair.guard_a._follower.aside.folder
    (file,) = state.divergence.files if state.divergence is not None else []
    assert file.startswith(f"{aside}/") and file.endswith(".rdb.*.zst.age")
    assert state.divergence is not None and state.divergence.bytes > 0
    assert (await pair.guard_a.follow(pair.upstream(pair.b))).divergence == state.divergence  # asked again
    assert await pair.a.ask("DBSIZE") == 1003
    for path in aside.rglob("*.*"):
        assert b"acknowledged-and-not-taken-over" not in path.read_bytes(), "sealed, as recovery points are"
    saved = await the_one_below(aside, tmp_path / "opened")
    reader = OwnRedis(tmp_path / "reader", append_only=False, lines=(f"dbfilename {saved.name}",))
    with own_redis(reader):
        reader.folder.mkdir()
        (reader.folder / saved.name).write_bytes(saved.read_bytes())
        await reader.start()
        assert await reader.ask("GET", "acknowledged-and-not-taken-over:6") == "6"
        assert await reader.ask("DBSIZE") == 1007


async def test_unguarded_a_primary_that_restarts_empty_empties_its_replica(tmp_path: Path) -> None:
    """What the next test prevents; without it, that one would show nothing."""
    a, b = OwnRedis(tmp_path / "a", append_only=False), OwnRedis(tmp_path / "b", append_only=False)
    with own_redis(a, b):
        await asyncio.gather(a.start(), b.start())
        await a.ask("REPLICAOF", "NO", "ONE")
        await a.fill(1000)
        await b.ask("REPLICAOF", "127.0.0.1", a.port)
        await b.wait_for("DBSIZE", expected=1000)
        a.end()
        a.forget()
        await a.start()
        await a.ask("REPLICAOF", "NO", "ONE")
        await b.wait_for("DBSIZE", expected=0)


async def test_a_replica_leaves_a_primary_that_restarted_empty(tmp_path: Path) -> None:
    async with a_pair(tmp_path, append_only=False) as pair, pair.tended():
        pair.a.end()
        pair.a.forget()
        await pair.a.start()
        await pair.guard_a.promote(1, owner=True)
        began = time.monotonic()
        await until(lambda: _says(pair.guard_b, "detached"))
        print(f"detached after {time.monotonic() - began:.3f} s")
        await asyncio.sleep(2.5)  # a replica tries its primary once a second
        assert await pair.b.ask("DBSIZE") == 1000
        assert (await pair.b.ask("ROLE"))[1:3] == ["127.0.0.1", 1]
        with pytest.raises(Refused, match="0 keys and another history"):
            await pair.guard_b.follow(pair.upstream(pair.a))
        assert not await accepts_writes(pair.b)
        assert (await pair.guard_b.promote(2)).note.startswith("1000 keys")


async def _says(store: GuardedRedis, word: str) -> bool:
    return word in (await store.observe()).detail


async def test_a_primary_that_restarts_with_its_data_is_followed_again(pair: Pair) -> None:
    async with pair.tended():
        pair.a.end()
        await pair.a.start()
        await pair.guard_a.promote(1, owner=True)
        await pair.a.fill(5, "later")
        await pair.b.wait_for("DBSIZE", expected=1005, seconds=15)


async def test_a_broken_link_is_built_again_by_the_guard_only(pair: Pair) -> None:
    await pair.a.ask("CLIENT", "KILL", "TYPE", "replica")
    await asyncio.sleep(2.2)
    await pair.a.fill(5, "later")
    assert await pair.b.ask("DBSIZE") == 1000
    async with pair.tended():
        await pair.b.wait_for("DBSIZE", expected=1005, seconds=5)
    assert (await pair.a.ask("INFO", "stats")).count("sync_partial_ok:1") == 1  # and without a copy of all data


async def test_a_restarted_replica_follows_by_itself_and_an_old_primary_does_not(pair: Pair) -> None:
    pair.b.end()
    await pair.b.start()
    await pair.guard_b.tend(pair.upstream(pair.a))
    assert "follows" in (await pair.guard_b.observe()).detail
    await pair.guard_b.stop_receiving()
    await pair.guard_a.demote()
    await pair.guard_b.promote(2)
    await pair.guard_a.tend(pair.upstream(pair.b))
    assert (await pair.guard_a.observe()).role is StoreRole.STALE


async def test_an_acl_user_with_the_documented_rights_is_enough(tmp_path: Path) -> None:
    async with a_pair(tmp_path, user="recovery") as pair, pair.tended():
        await pair.guard_b.stop_receiving()
        await pair.a.fill(5, "tail")
        await demoted(pair.guard_a)
        await pair.guard_b.promote(2)
        state = await pair.guard_a.follow(pair.upstream(pair.b))
        assert state.role is StoreRole.STANDBY
        assert state.divergence is not None
        assert (await pair.guard_b.end_in_order(3)) == (await pair.guard_b.observe()).position


async def test_a_server_without_a_password_is_guarded_too(tmp_path: Path) -> None:
    async with a_pair(tmp_path, append_only=False, password=None) as pair, pair.tended():
        pair.a.end()
        pair.a.forget()
        await pair.a.start()
        await pair.guard_a.promote(1, owner=True)
        await until(lambda: _says(pair.guard_b, "detached"))
        assert await pair.b.ask("DBSIZE") == 1000
