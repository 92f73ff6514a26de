"""Leases of regions: a compare-and-swap register per region, on every kind of store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lab.state import S3Place
from recovery.adapters.witness import WitnessStore
from recovery.domain.ownership import RegionLease
from recovery.errors import BadInput, Contended, Corrupt, Unreachable
from recovery.ports.ownership import LeaseStore
from tests.contract.stores import KINDS, opened
from tests.fakes.object_store import FaultyStore, MemoryStore

NOW = datetime(2026, 11, 22, 10, 15, tzinfo=UTC)


@pytest.fixture(params=KINDS)
async def store(request: pytest.FixtureRequest, tmp_path: Path, s3_place: S3Place) -> AsyncIterator[LeaseStore]:
    async with opened(request.param, tmp_path, s3_place) as objects:
        yield WitnessStore(objects)


def _lease(serial: int, instance: str = "region-a/1") -> RegionLease:
    return RegionLease(region="region-a", instance=instance, serial=serial, ttl=5.0, changed_at=NOW)


async def test_a_lease_is_created_renewed_and_read_with_its_version(store: LeaseStore) -> None:
    assert await store.read_lease("region-a") is None
    first = await store.write_lease(_lease(1), version=None)
    assert await store.read_lease("region-a") == (_lease(1), first)
    second = await store.write_lease(_lease(2), version=first)
    assert second != first
    assert await store.read_lease("region-a") == (_lease(2), second)


async def test_of_a_renewal_and_a_break_exactly_one_succeeds(store: LeaseStore) -> None:
    version = await store.write_lease(_lease(1), version=None)
    broken = _lease(1).model_copy(update={"broken_by": "region-b/1"})
    writes = [store.write_lease(lease, version=version) for lease in (_lease(2), broken, _lease(3))]
    outcomes = await asyncio.gather(*writes, return_exceptions=True)
    assert sum(isinstance(outcome, str) for outcome in outcomes) == 1
    assert all(isinstance(outcome, str | Contended) for outcome in outcomes)
    with pytest.raises(Contended):
        await store.write_lease(_lease(4), version=version)


async def test_a_lease_is_created_only_where_there_is_none(store: LeaseStore) -> None:
    await store.write_lease(_lease(1), version=None)
    with pytest.raises(Contended):
        await store.write_lease(_lease(1, "region-a/2"), version=None)


async def test_a_witness_that_hangs_is_unreachable_within_the_time_out() -> None:
    with pytest.raises(Unreachable):
        await WitnessStore(FaultyStore(hang=lambda number, key: True), timeout=0.05).write_lease(
            _lease(1), version=None
        )


async def test_a_lost_answer_is_told_and_what_stands_there_is_read() -> None:
    witness = WitnessStore(FaultyStore(lose_answers=True))
    with pytest.raises(Unreachable):
        await witness.write_lease(_lease(1), version=None)
    found = await witness.read_lease("region-a")
    assert found is not None
    assert found[0].serial == 1


@pytest.mark.parametrize("body", [b"", b"{}", _lease(1).model_dump_json().replace("region-a", "region-b").encode()])
async def test_a_lease_that_is_none_is_said_not_believed(body: bytes) -> None:
    objects = MemoryStore()
    await objects.put("leases/region-a.json", body)
    with pytest.raises(Corrupt, match=r"leases/region-a\.json"):
        await WitnessStore(objects).read_lease("region-a")


@pytest.mark.parametrize("region", ["", "../x", "a/b"])
async def test_a_regions_name_cannot_leave_its_folder(region: str) -> None:
    with pytest.raises(BadInput):
        await WitnessStore(MemoryStore()).read_lease(region)
