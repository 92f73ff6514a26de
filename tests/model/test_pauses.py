"""State-changing calls of guards that are held up past the ttl between their check and their effect. In virtual time.

``test_model.py`` tries such pauses of whole hosts and guards in all orders, by the rules alone; these are the real
guards, one call of which is under way for long while everything else goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import pytest

from activities.ownership import RELEASED, taken_back
from recovery.domain.guarding import GuardOrder, Promotion
from recovery.domain.ownership import OwnershipRecord, RegionLease
from recovery.errors import Contended, RecoveryError, Refused
from recovery.ports.guard import Emergency
from tests.fakes.guard import FakeStandby, FakeStore, Regions, until
from tests.unit.guard.scenes import PRIMARY, played, steady
from tests.unit.guard.test_quorum import three

CALLS = ("take lease", "renew", "break", "request", "confirm", "prove", "take group", "adopt")
WEATHER = ("still", "healed", "source cut", "target cut")
"""What happens to the network while the call is under way."""
SILENT_SOURCE = {"break", "prove"}
"""Calls that are looked at where the source's guard does not answer."""


def call_of(regions: Regions, region: str, value: OwnershipRecord | RegionLease) -> str:
    """Which of the calls a write is."""
    if isinstance(value, RegionLease):
        standing = regions.witness.leases.get(value.region)
        is_new = standing is None or standing[0].instance != value.instance
        return "break" if value.region != region else "take lease" if is_new else "renew"
    if value.fencing is None:
        return "adopt" if region == "a" else "take group"
    if value.fence is not None and value.fence.epoch == value.epoch:
        return "prove"
    return "request" if value.demotion is None else "confirm"


class Pause:
    """The first such call that comes after ``begin`` is under way for two ttl and more."""

    def __init__(self, regions: Regions, call: str) -> None:
        self.regions, self.call, self.seconds = regions, call, 2 * regions.ttl + regions.margin
        self.begun, self.struck = False, asyncio.Event()

    def __call__(self, region: str, value: OwnershipRecord | RegionLease) -> float:
        meant = call_of(self.regions, region, value) == self.call and (self.call != "renew" or region == "a")
        if self.struck.is_set() or not self.begun or not meant:
            return 0.0
        self.struck.set()
        return self.seconds


@contextlib.asynccontextmanager
async def never_two(regions: Regions, *stores: FakeStore) -> AsyncIterator[None]:
    """At no time two of the stores are primary, and no epoch comes twice."""
    found: list[str] = []

    async def look() -> None:
        newest = 0
        while True:
            roles, epoch = [store.role for store in stores], regions.record().epoch
            if roles.count(PRIMARY) > 1 or epoch < newest:
                found.append(f"at {asyncio.get_running_loop().time():.2f}: {roles}, epoch {epoch} after {newest}")
            newest = max(newest, epoch)
            await asyncio.sleep(0.01)

    looking = asyncio.create_task(look())
    try:
        yield
    finally:
        looking.cancel()
    assert found == []


async def failed_over(regions: Regions) -> None:
    """As a plan does it: each try asks for the epoch that stands, until the target has the group."""
    for _ in range(6):
        with contextlib.suppress(RecoveryError):
            if regions.record().region == "a":
                order = regions.claim("run-1", deadline=20.0)
                await regions.guards["b"].fence(order)
            await regions.guards["b"].promote(order)
            return
    raise AssertionError(f"nobody took over: {regions.record()}")


async def weather_of(regions: Regions, pause: Pause, weather: str) -> None:
    await pause.struck.wait()
    if weather == "healed":
        whole(regions)
    if weather.endswith("cut"):
        cut(regions, "a" if weather == "source cut" else "b")
    await asyncio.sleep(pause.seconds)
    whole(regions)


def cut(regions: Regions, region: str) -> None:
    regions.witness.cut.add(region)
    regions.peers.cut.add(frozenset("ab"))


def whole(regions: Regions) -> None:
    regions.witness.cut.clear()
    regions.peers.cut.clear()


@pytest.mark.parametrize("gives_up", [False, True], ids=["waits", "gives up"])
@pytest.mark.parametrize("weather", WEATHER)
@pytest.mark.parametrize("call", CALLS)
def test_a_write_that_arrives_past_the_ttl_makes_no_second_primary(
    tmp_path: Path, call: str, weather: str, gives_up: bool
) -> None:
    async def scene(regions: Regions) -> None:
        a, b = await steady(regions)
        await asyncio.sleep(10)
        pause = regions.witness.delay = Pause(regions, call)
        regions.witness.gives_up = gives_up
        async with never_two(regions, a, b):
            if call in SILENT_SOURCE:
                cut(regions, "a")
            pause.begun = True
            changing = asyncio.create_task(weather_of(regions, pause, weather))
            if call in ("take lease", "adopt"):
                await regions.kill("a")
                regions.start("a", {"shop": [a]})
                await pause.struck.wait()
            await failed_over(regions)
            await changing
            await asyncio.sleep(4 * regions.ttl)
            assert pause.struck.is_set(), f"nobody came to {call}"
            assert [a.role, b.role].count(PRIMARY) == 1, regions.record()

    played(tmp_path, scene)


