"""Before a promotion under the strength ``synchronous``: enough members stopped receiving, and the target has it all.

The target's guard asks the guards of the other regions to let their standbys take nothing more from the old primary,
and lets its own one do the same. When N - W + 1 members confirmed it, the old primary acknowledges nothing any more,
and the most advanced of them has every commit that it ever acknowledged (``recovery.guard.synchronous``). Where that
is another one than the target, the target gets what it lacks from there, and only from there: it never receives from
the old primary again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from recovery.domain.guarding import GuardOrder
from recovery.domain.ownership import AcknowledgingSet
from recovery.domain.timelines import lsn_order, lsn_text
from recovery.errors import RecoveryError
from recovery.guard import synchronous
from recovery.guard.acknowledging import Acknowledged
from recovery.guard.clock import boottime
from recovery.guard.synchronous import CatchUp, Proven, Unproven
from recovery.ports.guard import PeerGuards, Upstream

log = structlog.get_logger("recovery.guard")

PATIENCE = 15.0
"""Seconds for which members that do not answer are asked again, and a standby that lags gets what it lacks."""
ASK = 6.0
"""Seconds for one question: PostgreSQL ends a receiver within 5."""
AGAIN = 0.2
LONG_CATCH_UP = 60.0


@dataclass(frozen=True)
class Judgement:
    """Of one fence. ``why_not``: None where no acknowledged commit is lost by promoting the own standby now.

    ``stopped``: member -> LSN that it confirmed.
    """

    why_not: str | None
    stopped: dict[str, str] = field(default_factory=dict)


@dataclass
class Quorum:
    """The acknowledging set of one group, asked by the guard of a fence's target.

    Args:
        own: the standby here.
        upstreams: region -> its PostgreSQL, as this region reaches it.
        regions: whose guards are asked: all others that may have a member.
    """

    own: Acknowledged
    upstreams: Mapping[str, Upstream]
    regions: Sequence[str]
    peers: PeerGuards
    clock: Callable[[], float] = boottime
    _stopped: dict[str, str] = field(default_factory=dict)
    _region_of: dict[str, str] = field(default_factory=dict)
    _position: str | None = None
    _troubles: dict[str, str] = field(default_factory=dict)

    async def judge(self, acknowledging: AcknowledgingSet, order: GuardOrder) -> Judgement:
        """Call it after the record carries the order's request: from then on the set stands still.

        Standbys that stopped stay so until the request is taken back, or an owner is followed.
        """
        until = self.clock() + min(PATIENCE, order.deadline)
        overtime = until + LONG_CATCH_UP + ASK  # for what began to catch up in time
        order = order.model_copy(update={"deadline": ASK - 1.0})
        while True:
            asked = [region for region in self.regions if region not in self._region_of.values()]
            await asyncio.gather(self._stop_own(), *(self._stop(region, order) for region in asked))
            positions = {member: lsn_order(position) for member, position in self._stopped.items()}
            own = lsn_order(self._position) if self._position is not None else None
            match synchronous.judge(acknowledging, positions, own):
                case Proven():
                    return Judgement(None, dict(self._stopped))
                case CatchUp(member, position) if own is not None:
                    why = await self._catch_up(member, lsn_text(position))
                case CatchUp():
                    why = "the target's own standby did not confirm that it receives nothing more"
                case Unproven(reason):
                    why = reason
            if self.clock() >= (until if why is not None else overtime):
                words = [why or "the target's own standby lost what it had", *self._troubles.values()]
                return Judgement("; ".join(words), dict(self._stopped))
            await asyncio.sleep(AGAIN if why is not None else 0)

    async def _stop_own(self) -> None:
        try:
            self._position = await self.own.stop_receiving()
        except RecoveryError as error:
            self._troubles["here"] = f"here: {error}"
            self._position = None
            return
        self._troubles.pop("here", None)
        if self.own.member is not None:
            self._stopped[self.own.member] = self._position

    async def _stop(self, region: str, order: GuardOrder) -> None:
        try:
            async with asyncio.timeout(ASK):
                stopped = await self.peers.stop_receiving(region, order)
        except (RecoveryError, TimeoutError) as error:
            self._troubles[region] = f"{region}: {error or 'no answer in time'}"
            return
        self._troubles.pop(region, None)
        self._stopped[stopped.member] = stopped.position
        self._region_of[stopped.member] = region

    async def _catch_up(self, member: str, position: str) -> str | None:
        """None when the own standby has everything up to ``position`` now, and receives nothing any more."""
        region = self._region_of[member]
        upstream = self.upstreams.get(region)
        if upstream is None:
            return f"{member} has more than the target, and the address of {region} is not known here"
        log.warning("the target gets what another member has", member=member, upto=position)
        try:
            async with asyncio.timeout(LONG_CATCH_UP):
                await self.own.catch_up(upstream, position, PATIENCE)
        except (RecoveryError, TimeoutError) as error:
            return f"{member} has {position}, which the target lacks and could not get: {error or 'it took too long'}"
        return None
