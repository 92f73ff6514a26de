"""Restores and snapshots of search engines whose answer was lost, and restores that were cut in two."""

from __future__ import annotations

import asyncio

import pytest

from recovery.adapters.search.connection import SearchLimits
from recovery.adapters.search.recovery import SearchSnapshots
from recovery.domain.search import SearchProduct, snapshot_name
from recovery.errors import NotOurs, Refused, RestoreFailed, Unreachable
from recovery.ports.search import SnapshotRequest
from tests.contract.search_answers import Index
from tests.contract.search_contract import MARK, completed, new_point, options
from tests.contract.search_site import Doors, FakeSite


@pytest.fixture
def one(search_engines: Doors) -> FakeSite:
    """Where the product makes no difference."""
    return search_engines.site(SearchProduct.OPENSEARCH)


async def test_a_snapshot_whose_answer_was_lost_is_found_again(one: FakeSite) -> None:
    await one.make("east", "orders")
    await one.east.register(one.repository())
    request = SnapshotRequest("recovery", new_point())
    path = f"PUT /_snapshot/recovery/{snapshot_name(request.point)}"
    one.clusters["east"].lost.add(path)
    async with SearchSnapshots(one.addresses["east"], limits=SearchLimits(0.2, 0.01)) as impatient:
        with pytest.raises(Unreachable, match="no answer within"):
            await impatient.snapshot(request)
        assert (await impatient.snapshot(request)).shards == 1
    assert one.clusters["east"].asked.count(path) == 1


async def test_a_restore_whose_answer_was_lost_is_gone_on_with(one: FakeSite) -> None:
    await one.make("east", "orders", 40)
    source = await one.point()
    path = f"POST /_snapshot/recovery/{source.snapshot}/_restore"
    one.clusters["west"].lost.add(path)
    async with SearchSnapshots(one.addresses["west"], limits=SearchLimits(0.2, 0.01)) as impatient:
        chosen = options()
        with pytest.raises(Unreachable):
            await impatient.restore(source, chosen)
        assert (await impatient.restore(source, chosen)).docs == 40
    assert one.clusters["west"].asked.count(path) == 1


async def test_a_restore_that_went_live_is_finished_and_not_undone(one: FakeSite) -> None:
    """Its worker died between the aliases and the end, and applications write already."""
    await one.make("east", "orders", 40, aliases={"current": {}})
    source = await one.point()
    chosen = options()
    await one.west.restore(source, chosen)
    one.clusters["west"].indices["orders"].settings[MARK] = chosen.restore_id
    await one.write("west", "orders", 9)
    with pytest.raises(NotOurs, match="the aliases current point to its indices already"):
        await one.west.remove_restored(chosen.restore_id)
    assert (await one.west.restore(source, chosen)).docs == 49
    assert await one.settings("west", MARK) == completed(chosen, "orders")


async def test_a_restore_whose_last_answer_was_lost_is_complete(one: FakeSite) -> None:
    """Some of its indices say so, the others not yet: none of them is deleted, whoever asks."""
    await one.make("east", "orders-1", 40)
    await one.make("east", "orders-2", 40)
    source = await one.point()
    one.clusters["west"].lost.add("PUT /orders-1,orders-2/_settings")
    chosen = options(replace=True)
    async with SearchSnapshots(one.addresses["west"], limits=SearchLimits(0.2, 0.01)) as impatient:
        with pytest.raises(Unreachable):
            await impatient.restore(source, chosen)
    await one.write("west", "orders-1", 9)
    one.clusters["west"].indices["orders-2"].settings[MARK] = chosen.restore_id
    with pytest.raises(NotOurs, match="was completed at .* nothing of it is deleted"):
        await one.west.remove_restored(chosen.restore_id)
    again = await one.west.restore(source, chosen)
    assert (again.docs, again.replaced, again.status) == (89, [], "green")
    assert await one.settings("west", MARK) == completed(chosen, "orders-1", "orders-2")
    await one.delete("west", "orders-2")
    with pytest.raises(Refused, match="was completed at .* before, and orders-1 is what is left of it"):
        await one.west.restore(source, chosen)
    assert await one.docs("west") == {"orders-1": 49}


async def test_a_restore_of_which_a_part_was_deleted_is_begun_again(one: FakeSite) -> None:
    await one.make("east", "orders-1", 40)
    await one.make("east", "orders-2", 40)
    source = await one.point()
    chosen = options()
    await one.west.restore(source, chosen)
    one.clusters["west"].indices["orders-1"].settings[MARK] = chosen.restore_id
    await one.delete("west", "orders-2")
    assert (await one.west.restore(source, chosen)).docs == 80


async def test_a_restore_that_a_restarted_cluster_forgot_is_begun_again(one: FakeSite) -> None:
    await one.make("east", "orders", 40)
    source = await one.point()
    chosen = options()
    one.clusters["west"].indices["orders"] = Index([0], settings={MARK: chosen.restore_id}, failed=True)
    assert (await one.west.restore(source, chosen)).docs == 40
    one.disk.damaged.add("/repository/recovery")
    one.clusters["west"].indices["orders"] = Index([0], settings={MARK: chosen.restore_id}, failed=True)
    with pytest.raises(RestoreFailed):
        await one.west.restore(source, chosen)
    assert await one.docs("west") == {}


async def test_an_index_deleted_while_it_is_restored_fails_the_restore(one: FakeSite) -> None:
    await one.make("east", "orders", 40)
    source = await one.point()
    one.clusters["west"].restore_looks = 1 << 30
    running = asyncio.create_task(one.west.restore(source, options()))
    async with asyncio.timeout(10):
        while "orders" not in one.clusters["west"].indices:
            await asyncio.sleep(0.01)
    await one.delete("west", "orders")
    with pytest.raises(RestoreFailed, match="was deleted meanwhile"):
        await running


async def test_a_restored_shard_that_no_node_may_take_is_given_up_with_the_reason(one: FakeSite) -> None:
    """Its index asks for a node of the source's zone, say."""
    await one.make("east", "orders", 40)
    source = await one.point()
    cluster = one.clusters["west"]
    cluster.unwanted, cluster.restore_looks = "node does not match index setting", 1 << 30
    async with SearchSnapshots(one.addresses["west"], limits=SearchLimits(5, 0.01, unplaced_seconds=0.1)) as west:
        with pytest.raises(RestoreFailed, match=r"orders\[0\]: node does not match index setting.*deleted again"):
            await west.restore(source, options())
    assert cluster.indices == {}


async def test_another_name_than_expected_fails_the_restore(one: FakeSite) -> None:
    """Where the server reads the expression in another way than we do."""
    await one.make("east", "orders", 40)
    source = await one.point()
    cluster = one.clusters["west"]
    running = asyncio.create_task(one.west.restore(source, options(rename_pattern="o", rename_replacement="0")))
    async with asyncio.timeout(10):
        while "0rders" not in cluster.indices:
            await asyncio.sleep(0)
    cluster.indices["other"] = cluster.indices["0rders"].copy()
    with pytest.raises(RestoreFailed, match="under other names than expected: other"):
        await running
    assert cluster.indices == {}
