"""Recovery points of a group whose PostgreSQL runs at RDS: stores in memory, real signatures, moto behind the front."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from recovery.adapters.key_ring import KeyRing
from recovery.adapters.managed_points import ManagedPoints
from recovery.adapters.managed_restores import ManagedRestores
from recovery.adapters.rds import RdsPostgres
from recovery.adapters.rds_snapshots import RdsSnapshots
from recovery.adapters.recovery_points import StoredRecoveryPoints
from recovery.backup.sealing import Opener, Sealer
from recovery.domain.group import GroupSnapshot, Objectives, PostgresAt, RegionPlan
from recovery.domain.managed import ManagedRule, snapshot_name
from recovery.domain.recovery_point import BackupKind, CheckResult, Manifest, Verdict
from recovery.errors import Unreachable
from recovery.ports.recovery_points import BackupOrder, RestoreOrder
from tests.contract.rds_front import Front
from tests.contract.rds_site import AWAY, HOME, REPLICA, SOURCE, Probe, adapter_of
from tests.fakes.object_store import MemoryStore
from tests.fakes.ownership import FakeOwnershipStore
from tests.fakes.points import NOW, signer, verifier
from tests.unit.points.rig import BUDGET

POINT = "20261122T101500Z-snapshot-1a2b3c4d"
NAME = snapshot_name(POINT)


def nothing(done: int, expected: int, what: str) -> None:
    pass


class Reader:
    """``recovery.ports.managed_postgres.ManagedReader``: reads everything, unless ``failure`` says otherwise."""

    def __init__(self) -> None:
        self.failure: Exception | None = None
        self.asked = 0
        self.read: list[tuple[str, str]] = []
        self.reading: Callable[[str], Awaitable[None]] | None = None  # what reading waits for
        self.checks = [CheckResult(name="tables-readable", passed=True, detail="12 tables were read to the end")]

    async def log_in(self, group: GroupSnapshot, region: str, host: str, port: int) -> None:
        self.asked += 1
        if isinstance(self.failure, Unreachable):
            raise self.failure

    async def contents(self, group: GroupSnapshot, region: str, host: str, port: int) -> list[CheckResult]:
        self.read.append((region, host))
        if self.reading is not None:
            await self.reading(host)
        if self.failure is not None:
            raise self.failure
        return self.checks


@dataclass
class Managed:
    """A group with its instance in one region and a read replica in another, to which snapshots are copied."""

    front: Front
    database: RdsPostgres
    sealer: Sealer
    opener: Opener
    rule: dict[str, Any] = field(default_factory=dict)
    stores: list[MemoryStore] = field(default_factory=lambda: [MemoryStore("a"), MemoryStore("b")])
    reader: Reader = field(default_factory=Reader)
    probe: Probe = field(default_factory=Probe)

    def __post_init__(self) -> None:
        self.api = RdsSnapshots(self.database)
        self.part = ManagedPoints(self._snapshots, self._database, self.reader, look_every=0.001, within_seconds=30)
        self.points = StoredRecoveryPoints(
            stores=lambda group: self.stores,
            keys=KeyRing(self.sealer, verifier(), signer(), self.opener),
            parts={BackupKind.SNAPSHOT: self.part},
            ownership=FakeOwnershipStore(),
            scratch_folder=lambda group: Path(tempfile.gettempdir()),
            budget=lambda group: BUDGET,
            elsewhere={BackupKind.SNAPSHOT: self.part},
        )
        self.restores = ManagedRestores(
            self.points.catalogue, self._snapshots, self._database, self.probe, look_every=0.001
        )

    async def _snapshots(self, group: str) -> RdsSnapshots:
        return self.api

    async def _database(self, group: str) -> RdsPostgres:
        return self.database

    @property
    def group(self) -> GroupSnapshot:
        rule = {"instances": {HOME: SOURCE, AWAY: REPLICA}, "snapshot_copies": [AWAY]} | self.rule
        return GroupSnapshot(
            name="shop",
            objectives=Objectives(tier="standard", rto=timedelta(hours=1), rpo=timedelta(hours=1)),
            home_region=HOME,
            regions=[
                RegionPlan(name=name, task_queue=name, postgres=PostgresAt(host="127.0.0.1", database="shop"))
                for name in (HOME, AWAY)
            ],
            locations=[store.name for store in self.stores],
            backup_kinds=["snapshot"],
            managed=ManagedRule(**rule),
            managed_by="rds",
        )

    def backup(self, point_id: str = POINT, started_at: datetime = NOW) -> BackupOrder:
        return BackupOrder(self.group, HOME, BackupKind.SNAPSHOT, point_id, "run-1", 1, started_at)

    async def take(self, point_id: str = POINT) -> Manifest:
        return (await self.points.take(self.backup(point_id), nothing)).manifest

    async def validate(self, point_id: str = POINT, run_id: str = "run-2") -> Verdict:
        return await self.points.validate(self.group, point_id, run_id, nothing)

    def restore(self, region: str = AWAY, restore_id: str = "0123456789ab", **wanted: Any) -> RestoreOrder:
        return RestoreOrder(self.group, region, POINT, restore_id, **wanted)

    async def there(self, region: str, point_id: str = POINT) -> bool:
        return await self.api.snapshot(region, snapshot_name(point_id)) is not None

    async def instances(self, region: str) -> list[str]:
        """Those that a validation or a restore made."""
        return [each.name for each in await self.api.restored(region, "")]

    def asked(self, action: str, region: str | None = None) -> int:
        return sum(each[0] == action and region in (None, each[1]) for each in self.front.calls)


@asynccontextmanager
async def managed(
    front: Front, sealer: Sealer, opener: Opener, patience: timedelta = timedelta(seconds=0.9)
) -> AsyncIterator[Managed]:
    database = adapter_of(front, patience=patience)
    try:
        yield Managed(front, database, sealer, opener)
    finally:
        await database.close()
