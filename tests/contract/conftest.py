"""A real S3 server for the contract suites."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from lab import Lab
from lab.state import S3Place


@pytest.fixture(scope="session")
async def s3_place() -> AsyncIterator[S3Place]:
    async with await Lab.start(regions=("region-a",), services={"s3"}) as lab:
        yield lab.s3("region-a")
