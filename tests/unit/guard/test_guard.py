"""Guards in virtual time, with a witness and stores that hang, fail and lose answers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from recovery.domain.guarding import Promotion, StoreRole
from recovery.domain.ownership import OwnershipRecord, Phase, RegionLease
from recovery.errors import NotFound, Refused, Unreachable
from recovery.guard import companion
from tests.fakes.guard import NOW, FakeStore, Regions, in_virtual_time, until

PRIMARY, STANDBY = StoreRole.PRIMARY, StoreRole.STANDBY


def played(folder: Path, scene: Callable[[Regions], Awaitable[None]], **settings: float) -> None:
    async def play() -> None:
        regions = Regions(folder, **settings)
        try:
            await scene(regions)
        finally:
            await regions.close()

    in_virtual_time(play())


def now() -> float:
    return asyncio.get_running_loop().time()


async def _steady(regions: Regions) -> tuple[FakeStore, FakeStore]:
    """A's primary is adopted; B stands by."""
    a, b = FakeStore(role=PRIMARY), FakeStore()
    guard = regions.start("a", {"shop": [a]})
    regions.start("b", {"shop": [b]})
    await until(lambda: "shop" in regions.witness.records and guard.groups["shop"].armed)
    return a, b


def _deadline(regions: Regions, region: str = "a") -> float:
    return regions.guards[region].groups["shop"].deadline()


def test_the_primary_that_runs_at_home_is_adopted_as_it_is(tmp_path: Path) -> None:
    async def scene(regions: Regions) -> None:
        a, b = await _steady(regions)
        record = regions.record()
        assert (record.region, record.epoch, record.guard) == ("a", 1, regions.guards["a"].shared.holding.instance)
        await asyncio.sleep(60)
        assert (a.role, b.role, a.called, regions.record()) == (PRIMARY, STANDBY, [], record)
        assert regions.guards["a"].shared.holding.valid()

    played(tmp_path, scene)


def test_nobody_claims_a_group_that_runs_nowhere_or_away_from_home(tmp_path: Path) -> None:
    async def scene(regions: Regions) -> None:
        a, b = FakeStore(), FakeStore(role=PRIMARY)
        regions.start("a", {"shop": [a]})
        guard = regions.start("b", {"shop": [b]})
        await asyncio.sleep(30)
        assert regions.witness.records == {}
        assert (a.role, b.role) == (STANDBY, PRIMARY)  # what was never guarded is not ended either
        assert "never claimed" in (await guard.status("shop")).groups[0].warnings[0]

    played(tmp_path, scene)


def test_a_primary_that_was_started_past_its_guard_is_ended(tmp_path: Path) -> None:
    async def scene(regions: Regions) -> None:
        a, b = await _steady(regions)
        b._become(PRIMARY)
        began = now()
        await until(lambda: b.role is not PRIMARY)
        assert now() - began < 2.0
        assert a.role is PRIMARY

    played(tmp_path, scene)


def test_a_silent_witness_ends_the_primary_at_the_deadline_and_not_before(tmp_path: Path) -> None:
    async def scene(regions: Regions) -> None:
        regions.peers.cut.add(frozenset("ab"))
        a, _ = await _steady(regions)
        await asyncio.sleep(10)
        regions.witness.cut.add("a")
        await asyncio.sleep(regions.ttl / 5)
        deadline = _deadline(regions)
        await until(lambda: a.role is not PRIMARY)
        assert deadline <= a.when(a.role) <= deadline + 0.1
        await asyncio.sleep(20)
        assert a.role is not PRIMARY
        regions.witness.cut.clear()
        await until(lambda: a.role is PRIMARY)
        assert regions.record().epoch == 2  # each time as primary has its own epoch

    played(tmp_path, scene)


def test_the_other_guards_promise_bridges_the_silence_without_a_gap(tmp_path: Path) -> None:
    async def scene(regions: Regions) -> None:
        a, _ = await _steady(regions)
        await asyncio.sleep(10)
        regions.witness.cut.add("a")
        await asyncio.sleep(10 * regions.ttl)
        assert a.role is PRIMARY
        assert (await regions.guards["a"].status()).by_promise
        regions.witness.cut.clear()
        await asyncio.sleep(10)
        assert (a.role, a.called, regions.record().epoch) == (PRIMARY, [], 1)

    played(tmp_path, scene)


