"""The story of a region that is lost while its standby lives: the other one takes over by itself, and the way home."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path

from drctl.demo.guarded_stage import GROUP, REGION_A, REGION_B, GuardedStage, set_guarded_stage
from drctl.demo.outcome import Outcome, outcome
from drctl.demo.screen import Screen
from drctl.report import render_report
from lab import Lab
from recovery.domain.recovery_point import BackupKind
from recovery.domain.report import RunReport, RunState
from recovery.domain.words import duration
from recovery.errors import RecoveryError

NAME = "A region is lost while a standby lives: it takes over by itself, and everything moves home again"
MEGABYTES = 20
TRANSACTIONS_PER_SECOND = 50.0
MESSAGES = 1000
CARTS = 1000


async def start_lab(screen: Screen) -> Lab:
    return await Lab.start(guarded=True, progress=screen.starting)


async def tell(
    lab: Lab, folder: Path, screen: Screen, report_file: Path, end: Callable[[Path, Outcome], Awaitable[None]]
) -> Outcome:
    """All scenes. ``end`` is awaited with everything still up."""
    async with set_guarded_stage(
        lab, folder, megabytes=MEGABYTES, transactions_per_second=TRANSACTIONS_PER_SECOND, say=screen.note
    ) as stage:
        well = await _tell(stage, screen, report_file)
        found = outcome(well=well, verdict=stage.writers.verdict(stage.since))
        await end(stage.installation.config_file, found)
        return found


async def _tell(stage: GuardedStage, screen: Screen, report_file: Path) -> bool:
    """False as soon as a scene did not end as it should, which its table has told already."""
    screen.regions(await stage.regions())
    if not await _prove_a_backup(stage, screen):
        return False
    failover = await _lose_the_region(stage, screen)
    await asyncio.to_thread(report_file.write_text, render_report(failover), encoding="utf-8")
    if failover.state is not RunState.COMPLETED:
        return False
    if not await _come_home(stage, screen):
        return False
    return await _cut_the_network(stage, screen)


async def _prove_a_backup(stage: GuardedStage, screen: Screen) -> bool:
    screen.scene(
        "Backup",
        "A standby copies mistakes, too: so recovery points of PostgreSQL, of JetStream's streams and of Redis are "
        "streamed to two stores, under load, and count only after they were restored into a scratch server.",
    )
    await asyncio.gather(stage.publish(MESSAGES), stage.fill_carts(CARTS))
    screen.note(f"{MESSAGES} messages stand in the stream ORDERS, and {CARTS} carts in Redis")
    kinds = (BackupKind.PHYSICAL, BackupKind.STREAMS, BackupKind.RDB)
    for handle in await asyncio.gather(*(stage.start("Backup", kind=kind) for kind in kinds)):
        backup = await screen.follow(handle)
        if backup.state is not RunState.COMPLETED:
            return False
        validation = await screen.follow(await stage.find(f"validate/{GROUP}/{backup.point_ids[0]}"))
        screen.checks(validation.checks)
        if validation.state is not RunState.COMPLETED:
            return False
    return True


async def _lose_the_region(stage: GuardedStage, screen: Screen) -> RunReport:
    times = stage.installation.times
    screen.scene(
        "Region A is lost",
        f"Every process of {REGION_A} is killed under load. Three places look at it every {times.interval:g} s; when a "
        f"majority has seen {times.failures} failures in a row, and nobody before that, a failover starts by itself.",
    )
    lost_at = time.time()
    await stage.lab.kill(REGION_A)
    screen.alarm(f"{REGION_A} was killed")
    report = await screen.follow(await stage.failover_after(lost_at))
    if report.state is not RunState.COMPLETED:
        return report
    await stage.service_back(time.time())
    silence = await stage.longest_pause(lost_at)
    loss = await stage.loss(REGION_B)
    counted = report.achieved.model_copy(update={"lost_transactions": loss.lost})
    report = report.model_copy(update={"achieved": counted})
    screen.objectives(report)
    screen.loss(loss, timedelta(seconds=loss.lost_seconds), timedelta(seconds=silence))
    return report


async def _come_home(stage: GuardedStage, screen: Screen) -> bool:
    screen.scene(
        "Region A returns",
        f"Its disks are whole, and may hold commits that {REGION_B} never received. They are saved and listed, "
        "the old primary becomes a standby of the new one, and then everything moves home: planned, nothing lost.",
    )
    await stage.bring_back(REGION_A)
    screen.note(f"the servers of {REGION_A} run again; its guard keeps PostgreSQL down until it was looked at")
    lost_before = (await stage.loss(REGION_B)).lost
    began = time.time()
    report = await stage.run("Failback", screen.follow)
    if report.state is not RunState.COMPLETED:
        return False
    await stage.service_back(time.time())
    pause = await stage.longest_pause(began)
    loss = await stage.loss(REGION_A)
    screen.planned(lost=loss.lost - lost_before, pause=timedelta(seconds=pause))
    screen.regions(await stage.regions())
    return loss.lost == lost_before


async def _cut_the_network(stage: GuardedStage, screen: Screen) -> bool:
    screen.scene(
        "The network is cut",
        f"Nothing of {REGION_A} hears or is heard any more, and all of it runs on. A checker inside each region writes "
        "to its PostgreSQL all the time, past every partition: never may both accept.",
    )
    cut_at = time.time()
    await stage.lab.isolate(REGION_A)
    screen.alarm(f"{REGION_A} is cut off: its primary lives")
    report = await screen.follow(await stage.failover_after(cut_at))
    await stage.lab.heal()
    if report.state is not RunState.COMPLETED:
        return False
    await stage.service_back(time.time())
    with contextlib.suppress(RecoveryError):
        screen.regions(await stage.regions())
    verdict = stage.writers.verdict(stage.since)
    screen.writers(verdict)
    screen.note(
        f"the checker looked on for {duration(timedelta(seconds=time.time() - stage.since))}, all scenes through"
    )
    return True
