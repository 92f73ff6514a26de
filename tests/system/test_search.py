"""The contract of ``SearchRecovery`` with real servers: two clusters of each product that share a repository."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from lab.search import installed
from recovery.adapters.search.connection import SearchLimits
from recovery.adapters.search.recovery import SearchSnapshots
from recovery.backup.by_hand import by_hand
from recovery.backup.sealing import Opener, Sealer
from recovery.domain.group import RetentionRule
from recovery.domain.recovery_point import BackupKind, DataStore, Manifest, RecoveryPoint, VerdictState
from recovery.domain.recovery_set import set_of
from recovery.domain.search import SearchProduct, snapshot_name
from recovery.errors import Unreachable
from recovery.ports.search import SearchRepository, SnapshotRequest
from tests.contract.search_contract import (
    MARK,
    SearchContract,
    Site,
    completed,
    new_point,
    options,
    until_begun,
    until_marked,
)
from tests.contract.search_restore_contract import DataStreams, SearchRestores
from tests.contract.search_site import FakeSite
from tests.fakes.points import AGE
from tests.system.search_servers import OwnSearch, two_clusters
from tests.unit.points.rig import make_rig
from tests.unit.points.search_rig import POINT, Searches, nothing

pytestmark = pytest.mark.system
LIMITS = SearchLimits(poll_seconds=0.1, unplaced_seconds=3)
SLOW = {"max_snapshot_bytes_per_sec": "20kb", "max_restore_bytes_per_sec": "20kb"}
TEXT = "an order of something, in as many words as it takes to fill a shard, and none of them twice: "


@dataclass
class RealSite(Site):
    servers: dict[str, OwnSearch]
    east: SearchSnapshots
    west: SearchSnapshots
    product: SearchProduct
    number: int
    registered_names: set[str] = field(default_factory=set)

    def repository(self, name: str = "recovery", *, slow: bool = False, **settings: Any) -> SearchRepository:
        self.registered_names.add(name)
        place = self.servers["east"].repository / f"{self.number}-{name}"
        return SearchRepository(name, "fs", str(place), settings=SLOW if slow else {}, **settings)

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
        server = self.servers[cluster]
        if stream:
            template = {
                "index_patterns": [f"{index}*"],
                "data_stream": {},
                "priority": 500,
                "template": {"settings": {"number_of_replicas": 0}},
            }
            await server.ask("PUT", f"/_index_template/{index}", template)
        else:
            settings = {"number_of_shards": shards, "number_of_replicas": replicas}
            kinds = {"properties": {"kind": {"type": "keyword"}}}
            body = {"settings": settings, "mappings": kinds, "aliases": aliases or {}}
            await server.ask("PUT", f"/{index}", body)
        await self.write(cluster, index, docs)

    async def write(self, cluster: str, index: str, docs: int) -> None:
        lines = []
        for number in range(docs):
            body = {
                "@timestamp": "2026-11-22T10:00:00Z",
                "kind": "paid",
                "text": f"{TEXT}{number} {hash((index, number))}",
            }
            lines += [json.dumps({"create": {}}), json.dumps(body)]
        server = self.servers[cluster]
        answer = await server.ask("POST", f"/{index}/_bulk?refresh=true", "\n".join([*lines, ""]))
        assert not answer["errors"], answer

    async def close(self, cluster: str, index: str) -> None:
        await self.servers[cluster].ask("POST", f"/{index}/_close")

    async def delete(self, cluster: str, index: str) -> None:
        await self.servers[cluster].ask("DELETE", f"/{index}")

    async def docs(self, cluster: str) -> dict[str, int]:
        await self.servers[cluster].ask("POST", "/_refresh")
        found = await self.servers[cluster].ask("GET", "/_stats/docs?expand_wildcards=open,hidden")
        return {name: stats["primaries"]["docs"]["count"] for name, stats in found["indices"].items()}

    async def aliases(self, cluster: str) -> dict[str, dict[str, dict[str, Any]]]:
        found = await self.servers[cluster].ask("GET", "/_all/_alias")
        return {index: each["aliases"] for index, each in found.items() if each["aliases"]}

    async def settings(self, cluster: str, setting: str) -> dict[str, str]:
        found = await self.servers[cluster].ask("GET", f"/_all/_settings/{setting}?flat_settings=true")
        return {index: each["settings"][setting] for index, each in found.items() if each["settings"]}

    async def registered(self, cluster: str, repository: str) -> dict[str, Any]:
        self.registered_names.add(repository)
        found: dict[str, Any] = (await self.servers[cluster].ask("GET", f"/_snapshot/{repository}"))[repository]
        return found

    async def foreign_snapshot(self, repository: str, name: str) -> None:
        await self.servers["east"].ask("PUT", f"/_snapshot/{repository}/{name}?wait_for_completion=true")

    async def strand(self, cluster: str, index: str) -> None:
        settings = {"number_of_replicas": 0, "index.routing.allocation.require.zone": "nowhere"}
        path = f"/{index}?wait_for_active_shards=0"
        await self.servers[cluster].ask("PUT", path, {"settings": settings})

    def damage(self, repository: SearchRepository) -> None:
        files = list((self.servers["east"].repository / repository.place).rglob("__*"))
        assert files
        for file in files:
            file.write_bytes(b"")

    def let_go(self) -> None:
        """It is slow, and ends within seconds."""

    async def clean(self) -> None:
        for server in self.servers.values():
            for name in self.registered_names:
                running = await server.ask("GET", f"/_snapshot/{name}/_current", expect=None)
                for one in running.get("snapshots", ()):
                    await server.ask("DELETE", f"/_snapshot/{name}/{one['snapshot']}", expect=None)
                await server.ask("DELETE", f"/_snapshot/{name}", expect=None)
            if self.product is SearchProduct.OPENSEARCH:
                await server.ask("DELETE", "/_data_stream/*")
                await server.ask("DELETE", "/_index_template/logs-*", expect=None)
            found = await server.ask("GET", "/_all/_settings/index.uuid?expand_wildcards=all")
            for index in found:
                await server.ask("DELETE", f"/{index}")


_NUMBERS = iter(range(1 << 30))


async def _site(product: SearchProduct) -> AsyncIterator[RealSite]:
    """One pair of servers for all tests of a product; each test's site is emptied after it."""
    assert product in installed(), f"{product.proper_name} is not installed: tests/system/get_search_servers"
    async with two_clusters(product) as (east, west):
        servers = {"east": east, "west": west}
        async with (
            SearchSnapshots(east.address, limits=LIMITS) as of_east,
            SearchSnapshots(west.address, limits=LIMITS) as of_west,
        ):
            yield RealSite(servers, of_east, of_west, product, next(_NUMBERS))


