"""A real S3 server for the contract suites, and two servers that answer as search engines do."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from lab import Lab
from lab.state import S3Place
from tests.contract.search_site import Doors, doors


@pytest.fixture(scope="session")
async def s3_place() -> AsyncIterator[S3Place]:
    async with await Lab.start(regions=("region-a",), services={"s3"}) as lab:
        yield lab.s3("region-a")


@pytest.fixture(scope="session")
async def search_engines() -> AsyncIterator[Doors]:
    """The servers; each test has clusters of its own behind them."""
    async with doors() as made:
        yield made
