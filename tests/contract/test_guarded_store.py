"""One contract for ``GuardedStore``: the store in memory with which guards are tested, and all three real ones."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from recovery.domain.guarding import StoreRole
from recovery.errors import Refused
from recovery.ports.guard import Catching, GuardedStore, Upstream
from tests.fakes.guard import FakeStore
from tests.integration import nats_pair, test_guarded_redis
from tests.integration.postgres_pair import cluster
from tests.integration.postgres_servers import public_folder
from tests.integration.redis_servers import demoted

Writes = Callable[[], Awaitable[bool]]


@dataclass
class Pair:
    """``a`` is the primary of epoch 1, and ``b`` follows it. The others say whether clients can write there."""

    a: GuardedStore
    b: GuardedStore
    to_b: Upstream
    writes_a: Writes
    writes_b: Writes

    async def primaries(self) -> list[str]:
        """Where clients can write: at most at one."""
        return [name for name, writes in (("a", self.writes_a), ("b", self.writes_b)) if await writes()]

    async def roles(self) -> list[StoreRole]:
        return [(await store.observe()).role for store in (self.a, self.b)]


@asynccontextmanager
async def fakes(folder: Path) -> AsyncIterator[Pair]:
    a, b = FakeStore(), FakeStore()
    await a.promote(1, owner=True)

    def writes(store: FakeStore) -> Writes:
        async def asked() -> bool:
            return store.role is StoreRole.PRIMARY

        return asked

    yield Pair(a, b, Upstream("b", "10.0.0.2", 1), writes(a), writes(b))


@asynccontextmanager
async def postgres(folder: Path) -> AsyncIterator[Pair]:
    with public_folder() as public:
        async with cluster(public, "a", "b") as (a, b):
            yield Pair(a.guarded, b.guarded, b.upstream, a.accepts_writes, b.accepts_writes)


@asynccontextmanager
async def redis(folder: Path) -> AsyncIterator[Pair]:
    async with test_guarded_redis.a_pair(folder) as pair:
        await pair.guard_b.wait_for((await pair.guard_a.observe()).position or "", 10)
        yield Pair(
            pair.guard_a,
            pair.guard_b,
            pair.upstream(pair.b),
            lambda: test_guarded_redis.accepts_writes(pair.a),
            lambda: test_guarded_redis.accepts_writes(pair.b),
        )


@asynccontextmanager
async def nats(folder: Path) -> AsyncIterator[Pair]:
    async with nats_pair.a_pair_with_events(folder) as pair:
        await pair.caught_up()
        yield Pair(
            pair.guard_a,
            pair.guard_b,
            pair.upstream(pair.b),
            lambda: nats_pair.accepts_writes(pair.a),
            lambda: nats_pair.accepts_writes(pair.b),
        )


@pytest.fixture(params=[fakes, postgres, redis, nats], ids=lambda made: made.__name__)
async def pair(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Pair]:
    async with request.param(tmp_path) as made:
        yield made


async def test_a_promotion_is_made_once(pair: Pair) -> None:
    assert await pair.roles() == [StoreRole.PRIMARY, StoreRole.STANDBY]
    assert await pair.primaries() == ["a"]
    again = await pair.a.promote(1, owner=True)
    assert again.already and again.epoch == 1
    assert await pair.primaries() == ["a"]


async def test_a_demoted_primary_comes_back_for_its_owner_only(pair: Pair) -> None:
    await demoted(pair.a)
    assert await pair.primaries() == []
    assert await pair.roles() == [StoreRole.STALE, StoreRole.STANDBY]
    await demoted(pair.a)
    with pytest.raises(Refused):
        await pair.a.promote(3)  # in epoch 2 another one may have been the primary
    assert await pair.primaries() == []
    back = await pair.a.promote(3, owner=True)
    assert not back.already and back.epoch == 3
    assert await pair.primaries() == ["a"]


async def test_a_planned_move_and_the_way_home(pair: Pair) -> None:
    final = await pair.a.end_in_order(10.0)
    assert await pair.primaries() == []
    if isinstance(pair.b, Catching):
        await pair.b.wait_for(final, 10.0)
    await pair.b.stop_receiving()
    assert await pair.primaries() == []
    promotion = await pair.b.promote(2)
    assert not promotion.already and promotion.epoch == 2
    assert await pair.primaries() == ["b"]
    followed = await pair.a.follow(pair.to_b)
    assert followed.role is StoreRole.STANDBY and followed.divergence is None
    assert await pair.roles() == [StoreRole.STANDBY, StoreRole.PRIMARY]
    assert await pair.primaries() == ["b"]
    await demoted(pair.b)
    assert not (await pair.a.promote(3)).already, "one that followed since is nobody's former primary"
    assert await pair.primaries() == ["a"]
