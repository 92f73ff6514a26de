"""A recovery of several stores restores them beside PostgreSQL; one that an earlier version began goes on without."""

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
from workflows.runs.full_recovery import FullRecovery
from workflows.steps import Parallel, Plan, Step

TODAYS = FullRecovery.plan
OF_SETS = (
    "check-stores", "restore-streams", "restore-redis", "restore-search", "verify-stores", "open-stores",
)  # fmt: skip


def without_sets(plan: Plan) -> Plan:
    """As it was before: rows with nothing beside them were no parallel rows, and nothing came of what is not asked."""
    rows: list[Step | Parallel] = []
    for row in plan.rows:
        if isinstance(row, Step):
            rows += [row] if row.name not in OF_SETS else []
            continue
        left = tuple(step for step in row.steps if step.name not in OF_SETS)
        rows.append(left[0] if len(left) == 1 else dataclasses.replace(row, steps=left))
    return dataclasses.replace(plan, rows=tuple(rows))


async def run(client: Client, root: Path) -> tuple[WorkflowHandle[object, RunReport], RunReport, World]:
    """A recovery that goes by a set with a part of every store."""
    group, queue = f"together-{uuid.uuid4().hex[:8]}", f"recovery-{uuid.uuid4()}"
    world = World(root, group)
    world.create([])
    worker = Worker(
        client,
        task_queue=queue,
        workflows=[FullRecovery],
        activities=activities(root, queue),
        interceptors=[LockGuard(SqliteOwnership(root / "ownership.db"))],
        workflow_runner=UnsandboxedWorkflowRunner(),  # the sandbox would read the table anew, as it is today
        **worker_options(),
    )
    async with worker:
        handle: WorkflowHandle[object, RunReport] = await client.start_workflow(
            "FullRecovery", {"group": group}, id=str(uuid.uuid4()), task_queue=queue, result_type=RunReport
        )
        return handle, await handle.result(), world


async def replayed(history: WorkflowHistory) -> Exception | None:
    replayer = Replayer(
        workflows=[FullRecovery],
        data_converter=pydantic_data_converter,
        workflow_runner=UnsandboxedWorkflowRunner(),
    )
    return (await replayer.replay_workflow(history, raise_on_replay_failure=False)).replay_failure


async def test_all_parts_of_a_set_are_restored_verified_and_opened(temporal: Client, tmp_path: Path) -> None:
    handle, report, world = await run(temporal, tmp_path)
    assert report.state is RunState.COMPLETED
    done = [line.removeprefix("do ") for line in world.log]
    together = {"restore-database", "restore-streams", "restore-redis", "restore-search"}
    first = min(done.index(name) for name in together)
    assert set(done[first : first + len(together)]) == together
    assert done.index("check-stores") < first < done.index("verify-stores") < done.index("open-writes")
    assert done.index("open-writes") < done.index("open-stores") < done.index("measure")
    found = report.recovered_set
    assert found is not None and found.set_id == "set-1"
    assert {each.store for each in found.stores if each.restored} == {"postgres", "nats", "redis", "search"}
    assert await replayed(await handle.fetch_history()) is None


async def test_a_run_of_an_earlier_version_goes_on_with_its_database_alone(
    temporal: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr(FullRecovery, "plan", without_sets(TODAYS))
        handle, _, world = await run(temporal, tmp_path)
    assert not world.present & set(OF_SETS)
    history = await handle.fetch_history()
    assert await replayed(history) is None
    monkeypatch.setattr(workflow, "patched", lambda name: True)
    assert "nondeterminism" in str(await replayed(history)).lower(), "it is the patch that it goes on by"
