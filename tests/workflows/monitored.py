"""One group's monitor as a test drives it: vantage points that say what they see, guards and a witness in memory."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from temporalio.client import Client, WorkflowHandle
from temporalio.service import RPCError
from temporalio.worker import Worker

from activities.monitoring import Monitoring
from activities.notifications import Notifications
from recovery.adapters.incident_text import TemplateIncidentWriter
from recovery.domain.group import FailoverRule, GroupSnapshot, Objectives, RegionPlan
from recovery.domain.health import RegionReport, Report, Verdict
from recovery.domain.ownership import OwnershipRecord
from recovery.domain.plan import PlanRequest
from tests.fakes.handover import FakeGuards
from tests.fakes.notifier import FakeNotifier
from tests.fakes.ownership import FakeOwnershipStore
from tests.workflows.pretended import PretendedFailover, PretendedRecovery
from workers.options import worker_options
from workers.registry import activities_of
from workflows.health_monitor import MONITORS, HealthMonitor
from workflows.health_state import HealthView, MonitorState

POINTS = ["region-a", "region-b", "outside"]
NOW = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)


def group_of(name: str, **rule: Any) -> GroupSnapshot:
    usual = {
        "policy": "automatic", "interval": timedelta(seconds=1), "vantage_points": POINTS,
        "cooldown": timedelta(minutes=30), "approve_timeout": timedelta(minutes=15),
    }  # fmt: skip
    return GroupSnapshot(
        name=name,
        objectives=Objectives(tier="critical", rto=timedelta(minutes=15), rpo=timedelta(minutes=5)),
        home_region="region-a",
        regions=[
            RegionPlan(name="region-a", task_queue="a", guard="http://a:1"),
            RegionPlan(name="region-b", task_queue="b", guard="http://b:1"),
        ],
        failover=FailoverRule(**{**usual, **rule}),
        config_hash="1",
    )


@dataclass
class Rig:
    """One group with a monitor of its own on a task queue of its own."""

    client: Client
    group: GroupSnapshot
    ownership: FakeOwnershipStore = field(default_factory=FakeOwnershipStore)
    notifier: FakeNotifier = field(default_factory=FakeNotifier)
    guards: FakeGuards = field(default_factory=lambda: FakeGuards(FakeOwnershipStore()))
    queue: str = field(default_factory=lambda: f"health-{uuid.uuid4()}")
    serial: int = 0
    most_events: int = 4_000

    def snapshot(self, group: str) -> GroupSnapshot:
        return self.group

    @property
    def name(self) -> str:
        return self.group.name

    @property
    def handle(self) -> WorkflowHandle[Any, Any]:
        return self.client.get_workflow_handle(f"health/{self.name}")

    @property
    def plan(self) -> WorkflowHandle[Any, Any]:
        return self.client.get_workflow_handle(f"recovery/{self.name}")

    def worker(self, **options: Any) -> Worker:
        async def watch(vantage: str, ordered_at: datetime) -> bool:
            return False

        return Worker(
            self.client,
            task_queue=self.queue,
            workflows=[*MONITORS, PretendedFailover, PretendedRecovery],
            activities=[
                *activities_of(Monitoring(self, self.ownership, watch, self.guards)),
                *activities_of(Notifications(self.notifier, TemplateIncidentWriter())),
            ],
            **{**worker_options(), **options},
        )

    async def owned_by(self, region: str, epoch: int, run: str | None = None) -> None:
        found = await self.ownership.read(self.name)
        record = OwnershipRecord(group=self.name, region=region, epoch=epoch, run=run, plan="Backup", changed_at=NOW)
        await self.ownership.write(record, version=found[1] if found else None)

    async def hears(
        self,
        verdicts: dict[str, Verdict],
        *,
        owner: str = "region-a",
        epoch: int = 1,
        standby: bool = True,
        alive: bool = True,
        **said: Any,
    ) -> None:
        """One report of each vantage point, by signal-with-start."""
        said = {"beat": 3600.0, "source": "process", "generation": 1, **said}
        for vantage, verdict in verdicts.items():
            self.serial += 1
            other = "region-b" if owner == "region-a" else "region-a"
            report = Report(
                group=self.name, vantage=vantage, serial=self.serial,
                owner=owner, epoch=epoch, config_hash="1",
                regions={
                    owner: RegionReport(
                        verdict=verdict, failing_since=NOW if verdict is Verdict.LOST else None,
                        failing=["postgres: no answer within 5 s"] if verdict is Verdict.LOST else [],
                    ),
                    other: RegionReport(verdict=Verdict.HEALTHY, is_alive=alive, is_standby=standby),
                },
                **said,
            )  # fmt: skip
            await self.client.start_workflow(
                HealthMonitor.run, MonitorState(most_events=self.most_events), id=f"health/{self.name}",
                task_queue=self.queue, start_signal="report", start_signal_args=[report],
            )  # fmt: skip

    async def view(self) -> HealthView:
        view: HealthView = await self.handle.query("health", result_type=HealthView)
        return view

    async def until(self, condition: Callable[[HealthView], bool], seconds: float = 20) -> HealthView:
        view = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    view = await self.view()
                    if condition(view):
                        return view
                    await asyncio.sleep(0.05)
        raise AssertionError(f"not within {seconds} s: {view}")

    async def settled(self) -> HealthView:
        """After everything that was sent has been decided on."""
        await self.until(lambda view: view.votes is not None)
        await asyncio.sleep(0.3)
        return await self.view()

    async def started(self) -> str | None:
        """Type of the plan that runs or ran, None where none was ever started."""
        try:
            return (await self.plan.describe()).workflow_type
        except RPCError:
            return None

    async def asked(self) -> PlanRequest:
        """With what the plan was started."""
        history = await self.plan.fetch_history()
        sent = history.events[0].workflow_execution_started_event_attributes.input
        found: list[PlanRequest] = await self.client.data_converter.decode(sent.payloads, [PlanRequest])
        return found[0]

    def titles(self) -> list[str]:
        return [message.title for message in self.notifier.sent]


def lost(*vantages: str) -> dict[str, Verdict]:
    return dict.fromkeys(vantages, Verdict.LOST)


def well(*vantages: str) -> dict[str, Verdict]:
    return dict.fromkeys(vantages, Verdict.HEALTHY)


@contextlib.asynccontextmanager
async def rigged(client: Client, **rule: Any) -> AsyncIterator[Rig]:
    rig = Rig(client, group_of(f"shop-{uuid.uuid4().hex[:8]}", **rule))
    await rig.owned_by("region-a", 1)
    async with rig.worker():
        try:
            yield rig
        finally:
            for handle in (rig.handle, rig.plan):
                with contextlib.suppress(RPCError):
                    await handle.terminate("the test is over")


def another_run_than(known: str) -> Callable[[HealthView], bool]:
    return lambda view: view.run is not None and view.run.run_id != known
