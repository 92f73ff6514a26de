"""Sealing threads, started once for all unit tests of this folder, and a point that was written to two locations."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from recovery.backup.pipeline import write_point
from recovery.backup.sealing import Opener, Sealer
from recovery.backup.upload import WriteBudget
from recovery.domain.recovery_point import Manifest
from tests.fakes.object_store import MemoryStore
from tests.fakes.points import AGE, FakeSource, identity, signer
from tests.unit.backup.written import DATA


@pytest.fixture(scope="session")
async def sealer() -> AsyncIterator[Sealer]:
    async with Sealer([AGE.public]) as made:
        yield made


@pytest.fixture(scope="session")
async def opener() -> AsyncIterator[Opener]:
    async with Opener([AGE.secret]) as made:
        yield made


@pytest.fixture
async def stores() -> tuple[MemoryStore, MemoryStore]:
    return MemoryStore("a"), MemoryStore("b")


@pytest.fixture
async def manifest(stores: tuple[MemoryStore, MemoryStore], sealer: Sealer) -> Manifest:
    source = FakeSource({"base.tar": [DATA], "backup_manifest": [b"{}"]})
    budget = WriteBudget(chunk_bytes=1000)
    return (
        await write_point(source, identity=identity(), stores=stores, sealer=sealer, signer=signer(), budget=budget)
    ).manifest
