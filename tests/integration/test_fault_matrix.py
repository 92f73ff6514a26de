"""The faults of regions, servers and hosts that a guarded installation must survive, each once, under load.

Of each: the final state of the real servers, the checker that writes to both regions all the time, and the report's
achieved RPO against the counted truth. Tests marked ``chaos`` are the rest of the matrix.
"""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import pytest

from lab.state import COMPANION, GUARD, WORKER
from recovery.domain.recovery_point import BackupKind
from recovery.domain.report import RunState
from tests.integration.armed_site import Arms
from tests.integration.guarded_reset import wait_for_roles
from tests.integration.guarded_site import GuardedSite
from tests.integration.guarded_verdicts import DEMOTION, PROBE, accounted, survived, unharmed
from tests.integration.store_writers import store_writers
from tests.integration.woken_host import STORES, Woken, acknowledged

TTLS = (0.5, 1.0, 2.0, 5.0)
FEW = 3  # writes that each store of a woken host has to acknowledge before its guard wakes
FROZEN = {
    "guard": (GUARD,),
    "postgres": ("postgres",),
    "guard and postgres": (GUARD, "postgres"),
    "the whole host": (GUARD, COMPANION, *STORES),
}
IN_MAKE_TEST = {("guard", 2.0), ("postgres", 1.0), ("the whole host", 2.0)}


async def test_a_killed_region_is_replaced_by_itself_and_only_once(guarded: GuardedSite) -> None:
    """Nor does its run change anything more when somebody resets it to before its pivot."""
    source, target = guarded.active, guarded.other
    async with store_writers(guarded) as checked:
        killed = await guarded.kill(source)
        back = await guarded.service_back(killed)
        report = await guarded.failover()
        await checked.moved_without_two_writers(source, target, killed)
    assert (report.source_region, report.target_region) == (source, target)
    print(f"service back after {back - killed:.1f} s; reported RTO {report.achieved.rto}, RPO {report.achieved.rpo}")
    await survived(guarded, report, killed)
    assert report.fence is not None
    renewed = guarded.times.ttl + guarded.times.margin  # and how often its lease is looked at
    assert report.fence.last_write_by.timestamp() - killed <= renewed + PROBE, "the bound is no further than the lease"
    (pause,) = [pause for pause in guarded.pauses() if pause.begin <= killed <= pause.end]
    assert pause.before != pause.after, "the client went to the other region through the name"
    before = await guarded.record()
    again = await guarded.ended(await guarded.reset_run("recovery/shop"))
    assert again.ended_at is not None, again
    after = await guarded.record()
    assert (after.region, after.epoch) == (before.region, before.epoch)
    assert await guarded.role(before.region) == "primary"
    guarded.never_two_writers()


async def test_a_killed_postgresql_is_back_without_a_second_writer(guarded: GuardedSite) -> None:
    """Its guard starts it again, or the monitors move the group: whatever comes first."""
    killed = await guarded.kill(guarded.active, "postgres")
    await guarded.service_back(killed)
    await guarded.settled()
    guarded.never_two_writers()
    await accounted(guarded, killed)


@pytest.mark.parametrize(
    ("what", "ttls"),
    [
        pytest.param(what, ttls, marks=[] if (what, ttls) in IN_MAKE_TEST else [pytest.mark.chaos])
        for what, ttls in itertools.product(FROZEN, TTLS)
    ],
)
async def test_what_was_frozen_and_thawed_leaves_one_writer(guarded: GuardedSite, what: str, ttls: float) -> None:
    source = guarded.active
    frozen, thawed = await guarded.frozen_for(ttls, source, *FROZEN[what])
    verdict = guarded.verdict()
    if what == "the whole host":
        # Strength 3: what a woken host still accepts is bounded by one ttl, and it is detected.
        assert verdict.overlap_seconds <= guarded.times.ttl, verdict.overlaps
        late = [write for write in guarded.writers.accepted() if write.region == source and write.began > thawed]
        if await guarded.owner() != source:
            assert max((write.acknowledged for write in late), default=thawed) - thawed <= guarded.times.ttl
    else:
        guarded.never_two_writers()
    await accounted(guarded, frozen, woken_at=thawed)


