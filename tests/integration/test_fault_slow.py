"""A primary that takes 3 s for each query for two minutes, while the limit says 5, on a whole site. ``-m chaos``."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import asyncpg
import pytest
import pytest_asyncio

from tests.integration.guarded_site import GuardedSite
from tests.integration.guarded_start import TIMES, guarded_site
from tests.integration.guarded_verdicts import unharmed

LIMIT = 5.0
SLOW = 3.0
LONG = 120.0


@pytest_asyncio.fixture(scope="module")
async def running_guarded() -> AsyncIterator[GuardedSite]:
    async with guarded_site(replace(TIMES, timeout=LIMIT)) as site:
        yield site


@pytest.mark.chaos
@pytest.mark.timeout(600)
async def test_three_seconds_a_query_for_two_minutes_start_nothing(guarded: GuardedSite) -> None:
    async def hold_back() -> None:
        connection = await asyncpg.connect(guarded.lab.postgres(guarded.active).dsn(), timeout=10)
        try:
            until = time.monotonic() + LONG
            while time.monotonic() < until:
                async with connection.transaction():
                    await connection.execute("LOCK TABLE recovery_plans.heartbeat IN ACCESS EXCLUSIVE MODE")
                    await asyncio.sleep(SLOW)
        finally:
            await connection.close(timeout=5)

    slow = asyncio.create_task(hold_back())
    await guarded.no_plan(LONG)
    await slow
    await unharmed(guarded)
