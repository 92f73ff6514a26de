"""Partitions, and the loss of what decides: the witness, monitors, Temporal, the name server. Each once, under load."""

from __future__ import annotations

import asyncio
import time

import pytest

from lab.state import CONTROL, OUTSIDE, WITNESS
from tests.integration.guarded_site import GuardedSite
from tests.integration.guarded_verdicts import DEMOTION, assert_stated, survived, unharmed
from tests.integration.store_writers import store_writers


@pytest.mark.chaos  # and in tests/system, where the kernel drops them
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
    await unharmed(guarded)


async def test_a_partition_with_the_witness_on_the_other_side_moves_the_group(guarded: GuardedSite) -> None:
    source, target = guarded.active, guarded.other
    async with store_writers(guarded) as checked:
        parted = time.time()
        await guarded.lab.partition(source, target)
        await guarded.lab.partition(source, CONTROL)
        await guarded.lab.partition(source, WITNESS)
        report = await guarded.failover(60)
        assert report.target_region == target
        await checked.moved_without_two_writers(source, target, parted)
    # Until its lease ended, the source served everybody else: the outage began with the last write that it accepted.
    served = max(write.began for write in guarded.writers.accepted() if write.region == source)
    await survived(guarded, report, served)


@pytest.mark.parametrize("deaf", ["the primary", pytest.param("the standby", marks=pytest.mark.chaos)])
async def test_an_asymmetric_partition_leaves_one_writer(guarded: GuardedSite, deaf: str) -> None:
    source, target = guarded.active, guarded.other
    pair = (target, source) if deaf == "the primary" else (source, target)
    await guarded.lab.partition(*pair, one_way=True)
    await guarded.no_plan(2 * guarded.times.ttl)
    assert await guarded.role(source) == "primary"
    assert await guarded.role(target) != "primary"
    await unharmed(guarded)


@pytest.mark.chaos  # tests/model/test_partitions.py has the guards' part
@pytest.mark.parametrize("lost", ["questions", "answers"])
@pytest.mark.parametrize("whose", ["the primary's", "the standby's"])
async def test_a_partition_one_way_from_the_witness_changes_nothing(
    guarded: GuardedSite, whose: str, lost: str
) -> None:
    """The primary's guard goes on by the other one's promises; what the standby's guard asks for, nobody promised."""
    source, target = guarded.active, guarded.other
    place = source if whose == "the primary's" else target
    epoch = (await guarded.record()).epoch
    pair = (place, WITNESS) if lost == "questions" else (WITNESS, place)
    await guarded.lab.partition(*pair, one_way=True)
    await guarded.no_plan(3 * guarded.times.ttl)
    assert await guarded.role(source) == "primary"
    assert await guarded.role(target) != "primary"
    await guarded.service_back(time.time())
    await guarded.lab.heal()
    await guarded.no_plan(guarded.times.ttl)
    assert (await guarded.record()).epoch == epoch, "nobody had to become primary again"
    await unharmed(guarded)


async def test_a_lone_monitor_starts_nothing(guarded: GuardedSite) -> None:
    await guarded.lab.partition(OUTSIDE, guarded.active)
    await guarded.no_plan(10)
    await unharmed(guarded)


async def test_a_witness_that_is_down_stops_no_service_and_a_region_lost_meanwhile_waits_for_it(
    guarded: GuardedSite,
) -> None:
    """Every guard that could become primary promises not to, lease by lease; and without it nothing is proven."""
    source, target = guarded.active, guarded.other
    down = await guarded.kill(WITNESS)
    await asyncio.sleep(2 * guarded.times.ttl)
    assert await guarded.role(source) == "primary"
    await guarded.service_back(time.time())
    assert [pause for pause in guarded.pauses() if pause.end > down and pause.seconds > 2] == []
    killed = await guarded.kill(source)
    await asyncio.sleep(2 * guarded.times.ttl)
    assert await guarded.role(target) != "primary", "nothing proves that the old primary is off"
    await guarded.lab.restart(WITNESS)
    await guarded.service_back(killed, 60)
    await survived(guarded, await guarded.failover(60), killed)


async def test_the_witness_dies_in_the_middle_of_a_failover_and_after_it(guarded: GuardedSite) -> None:
    """Afterwards the old region is silent and promises nothing: the primary ends with its lease, and returns with the
    witness."""
    source, target = guarded.active, guarded.other
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
    down = await guarded.kill(WITNESS)

    async def ended() -> bool:
        return await guarded.role(target) != "primary"

    await guarded.eventually(ended, guarded.times.ttl + 10, "nobody promised that it may stay")
    assert time.time() - down <= guarded.times.ttl + DEMOTION + 1, "within a lease and the end of its writes"
    await guarded.lab.restart(WITNESS)
    back = await guarded.service_back(time.time(), 60)
    await guarded.became_active(target)
    guarded.never_two_writers()
    lost = [at for at in await guarded.lost_since(guarded.since) if at > killed + guarded.times.ttl + DEMOTION]
    assert lost == [], f"back at {back}"


@pytest.mark.parametrize("how", ["refusing", pytest.param("slow", marks=pytest.mark.chaos)])
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


@pytest.mark.parametrize("minutes", [0.5, pytest.param(5, marks=[pytest.mark.chaos, pytest.mark.timeout(900)])])
async def test_flapping_every_ten_seconds_leaves_one_writer(guarded: GuardedSite, minutes: float) -> None:
    source, began = guarded.active, time.time()
    while time.time() < began + 60 * minutes:
        await guarded.isolate(source)
        await asyncio.sleep(5)
        await guarded.lab.heal()
        await asyncio.sleep(5)
    await guarded.settled()
    await guarded.service_back(time.time())
    guarded.never_two_writers()
    reports = await guarded.failovers()
    assert len(reports) <= 1 + minutes, "flapping is damped"
    await assert_stated(guarded, reports)
