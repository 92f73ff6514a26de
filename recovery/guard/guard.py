"""The guard of one region: everything together, for as long as its process runs."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import structlog

from recovery.domain.guarding import GuardOrder, GuardStatus, Promotion, Stopped, StoreState
from recovery.domain.ownership import FenceProof, OwnershipRecord
from recovery.errors import RecoveryError, Refused
from recovery.guard import promises
from recovery.guard.clock import boottime
from recovery.guard.deadlines import CompanionProcess, Deadlines
from recovery.guard.group import GuardedHere
from recovery.guard.holding import Holding, Instances, Pace
from recovery.guard.orders import Orders, known_group
from recovery.guard.promises import Given, Received
from recovery.guard.standing import Guarding
from recovery.guard.watchdog import KernelWatchdog
from recovery.guard.watching import Watching
from recovery.ports.guard import GuardedGroup, PeerGuards
from recovery.ports.ownership import LeaseStore, OwnershipStore

log = structlog.get_logger("recovery.guard")

READS_AT_ONCE = 16
STATUS = 1.2
"""Seconds that a question about the stores may take."""


@dataclass(frozen=True)
class GuardPlan:
    """What one guard process does.

    Args:
        folder: of this region's state on this host; made when it is not there.
        ttl, margin: seconds.
        longest_promise: the greatest ttl of any region whose guard may ask for a promise, seconds.
        in_order: seconds that stores get to end in order when the guard is stopped.
    """

    region: str
    folder: Path
    ttl: float
    margin: float
    groups: Sequence[GuardedGroup]
    longest_promise: float
    watchdog_device: Path | None = None
    in_order: float = 5.0


@contextlib.contextmanager
def lock_folder(folder: Path, region: str) -> Iterator[None]:
    """Raises Refused when another guard of this folder runs (blocking)."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(folder / "guard.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
            raise Refused(
                f"a guard of {region} runs on this host already (process {holder or 'unknown'}, state in {folder}): "
                "one region has one guard. Stop that one first, or name another guards.state_folder"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


@dataclass
class Guard:
    """``recovery.ports.guard.Guards`` for one region, and the loops behind it. Make one with ``guard_of``."""

    plan: GuardPlan
    shared: Guarding
    watching: Watching
    groups: dict[str, GuardedHere]
    peers: PeerGuards
    orders: Orders
    watchdog: KernelWatchdog
    _read_now: asyncio.Event = field(default_factory=asyncio.Event)

    # -- life -------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Guards until it is cancelled; then the stores are as they are, and the companion watches the deadlines."""
        async with asyncio.TaskGroup() as loops:
            loops.create_task(self.shared.deadlines.run())
            loops.create_task(self.shared.companion.run())
            loops.create_task(self.shared.holding.run())
            loops.create_task(self.watching.run())
            loops.create_task(self._read_records())
            loops.create_task(self._seek_promises())
            loops.create_task(self.watchdog.run(self._safe_for))
            for group in self.groups.values():
                loops.create_task(group.run())

    async def release(self) -> None:
        """The orderly end, while ``run`` runs: nothing of the region is primary, then the lease is given back."""
        await asyncio.gather(*(group.release(in_order=self.plan.in_order) for group in self.groups.values()))
        await self.shared.holding.release()
        await self.shared.deadlines.end()
        await self.watchdog.close()

    def held_changed(self) -> None:
        """The lease was renewed or lost."""
        self.shared.deadlines.move(lambda name: self.groups[name].deadline() if name in self.groups else 0.0)
        self._read_now.set()
        for group in self.groups.values():
            if group.against() is not None:
                group.wake()

    async def _read_records(self) -> None:
        """Every group's record after each renewal, and at the least as often."""
        while True:
            self._read_now.clear()
            gate = asyncio.Semaphore(READS_AT_ONCE)
            await asyncio.gather(*(self._read_record(group, gate) for group in self.groups.values()))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.plan.ttl / 5):
                    await self._read_now.wait()

    async def _read_record(self, group: GuardedHere, gate: asyncio.Semaphore) -> None:
        async with gate:
            try:
                await group.record.read()
                group.warnings.pop("record", None)
            except RecoveryError as error:
                group.warnings["record"] = f"the ownership record cannot be read: {error}"

    # -- promises -----------------------------------------------------------------------------------------------------

    async def _seek_promises(self) -> None:
        """While the witness is silent: asks the other guards to leave the groups where they are, again and again."""
        while True:
            await asyncio.sleep(self.plan.ttl / 10)
            held = self.shared.holding.held
            if held.lost is None and held.left(self.shared.clock()) < self.plan.ttl * 0.6:
                served = [group for group in self.groups.values() if group.armed and group.against() is None]
                await asyncio.gather(*(self._seek(group) for group in served))

    async def _seek(self, group: GuardedHere) -> None:
        record, held = group.record.record, self.shared.holding.held
        peers = group.group.peers
        if record is None or not peers:
            return
        if group.received is None or (group.received.epoch, group.received.instance) != (record.epoch, held.instance):
            group.received = Received(group.name, record.epoch, held.instance)
        await asyncio.gather(*(self._ask(group, record.epoch, peer) for peer in peers))
        self.shared.deadlines.move(lambda name: self.groups[name].deadline() if name in self.groups else 0.0)

    async def _ask(self, group: GuardedHere, epoch: int, peer: str) -> None:
        held = self.shared.holding.held
        sent = self.shared.clock()
        try:
            async with asyncio.timeout(self.plan.ttl / 5):
                promised = await self.peers.promise(peer, group.name, epoch, held.instance, held.ttl)
        except (RecoveryError, TimeoutError) as error:
            log.warning("a guard promises nothing", region=peer, group=group.name, reason=str(error) or "no answer")
            return
        held, received = self.shared.holding.held, group.received
        if promised and received is not None:
            group.received = received.promised(
                peer, sent=sent, now=self.shared.clock(), held=held, peers=group.group.peers
            )

    def promise(self, name: str, epoch: int, holder: str, ttl: float) -> str | None:
        """Answers another guard: None is the promise, else the reason against it. Binds before it is answered."""
        group = known_group(self.groups, name, self.plan.region)
        region = holder.rpartition("/")[0]
        held = self.shared.holding.held
        if held.lost is not None or held.deadline == -math.inf:
            # Another process may be this region's guard: it would know nothing of the promise.
            return f"this guard of {self.plan.region} does not have the lease of its region"
        if region not in self.watching.watched:
            return f"{region!r} is no other region of a guarded group here"
        reason = promises.may_promise(
            self.shared.given,
            group=name,
            epoch=epoch,
            holder=holder,
            ttl=ttl,
            region=self.plan.region,
            record=group.record.record,
            watched=self.watching.watched[region],
            taking_over=group.taking_over,
        )
        if reason is None:
            self.shared.given = self.shared.given.give(name, holder, ttl, self.shared.clock())
        return reason

    # -- questions and orders -----------------------------------------------------------------------------------------

    async def status(self, name: str | None = None) -> GuardStatus:
        """Of one group, or of all. The stores are looked at now; of one that takes its time, what was seen last."""
        groups = [known_group(self.groups, name, self.plan.region)] if name else list(self.groups.values())
        await asyncio.gather(*(group.stores.look(STATUS) for group in groups))
        now, held = self.shared.clock(), self.shared.holding.held
        silences = {region: seen.silent_for(now) for region, seen in self.watching.watched.items()}
        states = [group.state() for group in groups]
        if not self.shared.companion.lives:
            warning = "the companion process does not run: nothing new becomes primary"
            states = [state.model_copy(update={"warnings": [*state.warnings, warning]}) for state in states]
        return GuardStatus(
            region=self.plan.region,
            instance=held.instance,
            ttl=held.ttl,
            holds_lease=held.valid(now),
            lease_left=held.left(now),
            by_promise=any(group.by_promise for group in groups),
            watched={region: silence for region, silence in silences.items() if silence is not None},
            groups=states,
        )

    async def fence(self, order: GuardOrder) -> FenceProof:
        return await self.orders.fence(order)

    async def unfence(self, order: GuardOrder) -> OwnershipRecord:
        return await self.orders.unfence(order)

    async def promote(self, order: GuardOrder) -> Promotion:
        return await self.orders.promote(order)

    async def follow(self, order: GuardOrder) -> StoreState:
        return await self.orders.follow(order)

    async def stop_receiving(self, order: GuardOrder) -> Stopped:
        return await self.orders.stop_receiving(order)

    async def nudge(self, name: str) -> None:
        """Another guard says that the group's record changed: read it now."""
        group = known_group(self.groups, name, self.plan.region)
        await self._read_record(group, asyncio.Semaphore(1))

    # -- watchdog -----------------------------------------------------------------------------------------------------

    def _safe_for(self) -> float:
        """Seconds from now for which nothing here can be primary against the rules, should this process stop now."""
        now = self.shared.clock()
        return min((group.deadline() - now for group in self.groups.values() if group.armed), default=float("inf"))


