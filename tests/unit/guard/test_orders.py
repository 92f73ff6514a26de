"""Orders in virtual time: fences, promotions, and what comes late, twice or from others."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from recovery.domain.guarding import Promotion, StoreRole
from recovery.domain.ownership import Demotion, FenceRequest, OwnershipRecord, Phase, RegionLease, Strength
from recovery.errors import NotFound, Refused, Unreachable
from recovery.guard import companion
from tests.fakes.guard import NOW, FakeStore, Regions, until
from tests.unit.guard.scenes import PRIMARY, STANDBY, now, played, steady


def test_a_failover_while_a_promise_binds_waits_until_the_primary_has_ended(tmp_path: Path) -> None:
    async def scene(regions: Regions) -> None:
        a, b = await steady(regions)
        await asyncio.sleep(10)
        regions.witness.cut.add("a")
        await asyncio.sleep(4 * regions.ttl)
        order = regions.claim("run-1")
        proof = await regions.guards["b"].fence(order)
        assert proof.how == "lease-broken"
        assert a.role is not PRIMARY
        await regions.guards["b"].promote(order)
        assert a.when(a.role) < b.when(PRIMARY)

    played(tmp_path, scene)


def test_a_promotion_that_takes_effect_after_the_demotion_is_demoted_too_before_anything_is_confirmed(
    tmp_path: Path,
) -> None:
    """The call was paused past its check; it does not let itself be cancelled."""

    class Stubborn(FakeStore):
        async def promote(self, epoch: int, *, owner: bool = False) -> Promotion:
            self.called.append("promote")
            late = asyncio.get_running_loop().create_task(asyncio.sleep(2 * regions_ttl))
            while not late.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.shield(late)
            self._become(PRIMARY)
            return Promotion(store=self.store, epoch=epoch, at=NOW)

    regions_ttl = 5.0

    async def scene(regions: Regions) -> None:
        a, b = Stubborn(role=PRIMARY), FakeStore()
        guard = regions.start("a", {"shop": [a]})
        regions.start("b", {"shop": [b]})
        regions.witness.put(OwnershipRecord(group="shop", region="a", guard="a/0000", changed_at=NOW))
        a._become(STANDBY)
        await until(lambda: "promote" in a.called)
        order = regions.claim("run-1")
        fencing = asyncio.create_task(regions.guards["b"].fence(order))
        proof = await fencing
        assert proof.how == "demotion-confirmed"
        assert PRIMARY in [role for _, role in a.history]  # it did take effect, late
        assert a.role is not PRIMARY  # and was ended before the confirmation
        assert guard.groups["shop"].stores.primaries() == []

    played(tmp_path, scene)


def test_a_dead_source_is_fenced_when_its_lease_ended_and_the_target_promoted(tmp_path: Path) -> None:
    async def scene(regions: Regions) -> None:
        _, b = await steady(regions)
        await asyncio.sleep(20)
        await regions.kill("a")
        killed = now()
        order = regions.claim("run-1")
        proof = await regions.guards["b"].fence(order)
        assert proof.how == "lease-broken"
        assert regions.ttl + regions.margin - 1.1 < now() - killed < regions.ttl + regions.margin + 0.5
        promotion = await regions.guards["b"].promote(order)
        assert (b.role, promotion.epoch, regions.record().region) == (PRIMARY, 2, "b")
        assert await regions.guards["b"].fence(order) == proof
        assert (await regions.guards["b"].promote(order)).already

    played(tmp_path, scene)


def test_a_guard_that_comes_back_finds_that_it_lost_everything(tmp_path: Path) -> None:
    async def scene(regions: Regions) -> None:
        a, b = await steady(regions)
        await asyncio.sleep(20)
        await regions.kill("a")  # its store goes on: the companion, which is not played here, would end it
        order = regions.claim("run-1")
        await regions.guards["b"].fence(order)
        await regions.guards["b"].promote(order)
        regions.start("a", {"shop": [a]})
        await until(lambda: a.role is not PRIMARY, 2)
        await asyncio.sleep(20)
        assert (a.role, b.role) == (StoreRole.STALE, PRIMARY)
        assert regions.guards["a"].shared.holding.valid()

    played(tmp_path, scene)


def test_only_the_holder_of_the_lease_says_that_its_region_was_demoted(tmp_path: Path) -> None:
    """Another host of the region may have the primary: what is not primary here proves nothing."""

    async def scene(regions: Regions) -> None:
        seen = regions.witness.seen_from("a")

        async def elsewhere() -> None:
            version = None
            for serial in range(1000):
                lease = RegionLease(region="a", instance="a/elsewhere", serial=serial, ttl=5.0, changed_at=NOW)
                version = await seen.write_lease(lease, version=version)
                await asyncio.sleep(1)

        renewing = asyncio.create_task(elsewhere())
        await asyncio.sleep(0.1)
        regions.witness.put(OwnershipRecord(group="shop", region="a", guard="a/elsewhere", changed_at=NOW))
        regions.start("a", {"shop": [FakeStore()]})
        regions.start("b", {"shop": [FakeStore()]})
        order = regions.claim("run-1", deadline=20.0)
        with pytest.raises(Unreachable):
            await regions.guards["b"].fence(order)
        assert regions.record().demotion is None
        renewing.cancel()

    played(tmp_path, scene)


def test_a_fence_is_confirmed_and_taken_back(tmp_path: Path) -> None:
    async def scene(regions: Regions) -> None:
        a, _ = await steady(regions)
        order = regions.claim("run-1")
        began = now()
        proof = await regions.guards["b"].fence(order)
        assert (proof.how, proof.positions) == ("demotion-confirmed", {"postgres": "0/300"})
        assert now() - began < 1.0  # the source's guard was told, and did not wait for its next renewal
        assert a.role is not PRIMARY
        await asyncio.sleep(10)
        assert a.role is not PRIMARY
        await regions.guards["b"].unfence(order)
        await until(lambda: a.role is PRIMARY, 3)  # though the run still holds the lock
        assert regions.record().epoch > 1

    played(tmp_path, scene)


def test_a_target_that_lost_its_lease_in_between_is_promoted_under_another_epoch(tmp_path: Path) -> None:
    async def scene(regions: Regions) -> None:
        regions.peers.cut.add(frozenset("ab"))
        _, b = await steady(regions)
        order = regions.claim("run-1")
        await regions.guards["b"].fence(order)
        await regions.guards["b"].promote(order)
        epoch = regions.record().epoch
        regions.witness.cut.add("b")
        await until(lambda: b.role is not PRIMARY)
        regions.witness.cut.clear()
        promotion = await regions.guards["b"].promote(order)
        assert b.role is PRIMARY
        assert promotion.epoch > epoch

    played(tmp_path, scene)


def test_a_guard_that_starts_under_a_fence_ends_what_runs_and_confirms(tmp_path: Path) -> None:
    async def scene(regions: Regions) -> None:
        a, _ = await steady(regions)
        await regions.kill("a")
        order = regions.claim("run-1")
        fencing = asyncio.create_task(regions.guards["b"].fence(order))
        await asyncio.sleep(1)
        (tmp_path / "a" / companion.DEADLINE_FILE).unlink()
        regions.start("a", {"shop": [a]})
        assert (await fencing).how == "demotion-confirmed"
        assert a.role is not PRIMARY

    played(tmp_path, scene)


def test_a_planned_end_that_fails_leaves_the_primary_as_it_was(tmp_path: Path) -> None:
    async def scene(regions: Regions) -> None:
        a, _ = await steady(regions)
        a.fail["end_in_order"] = Unreachable("the standby does not follow")
        order = regions.claim("run-1", planned=True, deadline=5.0)
        with pytest.raises(Unreachable, match="neither confirmed"):
            await regions.guards["b"].fence(order)
        assert (a.role, "demote" in a.called) == (PRIMARY, False)
        await regions.guards["b"].unfence(order)
        await asyncio.sleep(10)
        assert (a.role, "promote" in a.called) == (PRIMARY, False)

    played(tmp_path, scene)


def test_a_planned_end_may_become_an_unplanned_one(tmp_path: Path) -> None:
    async def scene(regions: Regions) -> None:
        a, _ = await steady(regions)
        a.fail["end_in_order"] = Unreachable("the standby does not follow")
        order = regions.claim("run-1", planned=True, deadline=3.0)
        with pytest.raises(Unreachable):
            await regions.guards["b"].fence(order)
        proof = await regions.guards["b"].fence(order.model_copy(update={"planned": False}))
        assert proof.how == "demotion-confirmed"
        assert a.role is not PRIMARY

    played(tmp_path, scene)


def test_a_planned_fence_breaks_no_lease(tmp_path: Path) -> None:
    async def scene(regions: Regions) -> None:
        await steady(regions)
        await asyncio.sleep(20)
        await regions.kill("a")
        order = regions.claim("run-1", planned=True, deadline=20.0)
        with pytest.raises(Unreachable, match="unplanned"):
            await regions.guards["b"].fence(order)
        assert regions.witness.leases["a"][0].broken_by is None
        proof = await regions.guards["b"].fence(order.model_copy(update={"planned": False}))
        assert proof.how == "lease-broken"

    played(tmp_path, scene)


def test_a_planned_attempt_that_still_waits_does_not_take_the_unplanned_one_back(tmp_path: Path) -> None:
    async def scene(regions: Regions) -> None:
        a, _ = await steady(regions)
        a.fail["end_in_order"] = Unreachable("the standby does not follow")
        order = regions.claim("run-1", planned=True)
        waiting = asyncio.create_task(regions.guards["b"].fence(order))
        await asyncio.sleep(3)
        proof = await regions.guards["b"].fence(order.model_copy(update={"planned": False}))
        assert await waiting == proof
        assert a.role is not PRIMARY

    played(tmp_path, scene)


def test_orders_without_right_change_nothing(tmp_path: Path) -> None:
    async def scene(regions: Regions) -> None:
        a, _ = await steady(regions)
        order = regions.claim("run-1")
        before = regions.record()
        guard = regions.guards["b"]
        for changed in ({"run": "other"}, {"epoch": 7}, {"target": "a", "source": "b"}, {"source": "x"}):
            with pytest.raises(Refused):
                await guard.fence(order.model_copy(update=changed))
        with pytest.raises(Refused):
            await guard.promote(order)
        with pytest.raises(NotFound, match="shop"):
            await guard.promote(order.model_copy(update={"group": "unknown"}))
        with pytest.raises(NotFound, match="postgres"):
            await guard.promote(order.model_copy(update={"store": "redis"}))
        assert regions.record() == before
        assert a.role is PRIMARY

    played(tmp_path, scene)


def test_a_group_that_no_guard_ever_held_is_not_taken_for_fenced(tmp_path: Path) -> None:
    """Its primary may run without a guard: nobody would end it."""

    async def scene(regions: Regions) -> None:
        b = FakeStore()
        regions.start("b", {"shop": [b]})
        regions.witness.put(OwnershipRecord(group="shop", region="a", phase=Phase.STEADY, changed_at=NOW))
        order = regions.claim("run-1", deadline=20.0)
        with pytest.raises(Unreachable, match="no guard of a ever held"):
            await regions.guards["b"].fence(order)
        assert regions.record().fence is None

    played(tmp_path, scene)


def test_each_store_of_a_failover_is_promoted_when_its_step_says_so(tmp_path: Path) -> None:
    async def scene(regions: Regions) -> None:
        stores = {region: [FakeStore(), FakeStore("redis")] for region in "ab"}
        stores["a"][0].role = PRIMARY
        regions.start("a", {"shop": stores["a"]})
        regions.start("b", {"shop": stores["b"]})
        await until(lambda: stores["a"][1].role is PRIMARY)  # no run is at work: all of the owner's are primary
        order = regions.claim("run-1")
        await regions.guards["b"].fence(order)
        assert all(store.role is not PRIMARY for store in stores["a"])
        await regions.guards["b"].promote(order)
        await asyncio.sleep(10)
        assert [store.role for store in stores["b"]] == [PRIMARY, STANDBY]
        epoch = regions.record().epoch
        await regions.guards["b"].promote(order.model_copy(update={"store": "redis"}))
        assert (stores["b"][1].role, regions.record().epoch) == (PRIMARY, epoch)
        follow = order.model_copy(update={"store": "redis"})
        assert (await regions.guards["a"].follow(follow)).role is STANDBY
        assert stores["a"][1].called[-1] == "follow b"

    played(tmp_path, scene)


def test_what_a_run_promoted_is_primary_again_after_guard_and_stores_died(tmp_path: Path) -> None:
    """The steps that promoted it have ended, or are asked again: the run goes on either way."""

    async def scene(regions: Regions) -> None:
        stores = {region: [FakeStore(), FakeStore("redis"), FakeStore("nats")] for region in "ab"}
        stores["a"][0].role = PRIMARY
        regions.start("a", {"shop": stores["a"]})
        regions.start("b", {"shop": stores["b"]})
        await until(lambda: stores["a"][2].role is PRIMARY)
        order = regions.claim("run-1")
        await regions.guards["b"].fence(order)
        await regions.guards["b"].promote(order)
        redis = order.model_copy(update={"store": "redis"})
        await regions.guards["b"].promote(redis)
        epoch = regions.record().epoch
        await regions.kill("b")
        for store in stores["b"][:2]:
            store._become(StoreRole.STALE)
        await asyncio.sleep(20)
        regions.start("b", {"shop": stores["b"]})
        await until(lambda: [store.role for store in stores["b"]] == [PRIMARY, PRIMARY, STANDBY], 10)
        assert (await regions.guards["b"].promote(redis)).already
        assert regions.record().epoch > epoch
        await asyncio.sleep(10)
        assert stores["b"][2].role is STANDBY, "its step did not come yet"
        await regions.guards["b"].promote(order.model_copy(update={"store": "nats"}))
        assert stores["b"][2].role is PRIMARY

    played(tmp_path, scene)


def test_a_promotion_that_comes_before_the_new_guard_looked_goes_on(tmp_path: Path) -> None:
    """The store alone knows that this run made it a primary."""

    async def scene(regions: Regions) -> None:
        _, b = await steady(regions)
        order = regions.claim("run-1")
        await regions.guards["b"].fence(order)
        await regions.guards["b"].promote(order)
        await regions.kill("b")
        b._become(StoreRole.STALE)
        await asyncio.sleep(20)
        regions.start("b", {"shop": [b]})
        promotion = await regions.guards["b"].promote(order)
        assert (b.role, promotion.epoch > order.epoch + 1) == (PRIMARY, True)

    played(tmp_path, scene)


def test_an_older_primary_beside_it_stays_off(tmp_path: Path) -> None:
    """The region owns the group since this run; what was a primary there before may lack what came in between."""

    async def scene(regions: Regions) -> None:
        stores = {region: [FakeStore(), FakeStore("redis")] for region in "ab"}
        stores["a"][0].role = PRIMARY
        stores["b"][1].role, stores["b"][1].primary_of = StoreRole.STALE, 1
        regions.start("a", {"shop": stores["a"]})
        regions.start("b", {"shop": stores["b"]})
        await until(lambda: stores["a"][1].role is PRIMARY)
        order = regions.claim("run-1")
        await regions.guards["b"].fence(order)
        await regions.guards["b"].promote(order)
        with pytest.raises(Refused, match="epoch 1"):
            await regions.guards["b"].promote(order.model_copy(update={"store": "redis"}))
        await regions.kill("b")
        stores["b"][0]._become(StoreRole.STALE)
        regions.start("b", {"shop": stores["b"]})
        await until(lambda: stores["b"][0].role is PRIMARY)
        await asyncio.sleep(10)
        assert stores["b"][1].role is StoreRole.STALE

    played(tmp_path, scene)


@pytest.mark.parametrize("how", ["demotion-confirmed", "lease-broken"])
def test_a_proof_says_how_strong_the_fence_of_the_fenced_side_is(tmp_path: Path, how: str) -> None:
    """Not that of the side that takes over, which may be another one."""

    async def scene(regions: Regions) -> None:
        a, b = FakeStore(role=PRIMARY, strength=Strength.GUARD), FakeStore(strength=Strength.WATCHDOG)
        regions.start("a", {"shop": [a]})
        regions.start("b", {"shop": [b]})
        await until(lambda: "shop" in regions.witness.records)
        assert regions.record().strengths == {"postgres": Strength.GUARD}
        a.strength = Strength.MANUAL  # as it finds out while it runs
        await until(lambda: regions.record().strengths == {"postgres": Strength.MANUAL}, 5)
        if how == "lease-broken":
            await regions.kill("a")
        order = regions.claim("run-1")
        proof = await regions.guards["b"].fence(order)
        assert (proof.how, proof.strengths) == (how, {"postgres": Strength.MANUAL})
        await regions.guards["b"].promote(order)
        assert regions.record().strengths == {"postgres": Strength.WATCHDOG}

    played(tmp_path, scene)


@pytest.mark.parametrize("silent", [True, False])
def test_of_a_guard_of_an_earlier_version_no_strength_is_claimed(tmp_path: Path, silent: bool) -> None:
    async def scene(regions: Regions) -> None:
        await steady(regions)
        await regions.kill("a")
        demoted = Demotion(epoch=1, region="a", instance="a/1", at=NOW, positions={"postgres": "0/300"})
        order = regions.claim("run-1")
        asked = FenceRequest(epoch=1, target="b", run="run-1", at=NOW)
        regions.witness.change("shop", demotion=None if silent else demoted, fencing=asked, strengths={})
        proof = await regions.guards["b"].fence(order)
        assert proof.strengths == {} and proof.positions == ({} if silent else {"postgres": "0/300"})

    played(tmp_path, scene)
