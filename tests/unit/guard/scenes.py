"""Two regions with their guards, steady, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from recovery.domain.guarding import StoreRole
from tests.fakes.guard import FakeStore, Regions, in_virtual_time, until

PRIMARY, STANDBY = StoreRole.PRIMARY, StoreRole.STANDBY


def played(folder: Path, scene: Callable[[Regions], Awaitable[None]], **settings: float) -> None:
    async def play() -> None:
        regions = Regions(folder, **settings)
        try:
            await scene(regions)
        finally:
            await regions.close()

    in_virtual_time(play())


def now() -> float:
    return asyncio.get_running_loop().time()


async def steady(regions: Regions) -> tuple[FakeStore, FakeStore]:
    """A's primary is adopted; B stands by."""
    a, b = FakeStore(role=PRIMARY), FakeStore()
    guard = regions.start("a", {"shop": [a]})
    regions.start("b", {"shop": [b]})
    await until(lambda: "shop" in regions.witness.records and guard.groups["shop"].armed)
    return a, b


def deadline_of(regions: Regions, region: str = "a") -> float:
    return regions.guards[region].groups["shop"].deadline()
