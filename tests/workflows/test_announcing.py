"""People are told beside the plan: a channel that hangs holds up no step, least of all the fence."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path

import pytest
from temporalio.client import Client, WorkflowHandle
from temporalio.worker import Worker

from activities.lock import LockGuard
from recovery.domain.report import RunReport, RunState, StepState
from tests.chaos.recording import Faults, activities
from tests.chaos.world import Fault, SqliteOwnership, World
from workers.options import worker_options
from workflows.definitions import WORKFLOWS
from workflows.plans import PLANS

ANNOUNCED = [name for name, plan in PLANS.items() if any(step.name == "announce-start" for step in plan.steps())]


def test_every_plan_that_brings_a_lost_service_back_is_announced() -> None:
    assert {name for name, plan in PLANS.items() if plan.has_rto} <= set(ANNOUNCED)


@pytest.mark.parametrize("plan", ANNOUNCED)
async def test_a_channel_that_hangs_holds_up_no_step(temporal: Client, tmp_path: Path, plan: str) -> None:
    queue, hanging = f"announcing-{uuid.uuid4()}", Fault("block", "announce-start", "before")
    world = World(tmp_path, "shop")
    world.create([hanging])
    worker = Worker(
        temporal,
        task_queue=queue,
        workflows=WORKFLOWS,
        activities=activities(tmp_path, queue),
        interceptors=[Faults(tmp_path), LockGuard(SqliteOwnership(tmp_path / "ownership.db"))],
        **worker_options(),
    )
    async with worker, asyncio.timeout(25):  # less than the announcement's own budget
        handle: WorkflowHandle[object, RunReport] = await temporal.start_workflow(
            plan, {"group": "shop"}, id=f"{plan}/{uuid.uuid4()}", task_queue=queue, result_type=RunReport
        )
        report: RunReport | None = None
        while report is None or report.steps[-1].state is not StepState.DONE:
            await asyncio.sleep(0.05)
            report = await handle.query("progress", result_type=RunReport)
        states = {step.name: step.state for step in report.steps}
        assert (report.state, states["announce-start"]) == (RunState.RUNNING, StepState.RUNNING)
        world.release(hanging)
        report = await handle.result()
    assert report.state is RunState.COMPLETED and "announce-start" in world.present