@pytest.fixture(scope="module")
async def opensearch() -> AsyncIterator[RealSite]:
    async for site in _site(SearchProduct.OPENSEARCH):
        yield site


@pytest.fixture(scope="module")
async def elasticsearch() -> AsyncIterator[RealSite]:
    async for site in _site(SearchProduct.ELASTICSEARCH):
        yield site


class Killed:
    async def test_clusters_that_died_meanwhile_do_it_again(self, site: RealSite) -> None:
        """Both forget what they were doing; the indices of the restore are there without their data, and marked."""
        await site.make("east", "orders", 400, aliases={"current": {}})
        source = await site.point()
        await site.east.register(site.repository("slowly", slow=True))
        await site.west.register(site.repository(slow=True, readonly=True), replace=True)
        request, chosen = SnapshotRequest("slowly", new_point()), options()
        running = [
            asyncio.create_task(site.east.snapshot(request)),
            asyncio.create_task(site.west.restore(source, chosen)),
        ]
        await until_begun(site.east, "slowly")
        await until_marked(site)
        for server in site.servers.values():
            server.end()
        for task in running:
            with pytest.raises(Unreachable):
                await task
        for server in site.servers.values():
            server.begin()
        await asyncio.gather(*(server.ready() for server in site.servers.values()))
        await site.east.wait_for("yellow", within_seconds=60)
        again, restored = await asyncio.gather(site.east.snapshot(request), site.west.restore(source, chosen))
        assert (again.shards, again.indices[0].docs, restored.docs) == (1, 400, 400)
        assert await site.aliases("west") == {"orders": {"current": {}}}
        assert await site.settings("west", MARK) == completed(chosen, "orders")


class ByHand:
    async def test_the_requests_of_the_printed_page_put_it_back(self, site: RealSite) -> None:
        """With curl, into a cluster that knows nothing of ours."""
        await site.make("east", "orders-1", 40, shards=2, aliases={"orders": {}})
        source = await site.point()
        site.registered_names.add("by-hand")
        manifest = Manifest(
            point_id=POINT, group="shop", store=DataStore.SEARCH, kind=BackupKind.SEARCH, source=source,
            source_region="region-a", started_at=source.began_at, finished_at=source.finished_at, artefacts=[],
            recipients=[AGE.public], run_id="run",
        )  # fmt: skip
        point = RecoveryPoint(manifest=manifest, locations=["a"], manifest_sha256="digest")
        said = await _put_back_by_hand(site.servers["west"].address, point)
        assert (await site.docs("west"))["orders-1"] == 40, said
        assert await site.aliases("west") == {"orders-1": {"orders": {}}}


