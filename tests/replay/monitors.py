"""What the monitors' recorded histories are of: each scene is played, and ends in the history of its run."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime

from temporalio.client import Client, WorkflowHandle, WorkflowHistory
from temporalio.service import RPCError
from temporalio.worker import Worker

from activities.monitoring import Monitoring
from recovery.domain.group import GroupSnapshot
from recovery.domain.guarding import StoreRole
from recovery.domain.ownership import Strength
from recovery.errors import Refused
from tests.fakes.handover import FakeGuards, state
from tests.fakes.ownership import FakeOwnershipStore
from tests.workflows.monitored import POINTS, group_of, lost, rigged, well
from workers.options import worker_options
from workers.registry import activities_of
from workflows.control import OperatorCommand
from workflows.health_monitor import MONITORS
from workflows.vantage_monitor import VantageMonitor, VantageOrder

Scene = Callable[[Client], Awaitable[WorkflowHistory]]


async def failed_over(client: Client) -> WorkflowHistory:
    """A majority sees the owner lost; the plan is started, followed, and told of at its end."""
    async with rigged(client) as rig:
        await rig.hears(well(*POINTS))
        await rig.hears(lost("region-b", "outside"))
        await rig.until(lambda view: view.run is not None)
        await rig.owned_by("region-b", 2)
        await rig.plan.signal("end", {})
        await rig.until(lambda view: len(rig.titles()) == 2)
        return await rig.handle.fetch_history()


async def not_started(client: Client) -> WorkflowHistory:
    """Another run changes the group: the start is refused, and tried again later."""
    async with rigged(client) as rig:
        await rig.owned_by("region-a", 1, run="somebody's")
        await rig.hears(lost(*POINTS))
        await rig.until(lambda view: "is changing the group" in view.note)
        return await rig.handle.fetch_history()


async def approved(client: Client) -> WorkflowHistory:
    """A store that only a person keeps from a second primary makes automatic a question; somebody consents."""
    async with rigged(client) as rig:
        rig.guards.states = {"region-a": [state(StoreRole.PRIMARY, store="redis", strength=Strength.MANUAL)]}
        await rig.hears(lost(*POINTS))
        await rig.until(lambda view: view.question is not None and bool(rig.titles()))
        await rig.handle.execute_update("approve", OperatorCommand(actor="ana", reason="recorded for replay"))
        await rig.until(lambda view: view.run is not None)
        return await rig.handle.fetch_history()


async def declined(client: Client) -> WorkflowHistory:
    async with rigged(client, policy="approve") as rig:
        await rig.hears(lost(*POINTS))
        await rig.until(lambda view: view.question is not None and bool(rig.titles()))
        await rig.handle.execute_update("decline", OperatorCommand(actor="ana", reason="recorded for replay"))
        await rig.hears(well(*POINTS))
        await rig.until(lambda view: view.outage is None)
        return await rig.handle.fetch_history()


async def told_people(client: Client) -> WorkflowHistory:
    """Policy manual: a loss, and its end."""
    async with rigged(client, policy="manual") as rig:
        await rig.hears(lost(*POINTS))
        await rig.until(lambda view: len(rig.titles()) == 1)
        await rig.hears(well(*POINTS))
        await rig.until(lambda view: len(rig.titles()) == 2)
        return await rig.handle.fetch_history()


async def handed_over(client: Client) -> WorkflowHistory:
    """The first run, which ends because its history has grown, while a plan is followed."""
    async with rigged(client) as rig:
        rig.most_events = 60
        await rig.hears(lost(*POINTS))
        await rig.until(lambda view: view.run is not None)
        first = (await rig.handle.describe()).run_id
        while (await rig.handle.describe()).run_id == first:
            await rig.hears(lost(*POINTS))
        return await client.get_workflow_handle(rig.handle.id, run_id=first).fetch_history()


async def nothing_to_watch(client: Client) -> WorkflowHistory:
    async def watch(vantage: str, ordered_at: datetime) -> bool:
        return False

    async with watching(client, watch) as handle:
        await handle.result()
        return await handle.fetch_history()


async def watched_on(client: Client) -> WorkflowHistory:
    """Its loop ends twice in its time, and the next run goes on."""

    async def watch(vantage: str, ordered_at: datetime) -> bool:
        return True

    async with watching(client, watch) as handle:
        while (await client.get_workflow_handle(handle.id).describe()).run_id == handle.run_id:
            await asyncio.sleep(0.05)
        return await handle.fetch_history()


async def loop_failed(client: Client) -> WorkflowHistory:
    """The loop ends with an error; after a pause it is started again."""
    failures = [Refused("a mistake in the configuration")]

    async def watch(vantage: str, ordered_at: datetime) -> bool:
        if failures:
            raise failures.pop()
        return False

    async with watching(client, watch) as handle:
        await handle.result()
        return await handle.fetch_history()


@contextlib.asynccontextmanager
async def watching(
    client: Client, watch: Callable[[str, datetime], Awaitable[bool]]
) -> AsyncIterator[WorkflowHandle[object, object]]:
    """A vantage monitor with this loop; two attempts to a run."""

    class Known:
        def snapshot(self, group: str) -> GroupSnapshot:
            return group_of(group)

    queue = f"vantage-{uuid.uuid4()}"
    ownership = FakeOwnershipStore()
    activities = activities_of(Monitoring(Known(), ownership, watch, FakeGuards(ownership)))
    async with Worker(client, task_queue=queue, workflows=MONITORS, activities=activities, **worker_options()):
        handle = await client.start_workflow(
            VantageMonitor.run,
            VantageOrder(vantage="outside", queue=queue, rounds=2),
            id=f"monitor/{queue}",
            task_queue=queue,
        )
        try:
            yield client.get_workflow_handle(handle.id, run_id=handle.first_execution_run_id)
        finally:
            with contextlib.suppress(RPCError):  # it has ended by itself
                await client.get_workflow_handle(handle.id).terminate("the scene is over")


SCENES: dict[str, Scene] = {
    "HealthMonitor failed over": failed_over,
    "HealthMonitor not started": not_started,
    "HealthMonitor approved": approved,
    "HealthMonitor declined": declined,
    "HealthMonitor told people": told_people,
    "HealthMonitor handed over": handed_over,
    "VantageMonitor nothing to watch": nothing_to_watch,
    "VantageMonitor watched on": watched_on,
    "VantageMonitor loop failed": loop_failed,
}
