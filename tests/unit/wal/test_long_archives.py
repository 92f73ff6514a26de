"""The archive of a year: hundreds of thousands of names, which neither silence a location nor hold up a worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from recovery.adapters import wal_listing
from recovery.backup.sealing import Opener, Sealer
from recovery.domain.wal_archive import lineage_ranges
from recovery.errors import Unreachable
from recovery.ports.object_store import ObjectInfo
from tests.fakes.object_store import MemoryStore
from tests.fakes.wal import FIRST, SEGMENT
from tests.unit.wal.test_recoveries import GROUP, Rig, made_rig


class SlowStore(MemoryStore):
    """Takes ``pace`` seconds for each name of a list; ``listed`` are the prefixes."""

    pace = 0.0

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.listed: list[str] = []

    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        self.listed.append(prefix)
        async for info in super().list(prefix):
            await asyncio.sleep(self.pace)
            yield info


@pytest.fixture
def stores() -> list[SlowStore]:
    return [SlowStore("a"), SlowStore("b")]


@pytest.fixture
def rig(sealer: Sealer, opener: Opener, stores: list[SlowStore]) -> Rig:
    return made_rig(sealer, opener, list(stores))


async def test_a_list_may_take_long_while_names_come(
    rig: Rig, stores: list[SlowStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.server.write(10 * SEGMENT)
    await rig.archive()
    monkeypatch.setattr(wal_listing, "LIST_SECONDS", 0.25)
    for store in stores:
        store.pace = 0.05
    archives = await rig.archives.archives(GROUP, "7000")
    began = asyncio.get_running_loop().time()
    assert [archive.location for archive, _ in await wal_listing.listed(archives)] == ["a", "b"]
    assert asyncio.get_running_loop().time() - began > 0.4, "it took longer than a silence may"
    stores[0].pace = 5.0
    assert [archive.location for archive, _ in await wal_listing.listed(archives)] == ["b"]
    stores[1].pace = 5.0
    with pytest.raises(Unreachable, match="no answer in time"):
        await wal_listing.listed(archives)


async def test_the_ranges_of_a_lineage_are_put_together_once(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.server.write(2 * SEGMENT)
    await rig.archive()
    for number in range(5):
        await rig.point(f"p{number}", FIRST + 40 + number, FIRST + 300 + number)
    calls: list[Any] = []

    def counted(*arguments: Any) -> Any:
        calls.append(arguments)
        return lineage_ranges(*arguments)

    monkeypatch.setattr("recovery.adapters.wal_listing.lineage_ranges", counted)
    assert len(await rig.archives.all_windows(GROUP)) == 5
    assert len(calls) == len(rig.stores)


async def test_what_stands_before_the_newest_point_is_not_listed_again_and_again(
    rig: Rig, stores: list[SlowStore]
) -> None:
    server, border = rig.server, 1 << 32
    server.first = server.removed = server.restart = border - SEGMENT
    server.write(3 * SEGMENT)
    await rig.archive()
    await rig.point("old", border - SEGMENT + 40, border - SEGMENT + 300)

    async def folders() -> set[str]:
        for store in stores:
            store.listed.clear()
        assert await rig.lacks_base() is None
        return {prefix.split("/")[-2] for store in stores for prefix in store.listed if "/pieces/" in prefix}

    assert await folders() == {"00000000", "00000001"}
    await rig.point("new", border + 40, border + 300)
    assert await folders() == {"00000001"}
    await rig.point("elsewhere", 2 * border + 40, 2 * border + 300)
    assert await folders() == {"00000000", "00000001"}, "the newest point need not be one of this lineage"
    server.write(SEGMENT)
    server.removed = server.restart = server.position
    server.write(SEGMENT)
    await rig.archive()
    assert await rig.lacks_base() is not None, "there is a gap behind both points"
