"""A rig of recovery points without servers: stores in memory, real signatures and real encryption."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from recovery.backup.sealing import Opener, Sealer
from recovery.domain.search import SearchProduct
from tests.contract.search_site import Doors, doors
from tests.fakes.points import AGE
from tests.unit.points.redis_rig import Dumps, made_dumps
from tests.unit.points.rig import Rig, make_rig
from tests.unit.points.search_rig import Searches
from tests.unit.points.stream_rig import Streams, make_streams


@pytest.fixture(scope="session")
async def sealer() -> AsyncIterator[Sealer]:
    async with Sealer([AGE.public]) as made:
        yield made


@pytest.fixture(scope="session")
async def opener() -> AsyncIterator[Opener]:
    async with Opener([AGE.secret]) as made:
        yield made


@pytest.fixture
async def rig(sealer: Sealer, opener: Opener) -> Rig:
    """Two locations that hold one recovery point of several objects, not yet validated."""
    return await make_rig(sealer, opener)


@pytest.fixture
def streams(rig: Rig) -> Streams:
    """The same, and two streams to back up."""
    return make_streams(rig)


@pytest.fixture
async def dumps(rig: Rig, tmp_path: Path) -> AsyncIterator[Dumps]:
    """The same, and a Redis to back up and one to restore into."""
    async with made_dumps(rig, tmp_path) as made:
        yield made


@pytest.fixture(scope="session")
async def search_engines() -> AsyncIterator[Doors]:
    """The servers; each test has clusters of its own behind them."""
    async with doors() as made:
        yield made


@pytest.fixture
async def searches(rig: Rig, search_engines: Doors) -> Searches:
    """The rig, and a cluster with two indices to back up."""
    site = search_engines.site(SearchProduct.OPENSEARCH)
    await site.make("east", "orders-1", 40, shards=2, aliases={"orders": {}})
    await site.make("east", "products", 7)
    return Searches(rig, site, site.addresses)
