"""What a fence asks of an acknowledging set's members, in virtual time: stopped, compared, caught up, let go again."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from recovery.domain.guarding import GuardOrder, StoreRole
from recovery.domain.ownership import AcknowledgingSet, Strength
from recovery.errors import Refused
from recovery.guard import quorum
from tests.fakes.guard import FakeStandby, FakeStore, Regions, until
from tests.unit.guard.scenes import PRIMARY, now, played

ONE_OF_TWO = AcknowledgingSet(members=["standby_b", "standby_c"], wait_for=1)


async def three(
    regions: Regions, claimed: AcknowledgingSet | None = ONE_OF_TWO
) -> tuple[FakeStore, FakeStandby, FakeStandby]:
    """A is primary; B and C stand by under a record that claims the set."""
    a, b, c = FakeStore(role=PRIMARY), FakeStandby(), FakeStandby(member="standby_c")
    b.sources, c.sources = {"c": c}, {"b": b}
    guard = regions.start("a", {"shop": [a]}, others="abc")
    regions.start("b", {"shop": [b]}, others="abc")
    regions.start("c", {"shop": [c]}, others="abc")
    await until(lambda: "shop" in regions.witness.records and guard.groups["shop"].armed)
    await asyncio.sleep(10)
    regions.witness.change("shop", acknowledging=claimed)
    return a, b, c


async def four(regions: Regions, wait_for: int) -> tuple[FakeStandby, FakeStandby, FakeStandby]:
    """As ``three``, with D: so many of the three standbys acknowledge each commit."""
    a = FakeStore(role=PRIMARY)
    standbys = {name: FakeStandby(member=f"standby_{name}") for name in "bcd"}
    guard = regions.start("a", {"shop": [a]}, others="abcd")
    for name, standby in standbys.items():
        standby.sources = {other: each for other, each in standbys.items() if other != name}
        regions.start(name, {"shop": [standby]}, others="abcd")
    await until(lambda: "shop" in regions.witness.records and guard.groups["shop"].armed)
    await asyncio.sleep(10)
    members = [f"standby_{name}" for name in standbys]
    regions.witness.change("shop", acknowledging=AcknowledgingSet(members=members, wait_for=wait_for))
    return standbys["b"], standbys["c"], standbys["d"]


@pytest.mark.parametrize(
    ("wait_for", "silent", "asked_for"),
    [(1, "", 3), (1, "d", 3), (2, "", 2), (2, "d", 2), (2, "cd", 2), (3, "cd", 1)],
)
def test_of_three_members_so_many_have_to_stop_that_any_acknowledgement_meets_one(
    tmp_path: Path, wait_for: int, silent: str, asked_for: int
) -> None:
    """R + W > N: who is silent is not missed where the others are enough, and everything waits where they are not."""

    async def scene(regions: Regions) -> None:
        b, c, _ = await four(regions, wait_for)
        regions.peers.cut.update(frozenset(f"b{name}") for name in silent)
        if "c" not in silent:
            c.has = 0x900  # acknowledged, and B lacks it
        await regions.kill("a")
        order = regions.claim("run-1")
        if 3 - len(silent) >= asked_for:
            proof = await regions.guards["b"].fence(order)
            assert proof.zero_loss and proof.strengths["postgres"] is Strength.SYNCHRONOUS
            assert len(proof.stopped) >= asked_for and len(proof.stopped) + wait_for > 3
            assert b.has == (0x300 if "c" in silent else 0x900)
            return
        with pytest.raises(Refused) as refused:
            await regions.guards["b"].fence(order)
        words = f"{3 - len(silent)} of standby_b, standby_c, standby_d confirmed that they receive nothing more"
        assert f"{words}, {asked_for} have to" in str(refused.value)
        assert regions.record().fence is None and regions.witness.leases["a"][0].broken_by is None

    played(tmp_path, scene)


def test_enough_members_stop_before_a_promotion_and_the_record_says_what_they_have(tmp_path: Path) -> None:
    async def scene(regions: Regions) -> None:
        _, b, c = await three(regions)
        b.has = c.has
        order = regions.claim("run-1")
        proof = await regions.guards["b"].fence(order)
        assert not b.receives and not c.receives
        assert proof.zero_loss and proof.stopped == {"standby_b": "0/300", "standby_c": "0/300"}
        assert proof.strengths["postgres"] is Strength.SYNCHRONOUS
        assert regions.record().fence == proof
        await regions.guards["b"].promote(order)
        assert b.role is PRIMARY
        await until(lambda: c.receives)  # of the new owner
        assert c.called[-1] == "follow b"

    played(tmp_path, scene)


def test_the_target_gets_what_a_more_advanced_member_has_and_stops_again(tmp_path: Path) -> None:
    async def scene(regions: Regions) -> None:
        _, b, c = await three(regions)
        c.has = 0x900
        proof = await regions.guards["b"].fence(regions.claim("run-1"))
        assert b.has == 0x900 and not b.receives
        called = [name for name in b.called if name in ("stop_receiving", "catch up from c")]
        assert called == ["stop_receiving", "catch up from c", "stop_receiving"]
        assert proof.zero_loss and proof.stopped == {"standby_b": "0/900", "standby_c": "0/900"}

    played(tmp_path, scene)


@pytest.mark.parametrize("lost", ["silent", "has what the target cannot get"])
def test_what_cannot_be_proven_is_refused_in_a_sentence_before_any_lease_is_broken(tmp_path: Path, lost: str) -> None:
    async def scene(regions: Regions) -> None:
        _, b, c = await three(regions)
        if lost == "silent":
            regions.peers.cut.add(frozenset("bc"))
        else:
            c.has, b.sources = 0x900, {}
        await regions.kill("a")
        began = now()
        with pytest.raises(Refused) as refused:
            await regions.guards["b"].fence(regions.claim("run-1"))
        assert now() - began < 2 * quorum.PATIENCE + 2
        words = str(refused.value)
        assert "commits that a acknowledged may be lost by a promotion of b" in words and "--accept-data-loss" in words
        expected = {
            "silent": "1 of standby_b, standby_c confirmed that they receive nothing more, 2 have to; c: the guard",
            "has what the target cannot get": "standby_c has 0/900, which the target lacks and could not get",
        }
        assert expected[lost] in words
        assert regions.record().fence is None and regions.witness.leases["a"][0].broken_by is None

    played(tmp_path, scene)


def test_who_accepts_the_loss_gets_a_proof_that_claims_nothing(tmp_path: Path) -> None:
    async def scene(regions: Regions) -> None:
        await three(regions)
        regions.peers.cut.add(frozenset("bc"))
        proof = await regions.guards["b"].fence(regions.claim("run-1", accept_loss=True))
        assert not proof.zero_loss and proof.strengths["postgres"] is Strength.GUARD
        assert proof.stopped == {"standby_b": "0/300"}

    played(tmp_path, scene)


def test_a_fence_that_is_taken_back_lets_the_standbys_follow_again(tmp_path: Path) -> None:
    """Else the commits of the old primary would wait for them for ever."""

    async def scene(regions: Regions) -> None:
        a, b, c = await three(regions)
        order = regions.claim("run-1")
        await regions.guards["b"].fence(order)
        assert a.role is not PRIMARY
        await asyncio.sleep(5)
        assert not b.receives and not c.receives, "while the fence is asked for nobody receives"
        await regions.guards["b"].unfence(order)
        await until(lambda: a.role is PRIMARY and b.receives and c.receives, 10)
        assert b.called[-1] == c.called[-1] == "follow a"

    played(tmp_path, scene)


def test_only_the_run_whose_request_stands_in_the_record_stops_a_standby(tmp_path: Path) -> None:
    async def scene(regions: Regions) -> None:
        _, _, c = await three(regions)
        early = regions.claim("run-1")

        async def refused(order: GuardOrder, region: str = "c") -> str:
            with pytest.raises(Refused) as caught:
                await regions.guards[region].stop_receiving(order)
            return str(caught.value)

        assert "run-1 does not ask for the fence of shop in epoch 1" in await refused(early)
        proof = await regions.guards["b"].fence(early)
        assert "run-2 does not ask" in await refused(early.model_copy(update={"run": "run-2"}))
        assert "a has no standby of shop" in await refused(early, "a")
        assert proof.zero_loss
        await regions.guards["b"].unfence(early)
        await until(lambda: c.receives)
        assert "does not ask for the fence of shop in epoch 1" in await refused(early), "it came late"
        assert c.receives

    played(tmp_path, scene)


def test_nobody_begins_to_follow_an_owner_that_is_being_fenced(tmp_path: Path) -> None:
    async def scene(regions: Regions) -> None:
        _, _, c = await three(regions)
        order = regions.claim("run-1")
        await regions.guards["b"].fence(order)
        with pytest.raises(Refused, match="asks for the fence of a: nobody begins to follow it"):
            await regions.guards["c"].follow(order)
        assert not c.receives

    played(tmp_path, scene)


def test_what_one_target_proved_another_one_proves_again(tmp_path: Path) -> None:
    """The run before it ended without taking its request back: its proof was about what B had."""

    async def scene(regions: Regions) -> None:
        _, b, c = await three(regions)
        b.has = 0x900
        first = regions.claim("run-1")
        assert (await regions.guards["b"].fence(first)).zero_loss
        b.role = StoreRole.STOPPED
        regions.peers.cut.add(frozenset("bc"))
        second = regions.claim("run-2", target="c")
        with pytest.raises(Refused, match="1 of standby_b, standby_c"):
            await regions.guards["c"].fence(second)
        regions.peers.cut.clear()
        proof = await regions.guards["c"].fence(second.model_copy(update={"reason": "again"}))
        assert proof.zero_loss and proof.run == "run-2" and c.has == 0x900

    played(tmp_path, scene)


def test_without_a_claim_nobody_is_stopped(tmp_path: Path) -> None:
    async def scene(regions: Regions) -> None:
        _, b, c = await three(regions, claimed=None)
        proof = await regions.guards["b"].fence(regions.claim("run-1"))
        assert not proof.zero_loss and proof.stopped == {}
        assert "stop_receiving" not in [*b.called, *c.called]

    played(tmp_path, scene)


def test_the_strength_that_the_record_claims_is_told(tmp_path: Path) -> None:
    async def scene(regions: Regions) -> None:
        await three(regions)

        async def strengths(region: str) -> list[Strength | None]:
            return [state.strength for state in (await regions.guards[region].status("shop")).groups[0].stores]

        await asyncio.sleep(2)
        assert await strengths("b") == [Strength.SYNCHRONOUS]
        regions.witness.change("shop", acknowledging=None)
        await asyncio.sleep(2)
        assert await strengths("b") == [Strength.GUARD]

    played(tmp_path, scene)
