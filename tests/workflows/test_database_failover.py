"""Whole runs of DatabaseFailover: the real steps, an API as strict as RDS, DNS and locks in memory."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any, cast

import pytest
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.worker import Worker

from activities.configuration import ConfigurationSteps
from activities.dns import DnsSteps
from activities.guarding import GuardingSteps
from activities.lock import LockGuard
from activities.managed_fencing import ManagedFencing
from activities.managed_postgres import ManagedPostgresSteps
from activities.notifications import Notifications
from activities.ownership import Ownership
from activities.reports import Reports
from activities.services import ServiceSteps
from recovery.adapters.incident_text import TemplateIncidentWriter
from recovery.adapters.rds import RdsPostgres
from recovery.domain.group import DnsRecord, GroupSnapshot, Objectives, RegionPlan
from recovery.domain.managed import ManagedRule
from recovery.domain.plan import DnsBefore
from recovery.domain.report import RunReport, RunState, StepState
from recovery.ports.services import HealthProbe
from tests.contract.moto_server import moto
from tests.contract.rds_front import Front, rds
from tests.contract.rds_site import AWAY, CLOSED, HOME, OPEN, REPLICA, SOURCE, Probe, adapter_of, reset
from tests.fakes.dns import FakeDnsZone
from tests.fakes.handover import FakeProbe
from tests.fakes.measurements import FakeMeasurements
from tests.fakes.notifier import FakeNotifier
from tests.fakes.ownership import FakeOwnershipStore
from tests.workflows.conftest import MemoryReports
from workers.options import worker_options
from workers.registry import activities_of
from workflows.control import OperatorCommand
from workflows.runs.database_failover import DatabaseFailover

ANA = OperatorCommand(actor="ana", reason="the console shows it stopped, and nobody may start it")
NAME = "db.shop.test"
Run = WorkflowHandle[Any, RunReport]


@pytest.fixture(scope="module")
async def amazon() -> AsyncIterator[str]:
    async with moto() as address:
        yield address


class Site:
    """A group whose PostgreSQL is RDS', whose clients find it by a CNAME, and a worker that runs its plans."""

    def __init__(self, client: Client, front: Front, database: RdsPostgres) -> None:
        self.client, self.front, self.database = client, front, database
        self.queue = f"database-{uuid.uuid4()}"
        self.rule = ManagedRule(instances={HOME: SOURCE, AWAY: REPLICA}, restored_instance="shop-restored")
        self.ownership, self.probe, self.notifier = FakeOwnershipStore(), Probe(), FakeNotifier()
        before = DnsBefore(name=NAME, type="CNAME", ttl=60, values=["old.rds.test."], zone="shop.test")
        self.zone = FakeDnsZone([before])

    def snapshot(self, name: str) -> GroupSnapshot:
        return GroupSnapshot(
            name=name,
            objectives=Objectives(tier="standard", rto=timedelta(hours=4), rpo=timedelta(hours=1)),
            home_region=HOME,
            regions=[
                RegionPlan(name=HOME, task_queue=self.queue, priority=100),
                RegionPlan(name=AWAY, task_queue=self.queue, priority=90),
            ],
            records=[DnsRecord(name=NAME, type="CNAME", zone="shop.test", points_at="database")],
            managed=self.rule,
            config_hash="0" * 64,
        )

    def worker(self) -> Worker:
        async def databases(group: str) -> RdsPostgres:
            return self.database

        reports = MemoryReports()
        steps = (
            Ownership(self.ownership),
            Notifications(self.notifier, TemplateIncidentWriter()),
            Reports(reports, FakeMeasurements()),
            ConfigurationSteps(self, reports),
            DnsSteps(self.zone),
            ServiceSteps(cast(HealthProbe, FakeProbe()), FakeMeasurements()),
            GuardingSteps(cast(Any, None), cast(Any, None), self.ownership, cast(Any, None)),  # takes a word, no more
            ManagedFencing(databases, look_every=0.01),
            ManagedPostgresSteps(databases, self.ownership, self.probe, look_every=0.01),
        )
        return Worker(
            self.client,
            task_queue=self.queue,
            workflows=[DatabaseFailover],
            activities=activities_of(*steps),
            interceptors=[LockGuard(self.ownership)],
            **worker_options(),
        )

    async def start(self, **request: object) -> Run:
        return await self.client.start_workflow(
            "DatabaseFailover",
            {"group": "shop", "reason": "storage failed", **request},
            id=f"recovery/{uuid.uuid4()}",
            task_queue=self.queue,
            result_type=RunReport,
        )

    async def until(self, run: Run, state: RunState) -> RunReport:
        async with asyncio.timeout(60):
            while True:
                report: RunReport = await run.query("progress", result_type=RunReport)
                if report.state is state:
                    return report
                await asyncio.sleep(0.05)

    @property
    def points_at(self) -> list[str]:
        return self.zone.records[NAME, "CNAME", "shop.test", None].values

    def orders(self) -> list[str]:
        return [action for action, *_ in self.front.calls if not action.startswith("Describe")]


