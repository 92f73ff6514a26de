"""What needs a private key is asked of those workers of the target's region that hold one, and of nobody else."""

from __future__ import annotations

import asyncio
import dataclasses
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from activities.boundary import step
from activities.configuration import ConfigurationSteps
from activities.lock import LockGuard
from recovery.domain.group import GroupSnapshot
from recovery.domain.plan import PlanContext, StepOutcome
from recovery.domain.report import RunReport, RunState
from recovery.errors import WrongKey
from tests.chaos.recording import activities
from tests.chaos.variants import group
from tests.chaos.world import FileReports, SqliteOwnership, World
from workers.options import worker_options
from workers.registry import activities_of
from workflows.control import OperatorCommand
from workflows.runs.full_recovery import FullRecovery
from workflows.runs.restore import Restore
from workflows.steps import Parallel, Plan, s

PLANS = (Restore, FullRecovery)


def name_of(activity: Callable[..., Any]) -> str:
    return str(activity.__temporal_activity_definition.name)  # type: ignore[attr-defined]


class WithoutKeys:
    @step("restores.verify_infrastructure")
    async def verify_infrastructure(self, context: PlanContext) -> StepOutcome:
        raise WrongKey("this worker has no age identity")

    @step("restores.restore_database")
    async def restore_database(self, context: PlanContext) -> StepOutcome:
        raise WrongKey("this worker has no age identity")

    @step("restores.remove_restored")
    async def remove_restored(self, context: PlanContext) -> StepOutcome:
        raise WrongKey("this worker has no age identity")


@dataclass
class Region:
    """Two workers: one takes everything and holds no key, the other holds one and takes what needs it."""

    client: Client
    root: Path
    queue: str
    require_approval: bool = False

    def snapshot(self, name: str) -> GroupSnapshot:
        known = group(name, self.queue)
        regions = [region.model_copy(update={"restore_queue": f"{self.queue}-restore"}) for region in known.regions]
        return known.model_copy(update={"regions": regions, "require_approval": self.require_approval})

    def without_keys(self) -> Worker:
        known = activities_of(ConfigurationSteps(self, FileReports(self.root / "reports")))
        keyless = activities_of(WithoutKeys())
        replaced = {name_of(each) for each in (*known, *keyless)}
        others = [each for each in activities(self.root, self.queue) if name_of(each) not in replaced]
        return self._worker(self.queue, [*known, *keyless, *others], list(PLANS))

    def keyholder(self) -> Worker:
        return self._worker(f"{self.queue}-restore", activities(self.root, self.queue), [])

    def _worker(self, queue: str, methods: list[Callable[..., Any]], workflows: list[type]) -> Worker:
        return Worker(
            self.client,
            task_queue=queue,
            workflows=workflows,
            activities=methods,
            interceptors=[LockGuard(SqliteOwnership(self.root / "ownership.db"))],
            # The sandbox would read a plan's table anew, without what a test changed in it.
            workflow_runner=UnsandboxedWorkflowRunner(),
            **worker_options(),
        )

    async def start(self, plan: str, group: str = "shop") -> tuple[WorkflowHandle[object, RunReport], World]:
        world = World(self.root, group)
        world.create([])
        handle: WorkflowHandle[object, RunReport] = await self.client.start_workflow(
            plan, {"group": group}, id=f"{plan}/{uuid.uuid4()}", task_queue=self.queue, result_type=RunReport
        )
        return handle, world


@pytest.fixture
def region(temporal: Client, tmp_path: Path) -> Region:
    return Region(temporal, tmp_path, f"region-{uuid.uuid4()}")


@pytest.mark.parametrize("plan", ["Restore", "FullRecovery"])
async def test_a_neighbour_without_keys_refuses_nothing_that_a_keyholder_can_do(region: Region, plan: str) -> None:
    async with region.without_keys(), region.keyholder():
        handle, world = await region.start(plan)
        report = await handle.result()
    assert report.state is RunState.COMPLETED, report.error
    assert {"verify-infrastructure", "restore-database"} <= world.present
    asked = {each.name: each.where for each in report.steps}
    assert asked["restore-database"] == "target with keys"


async def test_nobody_needs_a_keyholder_while_people_are_asked(skipping: WorkflowEnvironment, tmp_path: Path) -> None:
    """Of a set of every store: its first worker with a key comes up long after the run began."""
    region = Region(skipping.client, tmp_path, f"region-{uuid.uuid4()}", require_approval=True)
    async with region.without_keys():
        with skipping.with_time_skipping_disabled():
            handle, world = await region.start("FullRecovery", group="together")
        async with asyncio.timeout(30):
            while (await progress(handle)).state is not RunState.WAITING:
                await asyncio.sleep(0.05)
            await skipping.fast_forward(handle, timedelta(minutes=5))
        async with region.keyholder():
            await handle.execute_update("approve", OperatorCommand(actor="ana", reason="the region is gone"))
            report = await handle.result()
    assert report.state is RunState.COMPLETED, report.error
    assert {"check-stores", "restore-redis", "restore-streams", "open-stores"} <= world.present
    checked_at = next(step.started_at for step in report.steps if step.name == "check-stores")
    assert checked_at is not None and checked_at - report.started_at > timedelta(minutes=5)


async def progress(handle: WorkflowHandle[object, RunReport]) -> RunReport:
    report: RunReport = await handle.query("progress", result_type=RunReport)
    return report


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: str(plan.__name__))
async def test_without_any_keyholder_it_is_said_what_to_do(
    region: Region, plan: type[Restore] | type[FullRecovery], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "plan", _hasty(plan.plan))
    async with region.without_keys():
        handle, world = await region.start(plan.__name__)
        with pytest.raises(WorkflowFailureError):
            await handle.result()
        report: RunReport = await handle.query("progress", result_type=RunReport)
    assert report.state is RunState.ROLLED_BACK
    assert report.failed_step == "verify-infrastructure"
    assert "no worker of region-b that holds an age identity took it" in report.error
    assert "set keys.identities" in report.error
    assert "restore-database" not in world.present


def _hasty(plan: Plan) -> Plan:
    """The same, which does not wait half a minute for a keyholder."""

    def hasty(row: Any) -> Any:
        if isinstance(row, Parallel):
            return dataclasses.replace(row, steps=tuple(hasty(step) for step in row.steps))
        return row if row.start_within is None else dataclasses.replace(row, start_within=s(1))

    return dataclasses.replace(plan, rows=tuple(hasty(row) for row in plan.rows))
