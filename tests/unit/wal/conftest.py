"""Real signatures and real encryption for archives in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from recovery.backup.sealing import Opener, Sealer
from tests.fakes.points import AGE


@pytest.fixture(scope="session")
async def sealer() -> AsyncIterator[Sealer]:
    async with Sealer([AGE.public], threads=1) as made:
        yield made


@pytest.fixture(scope="session")
async def opener() -> AsyncIterator[Opener]:
    async with Opener([AGE.secret], threads=1) as made:
        yield made
