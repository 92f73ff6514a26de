"""Failovers by guards alone: the old primary's end, the new one's begin, and what comes back afterwards.

Two writers try both regions all the time: what A acknowledged last must come before what B acknowledged first.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import pytest

from lab.state import PostgresPlace
from recovery.domain.guarding import GuardOrder, StoreRole
from recovery.errors import RecoveryError, Refused
from tests.integration.guard_rig import LOST, MARGIN, TTL, A, B, GuardedLab, guarded_lab

DEMOTION = 1.0


@dataclass
class Writers:
    """Acknowledged writes of both regions, with the times (time.monotonic) around each."""

    places: dict[str, PostgresPlace]
    acknowledged: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: {A: [], B: []})

    @classmethod
    @contextlib.asynccontextmanager
    async def at_work(cls, guards: GuardedLab) -> AsyncIterator[Writers]:
        writers = cls({region: guards.lab.postgres(region) for region in (A, B)})
        tasks = [asyncio.create_task(writers._write(region)) for region in (A, B)]
        try:
            yield writers
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _write(self, region: str) -> None:
        while True:
            connection = None
            with contextlib.suppress(OSError, TimeoutError, *LOST):
                connection = await asyncpg.connect(self.places[region].dsn(), timeout=1)
                while True:
                    async with asyncio.timeout(30):
                        began = time.monotonic()
                        await connection.execute("INSERT INTO written (value) VALUES ($1)", f"{region} {began}")
                        self.acknowledged[region].append((began, time.monotonic()))
                    await asyncio.sleep(0.01)
            if connection is not None:
                connection.terminate()
            await asyncio.sleep(0.02)

    def last(self, region: str) -> float:
        return self.acknowledged[region][-1][1]

    def first(self, region: str) -> float:
        return self.acknowledged[region][0][0]

    async def until_written(self, guards: GuardedLab, region: str) -> None:
        seen = len(self.acknowledged[region])

        async def more() -> bool:
            return len(self.acknowledged[region]) > seen

        await guards.until(f"{region} acknowledges writes", more)


async def _fail_over(guards: GuardedLab, order: GuardOrder) -> float:
    """Fence and promote as a run's steps do, again after every transient error. Returns the seconds that it took."""
    began = time.monotonic()
    for ask in (guards.client.fence, guards.client.promote):
        while True:
            try:
                await ask(order)
                break
            except RecoveryError as error:
                if not error.retryable or time.monotonic() - began > 60:
                    raise
                await asyncio.sleep(0.1)
    return time.monotonic() - began


@pytest.mark.chaos  # whole sites do it in tests/integration/test_fault_*.py
async def test_a_region_that_is_killed_is_replaced_and_stays_off_when_it_returns(tmp_path: Path) -> None:
    async with guarded_lab(tmp_path) as guards:
        await guards.steady()
        order = await guards.claim("run-1")
        async with Writers.at_work(guards) as writers:
            await writers.until_written(guards, A)
            os.kill(guards.companion(A), signal.SIGKILL)
            await asyncio.gather(guards.end_guard(A), guards.lab.kill(A, "postgres"))
            killed = time.monotonic()
            await _fail_over(guards, order)
            await writers.until_written(guards, B)
            assert writers.last(A) < writers.first(B)
            print(f"kill to first write in {B}: {writers.first(B) - killed:.2f} s")
            assert writers.first(B) - killed < TTL + MARGIN + DEMOTION + 4
            # The old primary returns: its guard finds that another region owns the group.
            await guards.start_guard(A)

            async def stale() -> bool:
                return await guards.role(A) is StoreRole.STALE

            await guards.until("A's data wait to be looked at", stale)
            await asyncio.sleep(TTL)
            assert await guards.role(A) is StoreRole.STALE
            assert writers.last(A) < writers.first(B)
            with pytest.raises(Refused):
                await guards.client.unfence(order)
            with pytest.raises(Refused):  # two failovers asked for at once: the second one comes late
                await guards.client.fence(order.model_copy(update={"run": "run-2"}))
            again = await guards.client.promote(order)
            assert (again.already, again.epoch) == (True, order.epoch + 1)


