"""What a guard believes of its stores while it looks at them and makes them primary at the same time."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from recovery.domain.guarding import Promotion, StoreRole, StoreState
from recovery.domain.ownership import Strength
from recovery.errors import Contended
from recovery.guard.stores import Stores
from recovery.ports.guard import Emergency, Upstream


class Slow:
    """A store whose first observation ends only when it is let go, with what it saw at its beginning."""

    store = "redis"
    strength = Strength.GUARD

    def __init__(self) -> None:
        self.role = StoreRole.STANDBY
        self.go_on = asyncio.Event()
        self.seen = 0
        self.while_securing = asyncio.Event()
        self.secured = asyncio.Event()

    async def observe(self) -> StoreState:
        role, self.seen = self.role, self.seen + 1
        if self.seen == 1:
            await self.go_on.wait()
        return StoreState(store=self.store, role=role)

    def emergency(self) -> Emergency:
        return Emergency(self.store, "listener")

    async def secure(self) -> None:
        self.while_securing.set()
        await self.secured.wait()

    async def start(self, *, owner: bool = False) -> None:
        raise AssertionError("it runs")

    async def promote(self, epoch: int, *, owner: bool = False) -> Promotion:
        self.role = StoreRole.PRIMARY
        return Promotion(store=self.store, epoch=epoch, at=datetime.now(UTC))

    async def demote(self) -> str | None:
        return None

    async def end_in_order(self, seconds: float) -> str:
        return ""

    async def stop_receiving(self) -> str:
        return ""

    async def follow(self, upstream: Upstream) -> StoreState:
        return await self.observe()


async def test_a_look_that_began_before_a_promotion_does_not_hide_it() -> None:
    """Otherwise the store looks as if it had died as a primary, and the group gets a new epoch for nothing."""
    slow = Slow()
    stores = Stores("shop", [slow])
    looking = asyncio.create_task(stores.observe())
    await asyncio.sleep(0)
    promoting = asyncio.create_task(stores.make_primary("redis", 2, lambda: None, owner=False))
    await slow.while_securing.wait()
    assert "redis" not in stores.served  # its state is not known as a primary's yet
    slow.secured.set()
    await promoting
    slow.go_on.set()
    await looking
    assert (stores.states["redis"].role, stores.served["redis"]) == (StoreRole.PRIMARY, 2)


async def test_what_is_demoted_while_it_is_promoted_may_be_asked_for_again() -> None:
    """A guard that stood still past its lease demotes everything first: the run's next attempt is judged anew. As a
    refusal it would hold the run after its pivot, until a person said "retry"."""
    slow = Slow()
    stores = Stores("shop", [slow])
    promoting = asyncio.create_task(stores.make_primary("redis", 2, lambda: None, owner=False))
    await asyncio.sleep(0)
    await stores.demote("the lease ended")
    with pytest.raises(Contended, match="demoted while it was being promoted") as caught:
        await promoting
    assert caught.value.retryable


async def test_what_may_not_become_primary_now_may_be_asked_for_again() -> None:
    slow = Slow()
    slow.go_on.set()
    with pytest.raises(Contended, match="must not become primary: the lease ended"):
        await Stores("shop", [slow]).make_primary("redis", 2, lambda: "the lease ended", owner=False)
    assert slow.role is StoreRole.STANDBY