def test_what_was_decided_before_a_long_question_is_not_written_over_what_became_of_it(tmp_path: Path) -> None:
    """The target asks the standbys for a while. Meanwhile the fence is taken back past it, as its guard did not answer,
    and the source is primary again: the old decision must not bring the old record back, and its proof with it."""

    async def scene(regions: Regions) -> None:
        a, b, _ = await three(regions)
        regions.peers.cut.add(frozenset("bc"))
        order = regions.claim("run-1")
        with pytest.raises(Refused, match="accept-data-loss"):
            await regions.guards["b"].fence(order)
        assert regions.record().demotion is not None
        async with never_two(regions, a, b):
            asking = asyncio.create_task(regions.guards["b"].fence(order.model_copy(update={"accept_loss": True})))
            await asyncio.sleep(2)
            await regions.guards["a"].unfence(order)
            await until(lambda: a.role is PRIMARY)
            with pytest.raises(Refused, match="is at epoch"):
                await asking
            with pytest.raises(Refused):
                await regions.guards["b"].promote(order)
            await asyncio.sleep(2 * regions.ttl)
        assert (a.role, regions.record().fencing, regions.record().fence) == (PRIMARY, None, None)

    played(tmp_path, scene)


class Noting(FakeStore):
    """Knows whether the companion was told of it whenever it became a primary."""

    def __init__(self) -> None:
        super().__init__()
        self.regions: Regions | None = None
        self.armed: list[bool] = []

    async def promote(self, epoch: int, *, owner: bool = False) -> Promotion:
        assert self.regions is not None
        self.armed.append(self.regions.guards["b"].groups["shop"].armed)
        return await super().promote(epoch, owner=owner)


def test_a_promotion_that_was_held_up_since_it_was_armed_is_judged_anew(tmp_path: Path) -> None:
    """Meanwhile the lease ended, everything was demoted, the companion was told so, and the lease holds again."""

    async def scene(regions: Regions) -> None:
        regions.peers.cut.add(frozenset("ab"))
        a, b = FakeStore(role=PRIMARY), Noting()
        b.regions = regions
        first = regions.start("a", {"shop": [a]})
        guard = regions.start("b", {"shop": [b]})
        await until(lambda: "shop" in regions.witness.records and first.groups["shop"].armed)
        group, arm = guard.groups["shop"], guard.shared.deadlines.arm
        told, go_on = asyncio.Event(), asyncio.Event()

        async def held_up(group: str, emergencies: Iterable[Emergency], deadline: float) -> None:
            await arm(group, emergencies, deadline)
            if asyncio.current_task() is promoting and not told.is_set():  # the guard's own loop arms, too
                told.set()
                await go_on.wait()

        guard.shared.deadlines.arm = held_up  # type: ignore[method-assign]
        order = regions.claim("run-1")
        await guard.fence(order)
        promoting = asyncio.create_task(guard.promote(order))
        await told.wait()
        regions.witness.cut.add("b")
        await until(lambda: "demote" in b.called and not group.armed)
        regions.witness.cut.clear()
        await until(lambda: group.against() is None)
        go_on.set()
        with pytest.raises(Contended, match="demoted since this guard took it"):
            await promoting
        assert b.role is not PRIMARY
        promotion = await guard.promote(order)
        assert (b.role, b.armed) == (PRIMARY, [True])
        assert promotion.epoch > order.epoch + 1, "each time as primary has an epoch of its own"

    played(tmp_path, scene)


# -- a target that stays dead -----------------------------------------------------------------------------------------


def released(regions: Regions) -> None:
    """As an operator's abort after the pivot leaves the record."""
    record = regions.record()
    values: dict[str, Any] = {**RELEASED, **taken_back(record)}
    regions.witness.change("shop", **values)


@pytest.mark.parametrize("when", ["before it took the group", "after it took the group"])
def test_after_a_target_that_stays_dead_another_one_takes_over(tmp_path: Path, when: str) -> None:
    async def scene(regions: Regions) -> None:
        a, b, c = FakeStore(role=PRIMARY), FakeStandby(), FakeStandby(member="standby_c")
        stores = {"a": a, "b": b, "c": c}
        for region, store in stores.items():
            regions.start(region, {"shop": [store]}, others="abc")
        await until(lambda: "shop" in regions.witness.records and regions.guards["a"].groups["shop"].armed)
        await asyncio.sleep(10)
        await gone(regions, "a", a)
        first = regions.claim("run-1")
        await regions.guards["b"].fence(first)
        if when.startswith("after"):
            await regions.guards["b"].promote(first)
        await gone(regions, "b", b)
        released(regions)
        second = regions.claim("run-2", target="c")
        assert second.source == ("b" if when.startswith("after") else "a")
        proof = await regions.guards["c"].fence(second)
        assert proof.how == "lease-broken" and proof.region == second.source
        await regions.guards["c"].promote(second)
        assert (c.role, regions.record().region) == (PRIMARY, "c")
        await back(regions, first, stores)

    played(tmp_path, scene)


async def gone(regions: Regions, region: str, store: FakeStore) -> None:
    """The host is lost, with its stores."""
    await regions.kill(region)
    await store.demote()


async def back(regions: Regions, late: GuardOrder, stores: dict[str, FakeStore]) -> None:
    """Both lost regions return, and an order of the first run comes late: nothing changes."""
    async with never_two(regions, *stores.values()):
        for region in "ab":
            regions.start(region, {"shop": [stores[region]]}, others="abc")
        await asyncio.sleep(2 * regions.ttl)
        for carry_out in (regions.guards["b"].promote, regions.guards["b"].fence):
            with pytest.raises(Refused):
                await carry_out(late)
        await asyncio.sleep(2 * regions.ttl)
    assert [store.role for store in stores.values()].count(PRIMARY) == 1
    assert stores["c"].role is PRIMARY