@pytest.mark.chaos  # whole sites do it in tests/integration/test_fault_*.py
async def test_a_primary_that_is_cut_off_ends_before_the_next_one_begins(tmp_path: Path) -> None:
    """No promise can be had: the guards do not hear each other, and A does not hear the witness."""
    async with guarded_lab(tmp_path, peers=False) as guards:
        await guards.steady()
        order = await guards.claim("run-1")
        async with Writers.at_work(guards) as writers:
            await writers.until_written(guards, A)
            cut = time.monotonic()
            await guards.lab.partition(A, "witness")
            await guards.lab.partition(A, B)
            await _fail_over(guards, order)
            await writers.until_written(guards, B)
            assert writers.last(A) < writers.first(B), "two primaries"
            assert writers.last(A) - cut < TTL + DEMOTION
            print(f"cut to first write in {B}: {writers.first(B) - cut:.2f} s")
            await guards.lab.heal()

            async def lease_again() -> bool:
                return (await guards.status(A)).holds_lease

            await guards.until("A's guard took a new lease", lease_again)
            await asyncio.sleep(TTL)
            assert writers.last(A) < writers.first(B), "the old primary came back"


@pytest.mark.chaos  # whole sites do it in tests/integration/test_fault_*.py
async def test_the_targets_guard_dies_between_fence_and_promotion(tmp_path: Path) -> None:
    async with guarded_lab(tmp_path) as guards:
        await guards.steady()
        order = await guards.claim("run-1")
        async with Writers.at_work(guards) as writers:
            await writers.until_written(guards, A)
            proof = await guards.client.fence(order)
            assert proof.how == "demotion-confirmed"
            await guards.end_guard(B)
            await guards.start_guard(B)
            assert await guards.client.fence(order) == proof
            await guards.client.promote(order)
            await writers.until_written(guards, B)
            # And after the promotion: the next process finds what the former one did.
            await guards.end_guard(B)
            await guards.start_guard(B)
            promotion = await guards.client.promote(order)
            assert promotion.epoch > order.epoch  # taken over as it runs, or promoted again when the lease ran out
            await writers.until_written(guards, B)
            assert writers.last(A) < writers.first(B)


async def test_a_guard_that_is_restarted_in_time_takes_the_primary_over_as_it_is(tmp_path: Path) -> None:
    """Killed, and stopped for a change of version: the server runs on, and so does the companion."""
    ttl = 12.0  # on a busy machine it takes its time to start a process
    async with guarded_lab(tmp_path, ttl=ttl) as guards:
        await guards.steady()
        server, companion, record = guards.postmaster(A), guards.companion(A), await guards.record()
        await guards.end_guard(A)
        await guards.start_guard(A, "--keep-primary")
        await guards.steady()
        await guards.end_guard(A, signal.SIGTERM)
        await guards.start_guard(A)
        await guards.steady()
        await asyncio.sleep(ttl)  # past both former guards' deadlines
        assert await guards.writes(A)
        assert (guards.postmaster(A), guards.companion(A)) == (server, companion)
        assert (await guards.record()).epoch == record.epoch + 2  # each of them took it under an epoch of its own


@pytest.mark.chaos  # whole sites do it in tests/integration/test_fault_*.py
@pytest.mark.parametrize("ttls", [2, 5])
async def test_a_whole_host_that_was_frozen_writes_for_one_ttl_at_most(tmp_path: Path, ttls: int) -> None:
    """Guard, companion and PostgreSQL together: the window of strength 3. It is bounded, and ends by the companion."""
    async with guarded_lab(tmp_path) as guards:
        await guards.steady()
        order = await guards.claim("run-1")
        async with Writers.at_work(guards) as writers:
            await writers.until_written(guards, A)
            companion = guards.companion(A)
            guards.signal_guard(A, signal.SIGSTOP)
            os.kill(companion, signal.SIGSTOP)
            await guards.lab.freeze(A, "postgres")
            frozen = time.monotonic()
            await _fail_over(guards, order)
            await writers.until_written(guards, B)
            await asyncio.sleep(max(0.0, frozen + ttls * TTL - time.monotonic()))
            thawed = time.monotonic()
            await guards.lab.thaw(A, "postgres")
            os.kill(companion, signal.SIGCONT)
            guards.signal_guard(A, signal.SIGCONT)

            async def off() -> bool:
                return await guards.role(A) is StoreRole.STALE

            await guards.until("A is demoted", off)
            late = [end for _, end in writers.acknowledged[A] if end > writers.first(B)]
            print(f"{len(late)} writes after the thaw, for {max(late, default=thawed) - thawed:.2f} s")
            assert max(late, default=thawed) - thawed < TTL
            await asyncio.sleep(1)
            assert not [end for _, end in writers.acknowledged[A] if end > thawed + TTL]
