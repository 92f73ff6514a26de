"""The steps after a group was moved: the old side becomes a standby, and what only it had is said aloud."""

from __future__ import annotations

import pytest

from activities.ownership import Ownership
from recovery.domain.handover import StoreDivergence
from recovery.domain.ownership import OwnershipRecord
from recovery.errors import Unreachable
from tests.fakes.handover import state
from tests.unit.activities.moved import HELD, PRIMARY, STALE, STANDBY, Site


async def test_the_region_that_does_not_follow_is_reprotected(site: Site) -> None:
    site.guards.states |= {"b": [state(STALE)], "c": [state(STANDBY)]}
    assert (await site.run(site.reprotecting.find_returned, "Reprotect")).facts.target_region == "b"
    site.guards.states["c"] = [state(STALE)]
    assert "say which" in (await site.refused(site.reprotecting.find_returned, "Reprotect")).message
    assert (await site.run(site.reprotecting.find_returned, "Reprotect", region="c")).facts.target_region == "c"
    owner = await site.refused(site.reprotecting.find_returned, "Reprotect", region="a")
    assert "a owns shop" in owner.message


async def test_a_standby_that_receives_nothing_waits_too_where_no_former_primary_does(site: Site) -> None:
    """It has more than the owner, which it must not follow so."""
    site.guards.states |= {"b": [state(STANDBY, receives=True)], "c": [state(STANDBY, receives=False)]}
    assert (await site.run(site.reprotecting.find_returned, "Reprotect")).facts.target_region == "c"
    site.guards.states["b"] = [state(STALE)]
    assert (await site.run(site.reprotecting.find_returned, "Reprotect")).facts.target_region == "b"


async def test_what_only_the_returned_side_has_is_said_aloud(site: Site) -> None:
    site.handover.divergences = [
        StoreDivergence(
            store="postgres", region="b", transactions=3, bytes=512, files=["/x/1"], detail="3 transactions"
        )
    ]
    outcome = await site.run(site.reprotecting.save_divergence, "Reprotect")
    assert "3 transactions; saved as /x/1" in outcome.warnings[0]


async def test_what_a_guard_saved_before_its_store_followed_is_said_aloud_too(site: Site) -> None:
    tail = StoreDivergence(store="nats", region="", messages=7, files=["/x/events.jsonl"], detail="7 messages")
    wal = StoreDivergence(store="postgres", region="b", transactions=3, detail="3 transactions")
    streams = state(STANDBY, "events=9", "nats", divergence=tail)
    site.guards.states["b"] = [state(STANDBY), streams]
    site.group = site.group.model_copy(update={"streams": ["events"]})
    site.group = site.group.model_copy(
        update={"regions": [each.model_copy(update={"nats": f"{each.name}:4222"}) for each in site.group.regions]}
    )
    outcome = await site.run(site.guarding.start_following, "Reprotect", divergences=[wal])
    assert outcome.facts.divergences == [wal, tail.model_copy(update={"region": "b"})]
    assert "nats of b had acknowledged what a does not have: 7 messages" in outcome.warnings[0]


@pytest.mark.parametrize(
    "record", [HELD.model_copy(update={"run": "a failover"}), HELD.model_copy(update={"region": "b"})]
)
async def test_nothing_is_rewound_that_another_run_may_have_made_the_owner(site: Site, record: OwnershipRecord) -> None:
    assert (await site.run(site.reprotecting.rejoin, "Reprotect")).summary == "b: rewound, 0.1 s"
    site.ownership.records["shop"] = (record, "2")
    await site.refused(site.reprotecting.rejoin, "Reprotect")
    assert site.handover.done == ["rejoin b to a"]


async def test_a_reprotect_gives_way_to_a_failover_and_to_nothing_else() -> None:
    site = Site(record=HELD.model_copy(update={"run": "old", "workflow_id": "reprotect/shop", "plan": "Reprotect"}))

    async def goes_on(workflow_id: str, holder: str) -> bool:
        return False

    lock = Ownership(site.ownership, goes_on)
    assert "is being changed by" in (await site.refused(lock.claim_run, "Switchover", ownership_before=None)).message
    outcome = await site.run(lock.claim_run, "Failover", ownership_before=None)
    assert "gave way" in outcome.warnings[0] and site.ownership.records["shop"][0].plan == "Failover"


async def test_the_way_home(site: Site) -> None:
    assert "owns it already" in (await site.refused(site.choosing.find_way_home, "Failback")).message
    site.ownership.records["shop"] = (HELD.model_copy(update={"region": "b"}), "0")
    site.guards.states["a"] = [state(STALE)]
    outcome = await site.run(site.choosing.find_way_home, "Failback")
    assert (outcome.facts.source_region, outcome.facts.target_region, outcome.facts.stale_regions) == ("b", "a", ["a"])
    del site.guards.states["a"]
    assert (await site.refused(site.choosing.find_way_home, "Failback")).type == Unreachable.__name__


# Connections and slots that are left.


async def test_draining_says_what_it_could_not_do(site: Site) -> None:
    again = await site.run(site.serving.drain)
    assert again.summary == "a owns shop again: its clients stay"
    site.ownership.records["shop"] = (HELD.model_copy(update={"region": "b"}), "2")
    well = await site.run(site.serving.drain)
    assert well.summary == "2 connections found, 1 terminated, 0 left; new ones were refused" and well.warnings == []
    site.handover.why_not_refused, site.handover.clinging = "it runs on another machine", 3
    badly = await site.run(site.serving.drain)
    assert badly.warnings == [
        "new connections to a were not refused meanwhile: it runs on another machine",
        "3 connections to a did not end",
    ]
    assert "refused" not in badly.summary


async def test_a_manager_makes_the_slots_of_its_own_standbys(site: Site) -> None:
    """One of ours would keep WAL for nobody."""
    site.ownership.records["shop"] = (HELD.model_copy(update={"region": "b"}), "2")
    site.group = site.group.model_copy(update={"managed_by": "patroni"})
    outcome = await site.run(site.serving.recreate_slots)
    assert outcome.summary == "patroni makes those that its standbys need" and site.handover.done == []


async def test_old_slots_are_dropped_wherever_the_owner_is_followed(site: Site) -> None:
    site.handover.failing["c"] = {"slots"}
    site.handover.slots["a"] = {"standby_b", "standby_c"}
    site.guards.states |= {"a": [state(STANDBY)], "b": [state(PRIMARY)]}
    site.ownership.records["shop"] = (HELD.model_copy(update={"region": "b"}), "2")
    outcome = await site.run(site.serving.drop_old_slots, "Reprotect")
    assert outcome.summary == "dropped standby_b in a"
    assert site.handover.done == ["old slots in a, b owns"]
    assert outcome.warnings == ["old slots in c were not looked at: c does not answer"]
