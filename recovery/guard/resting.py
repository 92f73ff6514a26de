"""What a guard does for a group that may not be primary here: confirms a fence, adopts what is ours, runs standbys."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from recovery.domain.guarding import StoreRole
from recovery.domain.ownership import OwnershipRecord
from recovery.errors import RecoveryError, Refused, Unreachable
from recovery.guard import decisions
from recovery.guard.acknowledging import Acknowledged
from recovery.guard.clock import utc
from recovery.guard.decisions import Refusal, Settled, Write
from recovery.guard.serving import Serving
from recovery.guard.standing import Standing
from recovery.ports.guard import Forgettable, Upstream

log = structlog.get_logger("recovery.guard")

IN_ORDER = 8.0
"""Seconds that a planned end may take before it counts as failed."""
LEFT_BEHIND = 2.0
"""Seconds for which a standby has to receive nothing before another upstream is named to it: a link may break."""
REPOINTING = 20.0
AGAIN, AGAIN_WHERE_REFUSED = 2.0, 30.0
"""Seconds between two tries."""


class Resting:
    """Of one group. ``end`` demotes everything of it, and returns when that is confirmed."""

    def __init__(self, here: Standing, serving: Serving, end: Callable[[str], Awaitable[None]]) -> None:
        self._here = here
        self._serving = serving
        self._end = end
        self._left_since: dict[str, float] = {}  # store -> when it was first seen to be left behind
        self._next_try: dict[str, float] = {}

    async def rest(self) -> None:
        """Once: the next step towards what the record says."""
        here, shared = self._here, self._here.shared
        record = here.record.record
        await here.stores.observe()
        if not here.record.was_read:
            return
        if record is None:
            await self._claim()
        elif record.region != shared.region:
            await self._follow_only()
        elif record.fencing is not None:
            await self._confirm(record)
        elif shared.holding.valid() and record.guard != shared.holding.instance:
            await self._take(record)

    async def _claim(self) -> None:
        """A group that nobody ever claimed: its home's guard adopts the primary that runs there."""
        here, shared = self._here, self._here.shared
        primaries = here.stores.primaries()
        if not primaries:
            return
        if here.group.home_region != shared.region:
            here.warn(
                "claim", f"{', '.join(primaries)} runs as a primary here, and the group was never claimed at home"
            )
            return
        if not shared.holding.valid():
            return
        first = OwnershipRecord(
            group=here.name,
            region=shared.region,
            guard=shared.holding.held.instance,
            strengths=here.strengths,
            changed_at=utc(),
            reason="the primary that was found at home",
        )

        def claim(record: OwnershipRecord | None) -> Write | Refusal:
            return Refusal("it was claimed meanwhile") if record is not None else Write(first)

        await here.record.decide(claim)
        here.wake()

    async def _take(self, record: OwnershipRecord) -> None:
        """Our region owns the group and no guard of it is at work: adopt what runs, or start it and adopt it."""
        here = self._here
        if here.armed and here.inherited is None:
            return
        if not here.stores.primaries():
            ours = record.guard is None or record.guard.rpartition("/")[0] == here.shared.region
            wanted = self._serving.wanted(record)
            if record.run is not None and not (ours and wanted):
                return  # a plan restores or promotes here: it says when
            for name in wanted:
                if here.stores.states[name].role in (StoreRole.STOPPED, StoreRole.STALE):
                    await here.stores[name].start(owner=True)
            if any(state.role is StoreRole.UNREACHABLE for state in (await here.stores.observe()).values()):
                raise Unreachable(f"a store of {here.name} does not answer: nothing is made primary yet")
        await self._serving.adopt(anew=False)
        here.wake()

    async def _follow_only(self) -> None:
        """Another region owns the group: nothing may be primary here, and clean standbys run."""
        here = self._here
        if here.is_restored:
            return
        primaries = here.stores.primaries()
        if primaries:
            # Somebody started it past its guard. The loop demotes what is armed.
            here.warn("rogue", f"{', '.join(primaries)} accepted writes though another region owns the group")
            here.armed = True
            here.wake()
            return
        here.stores.served.clear()
        if here.record.record is not None and here.record.record.run is None:
            await here.stores.start_at_rest()
        for name, store in here.stores.all.items():
            upstream = here.upstream_of(name)
            if here.stores.states[name].role is not StoreRole.STANDBY or upstream is None:
                continue
            if isinstance(store, Acknowledged) and await store.is_detached():
                await self._resume(name, store, upstream)
            elif isinstance(store, Forgettable):
                await self._repoint(name, store, upstream)

    async def _resume(self, name: str, store: Acknowledged, upstream: Upstream) -> None:
        """A standby that was told to receive nothing more follows again when no fence is asked for any more.

        Else a fence that was taken back would leave the owner's commits waiting for it.
        """
        here = self._here
        async with here.stores.receiving[name]:
            record = await here.record.read()
            if record is None or record.region != upstream.region or record.fencing is not None:
                return
            log.warning("a standby follows again", group=here.name, store=name, region=upstream.region)
            await store.follow(upstream)

    async def _repoint(self, name: str, store: Forgettable, upstream: Upstream) -> None:
        """A standby that its group's move passed by (its guard was off, or cut off) follows the new owner.

        Never beside a run, which says itself who follows whom. What received more than the new owner has is refused,
        and waits for people.
        """
        here, now = self._here, self._here.shared.clock()
        if not store.is_left_behind(upstream):
            self._left_since.pop(name, None)
            here.warnings.pop(_behind(name), None)
            return
        since = self._left_since.setdefault(name, now)
        if now - since < LEFT_BEHIND or now < self._next_try.get(name, now):
            return
        async with here.stores.receiving[name]:
            record = await here.record.read()
            if record is None or record.region != upstream.region or (record.fencing or record.run) is not None:
                return
            try:
                async with asyncio.timeout(REPOINTING):
                    await store.follow(upstream)
            except (RecoveryError, TimeoutError) as error:
                self._next_try[name] = now + (AGAIN_WHERE_REFUSED if isinstance(error, Refused) else AGAIN)
                here.warn(_behind(name), f"{name} does not follow {upstream.region}: {error or 'no answer in time'}")
                return
        log.warning("a standby that was left behind follows", group=here.name, store=name, region=upstream.region)

    async def _confirm(self, record: OwnershipRecord) -> None:
        """A fence is asked for: ends what is left, and says so. Only the holder of the region's lease may say it."""
        here, shared, fencing = self._here, self._here.shared, record.fencing
        if record.demotion is not None or fencing is None or not shared.holding.valid():
            return
        planned = fencing.planned and (here.armed or bool(here.stores.primaries()))
        if planned:
            with here.demotion():
                here.positions = await here.stores.end_in_order(IN_ORDER)
                here.settle(record.epoch)
        elif here.demoted_epoch != record.epoch or here.stores.primaries():
            await self._end(f"the run {fencing.run} asks for the fence")
        epoch, positions = record.epoch, dict(here.positions)

        def confirm(found: OwnershipRecord | None) -> Write | Settled | Refusal:
            if found is None or found.epoch != epoch or not shared.holding.valid():
                return Refusal("the record moved on")
            return decisions.demotion(
                found,
                shared.region,
                shared.holding.instance,
                utc(),
                positions,
                planned=fencing.planned,
                strengths=here.strengths,
            )

        await here.record.decide(confirm)


def _behind(store: str) -> str:
    """Key of a warning."""
    return f"{store} left behind"