def test_a_failover_while_a_promise_binds_waits_until_the_primary_has_ended(tmp_path: Path) -> None:
    async def scene(regions: Regions) -> None:
        a, b = await _steady(regions)
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


def test_an_answer_that_was_lost_is_found_by_reading(tmp_path: Path) -> None:
    async def scene(regions: Regions) -> None:
        a, _ = await _steady(regions)
        regions.witness.lose_answers.add("a")
        await asyncio.sleep(60)
        assert (a.role, a.called) == (PRIMARY, [])
        assert regions.guards["a"].shared.holding.valid()

    played(tmp_path, scene)


def test_a_primary_that_died_is_promoted_again_under_a_new_epoch(tmp_path: Path) -> None:
    async def scene(regions: Regions) -> None:
        a, _ = await _steady(regions)
        a._become(StoreRole.STALE)
        await until(lambda: a.role is PRIMARY, 5)
        assert regions.record().epoch == 2
        assert a.secured

    played(tmp_path, scene)


def test_a_promotion_that_hangs_is_ended_with_the_lease(tmp_path: Path) -> None:
    async def scene(regions: Regions) -> None:
        regions.peers.cut.add(frozenset("ab"))
        a, _ = await _steady(regions)
        a.hang.add("promote")
        a._become(StoreRole.STANDBY)
        await until(lambda: "promote" in a.called)
        regions.witness.cut.add("a")
        await asyncio.sleep(regions.ttl + 1.5)
        assert not regions.guards["a"].groups["shop"].armed
        assert "demote" in a.called

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