@pytest.fixture
async def site(temporal: Client, amazon: str) -> AsyncIterator[Site]:
    await reset(amazon)
    async with rds(amazon) as front:
        database = adapter_of(front)
        site = Site(temporal, front, database)
        async with site.worker():
            yield site
        await database.close()


async def test_the_replica_takes_over_and_the_name_leads_to_it(site: Site) -> None:
    site.rule = site.rule.model_copy(update={"fence_security_groups": {HOME: [CLOSED]}})
    report = await (await site.start(force=True)).result()
    assert report.state is RunState.COMPLETED
    assert site.orders() == ["ModifyDBInstance", "RebootDBInstance", "PromoteReadReplica"]
    replica = await site.database.instance(AWAY, REPLICA)
    assert replica is not None and site.points_at == [f"{replica.host}."]
    record, _ = site.ownership.records["shop"]
    assert (record.region, record.epoch, record.run) == (AWAY, 2, None)
    skipped = [step.name for step in report.steps if step.state is StepState.SKIPPED]
    assert skipped == ["confirm-fence", "restore-snapshot", "wait-until-restored"]


async def test_without_means_to_fence_a_person_is_asked_before_anything_is_opened(site: Site) -> None:
    run = await site.start(force=True)
    report = await site.until(run, RunState.WAITING)
    assert next(step for step in report.steps if step.state is StepState.WAITING).name == "confirm-fence"
    assert site.orders() == []
    await run.execute_update("approve", ANA)
    report = await run.result()
    assert (report.state, site.orders()) == (RunState.COMPLETED, ["PromoteReadReplica"])
    record, _ = site.ownership.records["shop"]
    assert record.fence is not None and (record.fence.how, record.fence.by) == ("person", "ana")


async def test_when_nobody_vouches_all_is_as_before(site: Site) -> None:
    run = await site.start(force=True)
    await site.until(run, RunState.WAITING)
    await run.execute_update("decline", ANA)
    with pytest.raises(WorkflowFailureError):
        await run.result()
    assert (site.orders(), site.points_at) == ([], ["old.rds.test."])
    assert site.ownership.records["shop"][0].run is None


async def test_a_snapshot_that_cannot_be_restored_leaves_nothing_behind(site: Site) -> None:
    """The new instance never comes up: it is removed, and the old one is opened again."""
    site.rule = site.rule.model_copy(update={"fence_security_groups": {HOME: [CLOSED]}})
    site.front.status[HOME, "shop-restored"] = "incompatible-restore"
    run = await site.start(force=True, point_id="newest")
    with pytest.raises(WorkflowFailureError):
        await run.result()
    report: RunReport = await run.query("progress", result_type=RunReport)
    assert report.failed_step == "wait-until-restored"
    assert report.undo_order == ["restore-snapshot", "fence-primary", "claim-group"]
    assert await site.database.instance(HOME, "shop-restored") is None
    source = await site.database.instance(HOME, SOURCE)
    assert source is not None and source.security_groups == [OPEN]
    assert site.points_at == ["old.rds.test."]


async def test_a_restored_instance_serves_in_the_same_region(site: Site) -> None:
    site.front.status[HOME, SOURCE] = "failed"
    site.front.broken[AWAY, REPLICA] = "it lacks WAL"
    report = await (await site.start()).result()
    assert report.state is RunState.COMPLETED
    restored = await site.database.instance(HOME, "shop-restored")
    assert restored is not None and site.points_at == [f"{restored.host}."]
    record, _ = site.ownership.records["shop"]
    assert (record.region, record.epoch) == (HOME, 2)
    assert any("rds.instances" in warning for warning in report.warnings)
    assert report.achieved.rpo is not None
