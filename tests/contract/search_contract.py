"""One contract for ``SearchRecovery``: a server of the tests over HTTP, and real servers (``tests/system``)."""

from __future__ import annotations

import asyncio
import secrets
from abc import ABC, abstractmethod
from typing import Any

import pytest

from recovery.domain.search import (
    SearchProduct,
    SearchSource,
    SnapshotState,
    number,
    patterns_digest,
    snapshot_name,
)
from recovery.errors import BadInput, Corrupt, NotFound, NotOurs, Refused, SourceFailed, Unreachable
from recovery.ports.search import SearchAdvance, SearchRecovery, SearchRepository, SearchRestoreOptions, SnapshotRequest

MARK = "index.routing.allocation.exclude.recovery_restore"
FILTER: dict[str, Any] = {"filter": {"term": {"kind": "paid"}}}


class Site(ABC):
    """Two clusters that share a disk; ``east`` writes, ``west`` restores."""

    east: SearchRecovery
    west: SearchRecovery
    product: SearchProduct

    @abstractmethod
    def repository(self, name: str = "recovery", *, slow: bool = False, **settings: Any) -> SearchRepository:
        """One whose place the clusters may use; the same place for the same name within a test."""

    @abstractmethod
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
        """An index, or a data stream."""

    @abstractmethod
    async def write(self, cluster: str, index: str, docs: int) -> None: ...

    @abstractmethod
    async def close(self, cluster: str, index: str) -> None: ...

    @abstractmethod
    async def delete(self, cluster: str, index: str) -> None: ...

    @abstractmethod
    async def docs(self, cluster: str) -> dict[str, int]:
        """Of every open index."""

    @abstractmethod
    async def aliases(self, cluster: str) -> dict[str, dict[str, dict[str, Any]]]:
        """Index -> alias -> definition, of indices that have one."""

    @abstractmethod
    async def settings(self, cluster: str, setting: str) -> dict[str, str]: ...

    @abstractmethod
    async def registered(self, cluster: str, repository: str) -> dict[str, Any]:
        """A repository as the cluster has it: ``type`` and ``settings``."""

    @abstractmethod
    async def foreign_snapshot(self, repository: str, name: str) -> None:
        """Somebody else's, of all indices."""

    @abstractmethod
    async def strand(self, cluster: str, index: str) -> None:
        """An index whose primary no node may take."""

    @abstractmethod
    def damage(self, repository: SearchRepository) -> None:
        """The bytes of its largest files are gone."""

    @abstractmethod
    def let_go(self) -> None:
        """What was slow goes on at once (a fake), or is as slow as it is."""

    async def point(self, *patterns: str, repository: str = "recovery", **choices: Any) -> SearchSource:
        """A snapshot for a new point, and the repository in the west."""
        await self.east.register(self.repository(repository))
        source = await self.east.snapshot(SnapshotRequest(repository, new_point(), patterns or ("*",), **choices))
        await self.west.register(self.repository(repository, readonly=True))
        return source


_NUMBERS = iter(range(1 << 30))


def new_point() -> str:
    return f"20261122T10{next(_NUMBERS):06d}Z-search-{secrets.token_hex(4)}"


def options(**chosen: Any) -> SearchRestoreOptions:
    return SearchRestoreOptions(chosen.pop("restore_id", f"restore-{secrets.token_hex(4)}"), **chosen)


def completed(chosen: SearchRestoreOptions, *indices: str) -> dict[str, str]:
    """The marks that a restore leaves."""
    return dict.fromkeys(indices, f"{chosen.restore_id}:done")


def names(source: SearchSource) -> list[str]:
    return [part.index for part in source.indices]


async def until_begun(search: SearchRecovery, repository: str) -> None:
    async with asyncio.timeout(30):
        while not any(one.state is SnapshotState.IN_PROGRESS for one in await search.snapshots(repository)):
            await asyncio.sleep(0.02)


async def until_marked(site: Site) -> None:
    async with asyncio.timeout(30):
        while not await site.settings("west", MARK):
            await asyncio.sleep(0.02)


