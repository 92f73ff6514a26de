"""A rig of recovery points that has Redis, too: one on a socket to back up, one in memory to restore into."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from recovery.adapters.recovery_points import StoredRecoveryPoints
from recovery.adapters.redis.points import RedisPoints
from recovery.adapters.redis.recovery import RedisDumps
from recovery.adapters.redis.restores import RedisRestores
from recovery.domain.recovery_point import BackupKind, DataStore, Manifest
from recovery.ports.recovery_points import BackupOrder, RestoreOrder
from recovery.ports.redis import RedisRecovery
from tests.fakes.points import NOW
from tests.fakes.redis import FakeRedis
from tests.fakes.redis_recovery import FakeRedisRecovery
from tests.unit.points.rig import REGION, Rig
from tests.unit.points.stream_rig import nothing

POINT = "20261122T101500Z-rdb-1a2b3c4d"
NO_PROGRAM = Path("/bin/false")


@dataclass
class Dumps:
    """A group with Redis in both regions: ``server`` is the home region's, ``target`` the other's."""

    rig: Rig
    server: FakeRedis
    target: FakeRedisRecovery
    scratch: Path
    points: StoredRecoveryPoints = field(init=False)
    restores: RedisRestores = field(init=False)

    def __post_init__(self) -> None:
        regions = [region.model_copy(update={"redis": "10.0.0.1:6379"}) for region in self.rig.group.regions]
        self.rig.group = self.rig.group.model_copy(update={"regions": regions})
        part = RedisPoints(self.redis, program=NO_PROGRAM)
        self.points = replace(self.rig.points, parts={**self.rig.points.parts, DataStore.REDIS: part})
        self.restores = RedisRestores(self.points.catalogue, self.points.keys, self.redis, lambda group: self.scratch)

    async def redis(self, group: str, region: str) -> RedisRecovery:
        if region == REGION:
            return RedisDumps(self.server.server, program=NO_PROGRAM, silence=2)
        return self.target

    def backup(self, point_id: str = POINT) -> BackupOrder:
        return BackupOrder(self.rig.group, REGION, BackupKind.RDB, point_id, "run-1", 1, NOW)

    async def take(self) -> Manifest:
        return (await self.points.take(self.backup(), nothing)).manifest

    def order(self, region: str = "region-b", **wanted: Any) -> RestoreOrder:
        return RestoreOrder(self.rig.group, region, POINT, "restore-1", **wanted)

    async def refusals(self, **wanted: Any) -> dict[str, str]:
        checks = await self.restores.verify_infrastructure(self.order(**wanted))
        return {check.name: check.detail for check in checks if not check.passed}


@asynccontextmanager
async def made_dumps(rig: Rig, folder: Path) -> AsyncIterator[Dumps]:
    server = FakeRedis()
    async with server.serving():
        yield Dumps(rig, server, FakeRedisRecovery(), folder)
