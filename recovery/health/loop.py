"""The probe loop of one vantage point, over all groups that it watches.

It only looks and tells. What several vantage points agree on, and what follows from it, is decided elsewhere, and a
loop that can tell nobody starts nothing.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from recovery.errors import RecoveryError
from recovery.health.outbox import Outbox
from recovery.health.pulse import FROZEN, Pulse, boottime
from recovery.health.silence import Silence
from recovery.health.watch import GroupWatch, WatchedGroup
from recovery.ports.health import HealthMeasurements, OwnershipReader, ReportSink
from recovery.ports.notify import Notifier

PROBES_AT_ONCE = 256
SLOWEST_OWNER_READ = 5.0  # seconds between two readings of a group's ownership record
FASTEST_REPLICATION_READ = 5.0
READ_SECONDS = 5.0
LEAVING_SECONDS = 2.0

log = structlog.get_logger("recovery.health")


@dataclass(frozen=True)
class Surroundings:
    """What a loop is connected to. ``notifier`` speaks only when the sink is silent for ``patience`` seconds."""

    sink: ReportSink
    owners: OwnershipReader
    measurements: HealthMeasurements
    notifier: Notifier | None = None
    patience: float = 60.0


class MonitorLoop:
    """Runs until it is cancelled, and then says that it leaves.

    Args:
        source: ``worker`` or ``process``, see ``Report.source``.
        progress: called about once a second while the loop is alive, for a heartbeat.
        ordered_at: orders the lives of this loop (``Report.generation``); now, where nobody gives it. A worker that
            thaws begins several attempts of its activity at once, in any order: the last one to begin may be one that
            was given up long ago, and what it says must not count instead of what the living one says.
    """

    def __init__(
        self,
        vantage: str,
        source: str,
        groups: Sequence[WatchedGroup],
        around: Surroundings,
        *,
        progress: Callable[[], None] = lambda: None,
        ordered_at: datetime | None = None,
        clock: Callable[[], float] = boottime,
    ) -> None:
        self.vantage = vantage
        self._around = around
        self._progress = progress
        self._clock = clock
        self._pulse = Pulse(self._stalled, clock=clock)
        limit = asyncio.Semaphore(PROBES_AT_ONCE)
        self.watches = [
            GroupWatch(vantage, group, around.measurements, self._pulse_checked, limit, clock=clock) for group in groups
        ]
        generation = int((ordered_at or datetime.now(UTC)).timestamp() * 1000)
        self.outboxes = [Outbox(vantage, source, generation, watch, around.sink) for watch in self.watches]
        self._silence = Silence(vantage, self.outboxes, around.notifier, around.measurements, around.patience)

    async def run(self) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._pulse.run())
                tasks.create_task(self._tell_progress())
                tasks.create_task(self._silence.run())
                for watch, outbox in zip(self.watches, self.outboxes, strict=True):
                    tasks.create_task(self._follow_owner(watch))
                    tasks.create_task(outbox.run())
                    for region in watch.regions:
                        tasks.create_task(watch.run(region))
                    if watch.group.replication is not None:
                        tasks.create_task(self._follow_replicas(watch))
        finally:
            await self._leave()

    async def _tell_progress(self) -> None:
        while True:
            self._progress()
            await asyncio.sleep(0.5)

    async def _pulse_checked(self) -> None:
        """Before an outcome counts: a thawed loop may meet a probe's timeout before its own tick."""
        if missed := self._pulse.check():
            await self._stalled(missed)

    async def _stalled(self, missed: float) -> None:
        now = self._clock()
        if missed < FROZEN:
            log.info("this loop was held up: failures under way do not count", vantage=self.vantage, seconds=missed)
            for watch in self.watches:
                watch.doubt(now)
            return
        log.warning("this loop stood still: what it saw before counts no more", vantage=self.vantage, seconds=missed)
        self._around.measurements.loop_frozen(self.vantage, missed)
        for watch in self.watches:
            watch.forget(now, frozen_for=missed)

    async def _follow_owner(self, watch: GroupWatch) -> None:
        """Who owns the group decides what is expected of each region. While it is silent, the last word counts."""
        name = watch.group.snapshot.name
        every = min(max(watch.group.snapshot.failover.interval.total_seconds(), 1.0), SLOWEST_OWNER_READ)
        silent = False
        while True:
            try:
                async with asyncio.timeout(READ_SECONDS):
                    found = await self._around.owners.read(name)
                watch.owned(found[0] if found is not None else None, datetime.now(UTC))
                silent = False
            except (RecoveryError, TimeoutError, OSError) as error:
                if not silent:
                    log.warning("the witness does not answer", group=name, vantage=self.vantage, error=str(error))
                silent = True
            await asyncio.sleep(every * random.uniform(0.9, 1.0))

    async def _follow_replicas(self, watch: GroupWatch) -> None:
        probe = watch.group.replication
        assert probe is not None
        every = max(watch.group.snapshot.failover.interval.total_seconds(), FASTEST_REPLICATION_READ)
        while True:
            if watch.owner is not None:
                try:
                    async with asyncio.timeout(every):
                        replicas = await probe.replicas(watch.owner)
                except (RecoveryError, TimeoutError, OSError) as error:
                    log.info("replication could not be looked at", group=watch.group.snapshot.name, error=str(error))
                    replicas = []
                for replica in replicas:
                    self._around.measurements.replica_seen(watch.group.snapshot.name, replica)
            await asyncio.sleep(every)

    async def _leave(self) -> None:
        """Shielded from the cancellation that ends the loop: votes of a loop that is gone should not linger."""
        farewells = asyncio.gather(*(outbox.leave(LEAVING_SECONDS) for outbox in self.outboxes))
        await asyncio.shield(asyncio.wait_for(farewells, LEAVING_SECONDS + 1))