def guard_of(
    plan: GuardPlan,
    records: OwnershipStore,
    leases: LeaseStore,
    peers: PeerGuards,
    clock: Callable[[], float] = boottime,
) -> Guard:
    """Puts a guard together (blocking: reads the state folder, whose lock the caller holds)."""
    pace = Pace(plan.ttl, plan.margin)
    deadlines = Deadlines(plan.folder)
    inherited = deadlines.inherited([group.name for group in plan.groups])
    guards: list[Guard] = []

    def held_changed() -> None:
        for guard in guards:
            guard.held_changed()

    instances = Instances(plan.folder, plan.region)

    def succeeded(now: float) -> None:
        """Whoever had the lease before may have promised what this process does not know of."""
        shared.given = replace(shared.given, started=max(shared.given.started, now))

    holding = Holding(plan.region, pace, leases, instances, held_changed, clock, succeeded)
    others = sorted({peer for group in plan.groups for peer in group.peers})
    watching = Watching(others, pace, leases, clock)
    shared = Guarding(
        region=plan.region,
        holding=holding,
        deadlines=deadlines,
        companion=CompanionProcess(plan.folder),
        records=records,
        given=Given(clock(), plan.longest_promise, plan.margin),
        observe_every=max(0.5, plan.ttl / 10),
        clock=clock,
    )
    groups = {group.name: GuardedHere(group, shared, inherited.get(group.name)) for group in plan.groups}
    orders = Orders(shared, groups, watching, peers)
    guard = Guard(plan, shared, watching, groups, peers, orders, KernelWatchdog(plan.watchdog_device, plan.ttl))
    guards.append(guard)
    return guard