async def test_what_a_woken_host_acknowledged_is_bounded_put_aside_and_reported(
    guarded: GuardedSite, tmp_path: Path
) -> None:
    """The price of strength 3. It is frozen until the group has another owner, and its guard wakes last: that one
    believes in its lease for what was left of it, as one in a paused virtual machine does."""
    source, target = guarded.active, guarded.other
    async with store_writers(guarded) as checked:
        await guarded.freeze(source, *FROZEN["the whole host"])

        async def passed_over() -> bool:
            return (await guarded.record()).region == target and len(await guarded.primaries(target)) == len(STORES)

        await guarded.eventually(passed_over, 40, "nobody took over")
        thawed = await guarded.thaw(source, *STORES)

        async def served() -> bool:
            return all(len(times) >= FEW for times in (await acknowledged(guarded, checked, source, thawed)).values())

        await guarded.eventually(served, guarded.times.ttl, "the woken host took no writes")
        woken = await guarded.thaw(source, GUARD, COMPANION)
        await wait_for_roles(guarded, source)
        late = await acknowledged(guarded, checked, source, thawed)
        assert woken - thawed <= guarded.times.ttl
        assert all(max(times) - woken <= DEMOTION for times in late.values()), (woken, late)
        await guarded.settled()
        host = Woken(guarded, checked, source, thawed, await checked.in_stream(source))
        report = await guarded.run("Reprotect", region=source)
        assert report.state is RunState.COMPLETED, report.error
        await host.assert_reported(report.divergences, tmp_path)
    print({store: len(times) for store, times in late.items()}, [each.detail for each in report.divergences])


@pytest.mark.chaos  # test_monitors.py has one that takes 3 s for each query
async def test_a_primary_that_answers_slowly_stays(guarded: GuardedSite) -> None:
    """Late, and within the limit of the monitors' timeout: a probe goes to and fro a few times."""
    await guarded.lab.slow(guarded.active, "postgres", seconds=0.1)
    await guarded.no_plan(8)
    await unharmed(guarded)


@pytest.mark.chaos  # a frozen one ends its region's writes as well
async def test_a_killed_guard_alone_leaves_one_writer(guarded: GuardedSite) -> None:
    """The companion ends what its guard can keep no longer."""
    source = guarded.active
    killed = await guarded.kill(source, GUARD)
    back = await guarded.service_back(killed + guarded.times.ttl)
    await guarded.settled()
    guarded.never_two_writers()
    assert back - killed < 40
    await accounted(guarded, killed + guarded.times.ttl)


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        pytest.param("seal take-physical-backup", 2, id="in mid-stream"),  # what came before it is stored
        pytest.param("activity take-physical-backup", 1, id="at its begin", marks=pytest.mark.chaos),
    ],
)
async def test_a_failover_in_the_middle_of_a_backup(guarded: GuardedSite, moment: str, number: int) -> None:
    source = guarded.active
    worker = Arms(guarded, source, WORKER)
    worker.arm(moment, number=number, action="hold")
    backup = await guarded.start("Backup", kind=BackupKind.PHYSICAL)
    await worker.struck()
    killed = await guarded.kill(source)
    await guarded.service_back(killed)
    await survived(guarded, await guarded.failover(), killed)
    # Its region's worker returns, and keeps nothing of what it had begun: the rest of it would wait for its database.
    await backup.cancel()
    await guarded.lab.restart(source, WORKER)
    report = await guarded.ended(backup)
    assert report.state is RunState.ROLLED_BACK, report
    assert report.point_ids == []


async def test_two_failovers_at_once_are_one_and_the_old_primary_returns_in_its_middle(guarded: GuardedSite) -> None:
    source = guarded.active
    killed = await guarded.kill(source)
    first, second = await asyncio.gather(guarded.start_or_join("Failover"), guarded.start_or_join("Failover"))
    assert (await first.describe()).run_id == (await second.describe()).run_id

    async def fenced() -> bool:
        record = await guarded.record()
        return record.fencing is not None or record.region != source

    await guarded.eventually(fenced, 40, "no fence was asked for")
    await guarded.lab.restart(source, GUARD)
    report = await guarded.ended(first)
    await guarded.service_back(killed)
    await survived(guarded, report, killed)
    assert (await guarded.record()).region != source


@pytest.mark.parametrize(
    "moments",
    [
        pytest.param(("before", "at", "after"), id="before, at and after"),
        *(pytest.param((moment,), id=moment, marks=pytest.mark.chaos) for moment in ("before", "at", "after")),
    ],
)
async def test_the_target_dies_around_its_promotion(guarded: GuardedSite, moments: tuple[str, ...]) -> None:
    """Its guard and its PostgreSQL are killed when the fence is asked for, when the record names it, or when all its
    stores are primary and the plan still goes on; each time they return. A plan that held meanwhile is retried."""
    source, target = guarded.active, guarded.other
    killed = died = await guarded.kill(source)
    for moment in moments:

        async def due(moment: str = moment) -> bool:
            record = await guarded.record()
            if moment == "before":
                return record.fencing is not None or record.region == target
            return record.region == target and (moment == "at" or len(await guarded.primaries(target)) == len(STORES))

        await guarded.eventually(due, 60, f"the failover did not come so far: {moment}")
        await guarded.kill(target, GUARD)
        died = await guarded.kill(target, "postgres")
        await guarded.lab.restart(target, GUARD)
    await guarded.service_back(died, 60)
    await survived(guarded, await guarded.failover(operator="ana"), killed)
