"""A group's ownership record as this guard last read it."""

from __future__ import annotations

import math
from collections.abc import Callable

from recovery.domain.ownership import OwnershipRecord
from recovery.errors import Contended
from recovery.guard.clock import boottime
from recovery.guard.decisions import Refusal, Settled, Wait, Write
from recovery.ports.ownership import OwnershipStore

ATTEMPTS = 8

Decision = Write | Settled | Wait | Refusal


class Record:
    """``record`` is None while nothing is there or nothing was read: ``was_read`` tells which."""

    def __init__(self, group: str, store: OwnershipStore, clock: Callable[[], float] = boottime) -> None:
        self.group = group
        self.record: OwnershipRecord | None = None
        self.version: str | None = None
        self.began = -math.inf  # of the newest reading
        self.changed: Callable[[], None] = lambda: None
        self._store = store
        self._clock = clock

    @property
    def was_read(self) -> bool:
        return self.began > -math.inf

    async def read(self) -> OwnershipRecord | None:
        """Raises Unreachable, Corrupt."""
        began = self._clock()
        self._learn(await self._store.read(self.group), began)
        return self.record

    async def decide(self, decision: Callable[[OwnershipRecord | None], Decision]) -> Decision:
        """Reads, asks and writes until the write meets the version that was read; returns the last answer.

        The answer to a Write that was made is Settled with the record as it stands now.

        Raises:
            Contended: others kept changing it.
            Unreachable: the witness does not answer; a write may still arrive.
        """
        for _ in range(ATTEMPTS):
            await self.read()
            answer = decision(self.record)
            if not isinstance(answer, Write):
                return answer
            if await self.write(answer.record, over=self.record):
                return Settled(answer.record)
        raise Contended(f"the ownership record of {self.group} changed {ATTEMPTS} times while it was being written")

    async def write(self, record: OwnershipRecord, *, over: OwnershipRecord | None) -> bool:
        """Replaces ``over``, on which it was decided. False: it has changed since. Raises Unreachable: it may arrive.

        Others read meanwhile, and the version that was read last would let an old decision pass for a new one.
        """
        if self.record != over:
            return False
        version = self.version
        try:
            written = await self._store.write(record, version=version)
        except Contended:
            return False
        # Whatever read began before this moment may have met the former version.
        self._learn((record, written), self._clock())
        return True

    def _learn(self, found: tuple[OwnershipRecord, str] | None, began: float) -> None:
        if began < self.began:
            return
        before = self.version
        self.began = began
        self.record, self.version = found if found is not None else (None, None)
        if before != self.version:
            self.changed()
