"""One group in the guard's hands: primary while it may be, demoted when it may not, adopted when its region owns it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog

from recovery.errors import RecoveryError
from recovery.guard import decisions
from recovery.guard.resting import Resting
from recovery.guard.serving import Serving
from recovery.guard.standing import Guarding, Standing
from recovery.ports.guard import GuardedGroup

log = structlog.get_logger("recovery.guard")

RETRY = 1.0
"""Seconds between two tries of what failed."""
TICK = 0.25


class GuardedHere(Standing):
    """One group: a loop that keeps what is with what the record and the lease allow."""

    def __init__(self, group: GuardedGroup, shared: Guarding, inherited: float | None = None) -> None:
        super().__init__(group, shared, inherited)
        self.serving = Serving(self)
        self._resting = Resting(self, self.serving, self._end)
        self._ending: asyncio.Task[None] | None = None
        self._working: asyncio.Task[None] | None = None

    # -- the loop ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        self.stores.tend(self.upstream_of)
        try:
            while True:
                self._step()
                await self._wait()
        finally:
            await self._cancel(self._working)
            await self.stores.close()

    async def _wait(self) -> None:
        seconds = TICK
        if self.armed:
            now = self.shared.clock()
            deadline = self.inherited if self.inherited is not None else self.deadline()
            if deadline > now:
                seconds = min(seconds, deadline - now)
        try:
            async with asyncio.timeout(seconds):
                await self.woken.wait()
        except TimeoutError:
            pass
        self.woken.clear()

    def _step(self) -> None:
        reason = self.against()
        if reason is not None and self.armed and not self._spared():
            if self._ending is None:
                self._ending = self._begin(self._end(reason), "_ending")
        elif self.stopping:
            return
        elif self._ending is None and self._working is None and self.shared.clock() >= self.next_work:
            self.next_work = self.shared.clock() + self.shared.observe_every
            work = self.serving.serve() if reason is None else self._resting.rest()
            self._working = self._begin(work, "_working")

    def _begin(self, work: Coroutine[Any, Any, None], place: str) -> asyncio.Task[None]:
        task = asyncio.create_task(self._careful(work))

        def over(_: object) -> None:
            setattr(self, place, None)
            self.woken.set()

        task.add_done_callback(over)
        return task

    async def _careful(self, work: Coroutine[Any, Any, None]) -> None:
        """Whatever goes wrong with one group is said and tried again; it never ends the guard."""
        try:
            await work
        except RecoveryError as error:
            self._failed(str(error))
        except OSError as error:
            self._failed(f"{error!r}")
        except Exception:  # BLE001: a mistake in one group's stores must not stop the lease of all groups
            log.exception("a mistake in this program", group=self.name)
            self._failed("a mistake in this program: see the guard's log")
        else:
            self.warnings.pop("work", None)

    def _failed(self, why: str) -> None:
        self.warn("work", why)
        self.next_work = self.shared.clock() + RETRY

    async def _cancel(self, task: asyncio.Task[None] | None) -> None:
        if task is not None and not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=0.3)

    # -- ending -----------------------------------------------------------------------------------------------------

    def _spared(self) -> bool:
        """Two times when a store may still be primary though we may not make one: after the guard's own restart until
        the deadline of its predecessor, and while a planned fence ends it in order under a valid lease."""
        record, now = self.record.record, self.shared.clock()
        if self.inherited is not None and now < self.inherited:
            return record is None or (record.region == self.shared.region and record.fencing is None)
        if record is None or record.fencing is None or not record.fencing.planned:
            return False
        unfenced = record.model_copy(update={"fencing": None})
        held = self.shared.holding.held
        reason = decisions.must_demote(unfenced, self.shared.region, held, now, read_began=self.record.began)
        return reason is None

    async def _end(self, reason: str) -> None:
        """Ends every write of the group and disarms the companion; goes on until it is confirmed."""
        epoch = self.record.record.epoch if self.record.record else None
        working = self._working if self._working is not asyncio.current_task() else None
        if working is not None:
            working.cancel()
        with self.demotion():
            self.positions = await self.stores.demote(reason)
            if working is not None and not working.done():
                await asyncio.wait({working})
                self.positions = await self.stores.demote(reason)
            self.settle(epoch)

    async def release(self, *, in_order: float) -> None:
        """The guard's own orderly end: nothing of the group is primary afterwards, and nothing becomes it any more."""
        self.stopping = True
        await self._cancel(self._working)
        if self._ending is not None:
            await asyncio.wait({self._ending})
        if not self.armed:
            return
        if self.against() is None:
            try:
                await self.stores.end_in_order(in_order)
            except (RecoveryError, OSError) as error:
                log.warning("the stores did not end in order", group=self.name, reason=str(error))
        await self._end("the guard is stopped")