class SearchContract:
    """Subclasses have a fixture ``site`` that is empty for each test."""

    async def test_a_cluster_says_what_it_is(self, site: Site) -> None:
        east, west = await site.east.server(), await site.west.server()
        assert (east.product, east.cluster, west.cluster) == (site.product, "east", "west")
        assert east.cluster_uuid != west.cluster_uuid

    # -- repositories -------------------------------------------------------------------------------------------------

    async def test_a_repository_is_registered_once_and_tried_each_time(self, site: Site) -> None:
        assert await site.east.register(site.repository()) == ["east-1"]
        assert await site.east.register(site.repository()) == ["east-1"]
        assert await site.east.verify("recovery") == ["east-1"]

    async def test_another_repository_of_that_name_stays_until_somebody_says_so(self, site: Site) -> None:
        await site.east.register(site.repository())
        with pytest.raises(Refused, match="its readonly is false, not true.*Say replace"):
            await site.east.register(site.repository(readonly=True))
        await site.east.register(site.repository(readonly=True), replace=True)
        with pytest.raises(Refused, match="its readonly is true, not false"):
            await site.east.register(site.repository())

    async def test_what_a_server_cannot_use_is_said_with_what_to_do(self, site: Site) -> None:
        with pytest.raises(BadInput, match="path.repo of every node"):
            await site.east.register(SearchRepository("elsewhere", "fs", "/nowhere/of/ours"))
        with pytest.raises(BadInput, match="Install the plugin repository-s3"):
            await site.east.register(SearchRepository("bucket", "s3", "backups"))
        with pytest.raises(NotFound, match="missing"):
            await site.east.verify("unknown")

    # -- snapshots ----------------------------------------------------------------------------------------------------

    async def test_a_snapshot_is_described_by_what_it_holds(self, site: Site) -> None:
        await site.make("east", "orders-1", 40, shards=2, aliases={"orders": FILTER, "all": {}})
        await site.make("east", "orders-2", 10)
        await site.make("east", "scratch", 5)
        source = await site.point("orders-*", "scratch", "-scr*")
        assert names(source) == ["orders-1", "orders-2"]
        first, second = source.indices
        assert (first.docs, first.shards, first.aliases) == (40, 2, {"orders": FILTER, "all": {}})
        assert first.rested and sum(position.at_most + 1 for position in first.positions) == 40
        assert (second.positions[0].at_least, second.positions[0].at_most) == (9, 9)
        assert (source.shards, source.global_state, source.notes) == (3, False, [])
        assert source.bytes > 0 and source.began_at <= source.finished_at
        assert source.server == await site.east.server()

    async def test_the_next_snapshot_writes_what_is_new(self, site: Site) -> None:
        await site.make("east", "orders", 40)
        await site.point()
        await site.write("east", "orders", 1)
        source = await site.point()
        assert 0 < source.new_bytes < source.bytes
        assert source.indices[0].docs == 41

    async def test_asked_again_it_is_the_same_snapshot(self, site: Site) -> None:
        await site.make("east", "orders")
        await site.east.register(site.repository())
        request = SnapshotRequest("recovery", new_point())
        first, again = await site.east.snapshot(request), await site.east.snapshot(request)
        assert (again.snapshot_uuid, again.began_at) == (first.snapshot_uuid, first.began_at)
        assert again.notes and "earlier attempt" in again.notes[0]
        assert [one.name for one in await site.east.snapshots("recovery")] == [snapshot_name(request.point)]

    async def test_two_attempts_at_once_take_one_snapshot(self, site: Site) -> None:
        await site.make("east", "orders")
        await site.east.register(site.repository())
        request = SnapshotRequest("recovery", new_point())
        first, second = await asyncio.gather(site.east.snapshot(request), site.east.snapshot(request))
        assert first.snapshot_uuid == second.snapshot_uuid
        assert len(await site.east.snapshots("recovery")) == 1

    async def test_an_attempt_that_was_cancelled_is_gone_on_with(self, site: Site) -> None:
        await site.make("east", "orders", 400)
        await site.east.register(site.repository(slow=True))
        request = SnapshotRequest("recovery", new_point())
        seen: list[SearchAdvance] = []
        first = asyncio.create_task(site.east.snapshot(request, seen.append))
        await until_begun(site.east, "recovery")
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        (going,) = await site.east.snapshots("recovery")
        site.let_go()
        source = await site.east.snapshot(request, seen.append)
        assert source.snapshot_uuid == going.uuid
        assert seen and all(0 <= one.shards <= one.of_shards and one.bytes <= one.of_bytes for one in seen)

    async def test_a_snapshot_is_aborted_by_deleting_it(self, site: Site) -> None:
        await site.make("east", "orders", 400)
        await site.east.register(site.repository(slow=True))
        request = SnapshotRequest("recovery", new_point())
        running = asyncio.create_task(site.east.snapshot(request))
        await until_begun(site.east, "recovery")
        assert await site.east.delete_snapshot("recovery", request.point)
        with pytest.raises(SourceFailed, match="deleted|FAILED"):
            await running
        assert await site.east.snapshots("recovery") == []
        assert not await site.east.delete_snapshot("recovery", request.point)

    async def test_the_list_begins_with_the_newest_and_knows_ours(self, site: Site) -> None:
        await site.make("east", "orders")
        sources = [await site.point("ord*"), await site.point("ord*")]
        await site.foreign_snapshot("recovery", "by-hand")
        everything = await site.west.snapshots("recovery")
        assert [one.name for one in everything if one.mark is None] == ["by-hand"]
        listed = [one for one in everything if one.mark is not None]
        assert [one.name for one in listed] == [sources[1].snapshot, sources[0].snapshot]
        mark, server = listed[0].mark, await site.east.server()
        assert mark is not None
        assert (mark.cluster, mark.product, mark.patterns) == (
            server.cluster_uuid,
            server.product,
            patterns_digest(["ord*"]),
        )
        assert (listed[0].state, listed[0].indices) == ("SUCCESS", ["orders"])
        assert listed[0].version is not None and number(listed[0].version)[:2] == number(server.version)[:2]
        assert listed[0].finished_at is not None

    async def test_a_choice_of_nothing_is_no_snapshot(self, site: Site) -> None:
        await site.make("east", "orders")
        await site.east.register(site.repository())
        with pytest.raises(BadInput, match=r"No index of .* is chosen by nothing-\*"):
            await site.east.snapshot(SnapshotRequest("recovery", new_point(), ["nothing-*"]))
        assert await site.east.snapshots("recovery") == []
        with pytest.raises(NotFound, match="nothing"):
            await site.east.snapshot(SnapshotRequest("recovery", new_point(), ["nothing"]))
        with pytest.raises(NotFound, match="no snapshot repository unknown: register it first"):
            await site.east.snapshot(SnapshotRequest("unknown", new_point()))

    async def test_an_index_whose_primary_does_not_serve_fails_the_snapshot(self, site: Site) -> None:
        await site.make("east", "orders")
        await site.strand("east", "stranded")
        await site.east.register(site.repository())
        request = SnapshotRequest("recovery", new_point())
        for _ in range(2):
            with pytest.raises(SourceFailed, match="stranded|primary shards"):
                await site.east.snapshot(request)
        await site.east.delete_snapshot("recovery", request.point)
        assert await site.east.snapshots("recovery") == []
        await site.east.snapshot(SnapshotRequest("recovery", new_point(), ["*", "-stranded"]))

    async def test_a_snapshot_is_deleted_and_those_that_share_its_files_can_be_restored(self, site: Site) -> None:
        await site.make("east", "orders", 20)
        first = await site.point()
        await site.write("east", "orders", 20)
        second = await site.point()
        await site.foreign_snapshot("recovery", "by-hand")
        points = {one.name: one.mark.point for one in await site.east.snapshots("recovery") if one.mark}
        assert await site.east.delete_snapshot("recovery", points[first.snapshot])
        assert not await site.east.delete_snapshot("recovery", points[first.snapshot])
        assert {one.name for one in await site.east.snapshots("recovery")} == {"by-hand", second.snapshot}
        with pytest.raises(Corrupt, match="holds no snapshot"):
            await site.east.inspect(first, "recovery")
        assert (await site.west.restore(second, options())).docs == 40

    async def test_the_files_of_a_snapshot_are_listed_as_they_were_taken(self, site: Site) -> None:
        await site.make("east", "orders", 40, shards=2)
        await site.make("east", "products", 7)
        source = await site.point()
        assert (source.repository_type, source.repository_settings) == (
            "fs", {key: str(value) for key, value in (await site.registered("east", "recovery"))["settings"].items()},
        )  # fmt: skip
        said = await site.west.inspect(source, "recovery")
        assert said == f"3 shards with files of {source.bytes} bytes, all listed as they were taken"
        with pytest.raises(Corrupt, match="bytes instead of 1"):
            await site.west.inspect(source.model_copy(update={"bytes": 1}), "recovery")

    async def test_another_cluster_reads_the_repository_under_its_own_name_for_it(self, site: Site) -> None:
        await site.make("east", "orders")
        await site.east.register(site.repository())
        source = await site.east.snapshot(SnapshotRequest("recovery", new_point()))
        assert await site.east.attach(source, "recovery-east") == "recovery"
        await site.west.register(site.repository("elsewhere"))
        assert await site.west.attach(source, "recovery-east") == "recovery-east"
        assert await site.west.attach(source, "recovery-east") == "recovery-east"
        assert (await site.registered("west", "recovery-east"))["settings"]["readonly"] == "true"
        with pytest.raises(Refused, match="another one"):
            await site.west.attach(source, "elsewhere")
        assert (await site.west.restore(source, options(repository="recovery-east"))).docs == 40

    async def test_what_others_made_is_not_touched(self, site: Site) -> None:
        await site.make("east", "orders")
        await site.east.register(site.repository())
        point = new_point()
        await site.foreign_snapshot("recovery", snapshot_name(point))
        for refused in (
            site.east.snapshot(SnapshotRequest("recovery", point)),
            site.east.delete_snapshot("recovery", point),
        ):
            with pytest.raises(NotOurs, match="was made by others and was not touched"):
                await refused
        assert len(await site.east.snapshots("recovery")) == 1

    async def test_one_cluster_writes_to_a_repository(self, site: Site) -> None:
        await site.make("east", "orders")
        await site.make("west", "orders")
        await site.point()
        with pytest.raises(Refused, match="registered as read-only at"):
            await site.west.snapshot(SnapshotRequest("recovery", new_point()))
        await site.west.register(site.repository(), replace=True)
        with pytest.raises(Refused, match="two would damage it"):
            await site.west.snapshot(SnapshotRequest("recovery", new_point()))
        assert (await site.west.snapshot(SnapshotRequest("recovery", new_point(), take_over=True))).snapshot
        await site.west.snapshot(SnapshotRequest("recovery", new_point()))  # it is its own now

    # -- health -------------------------------------------------------------------------------------------------------

    async def test_a_status_is_waited_for_and_the_reason_said_where_it_does_not_come(self, site: Site) -> None:
        await site.make("east", "orders", 4, replicas=1)
        await site.make("east", "products", 4)
        assert await site.east.wait_for("yellow", ["orders", "products"], within_seconds=10) == "yellow"
        assert await site.east.wait_for("green", ["products"], within_seconds=10) == "green"
        with pytest.raises(Unreachable, match=r"orders\[0\]: .*copy of this shard is already allocated"):
            await site.east.wait_for("green", within_seconds=0.2)
        with pytest.raises(Unreachable, match=r"not yellow within 0\.2 s"):
            await site.east.wait_for("yellow", ["unknown"], within_seconds=0.2)
