"""A rig of recovery points that has two search engines, too: the documented answers, over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from recovery.adapters.recovery_points import StoredRecoveryPoints
from recovery.adapters.search.points import SearchPoints
from recovery.adapters.search.recovery import SearchSnapshots
from recovery.adapters.search.restores import SearchRestores
from recovery.domain.recovery_point import BackupKind, DataStore, Manifest, Verdict
from recovery.domain.search import SearchChoice, SearchRule, SearchStorage
from recovery.ports.recovery_points import BackupOrder, RestoreOrder
from tests.contract.search_answers import Snapshot
from tests.contract.search_api import Cluster
from tests.contract.search_site import FAST, FakeSite
from tests.fakes.points import NOW
from tests.unit.points.rig import REGION, Rig

POINT = "20261122T101500Z-search-1a2b3c4d"
PLACE = f"/repository/shop/{REGION}"
NOBODY = "http://127.0.0.1:9"


def nothing(done: int, expected: int, what: str) -> None:
    pass


@dataclass
class Searches:
    """A group with a search engine in both regions: ``east`` is the home region's. ``west`` is the other's, and the one
    in which points are proven."""

    rig: Rig
    site: FakeSite
    addresses: dict[str, str]  # by cluster
    place: str = "/repository/shop"
    has_scratch: bool = True
    lost: set[str] = field(default_factory=set)  # "east", "west", "scratch"
    points: StoredRecoveryPoints = field(init=False)
    restores: SearchRestores = field(init=False)

    def __post_init__(self) -> None:
        regions = [
            region.model_copy(update={"search": f"https://search.{region.name}.example.com:9200"})
            for region in self.rig.group.regions
        ]
        rule = SearchRule(storage=SearchStorage(type="fs", place=self.place))
        self.rig.group = self.rig.group.model_copy(update={"regions": regions, "search": rule})
        search = SearchPoints(self.search, self.scratch)
        parts = {**self.rig.points.parts, DataStore.SEARCH: search}
        self.points = replace(self.rig.points, parts=parts, elsewhere={BackupKind.SEARCH: search})
        self.restores = SearchRestores(self.points.catalogue, self.search)

    @property
    def east(self) -> Cluster:
        return self.site.clusters["east"]

    @property
    def west(self) -> Cluster:
        return self.site.clusters["west"]

    @property
    def kept(self) -> dict[str, Snapshot]:
        """The snapshots in the home region's repository, by name."""
        return self.site.disk.places.get(PLACE, {})

    @asynccontextmanager
    async def search(self, group: str, region: str) -> AsyncIterator[SearchSnapshots]:
        async with self._at("east" if region == REGION else "west") as found:
            yield found

    @asynccontextmanager
    async def scratch(self, group: str) -> AsyncIterator[SearchSnapshots | None]:
        if not self.has_scratch:
            yield None
            return
        async with self._at("west", "scratch") as found:
            yield found

    @asynccontextmanager
    async def _at(self, cluster: str, *called: str) -> AsyncIterator[SearchSnapshots]:
        address = NOBODY if self.lost & {cluster, *called} else self.addresses[cluster]
        async with SearchSnapshots(address, limits=FAST) as found:
            yield found

    def backup(self, point_id: str = POINT, **wanted: Any) -> BackupOrder:
        return BackupOrder(self.rig.group, REGION, BackupKind.SEARCH, point_id, "run-1", 1, NOW, **wanted)

    async def take(self, point_id: str = POINT, **wanted: Any) -> Manifest:
        return (await self.points.take(self.backup(point_id, **wanted), nothing)).manifest

    async def validate(self, point_id: str = POINT) -> Verdict:
        return await self.points.validate(self.rig.group, point_id, "run-2", nothing)

    def order(
        self, *, region: str = "region-b", restore_id: str = "restore-1", replace: bool = False, **choice: Any
    ) -> RestoreOrder:
        chosen = SearchChoice(**choice) if choice else None
        return RestoreOrder(self.rig.group, region, POINT, restore_id, replace=replace, search=chosen)

    async def refusals(self, **wanted: Any) -> dict[str, str]:
        checks = await self.restores.verify_infrastructure(self.order(**wanted))
        return {check.name: check.detail for check in checks if not check.passed}
