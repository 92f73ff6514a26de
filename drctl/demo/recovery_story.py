"""The story of a region that is lost with its disks: recovered in the other one from a proven recovery point."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from drctl.demo import contents
from drctl.demo.contents import Count
from drctl.demo.outcome import Outcome, outcome
from drctl.demo.screen import Screen
from drctl.demo.stage import GROUP, REGION_A, REGION_B, Stage, set_stage
from drctl.report import render_report
from lab import Lab, search
from lab.state import ALL, SEARCH
from lab.workload import LossReport, longest_gap, lost_commits
from recovery.domain.plan import PlanRequest
from recovery.domain.report import RunReport, RunState
from workers import operations
from workers.schedules import apply_schedules

MEGABYTES = 60
TRANSACTIONS_PER_SECOND = 50.0
SERVICE_BACK_SECONDS = 20.0
NAME = "A region is lost with its disks, and all stores come back from backups"


async def start_lab(screen: Screen) -> Lab:
    lacking = search.lacking()
    screen.aside(f"no search engine: {lacking} is not installed" if lacking else "and OpenSearch, which is installed")
    services = ALL if lacking else ALL | {SEARCH}
    return await Lab.start(standby="none", services=services, progress=screen.starting)


async def tell(
    lab: Lab, folder: Path, screen: Screen, report_file: Path, end: Callable[[Path, Outcome], Awaitable[None]]
) -> Outcome:
    """All scenes. ``end`` is awaited with everything still up."""
    async with set_stage(
        lab, folder, megabytes=MEGABYTES, transactions_per_second=TRANSACTIONS_PER_SECOND, say=screen.note
    ) as stage:
        found = outcome(well=await _tell(stage, screen, report_file))
        await end(stage.installation.config_file, found)
        return found


async def _tell(stage: Stage, screen: Screen, report_file: Path) -> bool:
    """All scenes; False as soon as one did not end as it should, which its table has told already."""
    await _schedule(stage, screen)
    backup = await _back_up(stage, screen)
    if backup.state is not RunState.COMPLETED:
        return False
    validations = await _validate(stage, screen, backup)
    if any(report.state is not RunState.COMPLETED for report in validations):
        return False
    before = await contents.count(stage.lab, REGION_A)
    recovery = await _lose_and_recover(stage, screen)
    await asyncio.to_thread(report_file.write_text, render_report(recovery), encoding="utf-8")
    if recovery.state is not RunState.COMPLETED or not await _all_came_back(stage, screen, before):
        return False
    failing = await _fail_and_undo(stage, screen)
    return failing.state is RunState.ROLLED_BACK


async def _schedule(stage: Stage, screen: Screen) -> None:
    applied = await apply_schedules(stage.client, stage.config)
    policy = stage.config.group(GROUP).backup
    screen.note(
        f"{len(applied.created)} schedules: backup at '{policy.schedule}', validation at "
        f"'{policy.validation.frequency}', retention at '{policy.retention_schedule}'"
    )


async def _back_up(stage: Stage, screen: Screen) -> RunReport:
    screen.scene(
        "Backup",
        "Recovery points of all stores are taken at the same time, under load, and streamed to two object stores: "
        "compressed, encrypted, and without a byte on the local disk. Their signed list is one recovery set.",
    )
    return await _run(stage, screen, "Backup")


async def _validate(stage: Stage, screen: Screen, backup: RunReport) -> list[RunReport]:
    screen.scene("Validation", "A backup counts only after it was restored. Each point goes into a scratch server.")
    reports = []
    for point_id in backup.point_ids:
        handle = await operations.find(stage.client, f"validate/{GROUP}/{point_id}")
        reports.append(await screen.follow(handle))
        screen.checks(reports[-1].checks)
    return reports


async def _lose_and_recover(stage: Stage, screen: Screen) -> RunReport:
    screen.scene(
        "Region A is lost",
        f"Servers, disks, object store and worker of {REGION_A} are killed. {REGION_B} recovers all stores of the "
        "shop, at the same time, from the newest recovery set whose points were restored and found valid.",
    )
    lost_at = datetime.now(UTC)
    await stage.lose_region(REGION_A)
    screen.alarm(f"{REGION_A} was killed at {lost_at:%H:%M:%S} UTC")
    report = await _run(
        stage,
        screen,
        "FullRecovery",
        region=REGION_B,
        outage_began_at=lost_at,
        reason=f"{REGION_A} is lost with its disks",
    )
    if report.state is not RunState.COMPLETED:
        return report
    loss, span, silence = await _count_loss(stage)
    report = report.model_copy(update={"achieved": report.achieved.model_copy(update={"lost_transactions": loss.lost})})
    screen.objectives(report)
    screen.stores(report)
    screen.told(await asyncio.to_thread(_notifications, stage))
    screen.loss(loss, span, silence)
    return report


async def _all_came_back(stage: Stage, screen: Screen, before: list[Count]) -> bool:
    """Whether what was counted before the loss is there again, beside the database."""
    comparisons = contents.compared(before, await contents.count(stage.lab, REGION_B))
    screen.contents(comparisons)
    return all(each.is_equal for each in comparisons)


async def _fail_and_undo(stage: Stage, screen: Screen) -> RunReport:
    screen.scene(
        "The same plan, and a step that fails",
        f"Now {REGION_B} loses its data as well, and its application does not come up. The plan must not leave half a "
        "recovery behind.",
    )
    await stage.lab.kill(REGION_B, "app")
    await stage.lab.kill(REGION_B, "postgres", with_disks=True)
    await contents.lose(stage.lab, REGION_B)
    screen.alarm(f"the data of {REGION_B} are gone, and its application was killed")
    report = await _run(stage, screen, "FullRecovery", region=REGION_B, reason="rehearsal of a failing recovery")
    screen.undo(report)
    return report


async def _run(stage: Stage, screen: Screen, plan: str, **request: object) -> RunReport:
    wanted = PlanRequest.model_validate({"group": GROUP, "requested_by": "demo", "reason": "demo", **request})
    handle, _ = await operations.start(stage.client, stage.config, plan, wanted)
    return await screen.follow(handle)


async def _count_loss(stage: Stage) -> tuple[LossReport, timedelta, timedelta]:
    """Every acknowledged commit against the recovered database, once the client buys again.

    Returns the comparison, the time that the lost commits span, and how long the client could not buy.
    """
    before = stage.workload.acknowledged()
    await stage.workload.wait_for(before + 1, timeout=SERVICE_BACK_SECONDS)
    loss = await lost_commits(stage.workload.file, stage.lab.postgres(REGION_B).dsn())
    silent_from, silent_to = await asyncio.to_thread(longest_gap, stage.workload.file)
    span = timedelta() if loss.first_lost_at is None else timedelta(seconds=silent_from - loss.first_lost_at)
    return loss, span, timedelta(seconds=silent_to - silent_from)


def _notifications(stage: Stage) -> list[str]:
    """Titles of the messages that reached the lab's webhook so far."""
    lines = stage.lab.webhook().file.read_text(encoding="utf-8").splitlines()
    return [str(json.loads(line)["body"].get("title", "")) for line in lines]
