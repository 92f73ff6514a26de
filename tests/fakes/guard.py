"""A witness, stores and guards in memory, and an event loop whose time passes only when nothing else is to do."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar, TypeVarTuple, Unpack

from recovery.domain.guarding import GuardOrder, Promotion, Stopped, StoreRole, StoreState
from recovery.domain.ownership import AcknowledgingSet, OwnershipRecord, RegionLease, Strength
from recovery.domain.timelines import lsn_order, lsn_text
from recovery.errors import Contended, Refused, Unreachable
from recovery.guard.guard import Guard, GuardPlan, guard_of
from recovery.guard.synchronous import Observed
from recovery.ports.guard import Emergency, GuardedGroup, GuardedStore, Upstream

Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")
NOW = datetime(2026, 11, 22, 10, 15, tzinfo=UTC)


class VirtualLoop(asyncio.SelectorEventLoop):
    """``time()`` jumps to the next timer when nothing is ready, and stands still while a thread works."""

    def __init__(self) -> None:
        super().__init__()
        self._virtual = 1000.0
        self._threads = 0

    def time(self) -> float:
        return self._virtual

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[Arguments]], Result], *args: *Arguments
    ) -> asyncio.Future[Result]:
        self._threads += 1
        future = super().run_in_executor(executor, func, *args)

        def ended(_: object) -> None:
            self._threads -= 1

        future.add_done_callback(ended)
        return future

    def _run_once(self) -> None:
        if not self._ready and not self._threads and self._scheduled:  # type: ignore[attr-defined]
            self._virtual = max(self._virtual, self._scheduled[0]._when)  # type: ignore[attr-defined]
        super()._run_once()  # type: ignore[misc]


def in_virtual_time(work: Coroutine[Any, Any, Result]) -> Result:
    """Runs it to its end; hours pass in milliseconds."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)


class FakeWitness:
    """OwnershipStore and LeaseStore.

    ``cut``: regions that do not reach it. ``lose_answers``: writes arrive unheard. ``deaf``: so does everything else.
    ``delay``: for how many seconds a region's write is under way; ``gives_up``: who sent it does not wait for it.
    """

    def __init__(self) -> None:
        self.records: dict[str, tuple[OwnershipRecord, str]] = {}
        self.leases: dict[str, tuple[RegionLease, str]] = {}
        self.cut: set[str] = set()
        self.lose_answers: set[str] = set()
        self.deaf: set[str] = set()
        self.unreadable: set[str] = set()  # groups
        self.delay: Callable[[str, OwnershipRecord | RegionLease], float] = lambda region, value: 0.0
        self.gives_up = False
        self.late: set[asyncio.Task[None]] = set()
        self.number = 0

    def seen_from(self, region: str) -> _Seen:
        return _Seen(self, region)

    def put(self, record: OwnershipRecord) -> None:
        """As a plan would write it."""
        self.number += 1
        self.records[record.group] = (record, str(self.number))

    def change(self, group: str, **values: Any) -> None:
        self.put(self.records[group][0].model_copy(update=values))


@dataclass
class _Seen:
    witness: FakeWitness
    region: str

    async def _reach(self) -> None:
        if self.region in self.witness.cut:
            await asyncio.sleep(0.2)
            raise Unreachable("the witness does not answer")
        await asyncio.sleep(0.005)

    async def _hear(self) -> None:
        if self.region in self.witness.deaf:
            await asyncio.sleep(0.2)
            raise Unreachable("the witness's answer does not come")

    async def read(self, group: str) -> tuple[OwnershipRecord, str] | None:
        await self._reach()
        if group in self.witness.unreadable:
            await asyncio.sleep(3600)
        await self._hear()
        return self.witness.records.get(group)

    async def write(self, record: OwnershipRecord, *, version: str | None) -> str:
        await self._reach()
        return await self._send(self.witness.records, record.group, record, version)

    async def read_lease(self, region: str) -> tuple[RegionLease, str] | None:
        await self._reach()
        await self._hear()
        return self.witness.leases.get(region)

    async def write_lease(self, lease: RegionLease, *, version: str | None) -> str:
        await self._reach()
        return await self._send(self.witness.leases, lease.region, lease, version)

    async def _send(self, where: dict[str, Any], key: str, value: Any, version: str | None) -> str:
        seconds = self.witness.delay(self.region, value)

        async def arrive() -> None:
            await asyncio.sleep(seconds)
            with contextlib.suppress(Contended, Unreachable):
                self._swap(where, key, value, version)

        if seconds and self.witness.gives_up:
            late = asyncio.create_task(arrive())
            self.witness.late.add(late)
            late.add_done_callback(self.witness.late.discard)
            await asyncio.sleep(0.5)
            raise Unreachable("no answer in time")
        if seconds:
            await asyncio.sleep(seconds)
        try:
            return self._swap(where, key, value, version)
        finally:
            await self._hear()

    def _swap(self, where: dict[str, Any], key: str, value: Any, version: str | None) -> str:
        found = where.get(key)
        if (found[1] if found else None) != version:
            raise Contended(f"{key} is not version {version} any more")
        self.witness.number += 1
        where[key] = (value, str(self.witness.number))
        if self.region in self.witness.lose_answers:
            raise Unreachable("the connection was reset")
        return str(self.witness.number)