@pytest.mark.parametrize("trouble", ["hang", "fail", "bug"])
def test_a_store_that_cannot_be_demoted_is_ended_the_emergency_way(
    tmp_path: Path, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(regions: Regions) -> None:
        a, _ = await _steady(regions)

        def end(kind: str, detail: dict[str, Any]) -> list[int]:
            a.role = StoreRole.STALE
            return [1]

        monkeypatch.setattr(companion, "end", end)
        if trouble == "hang":
            a.hang.add("demote")
        else:
            a.fail["demote"] = Unreachable("a process does not die") if trouble == "fail" else ZeroDivisionError()
        began = now()
        order = regions.claim("run-1")
        proof = await regions.guards["b"].fence(order)
        assert proof.how == "demotion-confirmed"
        assert now() - began < 3

    played(tmp_path, scene)


def test_what_hangs_in_one_group_stops_neither_the_lease_nor_the_others(tmp_path: Path) -> None:
    async def scene(regions: Regions) -> None:
        stuck, good = FakeStore(role=PRIMARY), FakeStore(role=PRIMARY)
        guard = regions.start("a", {"stuck": [stuck], "good": [good]})
        await until(lambda: guard.groups["stuck"].armed and guard.groups["good"].armed)
        stuck.hang |= {"observe", "promote", "demote", "start", "end_in_order"}
        regions.witness.unreadable.add("stuck")
        good._become(StoreRole.STALE)
        await until(lambda: good.role is PRIMARY, 5)
        await asyncio.sleep(30)
        assert guard.shared.holding.valid()
        assert regions.record("good").epoch == 2

    played(tmp_path, scene)


def test_a_dead_source_is_fenced_when_its_lease_ended_and_the_target_promoted(tmp_path: Path) -> None:
    async def scene(regions: Regions) -> None:
        _, b = await _steady(regions)
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
        a, b = await _steady(regions)
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


def test_a_restarted_guard_takes_over_at_once_what_its_predecessor_held(tmp_path: Path) -> None:
    async def scene(regions: Regions) -> None:
        a, _ = await _steady(regions)
        await asyncio.sleep(20)
        await regions.kill("a")
        guard = regions.start("a", {"shop": [a]})
        await until(lambda: regions.record().guard == guard.shared.holding.instance, 2)
        await asyncio.sleep(20)
        assert (a.role, a.called, regions.record().epoch) == (PRIMARY, [], 2)

    played(tmp_path, scene)


def test_what_a_restarted_guard_inherits_ends_at_its_predecessors_deadline(tmp_path: Path) -> None:
    """The witness is silent, and a new process was promised nothing."""

    async def scene(regions: Regions) -> None:
        a, _ = await _steady(regions)
        await asyncio.sleep(20)
        regions.witness.cut.add("a")
        deadline = _deadline(regions)
        await regions.kill("a")
        regions.start("a", {"shop": [a]})
        await until(lambda: a.role is not PRIMARY)
        assert deadline <= a.when(a.role) <= deadline + 0.2

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


def test_a_guard_with_another_folder_waits_until_the_lease_has_ended(tmp_path: Path) -> None:
    async def scene(regions: Regions) -> None:
        a, _ = await _steady(regions)
        await asyncio.sleep(20)
        await regions.kill("a")
        for file in (tmp_path / "a").iterdir():
            file.unlink()  # another host: it knows nothing of the former
        killed = now()
        guard = regions.start("a", {"shop": [a]})
        await until(guard.shared.holding.valid)
        assert now() - killed >= regions.ttl + regions.margin - 1.1

    played(tmp_path, scene)


def test_a_fence_is_confirmed_and_taken_back(tmp_path: Path) -> None:
    async def scene(regions: Regions) -> None:
        a, _ = await _steady(regions)
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
        _, b = await _steady(regions)
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
        a, _ = await _steady(regions)
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
        a, _ = await _steady(regions)
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
        a, _ = await _steady(regions)
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
        await _steady(regions)
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
        a, _ = await _steady(regions)
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
        a, _ = await _steady(regions)
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


def test_a_plan_that_restores_is_not_anticipated(tmp_path: Path) -> None:
    """The record says that b owns the group now, and a run is at work: it opens the database when it is complete."""

    async def scene(regions: Regions) -> None:
        b = FakeStore()
        regions.start("b", {"shop": [b]})
        regions.witness.put(
            OwnershipRecord(
                group="shop", region="b", epoch=2, guard="a/0000", run="run-1", phase=Phase.PIVOTED, changed_at=NOW
            )
        )
        await asyncio.sleep(20)
        assert (b.role, b.called) == (STANDBY, [])
        regions.witness.change("shop", run=None, phase=Phase.STEADY)
        await until(lambda: b.role is PRIMARY, 10)

    played(tmp_path, scene)


def test_a_server_that_a_plan_restores_is_left_to_the_plan(tmp_path: Path) -> None:
    """A full recovery: the restored server runs, read-only, in a region that does not own the group yet."""

    async def scene(regions: Regions) -> None:
        b = FakeStore(role=PRIMARY)
        regions.start("b", {"shop": [b]})
        regions.witness.put(
            OwnershipRecord(group="shop", region="a", guard="a/0000", run="run-1", plan="FullRecovery", changed_at=NOW)
        )
        await asyncio.sleep(10)
        assert (b.role, b.called) == (PRIMARY, [])
        regions.witness.change("shop", region="b", epoch=2)
        guard = regions.guards["b"]
        await until(lambda: regions.record().guard == guard.shared.holding.instance, 5)
        await asyncio.sleep(10)
        assert (b.role, b.called) == (PRIMARY, [])

    played(tmp_path, scene)


def test_an_orderly_stop_ends_everything_and_gives_the_lease_back(tmp_path: Path) -> None:
    async def scene(regions: Regions) -> None:
        a, b = await _steady(regions)
        await asyncio.sleep(10)
        await regions.guards["a"].release()
        assert (a.role, a.called) == (StoreRole.STOPPED, ["end_in_order", "demote"])  # confirmed after the order
        await asyncio.sleep(10)
        assert regions.witness.leases["a"][0].released
        await regions.kill("a")
        order = regions.claim("run-1")
        began = now()
        assert (await regions.guards["b"].fence(order)).how == "lease-broken"
        assert now() - began < 1  # nobody has to wait for a lease that was given back
        await regions.guards["b"].promote(order)
        assert b.role is PRIMARY

    played(tmp_path, scene)


def test_a_question_is_answered_while_a_store_hangs(tmp_path: Path) -> None:
    async def scene(regions: Regions) -> None:
        stores = [FakeStore(role=PRIMARY), FakeStore("redis")]
        guard = regions.start("a", {"shop": stores})
        await until(lambda: stores[1].role is PRIMARY)
        stores[1].hang.add("observe")
        began = now()
        states = (await guard.status("shop")).groups[0].stores
        assert now() - began < 1.5
        assert [state.role for state in states] == [PRIMARY, PRIMARY]  # as it was seen last
        await asyncio.sleep(3)
        assert [state.role for state in guard.groups["shop"].state().stores] == [PRIMARY, StoreRole.UNREACHABLE]

    played(tmp_path, scene)
