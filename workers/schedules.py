"""Temporal Schedules from the configuration: backups, validations, retention. Applying them twice changes nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from temporalio.api.common.v1 import Payload
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
    ScheduleState,
    ScheduleUpdate,
    ScheduleUpdateInput,
)
from temporalio.service import RPCError, RPCStatusCode

from activities.recovery_points import GROUP_MEMO
from recovery.config import Config
from recovery.errors import WrongKey

PREFIX = "recovery/"
HASH = "recovery-plans.spec"
FORM = 1  # raise it when _schedule changes, so that the next apply updates every schedule
CATCH_UP = timedelta(minutes=10)
"""A moment that passed longer ago than this, while Temporal was down, is not made up for."""


@dataclass(frozen=True)
class Planned:
    """One schedule as the configuration wants it."""

    schedule_id: str
    plan: str
    group: str
    cron: str
    queue: str
    request: dict[str, Any]

    @property
    def digest(self) -> str:
        """What a schedule is compared by: Temporal stores cron as calendars, so the fields do not read back."""
        wanted = json.dumps(
            [FORM, self.plan, self.cron, self.queue, self.request, CATCH_UP.total_seconds()], sort_keys=True
        )
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
        if not config.snapshot(name).backup_kinds:
            continue
        backup = group.backup
        if backup.enabled:
            found.append(_planned(config, "Backup", name, backup.schedule, {}))
        if backup.validation.enabled:
            lookback = {"since": backup.validation.lookback.total_seconds()}
            found.append(_planned(config, "BackupValidation", name, backup.validation.frequency, lookback))
        found.append(_planned(config, "Retention", name, backup.retention_schedule, {}))
    return found


def _planned(config: Config, plan: str, group: str, cron: str, request: dict[str, Any]) -> Planned:
    return Planned(
        schedule_id=f"{PREFIX}{group}/{plan}",
        plan=plan,
        group=group,
        cron=cron,
        queue=config.temporal.control_queue,
        request={"group": group, "reason": "scheduled", "requested_by": "schedule", **request},
    )


async def apply_schedules(client: Client, config: Config) -> Applied:
    """Creates what is new, updates what changed, deletes what is gone, and leaves the rest and every run alone.

    An operator's pause of a schedule survives an update. Schedules of another installation in the same namespace
    (another control queue) are left alone.
    """
    wanted = {entry.schedule_id: entry for entry in planned(config)}
    result = Applied([], [], [], [])
    for schedule_id in [entry.id async for entry in await client.list_schedules() if entry.id.startswith(PREFIX)]:
        if schedule_id not in wanted and await _delete(client, config, schedule_id):
            result.deleted.append(schedule_id)
    for schedule_id, entry in wanted.items():
        # Asked one by one, because the list may not show yet what was created a moment ago.
        known = await _digest(client, schedule_id)
        if known == entry.digest:
            result.unchanged.append(schedule_id)
        elif known is not None:
            await _update(client, entry)
            result.updated.append(schedule_id)
        else:
            await _create(client, entry)
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


async def _digest(client: Client, schedule_id: str) -> str | None:
    """What the schedule was last applied from; "" where that is unknown, None where there is no such schedule."""
    try:
        description = await client.get_schedule_handle(schedule_id).describe()
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return None
        raise
    action = description.schedule.action
    memo = action.memo if isinstance(action, ScheduleActionStartWorkflow) else None
    return await _text(client, (memo or {}).get(HASH))


async def _text(client: Client, value: object) -> str:
    """A memo's value, which a description gives as it is stored; "" where another ``temporal.payload_key`` hides it."""
    if isinstance(value, Payload):
        try:
            value = (await client.data_converter.decode([value]))[0]
        except (WrongKey, KeyError):  # KeyError: none is configured any more, and the encoding is unknown
            return ""
    return str(value or "")


async def _create(client: Client, entry: Planned) -> None:
    try:
        await client.create_schedule(entry.schedule_id, _schedule(entry))
    except ScheduleAlreadyRunningError:
        # Another apply was faster; its configuration is as good as ours, and the next apply sees the difference.
        await _update(client, entry)


async def _update(client: Client, entry: Planned) -> None:
    """In place: a run that the schedule started keeps the next one from starting beside it."""

    def changed(before: ScheduleUpdateInput) -> ScheduleUpdate:
        schedule = _schedule(entry)
        schedule.state = before.description.schedule.state
        return ScheduleUpdate(schedule)

    await client.get_schedule_handle(entry.schedule_id).update(changed)


async def _delete(client: Client, config: Config, schedule_id: str) -> bool:
    handle = client.get_schedule_handle(schedule_id)
    try:
        action = (await handle.describe()).schedule.action
        if not isinstance(action, ScheduleActionStartWorkflow) or action.task_queue != config.temporal.control_queue:
            return False
        await handle.delete()
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return False  # deleted before, and still in the list
        raise
    return True


def _schedule(entry: Planned) -> Schedule:
    return Schedule(
        action=ScheduleActionStartWorkflow(
            entry.plan,
            entry.request,
            id=entry.schedule_id,
            task_queue=entry.queue,
            memo={HASH: entry.digest, GROUP_MEMO: entry.group},
            static_summary=f"{entry.plan} of {entry.group}",
        ),
        spec=ScheduleSpec(cron_expressions=[entry.cron]),
        policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP, catchup_window=CATCH_UP),
        state=ScheduleState(note="from the configuration: drctl schedules apply"),
    )
