"""Whole runs with recovery points at RDS: the real steps, an API as strict as RDS, stores, DNS and locks in memory."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from temporalio.client import Client
from temporalio.worker import Worker

from activities.configuration import ConfigurationSteps
from activities.dns import DnsSteps
from activities.guarding import GuardingSteps
from activities.lock import LockGuard
from activities.notifications import Notifications
from activities.ownership import Ownership
from activities.recovery_points import RecoveryPointSteps
from activities.recovery_sets import RecoverySetSteps
from activities.reports import Reports
from activities.restores import RestoreSteps
from activities.services import ServiceSteps
from activities.set_restores import SetRestoreSteps
from activities.validations import ValidationSteps
from recovery.adapters.incident_text import TemplateIncidentWriter
from recovery.adapters.restores_by_store import RestoresByStore
from recovery.backup.sealing import Opener, Sealer
from recovery.domain.group import DnsRecord, GroupSnapshot
from recovery.domain.plan import DnsBefore
from recovery.domain.recovery_point import BackupKind
from recovery.domain.report import RunReport, RunState
from recovery.ports.recovery_points import Restores
from recovery.ports.services import HealthProbe
from tests.contract.moto_server import moto
from tests.contract.rds_front import rds
from tests.contract.rds_points import Managed, managed
from tests.contract.rds_site import AWAY, HOME, reset
from tests.fakes.dns import FakeDnsZone
from tests.fakes.handover import FakeProbe
from tests.fakes.measurements import FakeMeasurements
from tests.fakes.notifier import FakeNotifier
from tests.fakes.ownership import FakeOwnershipStore
from tests.fakes.points import AGE
from tests.workflows.conftest import MemoryReports
from workers.options import worker_options
from workers.registry import activities_of
from workflows.runs.backup import Backup
from workflows.runs.backup_validation import BackupValidation
from workflows.runs.full_recovery import FullRecovery

NAME = "db.shop.test"


class Site:
    """A group at RDS whose clients find it by a CNAME, and a worker that runs its plans."""

    def __init__(self, client: Client, managed: Managed) -> None:
        self.client, self.managed = client, managed
        self.queue = f"rds-{uuid.uuid4()}"
        self.ownership = FakeOwnershipStore()
        managed.points.ownership = self.ownership
        before = DnsBefore(name=NAME, type="CNAME", ttl=60, values=["old.rds.test."], zone="shop.test")
        self.zone = FakeDnsZone([before])

    def snapshot(self, name: str) -> GroupSnapshot:
        group = self.managed.group
        return group.model_copy(
            update={
                "regions": [each.model_copy(update={"task_queue": self.queue}) for each in group.regions],
                "validation_queue": self.queue,
                "records": [DnsRecord(name=NAME, type="CNAME", zone="shop.test", points_at="database")],
                "config_hash": "0" * 64,
            }
        )

    def worker(self) -> Worker:
        reports, measured, points = MemoryReports(), FakeMeasurements(), self.managed.points
        restores = RestoresByStore({BackupKind.SNAPSHOT: cast(Restores, self.managed.restores)})
        steps = (
            Ownership(self.ownership),
            Notifications(FakeNotifier(), TemplateIncidentWriter()),
            Reports(reports, measured),
            ConfigurationSteps(self, reports),
            RecoveryPointSteps(points, measured),
            RecoverySetSteps(points),
            ValidationSteps(points, measured),
            RestoreSteps(restores, measured),
            SetRestoreSteps(restores, measured),
            DnsSteps(self.zone),
            ServiceSteps(cast(HealthProbe, FakeProbe()), measured),
            GuardingSteps(cast(Any, None), cast(Any, None), self.ownership, restores),
        )
        return Worker(
            self.client,
            task_queue=self.queue,
            workflows=[Backup, BackupValidation, FullRecovery],
            activities=activities_of(*steps),
            interceptors=[LockGuard(self.ownership)],
            **worker_options(),
        )

    async def run(self, plan: str, **request: object) -> RunReport:
        report: RunReport = await self.client.execute_workflow(
            plan,
            {"group": "shop", "reason": "a test", **request},
            id=f"{plan}/{uuid.uuid4()}",
            task_queue=self.queue,
            result_type=RunReport,
        )
        return report


@pytest.fixture
async def site(temporal: Client) -> AsyncIterator[Site]:
    async with moto() as amazon, rds(amazon) as front, Sealer([AGE.public]) as sealer, Opener([AGE.secret]) as opener:
        await reset(amazon)
        async with managed(front, sealer, opener) as made:
            site = Site(temporal, made)
            async with site.worker():
                yield site


async def test_a_group_at_rds_is_backed_up_proven_and_recovered_in_another_region(site: Site) -> None:
    backup = await site.run("Backup")
    assert backup.state is RunState.COMPLETED
    (point_id,) = backup.point_ids
    proven = site.client.get_workflow_handle(f"validate/shop/{point_id}", result_type=RunReport)
    assert (await proven.result()).state is RunState.COMPLETED
    assert (await site.managed.points.point(site.managed.group, point_id)).is_valid
    assert await site.managed.instances(HOME) == []
    site.managed.front.silent = {HOME}  # the region is lost
    recovery = await site.run("FullRecovery")
    assert recovery.state is RunState.COMPLETED
    (name,) = await site.managed.instances(AWAY)
    made = await site.managed.database.instance(AWAY, name)
    assert made is not None and made.opened == made.mark
    assert site.zone.records[NAME, "CNAME", "shop.test", None].values == [f"{made.host}."]
    assert site.managed.probe.written == [(made.host, made.port)]
    record, _ = site.ownership.records["shop"]
    assert (record.region, record.run) == (AWAY, None)
