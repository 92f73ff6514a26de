"""Tells the group's monitor: changes at once, and slowly that the loop is alive. Only the latest state, no queue."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import structlog

from recovery.domain.health import Report
from recovery.errors import RecoveryError, Unreachable
from recovery.health.watch import GroupWatch
from recovery.ports.health import ReportSink

BEATS_PER = 5  # probes
FASTEST_BEAT, SLOWEST_BEAT = 5.0, 60.0  # seconds
SEND_SECONDS = 5.0
RETRY = (0.2, 0.5, 1.0, 2.0, 5.0)  # seconds

log = structlog.get_logger("recovery.health")


class Outbox:
    """``silent_for``: seconds since which nobody could be told, 0 while the last report arrived."""

    def __init__(self, vantage: str, source: str, generation: int, watch: GroupWatch, sink: ReportSink) -> None:
        self.watch = watch
        self._vantage, self._source, self._generation = vantage, source, generation
        self._sink = sink
        self._serial = 0
        self._silent_since: float | None = None
        interval = watch.group.snapshot.failover.interval.total_seconds()
        self.beat = min(max(interval * BEATS_PER, FASTEST_BEAT), SLOWEST_BEAT)

    @property
    def silent_for(self) -> float:
        return 0.0 if self._silent_since is None else time.monotonic() - self._silent_since

    async def run(self) -> None:
        failures = 0
        while True:
            pause = RETRY[min(failures, len(RETRY)) - 1] if failures else self.beat
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self.watch.changed.wait()
                    if failures:
                        await asyncio.sleep(pause)  # a change does not hurry a server that does not answer
            if self.watch.owner is None:
                self.watch.changed.clear()
                continue  # never read who owns it: there is nothing to vote on
            failures = 0 if await self._tell() else failures + 1

    async def _tell(self) -> bool:
        self.watch.changed.clear()
        frozen_for = self.watch.frozen_for
        try:
            await self._send(self._report())
        except Unreachable as error:
            if self._silent_since is None:
                self._silent_since = time.monotonic()
                log.warning("the monitor cannot be told", group=self.watch.group.snapshot.name, error=str(error))
            return False
        if self._silent_since is not None:
            log.warning("the monitor can be told again", group=self.watch.group.snapshot.name)
        self._silent_since = None
        if self.watch.frozen_for == frozen_for:
            self.watch.frozen_for = None
        return True

    async def _send(self, report: Report) -> None:
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await self._sink.send(report)
        except TimeoutError:
            raise Unreachable(f"no answer within {SEND_SECONDS:.0f} s") from None

    def _report(self, **changes: Any) -> Report:
        self._serial += 1
        watch = self.watch
        return Report(
            group=watch.group.snapshot.name,
            vantage=self._vantage,
            source=self._source,
            generation=self._generation,
            serial=self._serial,
            beat=self.beat,
            config_hash=watch.group.snapshot.config_hash,
            owner=watch.owner,
            epoch=watch.epoch,
            regions=watch.reports(),
            frozen_for=watch.frozen_for,
            watched_until=watch.watched_until,
            **changes,
        )

    async def leave(self, seconds: float) -> None:
        """Says that these votes end. Whoever does not hear it finds them stale soon."""
        if not self._serial or self._silent_since is not None:
            return
        try:
            async with asyncio.timeout(seconds):
                await self._sink.send(self._report(leaving=True))
        except (RecoveryError, TimeoutError) as error:
            log.info("nobody could be told that this loop ends", error=str(error))