@dataclass
class FakeStore:
    """A GuardedStore that does as it is told; the contract suite holds it true.

    ``hang``: names of methods that never come back.
    """

    store: str = "postgres"
    strength: Strength = Strength.GUARD
    role: StoreRole = StoreRole.STANDBY
    hang: set[str] = field(default_factory=set)
    fail: dict[str, Exception] = field(default_factory=dict)
    called: list[str] = field(default_factory=list)
    history: list[tuple[float, StoreRole]] = field(default_factory=list)
    secured: bool = True
    was_primary: bool = False
    primary_of: int | None = None
    lineage: str | None = None

    def _become(self, role: StoreRole) -> None:
        self.was_primary = self.was_primary or StoreRole.PRIMARY in (role, self.role)
        self.role = role
        self.history.append((asyncio.get_running_loop().time(), role))

    async def _call(self, name: str, seconds: float = 0.02) -> None:
        self.called.append(name)
        if name in self.hang:
            await asyncio.sleep(1e9)
        if name in self.fail:
            raise self.fail[name]
        await asyncio.sleep(seconds)

    async def observe(self) -> StoreState:
        if "observe" in self.hang:
            await asyncio.sleep(1e9)
        return StoreState(
            store=self.store, role=self.role, position="0/100", primary_of=self.primary_of, history=self.lineage
        )

    def emergency(self) -> Emergency:
        return Emergency(self.store, "listener", {"host": "127.0.0.1", "port": 1})

    async def secure(self) -> None:
        self.secured = True

    async def start(self, *, owner: bool = False) -> None:
        await self._call("start")
        if self.role is StoreRole.STALE and not owner:
            raise Refused("it was a primary")
        if self.role in (StoreRole.STOPPED, StoreRole.STALE):
            self._become(StoreRole.STANDBY)

    async def promote(self, epoch: int, *, owner: bool = False) -> Promotion:
        if self.role is StoreRole.STALE and not owner and epoch != self.primary_of:
            raise Refused(f"it was the primary of epoch {self.primary_of} and followed nobody since")
        self.primary_of = epoch
        already = self.role is StoreRole.PRIMARY
        if not already:
            await self._call("promote", 0.1)
            self.secured = False
            self._become(StoreRole.PRIMARY)
        return Promotion(store=self.store, epoch=epoch, at=NOW, position="0/200", already=already)

    async def demote(self) -> str | None:
        await self._call("demote", 0.05)
        if self.role is StoreRole.PRIMARY:
            self._become(StoreRole.STALE)
        return "0/300"

    async def end_in_order(self, seconds: float) -> str:
        await self._call("end_in_order", 0.2)
        self._become(StoreRole.STOPPED)
        return "0/300"

    async def stop_receiving(self) -> str:
        return "0/300"

    async def follow(self, upstream: Upstream) -> StoreState:
        await self._call(f"follow {upstream.region}")
        self.primary_of = None
        self._become(StoreRole.STANDBY)
        return await self.observe()

    def when(self, role: StoreRole) -> float:
        """The last time that it became so."""
        return [at for at, became in self.history if became is role][-1]


