"""Guards at work beside real PostgreSQL servers: what they keep, what they end, and what they refuse.

One lab for all: whoever moves something in it brings region-a's primary back before the test ends.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from recovery.adapters.guard_client import GuardClient
from recovery.domain.ownership import Phase
from recovery.errors import NotFound, Refused
from tests.integration.guard_rig import MARGIN, A, B, GuardedLab, guarded_lab, is_alive

TTL = 5.0


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[GuardedLab]:
    async with guarded_lab(tmp_path_factory.mktemp("guards"), ttl=TTL) as guarded:
        yield guarded


@pytest_asyncio.fixture(loop_scope="session")
async def guards(running: GuardedLab) -> AsyncIterator[GuardedLab]:
    await running.steady()
    yield running
    await running.free()


async def _primary_again(guards: GuardedLab, *, after_epoch: int) -> None:
    async def is_so() -> bool:
        return (await guards.record()).epoch > after_epoch and await guards.writes(A, "again")

    await guards.until("A is primary again, in a new epoch", is_so)


async def test_only_the_owner_accepts_writes_and_at_rest_nobody_would(guards: GuardedLab) -> None:
    assert await guards.writes(A)
    assert not await guards.writes(B)
    record, status = await guards.record(), await guards.status(A)
    assert (record.region, record.guard, record.phase) == (A, status.instance, Phase.STEADY)
    assert 0 < status.lease_left <= TTL

    async def sees_the_other() -> bool:
        return list((await guards.status(A)).watched) == [B]

    await guards.until("A's guard has read B's lease", sees_the_other)
    # Whatever restarts it gets a standby.
    assert (guards.lab.postgres(A).data_directory / "standby.signal").exists()


async def test_a_primary_that_dies_alone_comes_back_under_a_new_epoch(guards: GuardedLab) -> None:
    before = await guards.record()
    assert await guards.writes(A, "kept")
    await guards.lab.kill(A, "postgres")
    await _primary_again(guards, after_epoch=before.epoch)
    assert "kept" in await guards.values(A)


async def test_a_frozen_guard_has_its_primary_ended_by_the_companion(guards: GuardedLab) -> None:
    before = await guards.record()
    began = time.monotonic()
    guards.signal_guard(A, signal.SIGSTOP)
    last = began
    while time.monotonic() - began < TTL + MARGIN + 1:
        if await guards.writes(A, "while frozen"):
            last = time.monotonic()
    assert last - began < TTL + 0.5, "writes were accepted after the lease had ended"
    assert not await guards.writes(A)
    guards.signal_guard(A, signal.SIGCONT)
    await _primary_again(guards, after_epoch=before.epoch)


async def test_a_killed_guard_has_its_primary_ended_and_the_next_one_brings_it_back(guards: GuardedLab) -> None:
    before = await guards.record()
    await guards.end_guard(A)
    began = time.monotonic()

    async def ended() -> bool:
        return not await guards.writes(A)

    await guards.until("the companion ended PostgreSQL", ended, TTL + MARGIN + 1)
    assert time.monotonic() - began > TTL / 2  # it was the deadline, and not the guard's end
    await guards.start_guard(A)
    await _primary_again(guards, after_epoch=before.epoch)


async def test_a_guard_that_is_stopped_leaves_nothing_primary_and_gives_its_lease_back(guards: GuardedLab) -> None:
    before = await guards.record()
    await guards.end_guard(A, signal.SIGTERM)
    assert not await guards.writes(A)
    found = await guards.witness.read_lease(A)
    assert found is not None
    assert found[0].released
    await guards.start_guard(A)
    await _primary_again(guards, after_epoch=before.epoch)


async def test_a_companion_that_is_killed_or_frozen_is_replaced(guards: GuardedLab) -> None:
    for number in (signal.SIGKILL, signal.SIGSTOP):
        former = guards.companion(A)
        os.kill(former, number)

        async def another(former: int = former) -> bool:
            return guards.companion(A) != former and is_alive(guards.companion(A)) and not is_alive(former)

        await guards.until("another companion is at work", another)
    assert await guards.writes(A)


async def test_a_second_guard_of_a_region_is_refused(guards: GuardedLab) -> None:
    second = await guards.spawn_guard(A)
    assert await asyncio.wait_for(second.wait(), 30) == 2
    assert f"a guard of {A} runs on this host already" in guards.log(A)
    await guards.steady()


async def test_a_fence_is_confirmed_by_the_source_and_taken_back(guards: GuardedLab) -> None:
    order = await guards.claim("run-fence")
    began = time.monotonic()
    proof = await guards.client.fence(order)
    assert (proof.how, proof.epoch, proof.region) == ("demotion-confirmed", order.epoch, A)
    assert time.monotonic() - began < TTL  # it did not wait for the lease
    assert not await guards.writes(A)
    assert await guards.client.fence(order) == proof  # asked twice: one answer
    record = await guards.client.unfence(order)
    assert (record.fencing, record.demotion, record.fence) == (None, None, None)
    await _primary_again(guards, after_epoch=order.epoch)
    # A late attempt of the fence finds another epoch.
    with pytest.raises(Refused, match="epoch"):
        await guards.client.fence(order)
    assert await guards.writes(A)


async def test_a_planned_fence_loses_nothing_and_is_taken_back(guards: GuardedLab) -> None:
    order = (await guards.claim("run-planned")).model_copy(update={"planned": True})
    acknowledged = {f"planned-{number}" for number in range(5) if await guards.writes(A, f"planned-{number}")}
    proof = await guards.client.fence(order)
    assert proof.how == "demotion-confirmed", "it was asked for, not waited for"
    assert proof.positions["postgres"], "the final position is in the proof"
    assert not await guards.writes(A)
    assert acknowledged <= await guards.values(B)
    await guards.client.unfence(order)
    await _primary_again(guards, after_epoch=order.epoch)


async def test_orders_of_others_change_nothing(guards: GuardedLab) -> None:
    order = await guards.claim("run-mine")
    before = await guards.record()
    for changed in ({"run": "another"}, {"epoch": order.epoch + 1}, {"epoch": order.epoch - 1}):
        with pytest.raises(Refused):
            await guards.client.fence(order.model_copy(update=changed))
    with pytest.raises(Refused, match="proof|fence"):
        await guards.client.promote(order)
    with pytest.raises(Refused, match="owns"):
        await guards.client.follow(A, order)
    with pytest.raises(NotFound, match="shop"):
        await guards.client.status(A, "unknown")
    with pytest.raises(NotFound, match="region-a"):
        await guards.client.status("region-x")
    assert await guards.record() == before
    assert await guards.writes(A)


async def test_without_the_token_nothing_is_answered(guards: GuardedLab) -> None:
    async with GuardClient(guards.addresses, "another token of some length") as stranger:
        with pytest.raises(Refused, match="token"):
            await stranger.status(A)


async def test_a_silent_witness_is_bridged_by_the_other_guards_promise(guards: GuardedLab) -> None:
    before = await guards.record()
    await guards.lab.partition(A, "witness")
    try:
        until = time.monotonic() + 2 * TTL
        while time.monotonic() < until:
            assert await guards.writes(A), guards.log(A)
            await asyncio.sleep(0.2)
        status = await guards.status(A)
        assert (status.by_promise, status.holds_lease) == (True, False)
        assert (await guards.record()).guard == before.guard
    finally:
        await guards.lab.heal()

    async def holds_lease() -> bool:
        return (await guards.status(A)).holds_lease

    await guards.until("A holds its lease again", holds_lease)
    assert await guards.writes(A)


async def test_a_fence_ends_the_promises_and_is_proven_by_the_lease(guards: GuardedLab) -> None:
    """B promised A to wait; a run that asks for the fence lets that promise run out, and A demotes by itself."""
    await guards.lab.partition(A, "witness")
    try:

        async def by_promise() -> bool:
            return (await guards.status(A)).by_promise

        await guards.until("A stays by promise", by_promise)
        order = await guards.claim("run-promised")
        proof = await guards.client.fence(order)
        assert proof.how == "lease-broken"
        assert not await guards.writes(A)
    finally:
        await guards.lab.heal()
    await guards.client.unfence(order)
    await _primary_again(guards, after_epoch=order.epoch)
