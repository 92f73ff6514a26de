"""The contract of ``SearchRecovery``, continued: restores."""

from __future__ import annotations

import asyncio

import pytest

from recovery.errors import BadInput, NotFound, Refused, RestoreFailed
from recovery.ports.search import SearchAdvance
from tests.contract.search_contract import FILTER, MARK, Site, completed, names, options, until_marked


class SearchRestores:
    """Subclasses have a fixture ``site`` that is empty for each test."""

    async def test_a_snapshot_is_restored_in_the_other_cluster(self, site: Site) -> None:
        await site.make(
            "east", "orders-1", 40, shards=2, aliases={"orders": FILTER, "current": {"is_write_index": True}}
        )
        await site.make("east", "products", 7)
        source = await site.point()
        seen: list[SearchAdvance] = []
        chosen = options(wait_for="green", replicas=0)
        restored = await site.west.restore(source, chosen, seen.append)
        assert restored.indices == {"orders-1": "orders-1", "products": "products"}
        assert (restored.docs, restored.status, restored.moved, restored.notes) == (47, "green", {}, [])
        assert await site.docs("west") == {"orders-1": 40, "products": 7}
        assert await site.aliases("west") == await site.aliases("east")
        assert await site.settings("west", MARK) == completed(chosen, "orders-1", "products")
        assert (seen[-1].shards, seen[-1].of_shards) == (3, 3)
        await site.write("west", "orders-1", 1)
        assert (await site.docs("west"))["orders-1"] == 41

    async def test_what_is_there_is_not_replaced_without_leave(self, site: Site) -> None:
        await site.make("east", "orders", 40)
        await site.make("east", "products", 7)
        source = await site.point()
        await site.make("west", "orders", 3)
        await site.make("west", "products", 4)
        await site.close("west", "products")
        with pytest.raises(Refused, match=r"has orders \(open\), products \(closed\) already. Say --replace"):
            await site.west.restore(source, options())
        assert await site.docs("west") == {"orders": 3}
        with pytest.raises(Refused, match=r"has products \(closed\) already"):
            await site.west.restore(source, options(indices=["products"]))
        restored = await site.west.restore(source, options(replace=True))
        assert restored.replaced == ["orders", "products"]
        assert await site.docs("west") == {"orders": 40, "products": 7}

    async def test_aliases_move_in_one_step_to_what_was_restored(self, site: Site) -> None:
        await site.make("east", "orders-1", 40, aliases={"orders": FILTER})
        source = await site.point()
        await site.write("east", "orders-1", 2)
        restored = await site.east.restore(source, options(rename_pattern="(.+)", rename_replacement="back-$1"))
        assert restored.moved == {"orders": ["orders-1"]}
        assert await site.aliases("east") == {"back-orders-1": {"orders": FILTER}}
        assert await site.docs("east") == {"orders-1": 42, "back-orders-1": 40}
        again = await site.east.restore(source, options(rename_pattern="(.+)", rename_replacement="again-$1"))
        assert again.moved == {"orders": ["back-orders-1"]}
        assert await site.aliases("east") == {"again-orders-1": {"orders": FILTER}}

    async def test_a_restore_can_be_taken_back_until_it_is_completed(self, site: Site) -> None:
        await site.make("east", "orders-1", 40, aliases={"orders": FILTER})
        source = await site.point()
        await site.make("west", "orders-0", 3, aliases={"orders": {}})
        kept = options(keep_mark=True)
        restored = await site.west.restore(source, kept)
        assert await site.aliases("west") == {"orders-0": {"orders": {}}}
        assert await site.west.unfinished() == {kept.restore_id: ["orders-1"]}
        assert all(check.passed for check in await site.west.check_restore(source, kept))  # it is its own
        (target,) = [c for c in await site.west.check_restore(source, options()) if not c.passed]
        assert target.name == "empty target" and "has orders-1 (open) already" in target.detail
        assert await site.west.remove_restored(kept.restore_id) == ["orders-1"]
        await site.west.restore(source, kept)
        assert await site.west.differences(source, restored.indices) == []
        for _ in range(2):
            await site.west.complete(source, restored.indices, kept.restore_id, aliases=True)
            assert await site.aliases("west") == {"orders-1": {"orders": FILTER}}
        assert (await site.west.unfinished(), await site.west.remove_restored(kept.restore_id)) == ({}, [])

    async def test_a_part_that_is_restored_takes_its_own_place_only(self, site: Site) -> None:
        await site.make("east", "orders-1", 40, aliases={"orders": {}})
        await site.make("east", "orders-2", 5, aliases={"orders": {}})
        source = await site.point()
        chosen = options(indices=["orders-1"], rename_pattern="^", rename_replacement="back-")
        restored = await site.east.restore(source, chosen)
        assert restored.moved == {"orders": ["orders-1"]} and "stays on orders-2 too" in restored.notes[0]
        assert await site.aliases("east") == {"back-orders-1": {"orders": {}}, "orders-2": {"orders": {}}}

    async def test_aliases_are_left_alone_where_nobody_wants_them(self, site: Site) -> None:
        await site.make("east", "orders-1", 40, aliases={"orders": {}})
        source = await site.point()
        await site.west.restore(source, options(aliases=False))
        assert await site.aliases("west") == {}

    async def test_an_index_in_the_place_of_an_alias_is_seen_before_anything_is_done(self, site: Site) -> None:
        await site.make("east", "orders-1", 40, aliases={"orders": {}})
        source = await site.point()
        await site.make("west", "orders", 3)  # an application wrote before the alias was there
        with pytest.raises(Refused, match=r"has orders \(open\) already"):
            await site.west.restore(source, options())
        assert await site.docs("west") == {"orders": 3}
        restored = await site.west.restore(source, options(replace=True))
        assert (restored.replaced, await site.aliases("west")) == (["orders"], {"orders-1": {"orders": {}}})

    async def test_an_alias_in_the_place_of_an_index_is_refused(self, site: Site) -> None:
        await site.make("east", "orders", 40)
        source = await site.point()
        await site.make("west", "orders-1", 3, aliases={"orders": {}})
        with pytest.raises(Refused, match="has aliases of names that indices would get: orders"):
            await site.west.restore(source, options(replace=True))

    async def test_internal_indices_are_restored_by_name_only_and_never_replaced(self, site: Site) -> None:
        await site.make("east", ".settings-of-a-plugin", 2)
        await site.make("east", "orders", 40)
        source = await site.point("*", ".settings*")
        assert names(source) == [".settings-of-a-plugin", "orders"]
        assert (await site.west.restore(source, options())).indices == {"orders": "orders"}
        await site.west.restore(source, options(indices=[".settings-*"]))
        with pytest.raises(Refused, match="internal indices are never replaced"):
            await site.west.restore(source, options(indices=[".settings-*"], replace=True))

    async def test_a_choice_that_cannot_be_restored(self, site: Site) -> None:
        await site.make("east", "orders-1")
        await site.make("east", "orders-2")
        source = await site.point()
        with pytest.raises(NotFound, match="it holds no products; it holds orders-1, orders-2"):
            await site.west.restore(source, options(indices=["products"]))
        with pytest.raises(BadInput, match="chooses no index"):
            await site.west.restore(source, options(indices=["products-*"]))
        with pytest.raises(BadInput, match="orders-1 and orders-2 would both be restored as orders"):
            await site.west.restore(source, options(rename_pattern="-.", rename_replacement=""))
        with pytest.raises(BadInput, match="without the cluster's global state"):
            await site.west.restore(source, options(global_state=True))
        assert await site.docs("west") == {}

    async def test_only_the_points_own_snapshot_is_restored(self, site: Site) -> None:
        await site.make("east", "orders")
        source = await site.point()
        with pytest.raises(Refused, match="is another one"):
            await site.west.restore(source.model_copy(update={"snapshot_uuid": "another"}), options())
        with pytest.raises(NotFound, match="holds no snapshot recovery-gone"):
            await site.west.restore(source.model_copy(update={"snapshot": "recovery-gone"}), options())
        with pytest.raises(NotFound, match="no snapshot repository unknown"):
            await site.west.restore(source, options(repository="unknown"))

    async def test_shards_that_cannot_be_read_fail_the_restore_and_leave_nothing(self, site: Site) -> None:
        await site.make("east", "orders", 40)
        source = await site.point()
        site.damage(site.repository())
        with pytest.raises(RestoreFailed, match=r"orders\[0\].*deleted again"):
            await site.west.restore(source, options(within_seconds=60))
        assert await site.docs("west") == {} and await site.settings("west", MARK) == {}

    async def test_what_differs_from_the_snapshot_fails_the_restore(self, site: Site) -> None:
        await site.make("east", "orders", 40)
        source = await site.point()
        (part,) = source.indices
        more = part.positions[0].model_copy(update={"at_least": 45, "at_most": 45})
        wrong = source.model_copy(update={"indices": [part.model_copy(update={"positions": [more], "docs": 46})]})
        with pytest.raises(
            RestoreFailed, match=r"orders\[0\] ends at sequence number 39 and the snapshot at 45 or later"
        ):
            await site.west.restore(wrong, options())
        assert await site.docs("west") == {}

    async def test_a_half_restore_is_undone_and_nothing_else(self, site: Site) -> None:
        await site.make("east", "orders", 400)
        await site.make("west", "others", 3)
        source = await site.point()
        await site.west.register(site.repository(readonly=True, slow=True), replace=True)
        chosen = options()
        running = asyncio.create_task(site.west.restore(source, chosen))
        await until_marked(site)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert await site.west.remove_restored("another-restore") == []
        assert await site.west.remove_restored(chosen.restore_id) == ["orders"]
        assert await site.docs("west") == {"others": 3}
        assert await site.west.remove_restored(chosen.restore_id) == []

    async def test_a_restore_that_was_cancelled_is_gone_on_with(self, site: Site) -> None:
        await site.make("east", "orders", 400, aliases={"current": {}})
        source = await site.point()
        await site.west.register(site.repository(readonly=True, slow=True), replace=True)
        chosen = options()
        running = asyncio.create_task(site.west.restore(source, chosen))
        await until_marked(site)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        site.let_go()
        assert (await site.west.restore(source, chosen)).docs == 400
        assert await site.aliases("west") == {"orders": {"current": {}}}
        assert await site.settings("west", MARK) == completed(chosen, "orders")

    async def test_two_attempts_at_once_restore_once(self, site: Site) -> None:
        await site.make("east", "orders", 40, aliases={"current": {}})
        source = await site.point()
        chosen = options()
        both = await asyncio.gather(site.west.restore(source, chosen), site.west.restore(source, chosen))
        assert [restored.docs for restored in both] == [40, 40]
        assert await site.docs("west") == {"orders": 40}
        assert await site.aliases("west") == {"orders": {"current": {}}}
        assert await site.settings("west", MARK) == completed(chosen, "orders")

    async def test_a_restore_that_is_repeated_after_its_end_keeps_what_was_written_since(self, site: Site) -> None:
        """Its worker died before it could tell, or the answer of its last request was lost."""
        await site.make("east", "orders", 40, aliases={"current": {}})
        await site.make("east", "products", 7)
        source = await site.point()
        await site.make("west", "orders", 3)
        chosen = options(replace=True)
        assert (await site.west.restore(source, chosen)).replaced == ["orders"]
        await site.write("west", "orders", 2)
        again = await site.west.restore(source, chosen)
        assert (again.indices, again.replaced, again.moved) == ({"orders": "orders", "products": "products"}, [], {})
        assert await site.docs("west") == {"orders": 42, "products": 7}
        assert await site.west.remove_restored(chosen.restore_id) == []
        assert await site.docs("west") == {"orders": 42, "products": 7}
        later = options(indices=["orders"], rename_pattern="^", rename_replacement="later-")
        assert (await site.west.restore(source, later)).moved == {"current": ["orders"]}
        assert (await site.west.restore(source, chosen)).moved == {}
        assert await site.aliases("west") == {"later-orders": {"current": {}}}

    async def test_the_global_state_comes_along_when_it_was_taken(self, site: Site) -> None:
        await site.make("east", "orders", 4)
        source = await site.point(global_state=True)
        assert source.global_state
        assert (await site.west.restore(source, options(global_state=True))).docs == 4


class DataStreams:
    """The part of the contract for servers that have data streams."""

    async def test_a_data_stream_is_restored_with_its_indices(self, site: Site) -> None:
        await site.make("east", "logs-shop", 12, stream=True)
        await site.make("east", "orders", 4)
        source = await site.point()
        ((name, backing),) = source.data_streams.items()
        assert name == "logs-shop" and backing[0].startswith(".ds-logs-shop-")
        restored = await site.west.restore(source, options())
        assert (restored.data_streams, restored.docs) == ({"logs-shop": "logs-shop"}, 16)
        with pytest.raises(Refused, match=r"has logs-shop \(a data stream\), orders \(open\) already"):
            await site.west.restore(source, options())
        renamed = await site.west.restore(
            source, options(indices=["logs-*"], rename_pattern="^logs", rename_replacement="old")
        )
        assert renamed.data_streams == {"logs-shop": "old-shop"} and renamed.docs == 12
        assert (await site.west.restore(source, options(indices=["logs-shop"], replace=True))).replaced == ["logs-shop"]
