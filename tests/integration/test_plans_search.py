"""Backup, validation, restore and retention of a search engine as whole plans, against the documented answers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest

from recovery.adapters.search.marks import MARK
from recovery.backup.catalogue import Catalogue
from recovery.domain.report import RunReport, RunState
from recovery.domain.search import snapshot_name
from tests.contract.search_answers import Disk, Index, Snapshot, failing
from tests.contract.search_api import Cluster, a_door
from tests.integration.installation import AWAY, HOME, INDICES, Site
from workers import operations

PLACE = f"/repository/finding/{HOME}"


@dataclass
class Engines:
    """Two clusters behind the addresses that the workers were configured with."""

    site: Site
    home: Cluster
    away: Cluster

    @property
    def kept(self) -> dict[str, Snapshot]:
        return self.home.disk.places[PLACE]

    async def run(self, plan: str, **request: Any) -> RunReport:
        return await self.site.run(plan, group=INDICES, **request)

    async def catalogue(self) -> Catalogue:
        return await self.site.wiring.catalogue(self.site.config.snapshot(INDICES))

    async def take(self) -> str:
        """A point, validated by the run that its backup began."""
        report = await self.run("Backup")
        assert report.state is RunState.COMPLETED, report.error
        (point_id,) = report.point_ids
        validation = await self.site.ended(await operations.find(self.site.client, f"validate/{INDICES}/{point_id}"))
        assert validation.state is RunState.COMPLETED, validation.error
        return point_id


@pytest.fixture
async def engines(site: Site) -> AsyncIterator[Engines]:
    ports = [urlsplit(site.config.snapshot(INDICES).region(name).search or "").port or 0 for name in (HOME, AWAY)]
    disk = Disk()
    home, away = Cluster("home", disk), Cluster("away", disk)
    home.indices = {"orders-1": Index([20, 20], {"orders": {}}), "products": Index([7])}
    away.indices = {"orders-0": Index([3], {"orders": {}})}
    async with a_door(port=ports[0]) as here, a_door(port=ports[1]) as there:
        here.cluster, there.cluster = home, away
        yield Engines(site, home, away)


async def test_indices_are_taken_proven_put_back_and_expire_with_their_point(engines: Engines) -> None:
    home, away = engines.home, engines.away
    home.outcome = failing("PARTIAL", 1)
    failed = await engines.run("Backup")
    assert failed.state is RunState.ROLLED_BACK and "no new recovery point of kind search" in str(failed.error)
    assert engines.kept == {}
    home.outcome = lambda snapshot: None

    first = await engines.take()
    point = await (await engines.catalogue()).point(INDICES, first)
    assert point.is_valid and sorted(point.locations) == ["store-region-a", "store-region-b"]
    assert point.verdict is not None and "restored at OpenSearch 2.19.1, cluster away" in point.verdict.reason
    assert away.indices.keys() == {"orders-0"}, "what a validation restored is gone"

    restored = await engines.run("Restore", store="search", region=AWAY)
    assert restored.state is RunState.COMPLETED, restored.error
    assert restored.point_ids == [first]
    assert {name: index.shards for name, index in away.indices.items()} == {
        "orders-0": [3], "orders-1": [20, 20], "products": [7],
    }  # fmt: skip
    assert {name: index.aliases for name, index in away.indices.items() if index.aliases} == {
        "orders-1": {"orders": {}}
    }
    assert {index.settings[MARK].partition(":")[2] for index in away.indices.values() if MARK in index.settings} == {
        "done"
    }
    refused = await engines.run("Restore", point_id=first, region=AWAY)
    assert refused.state is RunState.ROLLED_BACK
    assert "has orders-1 (open), products (open) already. Say --replace" in str(refused.error)

    # A restore that fails for good takes back what it made, and nothing else.
    away.indices = {"others": Index([1])}
    engines.site.arm("SearchRestores.verify", step="verify-data", action="fail", error="RestoreFailed", words="no more")
    undone = await engines.run("Restore", point_id=first, region=AWAY)
    assert undone.state is RunState.ROLLED_BACK and "no more" in str(undone.error)
    assert away.indices.keys() == {"others"}
    engines.site.disarm()

    second = await engines.take()  # of which one point is kept
    engines.kept["by-hand"] = Snapshot("by-hand", dict(home.indices), {}, home.version, False, None, 0)
    expired = await engines.run("Retention")
    assert expired.state is RunState.COMPLETED, expired.error
    assert engines.kept.keys() == {"by-hand", snapshot_name(second)}
    assert [point.point_id for point in await (await engines.catalogue()).points(INDICES)] == [second]
    await (await engines.catalogue()).delete_point(INDICES, second)
    await engines.site.no_residue()
