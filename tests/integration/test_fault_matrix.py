"""The faults of regions, servers and hosts that a guarded installation must survive, each once, under load.

Of each: the final state of the real servers, the checker that writes to both regions all the time, and the report's
achieved RPO against the counted truth. Tests marked ``chaos`` are the rest of the matrix.
"""

from __future__ import annotations

import asyncio
import itertools
import time

import pytest

from lab.state import COMPANION, GUARD
from recovery.domain.report import RunState
from tests.integration.guarded_site import GuardedSite
from tests.integration.guarded_verdicts import assert_honest, survived

TTLS = (0.5, 1.0, 2.0, 5.0)
FROZEN = {
    "guard": (GUARD,),
    "postgres": ("postgres",),
    "guard and postgres": (GUARD, "postgres"),
    "the whole host": (GUARD, COMPANION, "postgres", "redis", "nats"),
}
IN_MAKE_TEST = {("guard", 2.0), ("postgres", 1.0), ("the whole host", 2.0)}


async def test_a_killed_region_is_replaced_by_itself(guarded: GuardedSite) -> None:
    source, target = guarded.active, guarded.other
    killed = await guarded.kill(source)
    back = await guarded.service_back(killed)
    report = await guarded.failover()
    assert (report.source_region, report.target_region) == (source, target)
    print(f"service back after {back - killed:.1f} s; reported RTO {report.achieved.rto}, RPO {report.achieved.rpo}")
    await survived(guarded, report, killed)
    (pause,) = [pause for pause in guarded.pauses() if pause.begin <= killed <= pause.end]
    assert pause.before != pause.after, "the client went to the other region through the name"


async def test_a_killed_postgresql_is_back_without_a_second_writer(guarded: GuardedSite) -> None:
    """Its guard starts it again, or the monitors move the group: whatever comes first."""
    killed = await guarded.kill(guarded.active, "postgres")
    await guarded.service_back(killed)
    await guarded.settled()
    guarded.never_two_writers()
    if guarded.active == await guarded.owner():
        assert await guarded.lost_since(guarded.since) == []


@pytest.mark.parametrize(
    ("what", "ttls"),
    [
        pytest.param(what, ttls, marks=[] if (what, ttls) in IN_MAKE_TEST else [pytest.mark.chaos])
        for what, ttls in itertools.product(FROZEN, TTLS)
    ],
)
async def test_what_was_frozen_and_thawed_leaves_one_writer(guarded: GuardedSite, what: str, ttls: float) -> None:
    source = guarded.active
    await guarded.freeze(source, *FROZEN[what])
    await asyncio.sleep(ttls * guarded.times.ttl)
    thawed = await guarded.thaw(source, *FROZEN[what])
    await guarded.service_back(thawed)
    await guarded.settled()
    verdict = guarded.verdict()
    if what == "the whole host":
        # Strength 3: what a woken host still accepts is bounded by one ttl, and it is detected.
        assert verdict.overlap_seconds <= guarded.times.ttl, verdict.overlaps
        late = [write for write in guarded.writers.accepted() if write.region == source and write.began > thawed]
        if await guarded.owner() != source:
            assert max((write.acknowledged for write in late), default=thawed) - thawed <= guarded.times.ttl
    else:
        guarded.never_two_writers()


async def test_a_primary_that_answers_slowly_stays(guarded: GuardedSite) -> None:
    """Late, and within the limit of the monitors' timeout: a probe goes to and fro a few times."""
    await guarded.lab.slow(guarded.active, "postgres", seconds=0.1)
    await guarded.no_plan(8)
    guarded.never_two_writers()


async def test_a_killed_guard_alone_leaves_one_writer(guarded: GuardedSite) -> None:
    """The companion ends what its guard can keep no longer."""
    source = guarded.active
    killed = await guarded.kill(source, GUARD)
    back = await guarded.service_back(killed + guarded.times.ttl)
    await guarded.settled()
    guarded.never_two_writers()
    assert back - killed < 40


async def test_a_planned_switchover_loses_nothing(guarded: GuardedSite) -> None:
    source, target = guarded.active, guarded.other
    report = await guarded.run("Switchover", region=target)
    assert report.state is RunState.COMPLETED, report.error
    await guarded.became_active(target)
    await guarded.service_back(time.time())
    assert await guarded.lost_since(guarded.since) == []
    guarded.never_two_writers()
    pause = max(guarded.pauses(), key=lambda found: found.seconds)
    print(f"the client paused for {pause.seconds:.2f} s; reported {report.write_pause}")
    assert await guarded.role(source) != "primary"


async def test_a_failover_in_the_middle_of_a_backup(guarded: GuardedSite) -> None:
    source = guarded.active
    backup = await guarded.start("Backup")
    killed = await guarded.kill(source)
    await guarded.service_back(killed)
    await survived(guarded, await guarded.failover(), killed)
    report = await guarded.ended(backup)
    assert report.state is not RunState.RUNNING


async def test_two_failovers_asked_for_at_once_are_one(guarded: GuardedSite) -> None:
    source = guarded.active
    killed = await guarded.kill(source)
    first, second = await asyncio.gather(guarded.start_or_join("Failover"), guarded.start_or_join("Failover"))
    assert (await first.describe()).run_id == (await second.describe()).run_id
    report = await guarded.ended(first)
    assert report.state is RunState.COMPLETED, report.error
    await guarded.became_active(report.target_region or "")
    await guarded.service_back(killed)
    await guarded.settled()
    assert (await guarded.record()).region != source
    guarded.never_two_writers()


async def test_the_old_primary_returns_in_the_middle_of_the_failover(guarded: GuardedSite) -> None:
    source = guarded.active
    killed = await guarded.kill(source)

    async def fenced() -> bool:
        record = await guarded.record()
        return record.fencing is not None or record.region != source

    await guarded.eventually(fenced, 40, "no fence was asked for")
    await guarded.lab.restart(source, GUARD)
    await guarded.service_back(killed)
    await survived(guarded, await guarded.failover(), killed)


@pytest.mark.parametrize("when", ["before", "after"])
async def test_the_target_dies_around_its_promotion(guarded: GuardedSite, when: str) -> None:
    """Its guard and its PostgreSQL are killed when the fence stands, or when the record names it; then they return."""
    source, target = guarded.active, guarded.other
    killed = await guarded.kill(source)

    async def due() -> bool:
        record = await guarded.record()
        return record.region == target if when == "after" else record.fencing is not None or record.region == target

    await guarded.eventually(due, 40, "the failover did not come so far")
    await guarded.kill(target, GUARD)
    await guarded.kill(target, "postgres")
    await guarded.lab.restart(target, GUARD)
    await guarded.service_back(killed, 60)
    report = await guarded.failover()
    await guarded.became_active(target)
    guarded.never_two_writers()
    await assert_honest(guarded, report, killed)
