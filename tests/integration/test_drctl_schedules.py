"""``drctl schedules apply``: applied twice it changes nothing, and nothing that runs or is paused is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from temporalio.client import Client, ScheduleActionExecutionStartWorkflow, WorkflowExecutionStatus

from tests.integration.drctl_rig import Rig, temporal_server

BACKUP, VALIDATION, RETENTION = (f"recovery/shop/{plan}" for plan in ("Backup", "BackupValidation", "Retention"))


@pytest.fixture(scope="module")
async def temporal() -> AsyncIterator[Client]:
    async with temporal_server() as client:
        yield client


@pytest.fixture
async def rig(temporal: Client, tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(temporal, tmp_path)
    yield rig
    async for schedule in await temporal.list_schedules():
        await temporal.get_schedule_handle(schedule.id).delete()


def with_backup(text: str) -> str:
    return text.replace("    tier: critical", '    tier: critical\n    backup: {schedule: "15 3 * * *"}')


def without_validation(text: str) -> str:
    return text.replace("    tier: critical", "    tier: critical\n    backup: {validation: {enabled: false}}")


async def listed(rig: Rig, *names: str) -> None:
    """Waits until the list, which lags behind, shows these schedules and no others."""
    async with asyncio.timeout(20):
        while sorted(names) != [
            line["schedule_id"] for line in (await rig.drctl("schedules", "list", "-o", "json")).json
        ]:
            await asyncio.sleep(0.1)


async def test_applying_twice_changes_nothing(rig: Rig) -> None:
    first = await rig.drctl("schedules", "apply", "-o", "json")
    assert first.code == 0, first
    assert sorted(first.json["created"]) == [BACKUP, VALIDATION, RETENTION]
    second = (await rig.drctl("schedules", "apply", "-o", "json")).json
    assert sorted(second.pop("unchanged")) == [BACKUP, VALIDATION, RETENTION]
    assert second == {"created": [], "updated": [], "deleted": []}
    await listed(rig, BACKUP, VALIDATION, RETENTION)
    text = await rig.drctl("schedules", "list")
    assert BACKUP in text.out and "active" in text.out


async def test_a_changed_one_is_updated_and_stays_paused(rig: Rig) -> None:
    await rig.drctl("schedules", "apply")
    handle = rig.client.get_schedule_handle(BACKUP)
    await handle.pause(note="until the migration is over")
    rig.write(change=with_backup)
    applied = (await rig.drctl("schedules", "apply", "-o", "json")).json
    assert (applied["updated"], applied["created"], applied["deleted"]) == ([BACKUP], [], [])
    schedule = (await handle.describe()).schedule
    assert (schedule.state.paused, schedule.state.note) == (True, "until the migration is over")
    assert (schedule.spec.calendars[0].hour[0].start, schedule.spec.calendars[0].minute[0].start) == (3, 15)
    again = (await rig.drctl("schedules", "apply", "-o", "json")).json
    assert again["updated"] == []
    await listed(rig, BACKUP, VALIDATION, RETENTION)
    assert "paused: until the migration is over" in (await rig.drctl("schedules", "list")).out


async def test_a_removed_one_is_deleted_and_other_installations_are_left_alone(rig: Rig, tmp_path: Path) -> None:
    other_folder = tmp_path / "other"
    other_folder.mkdir()
    other = Rig(rig.client, other_folder)
    other.write(change=lambda text: text.replace("  shop: &group", "  books:"))
    await other.drctl("schedules", "apply")
    await rig.drctl("schedules", "apply")
    await listed(rig, BACKUP, VALIDATION, RETENTION, *(f"recovery/books/{name.rpartition('/')[2]}" for name in
                                                         (BACKUP, VALIDATION, RETENTION)))  # fmt: skip
    rig.write(change=without_validation)
    applied = (await rig.drctl("schedules", "apply", "-o", "json")).json
    assert (applied["deleted"], applied["created"], applied["updated"]) == ([VALIDATION], [], [])
    assert (await rig.drctl("schedules", "apply", "-o", "json")).json["deleted"] == []


async def test_what_a_schedule_started_runs_on_and_nothing_starts_beside_it(rig: Rig) -> None:
    rig.world.block["take-physical-backup"] = asyncio.Event()
    async with rig.worker():
        await rig.drctl("schedules", "apply")
        handle = rig.client.get_schedule_handle(BACKUP)
        await handle.trigger()
        await rig.world.until("take-physical-backup")
        rig.write(change=with_backup)
        assert (await rig.drctl("schedules", "apply", "-o", "json")).json["updated"] == [BACKUP]
        async with asyncio.timeout(20):
            while not (started := (await handle.describe()).info.running_actions):
                await asyncio.sleep(0.1)
        [run] = started
        assert isinstance(run, ScheduleActionExecutionStartWorkflow)
        await handle.trigger()
        async with asyncio.timeout(20):
            while (await handle.describe()).info.num_actions_skipped_overlap < 1:
                await asyncio.sleep(0.1)
        described = await rig.client.get_workflow_handle(run.workflow_id).describe()
        assert described.status is WorkflowExecutionStatus.RUNNING
        assert await described.memo_value("recovery-plans.group") == "shop"
        rig.world.block["take-physical-backup"].set()
        ended = await rig.drctl("status", run.workflow_id, "--watch", "-o", "json")
        assert (ended.code, ended.json["report"]["requested_by"]) == (0, "schedule")
