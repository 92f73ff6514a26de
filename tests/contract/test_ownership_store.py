"""Ownership records: a compare-and-swap register per group, on every kind of store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lab.state import S3Place
from recovery.adapters.witness import WitnessStore
from recovery.domain.ownership import OwnershipRecord, Phase, Pivot
from recovery.errors import BadInput, Contended, Corrupt, Unreachable
from recovery.ports.ownership import OwnershipStore
from tests.contract.stores import KINDS, opened
from tests.fakes.object_store import FaultyStore, MemoryStore
from tests.fakes.ownership import FakeOwnershipStore

NOW = datetime(2026, 11, 22, 10, 15, tzinfo=UTC)


@pytest.fixture(params=["fake", *KINDS])
async def store(request: pytest.FixtureRequest, tmp_path: Path, s3_place: S3Place) -> AsyncIterator[OwnershipStore]:
    if request.param == "fake":
        yield FakeOwnershipStore()
        return
    async with opened(request.param, tmp_path, s3_place) as objects:
        yield WitnessStore(objects)


def _record(run: str, epoch: int = 1) -> OwnershipRecord:
    return OwnershipRecord(
        group="shop", epoch=epoch, region="region-a", phase=Phase.RUNNING, run=run, changed_at=NOW,
        pivot=Pivot(run_id=run, step="promote-standby", at=NOW),
    )  # fmt: skip


async def test_a_group_that_was_never_claimed_has_no_record(store: OwnershipStore) -> None:
    assert await store.read("shop") is None


async def test_what_was_written_is_read_with_its_version(store: OwnershipStore) -> None:
    version = await store.write(_record("run-1"), version=None)
    assert await store.read("shop") == (_record("run-1"), version)
    second = await store.write(_record("run-1", epoch=2), version=version)
    assert await store.read("shop") == (_record("run-1", epoch=2), second)


async def test_a_record_is_created_once_and_replaced_only_by_who_read_it(store: OwnershipStore) -> None:
    version = await store.write(_record("run-1"), version=None)
    with pytest.raises(Contended):
        await store.write(_record("run-2"), version=None)
    await store.write(_record("run-1", epoch=2), version=version)
    with pytest.raises(Contended):
        await store.write(_record("run-2", epoch=3), version=version)
    found = await store.read("shop")
    assert found is not None
    assert found[0] == _record("run-1", epoch=2)


async def test_of_racing_runs_exactly_one_takes_the_lock(store: OwnershipStore) -> None:
    version = await store.write(_record("before"), version=None)
    writes = [store.write(_record(f"run-{number}"), version=version) for number in range(6)]
    outcomes = await asyncio.gather(*writes, return_exceptions=True)
    winners = [number for number, outcome in enumerate(outcomes) if isinstance(outcome, str)]
    assert len(winners) == 1
    assert all(isinstance(outcome, str | Contended) for outcome in outcomes)
    found = await store.read("shop")
    assert found is not None
    assert found[0].run == f"run-{winners[0]}"


async def test_a_write_whose_answer_was_lost_counts_when_it_arrived() -> None:
    objects = FaultyStore(lose_answers=True)
    witness = WitnessStore(objects)
    version = await witness.write(_record("run-1"), version=None)
    assert await witness.read("shop") == (_record("run-1"), version)


async def test_a_write_that_did_not_arrive_is_unreachable_and_may_be_repeated() -> None:
    objects = FaultyStore(fault=lambda number, key: Unreachable("no route") if number == 1 else None)
    witness = WitnessStore(objects)
    with pytest.raises(Unreachable):
        await witness.write(_record("run-1"), version=None)
    await witness.write(_record("run-1"), version=None)


async def test_the_attempt_after_a_late_arrival_learns_that_it_succeeded() -> None:
    witness = WitnessStore(MemoryStore())
    first = await witness.write(_record("run-1"), version=None)
    assert await witness.write(_record("run-1"), version=None) == first


async def test_losing_the_answer_to_somebody_elses_change_is_contended() -> None:
    objects = FaultyStore()
    witness = WitnessStore(objects)
    version = await witness.write(_record("run-1"), version=None)
    await witness.write(_record("other", epoch=2), version=version)
    objects.fault = lambda number, key: Unreachable("connection reset")
    with pytest.raises(Contended):
        await witness.write(_record("run-1", epoch=2), version=version)


async def test_a_witness_that_hangs_is_unreachable_within_the_time_out() -> None:
    objects = FaultyStore(hang=lambda number, key: True)
    with pytest.raises(Unreachable):
        await WitnessStore(objects, timeout=0.05).write(_record("run-1"), version=None)


@pytest.mark.parametrize("body", [b"", b"{}", b"\xff", _record("x").model_dump_json().replace("shop", "pay").encode()])
async def test_a_record_that_is_none_is_said_not_believed(body: bytes) -> None:
    objects = MemoryStore()
    await objects.put("ownership/shop.json", body)
    with pytest.raises(Corrupt, match=r"ownership/shop\.json"):
        await WitnessStore(objects).read("shop")


@pytest.mark.parametrize("group", ["", "../x", "a/b"])
async def test_a_group_name_cannot_leave_its_folder(group: str) -> None:
    with pytest.raises(BadInput):
        await WitnessStore(MemoryStore()).read(group)
