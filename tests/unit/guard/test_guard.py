"""Guards in virtual time, with a witness and stores that hang, fail and lose answers."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from recovery.domain.guarding import StoreRole
from recovery.domain.ownership import OwnershipRecord, Phase
from recovery.errors import Unreachable
from recovery.guard import companion
from tests.fakes.guard import NOW, FakeStore, Regions, until
from tests.unit.guard.scenes import PRIMARY, STANDBY, deadline_of, now, played, steady


def test_the_primary_that_runs_at_home_is_adopted_as_it_is(tmp_path: Path) -> None:
    async def scene(regions: Regions) -> None:
        a, b = await steady(regions)
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
        a, b = await steady(regions)
        b._become(PRIMARY)
        began = now()
        await until(lambda: b.role is not PRIMARY)
        assert now() - began < 2.0
        assert a.role is PRIMARY

    played(tmp_path, scene)


def test_a_silent_witness_ends_the_primary_at_the_deadline_and_not_before(tmp_path: Path) -> None:
    async def scene(regions: Regions) -> None:
        regions.peers.cut.add(frozenset("ab"))
        a, _ = await steady(regions)
        await asyncio.sleep(10)
        regions.witness.cut.add("a")
        await asyncio.sleep(regions.ttl / 5)
        deadline = deadline_of(regions)
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
        a, _ = await steady(regions)
        await asyncio.sleep(10)
        regions.witness.cut.add("a")
        await asyncio.sleep(10 * regions.ttl)
        assert a.role is PRIMARY
        assert (await regions.guards["a"].status()).by_promise
        regions.witness.cut.clear()
        await asyncio.sleep(10)
        assert (a.role, a.called, regions.record().epoch) == (PRIMARY, [], 1)

    played(tmp_path, scene)


def test_an_answer_that_was_lost_is_found_by_reading(tmp_path: Path) -> None:
    async def scene(regions: Regions) -> None:
        a, _ = await steady(regions)
        regions.witness.lose_answers.add("a")
        await asyncio.sleep(60)
        assert (a.role, a.called) == (PRIMARY, [])
        assert regions.guards["a"].shared.holding.valid()

    played(tmp_path, scene)


def test_a_primary_that_died_is_promoted_again_under_a_new_epoch(tmp_path: Path) -> None:
    async def scene(regions: Regions) -> None:
        a, _ = await steady(regions)
        a._become(StoreRole.STALE)
        await until(lambda: a.role is PRIMARY, 5)
        assert regions.record().epoch == 2
        assert a.secured

    played(tmp_path, scene)


def test_the_record_says_whose_data_the_owner_has(tmp_path: Path) -> None:
    """Else nobody could tell, once the owner is silent, that a standby's data are another cluster's."""

    async def scene(regions: Regions) -> None:
        a, _ = await steady(regions)
        a.lineage = "7301: 1"
        await until(lambda: regions.record().lineage == a.lineage, 5)
        number = regions.witness.number
        leases = regions.witness.leases["a"][0].serial
        a._become(STANDBY)
        a.lineage = "7301: 1@0/3000000, 2"
        await until(lambda: regions.record().lineage == a.lineage, 10)
        assert a.role is PRIMARY
        await asyncio.sleep(20)
        others = regions.witness.number - number - (regions.witness.leases["a"][0].serial - leases)
        assert others < 30, "it is not written again and again"

    played(tmp_path, scene)


def test_a_promotion_that_hangs_is_ended_with_the_lease(tmp_path: Path) -> None:
    async def scene(regions: Regions) -> None:
        regions.peers.cut.add(frozenset("ab"))
        a, _ = await steady(regions)
        a.hang.add("promote")
        a._become(StoreRole.STANDBY)
        await until(lambda: "promote" in a.called)
        regions.witness.cut.add("a")
        await asyncio.sleep(regions.ttl + 1.5)
        assert not regions.guards["a"].groups["shop"].armed
        assert "demote" in a.called

    played(tmp_path, scene)


@pytest.mark.parametrize("trouble", ["hang", "fail", "bug"])
def test_a_store_that_cannot_be_demoted_is_ended_the_emergency_way(
    tmp_path: Path, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(regions: Regions) -> None:
        a, _ = await steady(regions)

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


def test_a_restarted_guard_takes_over_at_once_what_its_predecessor_held(tmp_path: Path) -> None:
    async def scene(regions: Regions) -> None:
        a, _ = await steady(regions)
        await asyncio.sleep(20)
        await regions.kill("a")
        guard = regions.start("a", {"shop": [a]})
        await until(lambda: regions.record().guard == guard.shared.holding.instance, 2)
        await asyncio.sleep(20)
        assert (a.role, a.called, regions.record().epoch) == (PRIMARY, [], 2)

    played(tmp_path, scene)


def test_what_a_restarted_guard_inherits_ends_at_its_predecessorsdeadline_of(tmp_path: Path) -> None:
    """The witness is silent, and a new process was promised nothing."""

    async def scene(regions: Regions) -> None:
        a, _ = await steady(regions)
        await asyncio.sleep(20)
        regions.witness.cut.add("a")
        deadline = deadline_of(regions)
        await regions.kill("a")
        regions.start("a", {"shop": [a]})
        await until(lambda: a.role is not PRIMARY)
        assert deadline <= a.when(a.role) <= deadline + 0.2

    played(tmp_path, scene)


def test_a_guard_with_another_folder_waits_until_the_lease_has_ended(tmp_path: Path) -> None:
    async def scene(regions: Regions) -> None:
        a, _ = await steady(regions)
        await asyncio.sleep(20)
        await regions.kill("a")
        for file in (tmp_path / "a").iterdir():
            file.unlink()  # another host: it knows nothing of the former
        killed = now()
        guard = regions.start("a", {"shop": [a]})
        await until(guard.shared.holding.valid)
        assert now() - killed >= regions.ttl + regions.margin - 1.1

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
        a, b = await steady(regions)
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
