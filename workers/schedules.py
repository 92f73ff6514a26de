"""Temporal Schedules from the configuration: backups, validations, retention. Applying them twice changes nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
    ScheduleState,
)

from recovery.config import Config

PREFIX = "recovery/"
HASH = "recovery-plans.spec"
CATCH_UP = timedelta(minutes=10)
"""A moment that passed longer ago than this, while Temporal was down, is not made up for."""


@dataclass(frozen=True)
class Planned:
    """One schedule as the configuration wants it."""

    schedule_id: str
    plan: str
    group: str
    cron: str
    request: dict[str, Any]

    @property
    def digest(self) -> str:
        """What a schedule is compared by: Temporal stores cron as calendars, so the fields do not read back."""
        wanted = json.dumps([self.plan, self.cron, self.request, CATCH_UP.total_seconds()], sort_keys=True)
        return hashlib.sha256(wanted.encode()).hexdigest()


@dataclass(frozen=True)
class Applied:
    """What ``apply`` did, by schedule id."""

    created: list[str]
    updated: list[str]
    deleted: list[str]
    unchanged: list[str]


@dataclass(frozen=True)
class ScheduleLine:
    """A schedule as it stands in Temporal."""

    schedule_id: str
    plan: str
    next_at: datetime | None
    last_at: datetime | None
    paused: bool
    note: str


def planned(config: Config) -> list[Planned]:
    """All schedules of the configuration."""
    found: list[Planned] = []
    for name, group in config.groups.items():
        if group.postgres is None:
            continue
        backup = group.backup
        if backup.enabled:
            found.append(_planned("Backup", name, backup.schedule, {}))
        if backup.validation.enabled:
            lookback = {"since": backup.validation.lookback.total_seconds()}
            found.append(_planned("BackupValidation", name, backup.validation.frequency, lookback))
        found.append(_planned("Retention", name, backup.retention_schedule, {}))
    return found


def _planned(plan: str, group: str, cron: str, request: dict[str, Any]) -> Planned:
    return Planned(
        schedule_id=f"{PREFIX}{group}/{plan}",
        plan=plan,
        group=group,
        cron=cron,
        request={"group": group, "reason": "scheduled", "requested_by": "schedule", **request},
    )


async def apply_schedules(client: Client, config: Config) -> Applied:
    """Creates what is new, updates what changed, deletes what is gone, and leaves the rest and every run alone.

    An operator's pause of a schedule survives an update.
    """
    wanted = {entry.schedule_id: entry for entry in planned(config)}
    result = Applied([], [], [], [])
    known: dict[str, str] = {}
    async for schedule_id, digest in _ours(client):
        known[schedule_id] = digest
    for schedule_id in known.keys() - wanted.keys():
        await client.get_schedule_handle(schedule_id).delete()
        result.deleted.append(schedule_id)
    for schedule_id, entry in wanted.items():
        if known.get(schedule_id) == entry.digest:
            result.unchanged.append(schedule_id)
        elif schedule_id in known:
            await _replace(client, config, entry)
            result.updated.append(schedule_id)
        else:
            await _create(client, config, entry)
            result.created.append(schedule_id)
    return result


async def list_schedules(client: Client) -> AsyncIterator[ScheduleLine]:
    """Our schedules, as Temporal has them."""
    async for entry in await client.list_schedules():
        if not entry.id.startswith(PREFIX) or entry.info is None or entry.schedule is None:
            continue
        recent = entry.info.recent_actions
        yield ScheduleLine(
            schedule_id=entry.id,
            plan=entry.id.rpartition("/")[2],
            next_at=entry.info.next_action_times[0] if entry.info.next_action_times else None,
            last_at=recent[-1].started_at if recent else None,
            paused=entry.schedule.state.paused,
            note=entry.schedule.state.note or "",
        )


async def _ours(client: Client) -> AsyncIterator[tuple[str, str]]:
    async for entry in await client.list_schedules():
        if entry.id.startswith(PREFIX):
            yield entry.id, str((await entry.memo()).get(HASH, ""))


async def _create(client: Client, config: Config, entry: Planned) -> None:
    try:
        await client.create_schedule(entry.schedule_id, _schedule(config, entry), memo={HASH: entry.digest})
    except ScheduleAlreadyRunningError:
        # Another apply was faster; its configuration is as good as ours, and the next apply sees the difference.
        await _replace(client, config, entry)


async def _replace(client: Client, config: Config, entry: Planned) -> None:
    """Deleted and created again, because an update cannot change the memo; the pause and its note are kept."""
    handle = client.get_schedule_handle(entry.schedule_id)
    state = (await handle.describe()).schedule.state
    await handle.delete()
    schedule = _schedule(config, entry)
    schedule.state = ScheduleState(paused=state.paused, note=state.note)
    await client.create_schedule(entry.schedule_id, schedule, memo={HASH: entry.digest})


def _schedule(config: Config, entry: Planned) -> Schedule:
    return Schedule(
        action=ScheduleActionStartWorkflow(
            entry.plan,
            entry.request,
            id=f"{entry.schedule_id}",
            task_queue=config.temporal.control_queue,
            static_summary=f"{entry.plan} of {entry.group}",
        ),
        spec=ScheduleSpec(cron_expressions=[entry.cron]),
        policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP, catchup_window=CATCH_UP),
        state=ScheduleState(note="from the configuration: drctl schedules apply"),
    )
