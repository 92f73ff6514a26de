"""The leases of the other regions: looked at all the time, so that their end is known when it is asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import structlog

from recovery.errors import Contended, RecoveryError, Unreachable
from recovery.guard.clock import boottime, utc
from recovery.guard.holding import Pace
from recovery.guard.lease import Watched
from recovery.ports.ownership import LeaseStore

log = structlog.get_logger("recovery.guard")


class Watching:
    """One loop per region. ``watched`` holds what is known."""

    def __init__(
        self, regions: Iterable[str], pace: Pace, store: LeaseStore, clock: Callable[[], float] = boottime
    ) -> None:
        self.watched = {region: Watched(region) for region in regions}
        self._pace = pace
        self._store = store
        self._clock = clock
        self._looked = asyncio.Condition()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as loops:
            for region in self.watched:
                loops.create_task(self._watch(region))

    async def _watch(self, region: str) -> None:
        silent = False
        while True:
            try:
                await self.look(region)
                silent = False
            except RecoveryError as error:
                if not silent:
                    log.warning("the lease of a region cannot be read", region=region, reason=str(error))
                silent = True
            lease = self.watched[region].lease
            await asyncio.sleep(min(self._pace.watch, lease.ttl / 12 if lease else 0.25))

    async def look(self, region: str) -> Watched:
        """One read. Raises Unreachable, Corrupt."""
        began = self._clock()
        found = await self._store.read_lease(region)
        self.watched[region] = self.watched[region].read(found, began=began, returned=self._clock())
        async with self._looked:
            self._looked.notify_all()
        return self.watched[region]

    async def wait_for_look(self, seconds: float) -> None:
        """Until something was read anew, at most so long."""
        try:
            async with asyncio.timeout(seconds), self._looked:
                await self._looked.wait()
        except TimeoutError:
            return

    async def break_lease(self, region: str, by: str) -> None:
        """Ends the lease for good, if it is still the one that was watched. Read again to see whether it is.

        The caller has asked the promises. Raises Unreachable when the witness does not answer.
        """
        watched, lease = self.watched[region].breaking(by, utc())
        self.watched[region] = watched
        log.warning(
            "breaking a lease", region=region, holder=lease.instance, unchanged=watched.unchanged_for(self._clock())
        )
        try:
            await self._store.write_lease(lease, version=watched.version)
        except (Contended, Unreachable) as error:
            log.warning("the lease may not be broken yet", region=region, reason=str(error))
        await self.look(region)
