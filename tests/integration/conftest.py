"""One lab for all integration tests: whoever breaks something in it mends it before the test ends."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from lab import Lab
from lab.shop import load_shop

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
