"""One lab for all integration tests: whoever breaks something in it mends it before the test ends."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from lab import Lab
from lab.shop import load_shop
from tests.integration.installation import Site, installed_site

SHOP_MEGABYTES = 24


@pytest_asyncio.fixture(scope="session")
async def lab() -> AsyncIterator[Lab]:
    """Two regions with a streaming standby and a shop of SHOP_MEGABYTES."""
    running = await Lab.start()
    try:
        await load_shop(running.postgres("region-a").dsn(), SHOP_MEGABYTES)
        yield running
    finally:
        await running.stop()


@pytest_asyncio.fixture(scope="session")
async def running_site() -> AsyncIterator[Site]:
    """One installation for all tests of whole plans."""
    async with installed_site() as site:
        yield site


@pytest_asyncio.fixture
async def site(running_site: Site) -> AsyncIterator[Site]:
    """The installation as it was at first; its recovery points stay."""
    await running_site.reset()
    yield running_site