class TestOpenSearch(SearchContract, SearchRestores, DataStreams, Killed, ByHand):
    @pytest.fixture
    async def site(self, opensearch: RealSite) -> AsyncIterator[RealSite]:
        opensearch.number = next(_NUMBERS)
        yield opensearch
        await opensearch.clean()


class TestElasticsearch(SearchContract, SearchRestores, Killed, ByHand):
    """The archive has no module for data streams."""

    @pytest.fixture
    async def site(self, elasticsearch: RealSite) -> AsyncIterator[RealSite]:
        elasticsearch.number = next(_NUMBERS)
        yield elasticsearch
        await elasticsearch.clean()


async def test_points_are_taken_proven_kept_and_put_back_and_by_hand_too(opensearch: RealSite) -> None:
    """Everything but the plans, with real clusters."""
    site, opensearch.number = opensearch, next(_NUMBERS)
    addresses = {name: server.address for name, server in site.servers.items()}
    async with Sealer([AGE.public]) as sealer, Opener([AGE.secret]) as opener:
        place = site.servers["east"].repository / f"{site.number}-shop"
        searches = Searches(await make_rig(sealer, opener), cast(FakeSite, site), addresses, str(place))
        try:
            await _taken_and_put_back(site, searches)
        finally:
            site.registered_names |= {"recovery", "recovery-region-a", "by-hand"}
            await site.clean()


async def _taken_and_put_back(site: RealSite, searches: Searches) -> None:
    await site.make("east", "orders-1", 400, shards=2, aliases={"orders": {}})
    await site.make("east", "logs-shop", 12, stream=True)
    seen: list[str] = []
    taken = await searches.points.take(searches.backup(), lambda done, expected, what: seen.append(what))
    assert taken.manifest.search.docs == 412
    first = await searches.validate()
    assert first.state is VerdictState.VALID, first.reason
    assert await site.docs("west") == {} and await site.west.unfinished() == {}
    await site.write("east", "orders-1", 30)
    second = POINT.replace("1015", "1115")
    await searches.take(second)
    assert (await searches.validate(second)).state is VerdictState.VALID

    await site.make("west", "orders-0", 3, aliases={"orders": {}})
    assert await searches.refusals() == {}
    restored = await searches.restores.restore(searches.order(), nothing)
    assert "orders-1 (open) already" in (await searches.refusals(restore_id="another"))["empty target"]
    assert all(check.passed for check in await searches.restores.verify(searches.rig.group, restored))
    assert await site.aliases("west") == {"orders-0": {"orders": {}}}
    await searches.restores.open_writes(searches.rig.group, restored)
    assert await site.aliases("west") == {"orders-1": {"orders": {}}}
    assert sum((await site.docs("west")).values()) == 415
    assert not await searches.restores.remove(searches.order())

    searches.rig.group = searches.rig.group.model_copy(update={"retention": RetentionRule(count=1)})
    await searches.points.expire(searches.rig.group, datetime.now(UTC), dry_run=False)
    assert [one.name for one in await site.east.snapshots("recovery")] == [snapshot_name(second)]
    for name in ("orders-0", "orders-1"):
        await site.delete("west", name)
    await site.servers["west"].ask("DELETE", "/_data_stream/logs-shop")
    point = await searches.points.point(searches.rig.group, second)
    said = await _put_back_by_hand(searches.addresses["west"], point)
    assert sum((await site.docs("west")).values()) == 442, said
    assert await site.aliases("west") == {"orders-1": {"orders": {}}}


async def _put_back_by_hand(address: str, point: RecoveryPoint) -> str:
    page = by_hand(set_of([point], set_id="set", run_id="run"), [point.manifest])
    (block,) = re.findall(r"```sh\n(SEARCH=.*?)```", page, re.DOTALL)
    return await asyncio.to_thread(_run, block.replace("https://localhost:9200", address))


def _run(script: str) -> str:
    return subprocess.run(["bash", "-e"], input=script, text=True, capture_output=True, check=True).stdout
