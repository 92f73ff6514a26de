"""A rig of recovery points that has JetStream in memory, too."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from recovery.adapters.nats.points import StreamPoints
from recovery.adapters.nats.recovery import JetStreamSnapshots
from recovery.adapters.nats.restores import StreamRestores
from recovery.adapters.recovery_points import StoredRecoveryPoints
from recovery.domain.recovery_point import BackupKind, DataStore, Manifest
from recovery.ports.recovery_points import BackupOrder, RestoreOrder
from tests.fakes.jetstream import SERVER, FakeJetStream, FakeStream, config_of, state_of
from tests.fakes.points import NOW
from tests.unit.points.rig import REGION, Rig

POINT = "20261122T101500Z-streams-1a2b3c4d"


def nothing(done: int, expected: int, what: str) -> None:
    pass


@dataclass
class Streams:
    """A group with JetStream in both regions: ``server`` is the home region's, ``target`` the other's."""

    rig: Rig
    server: FakeJetStream
    target: FakeJetStream
    points: StoredRecoveryPoints = field(init=False)
    restores: StreamRestores = field(init=False)

    def __post_init__(self) -> None:
        regions = [region.model_copy(update={"nats": str(SERVER)}) for region in self.rig.group.regions]
        streams = ["events", "orders"]
        self.rig.group = self.rig.group.model_copy(update={"regions": regions, "streams": streams})
        parts = {**self.rig.points.parts, DataStore.NATS: StreamPoints(self.jetstream, find_program=lambda: None)}
        self.points = replace(self.rig.points, parts=parts)
        self.restores = StreamRestores(self.points.catalogue, self.points.keys, self.jetstream)

    async def jetstream(self, group: str, region: str) -> JetStreamSnapshots:
        server = self.server if region == REGION else self.target
        return JetStreamSnapshots(SERVER, connect=server.connect_apart)

    def backup(self, point_id: str = POINT) -> BackupOrder:
        return BackupOrder(self.rig.group, REGION, BackupKind.STREAMS, point_id, "run-1", 1, NOW)

    async def take(self) -> Manifest:
        return (await self.points.take(self.backup(), nothing)).manifest

    def order(self, **wanted: Any) -> RestoreOrder:
        return RestoreOrder(self.rig.group, "region-b", POINT, "restore-1", **wanted)

    async def refusals(self, **wanted: Any) -> dict[str, str]:
        checks = await self.restores.verify_infrastructure(self.order(**wanted))
        return {check.name: check.detail for check in checks if not check.passed}


def make_streams(rig: Rig) -> Streams:
    held = {
        "events": FakeStream(config_of("events"), state_of(20)),
        "orders": FakeStream(config_of("orders"), state_of(7, first=3)),
    }
    return Streams(rig, FakeJetStream(held), FakeJetStream())
