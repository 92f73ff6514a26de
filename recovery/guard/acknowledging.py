"""Keeps what PostgreSQL waits for and what the record claims in step, while the group is primary here.

``keep`` is called at every look of the group's loop; rules and order of the changes: ``recovery.guard.synchronous``.
What the claim is worth when the group moves: ``recovery.guard.quorum``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import structlog

from recovery.domain.guarding import StoreState
from recovery.domain.ownership import AcknowledgingSet, OwnershipRecord
from recovery.guard import decisions, notes, synchronous
from recovery.guard.clock import boottime, utc
from recovery.guard.decisions import Refusal, Write
from recovery.guard.record import Record
from recovery.guard.synchronous import Keep, Observed, OnStandbyLoss, SetServer, WriteRecord
from recovery.ports.guard import Upstream

log = structlog.get_logger("recovery.guard")

STEPS = 4
"""Changes in one look: exchanging a set takes three."""
LOOK_SECONDS = 2.0
SETTLED = 1.0
"""Seconds after which every process of a PostgreSQL has read a changed setting."""
LOST = 3.0
"""Seconds without a member's connection after which it counts as lost: a reconnect takes less."""


@runtime_checkable
class Acknowledged(Protocol):
    """A store whose commits can wait for others. Methods raise ``Unreachable`` when it does not answer."""

    @property
    def member(self) -> str | None:
        """The name under which it acknowledges commits when it is a standby."""
        ...

    async def observe_acknowledging(self) -> Observed: ...

    async def set_acknowledging(self, members: AcknowledgingSet | None) -> None: ...

    async def stop_receiving(self) -> str: ...

    async def follow(self, upstream: Upstream) -> StoreState: ...

    async def catch_up(self, upstream: Upstream, position: str, seconds: float) -> None:
        """As a standby gets everything up to ``position`` from another standby, where it leaves no trace (no slot).

        Raises:
            Refused: its data are no ancestor of the other's. Unreachable: it is not here after ``seconds``.
        """
        ...

    async def is_detached(self) -> bool:
        """Whether ``stop_receiving`` was its last word: it is a standby of nobody."""
        ...


class Acknowledging:
    """Of one group's PostgreSQL in the guard's own region.

    Args:
        configured: whom commits are to wait for; None: for nobody, which also takes back what the record claims.
    """

    def __init__(
        self,
        store: Acknowledged,
        configured: AcknowledgingSet | None,
        policy: OnStandbyLoss,
        clock: Callable[[], float] = boottime,
    ) -> None:
        self._store = store
        self._configured = configured
        self._policy = policy
        self._clock = clock
        self._seen: dict[str, float] = {}  # member -> when it last streamed
        self._effective: str | None = None  # the names that are in effect
        self._since = 0.0
        self._floor: int | None = None

    async def keep(self, record: Record, region: str, instance: str) -> list[str]:
        """Takes the next steps towards what is configured; returns why nothing is claimed, or what it waits for.

        Raises:
            Unreachable: PostgreSQL or the witness does not answer. Contended.
        """
        for _ in range(STEPS):
            if record.record is None or (self._configured is None and record.record.acknowledging is None):
                return []
            async with asyncio.timeout(LOOK_SECONDS):
                observed = await self._store.observe_acknowledging()
            step, warnings = self._next(observed, record.record)
            if isinstance(step, Keep):
                return [
                    *warnings,
                    *([step.waiting_for] if step.waiting_for and step.waiting_for not in warnings else []),
                ]
            log.warning("what commits wait for is changed", to=str(step.acknowledging), reason=step.reason)
            if isinstance(step, SetServer):
                await self._store.set_acknowledging(step.acknowledging)
            elif not await _write(record, region, instance, step):
                return warnings
        return ["what commits wait for is being changed"]

    def _next(self, observed: Observed, record: OwnershipRecord) -> tuple[WriteRecord | SetServer | Keep, list[str]]:
        now = self._clock()
        if observed.names != self._effective:
            self._effective, self._since, self._floor = observed.names, now, None
        elif self._floor is None and now - self._since >= SETTLED:
            self._floor = observed.position
        streaming = {one.name.casefold() for one in observed.receivers if one.streaming and one.replays}
        self._seen |= dict.fromkeys(streaming, now)
        alive = [name for name, seen in self._seen.items() if now - seen < LOST]
        configured = self._configured
        target = synchronous.wanted(configured, alive, self._policy) if configured is not None else None
        void = synchronous.voids(observed, record.acknowledging or target)
        server = synchronous.parse_names(observed.names)
        floor = self._floor
        return (
            synchronous.next_change(record.acknowledging, server, target, observed.receivers, void, floor=floor),
            void,
        )


async def _write(record: Record, region: str, instance: str, step: WriteRecord) -> bool:
    def claim(found: OwnershipRecord | None) -> Write | decisions.Settled | Refusal:
        if found is None:
            return Refusal("there is no ownership record")
        return notes.claim(found, region, instance, step.acknowledging, utc())

    return isinstance(await record.decide(claim), decisions.Settled)
