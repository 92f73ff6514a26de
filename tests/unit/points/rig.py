"""``StoredRecoveryPoints`` over stores in memory and a PostgreSQL that finds every restored point in order.

Whatever is wrong with stored bytes must be found before that PostgreSQL is asked: its restores never fail.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, cast

from recovery.adapters.key_ring import KeyRing
from recovery.adapters.logins import Logins
from recovery.adapters.postgres_points import PostgresPoints
from recovery.adapters.recovery_points import StoredRecoveryPoints
from recovery.backup.layout import PointIdentity, verdicts_prefix
from recovery.backup.pipeline import write_point
from recovery.backup.sealing import Opener, Sealer
from recovery.backup.upload import WriteBudget
from recovery.domain.group import GroupSnapshot, Objectives, PostgresAt, RegionPlan
from recovery.domain.recovery_point import BackupKind, CheckResult, DataStore, Manifest, VerdictState
from recovery.ports.postgres import BackupSource, PostgresLogin, PostgresRecovery
from tests.fakes.object_store import MemoryStore
from tests.fakes.ownership import FakeOwnershipStore
from tests.fakes.points import NOW, FakeSource, signer, verifier

CHUNK = 4096
REGION = "region-a"
BUDGET = WriteBudget(chunk_bytes=CHUNK, object_seconds=1, attempt_seconds=0.5, cleanup_seconds=2)


class CountingStore(MemoryStore):
    """Notes what is fetched."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.fetched: list[str] = []

    async def get(self, key: str) -> tuple[bytes, str]:
        self.fetched.append(key)
        return await super().get(key)

    @property
    def fetched_objects(self) -> list[str]:
        return [key for key in self.fetched if key.endswith(".age")]


class ContentPostgres:
    """Finds everything in order, and says how often it was asked."""

    def __init__(self) -> None:
        self.validated = 0

    async def validate(self, *arguments: object) -> tuple[VerdictState, str, list[CheckResult]]:
        self.validated += 1
        return VerdictState.VALID, "restored", [CheckResult(name="start", passed=True)]

    def physical_source(self, *arguments: object) -> AbstractAsyncContextManager[BackupSource]:
        return _entered(FakeSource({"base.tar": [b"x" * CHUNK]}))


@asynccontextmanager
async def _entered(source: FakeSource) -> AsyncIterator[BackupSource]:
    yield cast(BackupSource, source)


class NoLogins:
    async def backup(self, group: str, region: str) -> PostgresLogin:
        return PostgresLogin("127.0.0.1", 1)

    async def admin(self, group: str, region: str) -> PostgresLogin:
        return PostgresLogin("127.0.0.1", 1)


def group_at(stores: Sequence[MemoryStore]) -> GroupSnapshot:
    return GroupSnapshot(
        name="shop",
        objectives=Objectives(tier="critical", rto=timedelta(minutes=15), rpo=timedelta(minutes=5)),
        home_region=REGION,
        regions=[
            RegionPlan(name=name, task_queue=name, postgres=PostgresAt(host="127.0.0.1"))
            for name in (REGION, "region-b")
        ],
        locations=[store.name for store in stores],
        logical_databases=["shop"],
    )


@dataclass
class Rig:
    stores: list[CountingStore]
    points: StoredRecoveryPoints
    group: GroupSnapshot
    postgres: ContentPostgres
    ownership: FakeOwnershipStore
    manifest: Manifest

    @property
    def point_id(self) -> str:
        return self.manifest.point_id

    @property
    def object_keys(self) -> list[str]:
        return [entry.key for artefact in self.manifest.artefacts for entry in artefact.objects]

    async def validate(self, run_id: str = "validation") -> tuple[VerdictState, str]:
        verdict = await self.points.validate(self.group, self.point_id, run_id, lambda done, expected, what: None)
        return verdict.state, verdict.reason

    def change(self, store: MemoryStore, key: str, body: bytes) -> None:
        """As damage on a disk does it: nobody is told."""
        store.objects[key] = body

    async def forget_verdicts(self) -> None:
        for store in self.stores:
            prefix = verdicts_prefix(self.group.name, self.point_id)
            await store.delete([key for key in store.objects if key.startswith(prefix)])

    def with_keys(self, **keys: Any) -> StoredRecoveryPoints:
        return replace(self.points, keys=replace(self.points.keys, **keys))


async def make_rig(sealer: Sealer, opener: Opener) -> Rig:
    stores = [CountingStore("a"), CountingStore("b")]
    postgres, ownership = ContentPostgres(), FakeOwnershipStore()
    points = StoredRecoveryPoints(
        stores=lambda group: stores,
        keys=KeyRing(sealer, verifier(), signer(), opener),
        parts={
            DataStore.POSTGRES: PostgresPoints(
                lambda group, region: cast(PostgresRecovery, postgres), cast(Logins, NoLogins()), lambda group: "fast"
            )
        },
        ownership=ownership,
        scratch_folder=lambda group: Path(tempfile.gettempdir()),
        budget=lambda group: BUDGET,
    )
    manifest = await add_point(stores, sealer, NOW)
    return Rig(stores, points, group_at(stores), postgres, ownership, manifest)


async def add_point(stores: Sequence[MemoryStore], sealer: Sealer, at: datetime) -> Manifest:
    """A point of five objects of ``base.tar`` and one of ``backup_manifest``."""
    content = random.Random(str(at)).randbytes(5 * CHUNK - 100)
    identity = PointIdentity(
        point_id=f"{at:%Y%m%dT%H%M%SZ}-physical-1a2b3c4d",
        group="shop",
        attempt=1,
        run_id="run-1",
        region=REGION,
        started_at=at,
    )
    source = FakeSource({"base.tar": [content], "backup_manifest": [b"{}" * 50]}, kind=BackupKind.PHYSICAL)
    written = await write_point(
        cast(BackupSource, source), identity=identity, stores=stores, sealer=sealer, signer=signer(), budget=BUDGET
    )
    return written.manifest
