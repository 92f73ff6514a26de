"""Two search engines of the tests, as the contract's site."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from recovery.adapters.search.connection import SearchLimits
from recovery.adapters.search.recovery import SearchSnapshots
from recovery.domain.search import SearchProduct
from recovery.ports.search import SearchRepository
from tests.contract.search_answers import Disk, Index, Snapshot
from tests.contract.search_api import Cluster, Door, a_door
from tests.contract.search_contract import Site

FAST = SearchLimits(request_seconds=5, poll_seconds=0.01)
VERSIONS = {SearchProduct.OPENSEARCH: "2.19.1", SearchProduct.ELASTICSEARCH: "8.17.3"}


@dataclass
class FakeSite(Site):
    clusters: dict[str, Cluster]
    addresses: dict[str, str]
    east: SearchSnapshots
    west: SearchSnapshots
    product: SearchProduct
    disk: Disk = field(default_factory=Disk)

    def repository(self, name: str = "recovery", *, slow: bool = False, **settings: Any) -> SearchRepository:
        for cluster in self.clusters.values():
            if slow:
                cluster.snapshot_looks = cluster.restore_looks = 1 << 30
        return SearchRepository(name, "fs", f"/repository/{name}", **settings)

    async def make(
        self,
        cluster: str,
        index: str,
        docs: int = 40,
        *,
        shards: int = 1,
        aliases: dict[str, dict[str, Any]] | None = None,
        replicas: int = 0,
        stream: bool = False,
    ) -> None:
        name = f".ds-{index}-000001" if stream else index
        each = [docs // shards] * shards
        self.clusters[cluster].indices[name] = Index(each, dict(aliases or {}), replicas=replicas)
        if stream:
            self.clusters[cluster].data_streams[index] = [name]

    async def write(self, cluster: str, index: str, docs: int) -> None:
        self.clusters[cluster].indices[index].shards[0] += docs

    async def close(self, cluster: str, index: str) -> None:
        self.clusters[cluster].indices[index].closed = True

    async def delete(self, cluster: str, index: str) -> None:
        del self.clusters[cluster].indices[index]

    async def docs(self, cluster: str) -> dict[str, int]:
        indices = self.clusters[cluster].indices
        return {name: sum(index.shards) for name, index in indices.items() if not index.closed}

    async def aliases(self, cluster: str) -> dict[str, dict[str, dict[str, Any]]]:
        return {name: index.aliases for name, index in self.clusters[cluster].indices.items() if index.aliases}

    async def settings(self, cluster: str, setting: str) -> dict[str, str]:
        indices = self.clusters[cluster].indices
        return {name: index.settings[setting] for name, index in indices.items() if setting in index.settings}

    async def registered(self, cluster: str, repository: str) -> dict[str, Any]:
        return self.clusters[cluster].repositories[repository]

    async def foreign_snapshot(self, repository: str, name: str) -> None:
        place = self.disk.places.setdefault(f"/repository/{repository}", {})
        east = self.clusters["east"]
        place[name] = Snapshot(name, dict(east.indices), {}, east.version, False, None, 0)

    async def strand(self, cluster: str, index: str) -> None:
        self.clusters[cluster].indices[index] = Index([0], failed=True)

    def damage(self, repository: SearchRepository) -> None:
        self.disk.damaged.add(repository.place)

    def let_go(self) -> None:
        for place in self.disk.places.values():
            for snapshot in place.values():
                snapshot.looks = min(snapshot.looks, 2)
        for cluster in self.clusters.values():
            for index in cluster.indices.values():
                index.looks = min(index.looks, 2)


@asynccontextmanager
async def doors() -> AsyncIterator[Doors]:
    """To be kept for many tests: a server takes its time to end."""
    async with (
        a_door() as east,
        a_door() as west,
        SearchSnapshots(east.address, limits=FAST) as of_east,
        SearchSnapshots(west.address, limits=FAST) as of_west,
    ):
        yield Doors(east, west, of_east, of_west)


@dataclass
class Doors:
    east: Door
    west: Door
    of_east: SearchSnapshots
    of_west: SearchSnapshots

    def site(self, product: SearchProduct) -> FakeSite:
        """Two new clusters behind them."""
        disk = Disk()
        east, west = (Cluster(name, disk, product, VERSIONS[product]) for name in ("east", "west"))
        self.east.cluster, self.west.cluster = east, west
        addresses = {"east": self.east.address, "west": self.west.address}
        return FakeSite({"east": east, "west": west}, addresses, self.of_east, self.of_west, product, disk)