@dataclass
class FakeStandby(FakeStore):
    """A PostgreSQL that acknowledges commits under the name ``member``. ``has``: bytes of WAL on its disk.

    ``sources``: region -> what whoever is there has, for when it is followed. ``follows``: whom; empty: never mind.
    """

    member: str | None = "standby_b"
    has: int = 0x300
    receives: bool = True
    follows: str = ""
    sources: dict[str, FakeStandby] = field(default_factory=dict)

    async def observe_acknowledging(self) -> Observed:
        return Observed("", position=self.has)

    async def set_acknowledging(self, members: AcknowledgingSet | None) -> None:
        return

    async def stop_receiving(self) -> str:
        await self._call("stop_receiving")
        self.receives = False
        return lsn_text(self.has)

    async def is_detached(self) -> bool:
        return not self.receives

    def is_left_behind(self, upstream: Upstream) -> bool:
        return self.follows not in ("", upstream.region)

    async def follow(self, upstream: Upstream) -> StoreState:
        state = await super().follow(upstream)
        self.receives, self.follows = True, upstream.region if self.follows else ""
        return state

    async def catch_up(self, upstream: Upstream, position: str, seconds: float) -> None:
        await self._call(f"catch up from {upstream.region}")
        self.receives = True
        if upstream.region in self.sources:
            self.has = max(self.has, self.sources[upstream.region].has)
        if self.has < lsn_order(position):
            await asyncio.sleep(seconds)
            raise Unreachable(f"it has {lsn_text(self.has)} of {position}")


class LivingCompanion:
    """Stands in for the companion's process."""

    lives = True

    async def run(self) -> None:
        await asyncio.sleep(1e9)

    async def wait_until_it_lives(self, seconds: float = 0.0) -> None:
        return


class DirectPeers:
    """PeerGuards that call each other. ``cut``: pairs that do not hear each other."""

    def __init__(self) -> None:
        self.guards: dict[str, Guard] = {}
        self.cut: set[frozenset[str]] = set()

    def of(self, region: str) -> _Peers:
        return _Peers(self, region)


@dataclass
class _Peers:
    all: DirectPeers
    region: str

    async def _reach(self, region: str) -> Guard:
        await asyncio.sleep(0.002)
        if frozenset((self.region, region)) in self.all.cut or region not in self.all.guards:
            raise Unreachable(f"the guard of {region} takes no connection")
        return self.all.guards[region]

    async def promise(self, region: str, group: str, epoch: int, holder: str, ttl: float) -> bool:
        return (await self._reach(region)).promise(group, epoch, holder, ttl) is None

    async def stop_receiving(self, region: str, order: GuardOrder) -> Stopped:
        return await (await self._reach(region)).stop_receiving(order)

    async def nudge(self, region: str, group: str) -> None:
        await (await self._reach(region)).nudge(group)


class Regions:
    """Guards of several regions in one process, by one witness."""

    def __init__(self, folder: Path, *, ttl: float = 5.0, margin: float = 1.5) -> None:
        self.folder, self.ttl, self.margin = folder, ttl, margin
        self.witness, self.peers = FakeWitness(), DirectPeers()
        self.guards: dict[str, Guard] = {}
        self.stores: dict[tuple[str, str], list[FakeStore]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, region: str, groups: dict[str, list[FakeStore]], *, home: str = "a", others: str = "ab") -> Guard:
        """A new guard process of a region, over what a former one left in its folder."""
        guarded = [
            GuardedGroup(
                name=name,
                home_region=home,
                stores=list[GuardedStore](stores),
                upstreams={store.store: {one: Upstream(one, one, 1) for one in others} for store in stores},
                peers=tuple(one for one in others if one != region),
            )
            for name, stores in groups.items()
        ]
        folder = self.folder / region
        folder.mkdir(exist_ok=True)
        plan = GuardPlan(region, folder, self.ttl, self.margin, guarded, longest_promise=self.ttl)
        seen = self.witness.seen_from(region)
        guard = guard_of(plan, seen, seen, self.peers.of(region), clock=asyncio.get_running_loop().time)
        guard.shared.companion = LivingCompanion()  # type: ignore[assignment]
        self.guards[region] = self.peers.guards[region] = guard
        self._tasks[region] = asyncio.create_task(guard.run())
        return guard

    async def kill(self, region: str) -> None:
        """The process is gone at once; its stores and its file of deadlines stay."""
        task = self._tasks.pop(region)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        del self.peers.guards[region]

    async def close(self) -> None:
        for region in list(self._tasks):
            await self.kill(region)

    def record(self, group: str = "shop") -> OwnershipRecord:
        return self.witness.records[group][0]

    def claim(self, run: str, group: str = "shop", *, target: str = "b", **values: Any) -> GuardOrder:
        """A run takes the lock; the order that its steps give."""
        record = self.record(group)
        self.witness.change(group, run=run, plan="Failover")
        order = {"deadline": 30.0, "store": "postgres", **values}
        return GuardOrder(
            group=group, run=run, epoch=record.epoch, source=record.region, target=target, effect_id=run, **order
        )


async def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Waits, in virtual time, until it is so. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)
