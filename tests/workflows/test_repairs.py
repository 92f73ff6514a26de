"""A validation that finds damage repairs it and proves it again; one that an earlier version began goes on without."""

from __future__ import annotations

import dataclasses
import uuid
from pathlib import Path

import pytest
from temporalio import workflow
from temporalio.client import Client, WorkflowHandle, WorkflowHistory
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Replayer, UnsandboxedWorkflowRunner, Worker

from activities.lock import LockGuard
from recovery.domain.report import RunReport, RunState
from tests.chaos.recording import activities
from tests.chaos.world import SqliteOwnership, World
from workers.options import worker_options
from workflows.runs.backup_validation import BackupValidation
from workflows.steps import Plan

TODAYS = BackupValidation.plan
REPAIRS = ("repair-copies", "prove-again")


def without_repairs(plan: Plan) -> Plan:
    return dataclasses.replace(plan, rows=tuple(row for row in plan.rows if getattr(row, "name", "") not in REPAIRS))


async def run(client: Client, root: Path) -> tuple[WorkflowHandle[object, RunReport], RunReport, World]:
    """A validation whose one point is found CORRUPT at first."""
    queue = f"validation-{uuid.uuid4()}"
    world = World(root, "shop")
    world.create([])
    worker = Worker(
        client,
        task_queue=queue,
        workflows=[BackupValidation],
        activities=activities(root, queue),
        interceptors=[LockGuard(SqliteOwnership(root / "ownership.db"))],
        workflow_runner=UnsandboxedWorkflowRunner(),  # the sandbox would read the table anew, as it is today
        **worker_options(),
    )
    async with worker:
        handle: WorkflowHandle[object, RunReport] = await client.start_workflow(
            "BackupValidation", {"group": "shop"}, id=str(uuid.uuid4()), task_queue=queue, result_type=RunReport
        )
        return handle, await handle.result(), world


async def replayed(history: WorkflowHistory) -> Exception | None:
    replayer = Replayer(
        workflows=[BackupValidation],
        data_converter=pydantic_data_converter,
        workflow_runner=UnsandboxedWorkflowRunner(),
    )
    return (await replayer.replay_workflow(history, raise_on_replay_failure=False)).replay_failure


async def test_what_is_found_damaged_is_repaired_and_proven_in_the_same_run(temporal: Client, tmp_path: Path) -> None:
    handle, report, world = await run(temporal, tmp_path)
    assert report.state is RunState.COMPLETED
    done = [line.removeprefix("do ") for line in world.log]
    assert done.index("validate-points") < done.index("repair-copies") < done.index("prove-again") < done.index("judge")
    assert await replayed(await handle.fetch_history()) is None


async def test_a_run_of_an_earlier_version_that_found_damage_goes_on_without_repairs(
    temporal: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr(BackupValidation, "plan", without_repairs(TODAYS))
        handle, _, world = await run(temporal, tmp_path)
    assert not world.present & set(REPAIRS)
    history = await handle.fetch_history()
    assert await replayed(history) is None
    monkeypatch.setattr(workflow, "patched", lambda name: True)
    assert "nondeterminism" in str(await replayed(history)).lower(), "it is the patch that it goes on by"
