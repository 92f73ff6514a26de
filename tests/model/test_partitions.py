"""Partitions one way only towards the witness: what is asked arrives, and no answer comes back. In virtual time."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from recovery.errors import Unreachable
from tests.fakes.guard import Regions, until
from tests.model.test_pauses import failed_over, never_two
from tests.unit.guard.scenes import PRIMARY, played, steady


def test_a_primary_that_the_witness_hears_and_that_hears_nothing_ends_with_its_lease(tmp_path: Path) -> None:
    """Each of its renewals may have been made: it counts none of them."""

    async def scene(regions: Regions) -> None:
        regions.peers.cut.add(frozenset("ab"))
        a, b = await steady(regions)
        await asyncio.sleep(10)
        async with never_two(regions, a, b):
            regions.witness.deaf.add("a")
            deadline = regions.guards["a"].groups["shop"].deadline()
            await failed_over(regions)
            assert deadline <= a.when(a.role) <= deadline + 0.1
            assert a.when(a.role) < b.when(PRIMARY)
            regions.witness.deaf.clear()
            regions.peers.cut.clear()
            await asyncio.sleep(4 * regions.ttl)
        assert (a.role is PRIMARY, b.role is PRIMARY) == (False, True)

    played(tmp_path, scene)


def test_a_primary_that_hears_the_other_guard_stays_by_its_promises(tmp_path: Path) -> None:
    async def scene(regions: Regions) -> None:
        a, b = await steady(regions)
        await asyncio.sleep(10)
        async with never_two(regions, a, b):
            regions.witness.deaf.add("a")
            await asyncio.sleep(10 * regions.ttl)
            assert a.role is PRIMARY and (await regions.guards["a"].status()).by_promise
            regions.witness.deaf.clear()
            await asyncio.sleep(2 * regions.ttl)
        assert (a.role, a.called, regions.record().epoch) == (PRIMARY, [], 1)

    played(tmp_path, scene)


def test_a_target_that_hears_nothing_takes_nothing_and_its_request_is_taken_back(tmp_path: Path) -> None:
    """The request reaches the record unheard, and the primary heeds it: it is off until somebody takes it back."""

    async def scene(regions: Regions) -> None:
        a, b = await steady(regions)
        await asyncio.sleep(10)
        async with never_two(regions, a, b):
            asking = asyncio.create_task(regions.guards["b"].fence(regions.claim("run-1", deadline=12.0)))
            order = regions.claim("run-1", deadline=12.0)
            await asyncio.sleep(0.007)  # it has read the record, and writes
            regions.witness.deaf.add("b")
            with pytest.raises(Unreachable):
                await asking
            assert b.role is not PRIMARY and regions.record().region == "a"
            await regions.guards["a"].unfence(order)
            await until(lambda: a.role is PRIMARY, 10)
            regions.witness.deaf.clear()
            await asyncio.sleep(4 * regions.ttl)
        assert (a.role, regions.record().region) == (PRIMARY, "a")

    played(tmp_path, scene)
