"""One group in the guard's hands: primary while it may be, demoted when it may not, adopted when its region owns it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import structlog

from recovery.domain.guarding import GroupState, StoreRole, StoreState
from recovery.domain.ownership import OwnershipRecord
from recovery.errors import RecoveryError, Refused, Unreachable
from recovery.guard import decisions
from recovery.guard.acknowledging import Acknowledged, Acknowledging
from recovery.guard.clock import boottime, utc
from recovery.guard.deadlines import CompanionProcess, Deadlines
from recovery.guard.decisions import Refusal, Settled, Write
from recovery.guard.holding import Holding
from recovery.guard.promises import Given, Received
from recovery.guard.record import Record
from recovery.guard.stores import Stores
from recovery.guard.synchronous import OnStandbyLoss
from recovery.ports.guard import GuardedGroup, Upstream
from recovery.ports.ownership import OwnershipStore

log = structlog.get_logger("recovery.guard")

IN_ORDER = 8.0
"""Seconds that a planned end may take before it counts as failed."""
RETRY = 1.0
"""Seconds between two tries of what failed."""
TICK = 0.25
RESTORING = frozenset({"FullRecovery", "Restore"})
"""Plans that put a restored server in place, and open it themselves when it is complete."""


@dataclass
class Guarding:
    """What all groups of one guard share. ``given``: what this guard promised to the others."""

    region: str
    holding: Holding
    deadlines: Deadlines
    companion: CompanionProcess
    records: OwnershipStore
    given: Given
    observe_every: float
    clock: Callable[[], float] = field(default=boottime)


class GuardedHere:
    """One group: a loop that keeps what is with what the record and the lease allow.

    Args:
        inherited: deadline that an earlier guard process of this boot left for this group, whose stores may be primary
            until then without us; None: nothing was armed.
    """

    def __init__(self, group: GuardedGroup, shared: Guarding, inherited: float | None = None) -> None:
        self.group = group
        self.name = group.name
        self.record = Record(group.name, shared.records, shared.clock)
        self.record.changed = self._learned
        self.stores = Stores(group.name, group.stores)
        self.received: Received | None = None
        self.taking_over_since = math.inf  # inf: no
        self.armed = inherited is not None
        """Whether a store may be primary: then every reason against it demotes at once."""
        self.warnings: dict[str, str] = {}
        self._acknowledging = {
            name: Acknowledging(store, group.acknowledging, OnStandbyLoss(group.on_standby_loss), shared.clock)
            for name, store in self.stores.all.items()
            if isinstance(store, Acknowledged)
        }
        self._shared = shared
        self._inherited = inherited
        self._wake = asyncio.Event()
        self._ending: asyncio.Task[None] | None = None
        self._working: asyncio.Task[None] | None = None
        self._next_work = -math.inf
        self._stopping = False
        self._demoted_epoch: int | None = None
        self.anew = False
        """It was demoted since this guard took it: it becomes primary again by adoption alone."""
        self._positions: dict[str, str] = {}

    # -- what holds now ---------------------------------------------------------------------------------------------

    def against(self) -> str | None:
        """Why the group must not be primary here now; None: it may."""
        held, clock = self._shared.holding.held, self._shared.clock
        return decisions.must_demote(
            self.record.record,
            self._shared.region,
            held,
            clock(),
            read_began=self.record.began,
            received=self.received,
        )

    def against_promotion(self) -> str | None:
        """Why nothing of the group must be made primary here now; None: it may."""
        return "this guard is being stopped" if self._stopping else self.against()

    def deadline(self) -> float:
        """When the group has to be demoted unless something comes first (CLOCK_BOOTTIME)."""
        held, record = self._shared.holding.held, self.record.record
        received = self.received
        if received is not None and record is not None and received.instance == held.instance:
            return received.deadline(held) if received.epoch == record.epoch else held.deadline
        return held.deadline if held.lost is None else -math.inf

    @property
    def by_promise(self) -> bool:
        return self.armed and self.against() is None and not self._shared.holding.valid()

    @property
    def taking_over(self) -> bool:
        return self.taking_over_since < math.inf

    def _upstream_of(self, store: str) -> Upstream | None:
        """Where a store at rest follows between orders: the owner, and nobody while a plan fences it."""
        record = self.record.record
        if record is None or record.region == self._shared.region or record.fencing is not None:
            return None
        return self.group.upstreams.get(store, {}).get(record.region)

    def wake(self) -> None:
        """Something changed: look at once."""
        self._next_work = -math.inf
        self._wake.set()

    def _learned(self) -> None:
        record = self.record.record
        if self.record.began > self.taking_over_since and (record is None or record.fencing is None):
            self.taking_over_since = math.inf
        self.wake()

    # -- the loop ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        self.stores.tend(self._upstream_of)
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
            now = self._shared.clock()
            deadline = self._inherited if self._inherited is not None else self.deadline()
            if deadline > now:
                seconds = min(seconds, deadline - now)
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()

    def _step(self) -> None:
        reason = self.against()
        if reason is not None and self.armed and not self._spared():
            if self._ending is None:
                self._ending = self._begin(self._end(reason), "_ending")
        elif self._stopping:
            return
        elif self._ending is None and self._working is None and self._shared.clock() >= self._next_work:
            self._next_work = self._shared.clock() + self._shared.observe_every
            work = self._serve() if reason is None else self._rest()
            self._working = self._begin(work, "_working")

    def _begin(self, work: Coroutine[Any, Any, None], place: str) -> asyncio.Task[None]:
        task = asyncio.create_task(self._careful(work))

        def over(_: object) -> None:
            setattr(self, place, None)
            self._wake.set()

        task.add_done_callback(over)
        return task

    async def _careful(self, work: Coroutine[Any, Any, None]) -> None:
        """Whatever goes wrong with one group is said and tried again; it never ends the guard."""
        try:
            await work
        except RecoveryError as error:
            self._warn("work", str(error))
            self._next_work = self._shared.clock() + RETRY
        except OSError as error:
            self._warn("work", f"{error!r}")
            self._next_work = self._shared.clock() + RETRY
        except Exception:  # BLE001: a mistake in one group's stores must not stop the lease of all groups
            log.exception("a mistake in this program", group=self.name)
            self._warn("work", "a mistake in this program: see the guard's log")
            self._next_work = self._shared.clock() + RETRY
        else:
            self.warnings.pop("work", None)

    def _warn(self, key: str, text: str) -> None:
        if self.warnings.get(key) != text:
            log.warning("a group is not as it should be", group=self.name, reason=text)
        self.warnings[key] = text

    async def _cancel(self, task: asyncio.Task[None] | None) -> None:
        if task is not None and not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=0.3)

    # -- ending -----------------------------------------------------------------------------------------------------

    def _spared(self) -> bool:
        """Two times when a store may still be primary though we may not make one: after the guard's own restart until
        the deadline of its predecessor, and while a planned fence ends it in order under a valid lease."""
        record, now = self.record.record, self._shared.clock()
        if self._inherited is not None and now < self._inherited:
            return record is None or (record.region == self._shared.region and record.fencing is None)
        if record is None or record.fencing is None or not record.fencing.planned:
            return False
        unfenced = record.model_copy(update={"fencing": None})
        held = self._shared.holding.held
        reason = decisions.must_demote(unfenced, self._shared.region, held, now, read_began=self.record.began)
        return reason is None

    async def _end(self, reason: str) -> None:
        """Ends every write of the group and disarms the companion; goes on until it is confirmed."""
        epoch = self.record.record.epoch if self.record.record else None
        working = self._working if self._working is not asyncio.current_task() else None
        if working is not None:
            working.cancel()
        self._positions = await self.stores.demote(reason)
        if working is not None and not working.done():
            await asyncio.wait({working})
            self._positions = await self.stores.demote(reason)
        self._settle(epoch)

    def _settle(self, epoch: int | None) -> None:
        self.armed = False
        self._inherited = None
        self.received = None
        self._demoted_epoch = epoch
        self.anew = True
        self._shared.deadlines.disarm(self.name)
        self.wake()

    async def release(self, *, in_order: float) -> None:
        """The guard's own orderly end: nothing of the group is primary afterwards, and nothing becomes it any more."""
        self._stopping = True
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

    # -- primary ----------------------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        """The group may be primary: keeps every store that is to be primary so."""
        record = self.record.record
        if record is None:
            return
        self._inherited = None
        await self.arm()
        await self.stores.observe()
        if _is_restored(record):
            return
        if self.anew:
            record = await self._adopt(anew=True)
        wanted = self._wanted(record)
        results = await asyncio.gather(*(self._keep(name, record) for name in wanted), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        await self._keep_acknowledging()

    async def _keep_acknowledging(self) -> None:
        """What commits wait for, and what the record claims of it; see ``recovery.guard.synchronous``."""
        for name, acknowledging in self._acknowledging.items():
            if (state := self.stores.states.get(name)) is None or state.role is not StoreRole.PRIMARY:
                continue
            reasons = await acknowledging.keep(self.record, self._shared.region, self._shared.holding.held.instance)
            if reasons:
                self._warn("acknowledging", f"zero loss is not claimed: {'; '.join(reasons)}")
            else:
                self.warnings.pop("acknowledging", None)

    async def _keep(self, name: str, record: OwnershipRecord) -> None:
        state, epoch = self.stores.states[name], self.stores.served.get(name)
        if state.role is StoreRole.UNREACHABLE or (state.role is StoreRole.PRIMARY and epoch == record.epoch):
            return
        if state.role is not StoreRole.PRIMARY and epoch == record.epoch:
            # It died while the lease was held. Each time as primary has an epoch of its own.
            if state.role is not StoreRole.STANDBY:
                await self.stores[name].start(owner=True)
            record = await self._adopt(anew=True)
        await self.stores.make_primary(name, record.epoch, self.against_promotion, owner=True)

    def _wanted(self, record: OwnershipRecord) -> list[str]:
        """Stores that this guard makes primary by itself.

        While a run that brought the group here is at work, its steps say when each store is promoted; what was once
        primary since then is kept, also when this process is another one than that which promoted it.
        """
        since = decisions.brought_here_in(record)
        return list(self.stores.all) if since is None else self.stores.served_since(since)

    async def arm(self) -> None:
        """Before anything becomes primary, and whenever it is: the companion knows what to end, and when.

        Raises:
            Unreachable: the companion does not run, or its file cannot be written.
        """
        if not self.armed:
            await self._shared.companion.wait_until_it_lives()
        self.armed = True
        emergencies = [store.emergency() for store in self.group.stores]
        await self._shared.deadlines.arm(self.name, emergencies, self.deadline())

    async def _adopt(self, *, anew: bool) -> OwnershipRecord:
        """Compare-and-swap: this guard's instance holds the group, with the next epoch. Raises Refused."""
        shared = self._shared

        def adopt(record: OwnershipRecord | None) -> decisions.Write | Settled | decisions.Wait | Refusal:
            if record is None:
                return Refusal(f"there is no ownership record of {self.name}")
            now = shared.clock()
            return decisions.adoption(record, shared.region, shared.holding.held, now, shared.given, utc(), anew=anew)

        answer = await self.record.decide(adopt)
        if isinstance(answer, Settled):
            self.taken()
            return answer.record
        raise Refused(f"{self.name} was not adopted: {getattr(answer, 'reason', answer)}")

    def taken(self) -> None:
        """The record says since a moment that this guard's instance holds the group."""
        self.anew = False

    # -- at rest ----------------------------------------------------------------------------------------------------

    async def _rest(self) -> None:
        """The group may not be primary here: confirms a fence, adopts what is ours, starts what is to follow."""
        record, shared = self.record.record, self._shared
        await self.stores.observe()
        if not self.record.was_read:
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
        shared, primaries = self._shared, self.stores.primaries()
        if not primaries:
            return
        if self.group.home_region != shared.region:
            self._warn(
                "claim", f"{', '.join(primaries)} runs as a primary here, and the group was never claimed at home"
            )
            return
        if not shared.holding.valid():
            return
        held = shared.holding.held
        first = OwnershipRecord(
            group=self.name,
            region=shared.region,
            guard=held.instance,
            changed_at=utc(),
            reason="the primary that was found at home",
        )

        def claim(record: OwnershipRecord | None) -> Write | Refusal:
            return Refusal("it was claimed meanwhile") if record is not None else Write(first)

        await self.record.decide(claim)
        self.wake()

    async def _take(self, record: OwnershipRecord) -> None:
        """Our region owns the group and no guard of it is at work: adopt what runs, or start it and adopt it."""
        if self.armed and self._inherited is None:
            return
        if not self.stores.primaries():
            ours = record.guard is None or record.guard.rpartition("/")[0] == self._shared.region
            wanted = self._wanted(record)
            if record.run is not None and not (ours and wanted):
                return  # a plan restores or promotes here: it says when
            for name in wanted:
                if self.stores.states[name].role in (StoreRole.STOPPED, StoreRole.STALE):
                    await self.stores[name].start(owner=True)
            if any(state.role is StoreRole.UNREACHABLE for state in (await self.stores.observe()).values()):
                raise Unreachable(f"a store of {self.name} does not answer: nothing is made primary yet")
        await self._adopt(anew=False)
        self.wake()

    async def _follow_only(self) -> None:
        """Another region owns the group: nothing may be primary here, and clean standbys run."""
        if _is_restored(self.record.record):
            return
        primaries = self.stores.primaries()
        if primaries:
            # Somebody started it past its guard. The loop demotes what is armed.
            self._warn("rogue", f"{', '.join(primaries)} accepted writes though another region owns the group")
            self.armed = True
            self.wake()
            return
        self.stores.served.clear()
        if self.record.record is not None and self.record.record.run is None:
            await self.stores.start_at_rest()

    async def _confirm(self, record: OwnershipRecord) -> None:
        """A fence is asked for: ends what is left, and says so. Only the holder of the region's lease may say it."""
        shared, fencing = self._shared, record.fencing
        if record.demotion is not None or fencing is None or not shared.holding.valid():
            return
        planned = fencing.planned and (self.armed or bool(self.stores.primaries()))
        if planned:
            self._positions = await self.stores.end_in_order(IN_ORDER)
            self._settle(record.epoch)
        elif self._demoted_epoch != record.epoch or self.stores.primaries():
            await self._end(f"the run {fencing.run} asks for the fence")
        epoch, positions = record.epoch, dict(self._positions)

        def confirm(found: OwnershipRecord | None) -> Write | Settled | Refusal:
            if found is None or found.epoch != epoch or not shared.holding.valid():
                return Refusal("the record moved on")
            return decisions.demotion(
                found, shared.region, shared.holding.instance, utc(), positions, planned=fencing.planned
            )

        await self.record.decide(confirm)

    # -- status -----------------------------------------------------------------------------------------------------

    def state(self) -> GroupState:
        """As last read and observed."""
        record = self.record.record
        states = [self.stores.states.get(name) or _unknown(name) for name in self.stores.all]
        return GroupState(
            group=self.name,
            epoch=record.epoch if record else None,
            owner=record.region if record else None,
            stores=states,
            warnings=list(self.warnings.values()),
        )


def _is_restored(record: OwnershipRecord | None) -> bool:
    return record is not None and record.run is not None and record.plan in RESTORING


def _unknown(name: str) -> StoreState:
    return StoreState(store=name, role=StoreRole.UNREACHABLE, detail="not observed yet")
