"""A real S3 server for the contract suites, moto, and two servers that answer as search engines do."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest

from lab import Lab
from lab.state import S3Place
from recovery.backup.sealing import Opener, Sealer
from tests.contract.moto_server import moto
from tests.contract.search_site import Doors, doors
from tests.contract.stores import OTHER_S3
from tests.fakes.points import AGE


@pytest.fixture(scope="session")
async def s3_place() -> AsyncIterator[S3Place]:
    """SeaweedFS, or the server that tests/system/test_minio.py names."""
    if other := os.environ.get(OTHER_S3):
        yield S3Place.model_validate_json(other)
        return
    async with await Lab.start(regions=("region-a",), services={"s3"}) as lab:
        yield lab.s3("region-a")


@pytest.fixture(scope="session")
async def search_engines() -> AsyncIterator[Doors]:
    """The servers; each test has clusters of its own behind them."""
    async with doors() as made:
        yield made


@pytest.fixture(scope="session")
async def amazon() -> AsyncIterator[str]:
    """Amazon's RDS in memory; each test begins with what it makes there."""
    async with moto() as address:
        yield address


@pytest.fixture(scope="session")
async def sealer() -> AsyncIterator[Sealer]:
    async with Sealer([AGE.public]) as made:
        yield made


@pytest.fixture(scope="session")
async def opener() -> AsyncIterator[Opener]:
    async with Opener([AGE.secret]) as made:
        yield made
