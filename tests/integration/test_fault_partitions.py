"""Partitions, and the loss of what decides: the witness, monitors, Temporal, the name server. Each once, under load."""

from __future__ import annotations

import asyncio
import time

import pytest

from lab.state import CONTROL, OUTSIDE, WITNESS
from tests.integration.guarded_site import GuardedSite
from tests.integration.guarded_verdicts import survived


async def test_a_region_whose_packets_are_dropped_is_replaced(guarded: GuardedSite) -> None:
    source = guarded.active
    cut = await guarded.isolate(source)
    back = await guarded.service_back(cut + 0.5)
    report = await guarded.failover()
    print(f"service back after {back - cut:.1f} s; reported RTO {report.achieved.rto}, RPO {report.achieved.rpo}")
    await survived(guarded, report, cut)
    await guarded.lab.heal()
    await guarded.no_plan(3)
    assert await guarded.role(source) != "primary"
    guarded.never_two_writers()


async def test_a_partition_with_the_witness_on_the_primarys_side_changes_nothing(guarded: GuardedSite) -> None:
    source, target = guarded.active, guarded.other
    await guarded.lab.partition(source, target)
    await guarded.lab.partition(target, WITNESS)
    await guarded.no_plan(2 * guarded.times.ttl)
    assert await guarded.role(source) == "primary"
    await guarded.service_back(time.time())
    guarded.never_two_writers()


async def test_a_partition_with_the_witness_on_the_other_side_moves_the_group(guarded: GuardedSite) -> None:
    source, target = guarded.active, guarded.other
    await guarded.lab.partition(source, target)
    await guarded.lab.partition(source, CONTROL)
    await guarded.lab.partition(source, WITNESS)
    cut = time.time()
    report = await guarded.failover(60)
    assert report.target_region == target
    await guarded.became_active(target)
    await guarded.service_back(time.time())
    assert await guarded.role(source) != "primary"
    guarded.never_two_writers()
    lost = await guarded.lost_since(guarded.since)
    assert all(moment > cut - 1 for moment in lost)


@pytest.mark.parametrize("deaf", ["the primary", "the standby"])
async def test_an_asymmetric_partition_leaves_one_writer(guarded: GuardedSite, deaf: str) -> None:
    source, target = guarded.active, guarded.other
    pair = (target, source) if deaf == "the primary" else (source, target)
    await guarded.lab.partition(*pair, one_way=True)
    await guarded.no_plan(2 * guarded.times.ttl)
    assert await guarded.role(source) == "primary"
    assert await guarded.role(target) != "primary"
    guarded.never_two_writers()


async def test_a_lone_monitor_starts_nothing(guarded: GuardedSite) -> None:
    await guarded.lab.partition(OUTSIDE, guarded.active)
    await guarded.no_plan(10)
    guarded.never_two_writers()


async def test_a_witness_that_is_down_stops_neither_service_nor_guards(guarded: GuardedSite) -> None:
    """Every guard that could become primary promises not to, lease by lease."""
    await guarded.kill(WITNESS)
    down = time.time()
    await asyncio.sleep(3 * guarded.times.ttl)
    assert await guarded.role(guarded.active) == "primary"
    await guarded.service_back(time.time())
    await guarded.lab.restart(WITNESS)
    await guarded.service_back(time.time())
    guarded.never_two_writers()
    assert [pause for pause in guarded.pauses() if pause.end > down and pause.seconds > 2] == []


async def test_a_region_lost_while_the_witness_is_down_is_replaced_when_it_returns(guarded: GuardedSite) -> None:
    source, target = guarded.active, guarded.other
    await guarded.kill(WITNESS)
    killed = await guarded.kill(source)
    await asyncio.sleep(2 * guarded.times.ttl)
    assert await guarded.role(target) != "primary", "nothing proves that the old primary is off"
    await guarded.lab.restart(WITNESS)
    await guarded.service_back(killed, 60)
    await survived(guarded, await guarded.failover(60), killed)


async def test_the_witness_dies_in_the_middle_of_a_failover(guarded: GuardedSite) -> None:
    source = guarded.active
    killed = await guarded.kill(source)

    async def fenced() -> bool:
        record = await guarded.record()
        return record.fencing is not None or record.region != source

    await guarded.eventually(fenced, 40, "no fence was asked for")
    await guarded.kill(WITNESS)
    await asyncio.sleep(guarded.times.ttl)
    await guarded.lab.restart(WITNESS)
    await guarded.service_back(killed, 60)
    await survived(guarded, await guarded.failover(60), killed)


async def test_temporal_dies_in_the_middle_of_a_failover(guarded: GuardedSite) -> None:
    source = guarded.active
    killed = await guarded.kill(source)

    async def fenced() -> bool:
        record = await guarded.record()
        return record.fencing is not None or record.region != source

    await guarded.eventually(fenced, 40, "no fence was asked for")
    await guarded.kill("temporal")
    await guarded.lab.restart("temporal")
    await guarded.service_back(killed, 60)
    await survived(guarded, await guarded.failover(60), killed)


async def test_the_targets_worker_dies_in_the_middle_of_a_failover(guarded: GuardedSite) -> None:
    source, target = guarded.active, guarded.other
    killed = await guarded.kill(source)

    async def begun() -> bool:
        return (await guarded.record()).run is not None

    await guarded.eventually(begun, 40, "no failover began")
    await guarded.kill(target, "worker")
    await guarded.lab.restart(target, "worker")
    await guarded.service_back(killed, 60)
    await survived(guarded, await guarded.failover(60), killed)


@pytest.mark.parametrize("how", ["refusing", "slow"])
async def test_the_name_server_refuses_or_is_slow(guarded: GuardedSite, how: str) -> None:
    source = guarded.active
    if how == "slow":
        await guarded.lab.slow(CONTROL, "dns", seconds=0.4)
    else:
        await guarded.kill("dns")
    killed = await guarded.kill(source)
    if how == "refusing":

        async def promoted() -> bool:
            return (await guarded.record()).region != source

        await guarded.eventually(promoted, 40, "the failover did not come so far")
        await guarded.lab.restart("dns")
    await guarded.service_back(killed, 60)
    await survived(guarded, await guarded.failover(60), killed)


async def test_a_failover_that_is_reset_to_before_its_pivot_changes_nothing_more(guarded: GuardedSite) -> None:
    source = guarded.active
    killed = await guarded.kill(source)
    await guarded.service_back(killed)
    await survived(guarded, await guarded.failover(), killed)
    before = await guarded.record()
    again = await guarded.reset_run("recovery/shop")
    report = await guarded.ended(again)
    assert report.ended_at is not None, report
    after = await guarded.record()
    assert (after.region, after.epoch) == (before.region, before.epoch)
    assert await guarded.role(before.region) == "primary"
    guarded.never_two_writers()


@pytest.mark.chaos
async def test_flapping_for_five_minutes_leaves_one_writer(guarded: GuardedSite) -> None:
    source, until = guarded.active, time.time() + 300
    while time.time() < until:
        await guarded.isolate(source)
        await asyncio.sleep(5)
        await guarded.lab.heal()
        await asyncio.sleep(5)
    await guarded.settled()
    guarded.never_two_writers()
