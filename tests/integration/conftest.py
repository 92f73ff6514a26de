"""One lab for all integration tests: whoever breaks something in it mends it before the test ends.

Tests marked ``chaos`` run only when they are asked for (``-m chaos``): each fault has a quick case beside them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from lab import Lab
from lab.shop import load_shop
from tests.integration.guarded_site import GuardedSite
from tests.integration.guarded_start import guarded_site
from tests.integration.installation import Site, installed_site

SHOP_MEGABYTES = 24
HERE = Path(__file__).parent


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "chaos" in str(config.option.markexpr):
        return
    left_out = [item for item in items if item.get_closest_marker("chaos") and HERE in item.path.parents]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]


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


@pytest_asyncio.fixture(scope="module")
async def running_guarded() -> AsyncIterator[GuardedSite]:
    """One guarded installation for all faults of a module."""
    async with guarded_site() as site:
        yield site


@pytest_asyncio.fixture
async def guarded(running_guarded: GuardedSite) -> AsyncIterator[GuardedSite]:
    """The guarded installation, steady: one region is active, and the other follows it."""
    await running_guarded.reset()
    yield running_guarded
