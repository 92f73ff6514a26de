"""Recovery points of search engines, put back, against the documented answers."""

from __future__ import annotations

from typing import cast

import pytest

from recovery.adapters.restores_by_store import RestoresByStore
from recovery.adapters.search.marks import MARK
from recovery.domain.recovery_point import BackupKind, DataStore
from recovery.errors import NotOurs, Refused, RestoreFailed
from recovery.ports.recovery_points import Restores
from tests.unit.points.rig import REGION
from tests.unit.points.search_rig import Searches, nothing


async def test_indices_come_back_marked_and_get_their_aliases_when_they_are_opened(searches: Searches) -> None:
    manifest = await searches.take()
    await searches.site.make("west", "orders-0", 3, aliases={"orders": {}})
    seen: list[tuple[int, int, str]] = []
    assert await searches.refusals() == {}
    restored = await searches.restores.restore(searches.order(), lambda *state: seen.append(state))
    assert restored.search is not None
    assert (restored.search.indices, restored.kind, restored.restored_bytes) == (
        {"orders-1": "orders-1", "products": "products"}, BackupKind.SEARCH, 47_000,
    )  # fmt: skip
    assert (restored.host, restored.port) == ("search.region-b.example.com", 9200)
    assert restored.last_commit_at == manifest.search.began_at
    assert seen[-1] == (47_000, 47_000, "3 of 3 shards")
    group = searches.rig.group
    assert not await searches.restores.accepts_writes(group, restored)
    assert await searches.site.aliases("west") == {"orders-0": {"orders": {}}}
    assert await searches.refusals() == {}  # what is there is its own
    assert await searches.restores.restore(searches.order(), nothing) == restored  # another attempt goes on
    assert all(check.passed for check in await searches.restores.verify(group, restored))
    await searches.restores.open_writes(group, restored)
    assert await searches.site.aliases("west") == {"orders-1": {"orders": {}}}
    assert set((await searches.site.settings("west", MARK)).values()) == {"restore-1:done"}
    searches.west.indices["orders-0"].aliases = {"orders": {}}  # somebody moved it back meanwhile
    await searches.restores.open_writes(group, restored)
    assert "orders" in searches.west.indices["orders-0"].aliases
    assert await searches.restores.accepts_writes(group, restored)
    assert not await searches.restores.remove(searches.order())  # they are the clients' now
    assert set(searches.west.indices) == {"orders-0", "orders-1", "products"}
    with pytest.raises(Refused, match="nothing is written into restored indices"):
        await searches.restores.write_probe(group, restored, "run")


@pytest.mark.parametrize("gone", [["products"], ["orders-1", "products"]])
async def test_indices_that_somebody_deleted_are_not_opened(searches: Searches, gone: list[str]) -> None:
    await searches.take()
    restored = await searches.restores.restore(searches.order(), nothing)
    for name in gone:
        del searches.west.indices[name]
    with pytest.raises(RestoreFailed, match=f"What was restored is gone from .*: {', '.join(gone)}"):
        await searches.restores.open_writes(searches.rig.group, restored)
    assert "PUT" not in " ".join(searches.west.asked[-2:])


async def test_everything_is_taken_back_until_then_and_nothing_else(searches: Searches) -> None:
    await searches.take()
    await searches.site.make("west", "others", 3)
    await searches.restores.restore(searches.order(), nothing)
    assert await searches.restores.remove(searches.order())
    assert set(searches.west.indices) == {"others"}
    assert not await searches.restores.remove(searches.order())


async def test_indices_that_clients_use_are_not_taken_back(searches: Searches) -> None:
    """The worker died between the aliases and the end."""
    await searches.take()
    restored = await searches.restores.restore(searches.order(), nothing)
    await searches.restores.open_writes(searches.rig.group, restored)
    for index in searches.west.indices.values():
        index.settings[MARK] = "restore-1"
    with pytest.raises(NotOurs, match="the aliases orders point to its indices already"):
        await searches.restores.remove(searches.order())


async def test_what_stands_in_the_way_is_said_before_anything_changes(searches: Searches) -> None:
    await searches.take()
    await searches.site.make("west", "orders-1", 3)
    await searches.site.make("west", "products", 3)
    await searches.site.close("west", "products")
    refused = await searches.refusals()
    assert "has orders-1 (open), products (closed) already. Say --replace" in refused["empty target"]
    assert await searches.refusals(replace=True) == {}
    assert await searches.refusals(rename_pattern="^", rename_replacement="back-") == {}
    assert "it holds no order; it holds orders-1, products" in (await searches.refusals(indices=("order",)))["choice"]
    assert (
        "without the cluster's global state" in (await searches.refusals(global_state=True, replace=True))["snapshot"]
    )
    searches.west.version = "1.3.0"
    assert "never restored into an older version" in (await searches.refusals(replace=True))["snapshot"]
    searches.lost = {"west"}
    assert "could not be asked" in (await searches.refusals())["target server"]
    assert (await searches.site.docs("west")).keys() == {"orders-1"}
    assert not [line for line in searches.west.asked if line.endswith("/_restore") or line.startswith("DELETE")]


async def test_indices_are_restored_beside_what_is_there_under_other_names(searches: Searches) -> None:
    await searches.take()
    order = searches.order(
        region=REGION, indices=("orders-*",), rename_pattern="^", rename_replacement="back-", aliases=False
    )
    restored = await searches.restores.restore(order, nothing)
    await searches.restores.open_writes(searches.rig.group, restored)
    assert await searches.site.aliases("east") == {"orders-1": {"orders": {}}}
    assert await searches.site.docs("east") == {"orders-1": 40, "products": 7, "back-orders-1": 40}
    assert list(searches.east.repositories) == ["recovery"]  # its own is read


async def test_a_replicated_bucket_is_read_by_the_name_that_it_has_there(searches: Searches) -> None:
    await searches.take()
    searches.site.disk.places["/repository/replica"] = searches.kept
    await searches.site.west.register(searches.site.repository("replica", readonly=True))
    await searches.restores.restore(searches.order(repository="replica"), nothing)
    assert list(searches.west.repositories) == ["replica"]


async def test_restored_indices_are_held_against_their_point(searches: Searches) -> None:
    await searches.take()
    restored = await searches.restores.restore(searches.order(), nothing)
    await searches.site.write("west", "products", 5)  # clients wrote since
    (check,) = await searches.restores.verify(searches.rig.group, restored)
    assert check.passed, check
    searches.west.indices["orders-1"].shards = [20, 18]
    del searches.west.indices["products"]
    found = await searches.restores.verify(searches.rig.group, restored)
    assert [check.passed for check in found] == [False, False]
    assert "orders-1[1] ends at sequence number 17 and the snapshot at 19 or later" in found[0].detail
    assert "products is closed, or not there" in found[1].detail


async def test_an_order_goes_to_the_search_engine_that_its_point_names(searches: Searches) -> None:
    await searches.take()
    by_store = RestoresByStore({DataStore.SEARCH: cast(Restores, searches.restores)})
    restored = await by_store.restore(searches.order(), nothing)
    assert await by_store.verify(searches.rig.group, restored)
