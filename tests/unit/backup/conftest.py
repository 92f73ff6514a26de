"""Sealing processes are started once for all unit tests of this folder."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from recovery.backup.sealing import Opener, Sealer
from tests.fakes.points import AGE


@pytest.fixture(scope="session")
async def sealer() -> AsyncIterator[Sealer]:
    async with Sealer([AGE.public]) as made:
        yield made


@pytest.fixture(scope="session")
async def opener() -> AsyncIterator[Opener]:
    async with Opener([AGE.secret]) as made:
        yield made
