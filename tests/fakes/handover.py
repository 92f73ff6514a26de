"""Guards and servers in memory, as plans ask them: states are set by the test, orders are remembered."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal

from recovery.domain.group import GroupSnapshot, Objectives, PostgresAt, RegionPlan
from recovery.domain.guarding import GroupState, GuardOrder, GuardStatus, Promotion, StoreRole, StoreState
from recovery.domain.handover import StoreDivergence
from recovery.domain.health_answer import Expected
from recovery.domain.ownership import FenceProof, FenceRequest, OwnershipRecord, Phase, Strength
from recovery.domain.positions import position_number
from recovery.domain.recovery_point import CheckResult
from recovery.domain.replication import Drained, standby_slot
from recovery.errors import NotFound, RecoveryError, Refused, Unreachable
from recovery.ports.handover import Progress, Rejoining
from tests.fakes.ownership import FakeOwnershipStore

NOW = datetime(2026, 11, 22, 5, 0, tzinfo=UTC)
GROUP = "shop"
HISTORY = "7301000000000000001: 1"


def group_of(*regions: str, guarded: bool = True, **more: object) -> GroupSnapshot:
    """With PostgreSQL only."""
    places = [
        RegionPlan(
            name=name, task_queue=name, guard=f"http://{name}" if guarded else None, postgres=PostgresAt(host=name)
        )
        for name in regions
    ]
    values = {
        "name": GROUP,
        "objectives": Objectives(tier="critical", rto=timedelta(minutes=15), rpo=timedelta(minutes=5)),
        "home_region": regions[0],
        "regions": places,
        **more,
    }
    return GroupSnapshot.model_validate(values)


def state(role: StoreRole, position: str = "0/4000000", store: str = "postgres", **more: object) -> StoreState:
    values = {
        "store": store, "role": role, "position": position, "order": position_number(position), "history": HISTORY,
        "lag_seconds": 0.0 if role is StoreRole.STANDBY else None, **more,
    }  # fmt: skip
    return StoreState.model_validate(values)


@dataclass
class FakeGuards:
    """``recovery.ports.guard.Guards``; the contract suite holds it true.

    ``states``: region -> stores; a region that is not in it does not answer. Orders change them and the record as
    guards do: a fenced primary is none any more, and what is promoted is one.
    """

    ownership: FakeOwnershipStore
    states: dict[str, list[StoreState]] = field(default_factory=dict)
    watched: dict[str, float] = field(default_factory=dict)
    leaseless: set[str] = field(default_factory=set)
    orders: list[tuple[str, GuardOrder]] = field(default_factory=list)
    positions: dict[str, str] = field(default_factory=dict)
    strengths: dict[str, Strength] = field(default_factory=dict)
    fails: dict[str, RecoveryError] = field(default_factory=dict)
    how: Literal["demotion-confirmed", "lease-broken"] = "demotion-confirmed"
    groups: set[str] | None = None  # that are guarded; None: whichever is asked for

    def told(self, what: str, order: GuardOrder) -> None:
        self.orders.append((what, order))
        if what in self.fails:
            raise self.fails[what]

    async def status(self, region: str, group: str | None = None) -> GuardStatus:
        if region not in self.states:
            raise Unreachable(f"the guard of {region} takes no connection")
        if group is not None and self.groups is not None and group not in self.groups:
            raise NotFound(f"the guard of {region} guards no group {group!r}")
        name = group or GROUP
        record = self.ownership.records[name][0] if name in self.ownership.records else None
        found = GroupState(
            group=name,
            epoch=record.epoch if record else None,
            owner=record.region if record else None,
            stores=self.states[region],
        )
        return GuardStatus(
            region=region,
            instance=f"{region}/1",
            ttl=5,
            holds_lease=region not in self.leaseless,
            watched=self.watched,
            groups=[found],
        )

    async def fence(self, order: GuardOrder) -> FenceProof:
        self.told("fence", order)
        record, version = self.ownership.records[order.group]
        if record.fence is not None and (record.fence.run, record.fence.epoch) == (order.run, order.epoch):
            return record.fence
        _demand(record, order)
        proof = FenceProof(
            epoch=order.epoch, region=order.source, how=self.how, by=f"{order.target}/1", at=NOW,
            run=order.run, positions=self.positions, strengths=self.strengths,
        )  # fmt: skip
        asked = FenceRequest(epoch=order.epoch, target=order.target, run=order.run, planned=order.planned, at=NOW)
        fenced = {"fencing": asked, "fence": proof, "changed_at": NOW}
        await self.ownership.write(record.model_copy(update=fenced), version=version)
        ended = StoreRole.STOPPED if order.planned else StoreRole.STALE
        self._turn(order.source, None, {StoreRole.PRIMARY: ended})
        return proof

    async def unfence(self, order: GuardOrder) -> OwnershipRecord:
        self.told("unfence", order)
        record, version = self.ownership.records[order.group]
        if record.run != order.run or record.region != order.source or record.phase is Phase.PIVOTED:
            raise Refused(f"{order.group} is not {order.run}'s before its pivot: nothing is taken back")
        if record.fencing is None and record.epoch > order.epoch:
            return record
        cleared = {"fencing": None, "demotion": None, "fence": None, "epoch": record.epoch + 1, "changed_at": NOW}
        record = record.model_copy(update=cleared)
        await self.ownership.write(record, version=version)
        self._turn(order.source, None, {StoreRole.STALE: StoreRole.PRIMARY, StoreRole.STOPPED: StoreRole.PRIMARY})
        return record

    async def promote(self, order: GuardOrder) -> Promotion:
        self.told("promote", order)
        record, version = self.ownership.records[order.group]
        taken = record.run == order.run and record.region == order.target and record.epoch > order.epoch
        if not taken:
            _demand(record, order)
            if record.fencing is None or record.fence is None or record.fence.epoch != record.epoch:
                raise Refused(f"there is no proof that {order.source} is fenced in epoch {record.epoch}")
            after = {"region": order.target, "epoch": record.epoch + 1, "fencing": None, "changed_at": NOW}
            record = record.model_copy(update=after)
            await self.ownership.write(record, version=version)
        store = order.store or "postgres"
        already = any(
            state.store == store and state.role is StoreRole.PRIMARY for state in self.states.get(order.target, [])
        )
        self._turn(order.target, order.store, dict.fromkeys(StoreRole, StoreRole.PRIMARY))
        return Promotion(store=store, epoch=record.epoch, at=NOW, already=already, record=record)

    async def follow(self, region: str, order: GuardOrder) -> StoreState:
        self.told(f"follow {region}", order)
        if region not in self.states:
            raise Unreachable(f"the guard of {region} takes no connection")
        record = self.ownership.records[order.group][0]
        if record.run != order.run:
            raise Refused(f"{order.group} is locked by the run {record.run}, not by {order.run}")
        if record.region == region:
            raise Refused(f"{region} owns {order.group}")
        self._turn(region, order.store, {StoreRole.STOPPED: StoreRole.STANDBY})
        for found in self.states[region]:
            if order.store in (None, found.store):
                return found
        raise NotFound(f"{order.group} has no store {order.store!r} under guard")

    def _turn(self, region: str, store: str | None, into: dict[StoreRole, StoreRole]) -> None:
        if region in self.states:
            self.states[region] = [
                each.model_copy(update={"role": into.get(each.role, each.role)})
                if store in (None, each.store)
                else each
                for each in self.states[region]
            ]


def _demand(record: OwnershipRecord, order: GuardOrder) -> None:
    if (record.run, record.epoch, record.region) != (order.run, order.epoch, order.source):
        raise Refused(f"{record.region} owns {record.group} in epoch {record.epoch}, held by {record.run}: not {order}")


@dataclass
class FakeHandover:
    """``recovery.ports.handover.Handover``; the contract suite holds it true.

    ``states``: as of ``FakeGuards``. ``failing``: names of checks that fail, by region. ``slots``: by region.
    """

    states: dict[str, list[StoreState]] = field(default_factory=dict)
    failing: dict[str, set[str]] = field(default_factory=dict)
    last: datetime | None = None
    done: list[str] = field(default_factory=list)
    divergences: list[StoreDivergence] = field(default_factory=list)
    slots: dict[str, set[str]] = field(default_factory=dict)
    clinging: int = 0  # clients that do not end
    why_not_refused: str = ""

    def _check(self, region: str, name: str, passed: bool = True) -> CheckResult:
        passed = passed and name not in self.failing.get(region, set())
        return CheckResult(name=name, passed=passed, detail="as it should be" if passed else "broken")

    def _postgres(self, region: str) -> StoreState:
        if region not in self.states:
            raise Unreachable(f"{region} does not answer")
        return next(each for each in self.states[region] if each.store == "postgres")

    def _become(self, region: str, role: StoreRole) -> None:
        self.states[region] = [each.model_copy(update={"role": role}) for each in self.states[region]]

    async def observe(self, group: GroupSnapshot, region: str) -> list[StoreState]:
        self._postgres(region)
        return self.states[region]

    async def precheck(self, group: GroupSnapshot, region: str, *, primary: bool) -> list[CheckResult]:
        try:
            is_primary = self._postgres(region).role is StoreRole.PRIMARY
        except Unreachable:
            return [self._check(region, "postgres connectivity", False)]
        return [
            self._check(region, "postgres connectivity"),
            self._check(region, "postgres recovery", is_primary is primary),
        ]

    async def last_commit(self, group: GroupSnapshot, region: str) -> datetime | None:
        self._postgres(region)
        return self.last

    async def write_probe(self, group: GroupSnapshot, region: str, run_id: str) -> datetime:
        if self._postgres(region).role is not StoreRole.PRIMARY:
            raise Refused(f"{region} is a standby")
        self.done.append(f"probe {region}")
        return NOW + timedelta(seconds=2)

    async def checklist(self, group: GroupSnapshot, region: str) -> list[CheckResult]:
        try:
            is_primary = self._postgres(region).role is StoreRole.PRIMARY
        except Unreachable:
            return [self._check(region, "postgres connectivity", False)]
        tables = [self._check(region, f"table {table}") for table in group.critical_tables]
        return [self._check(region, "postgres accepts writes", is_primary), *tables]

    async def make_slots(self, group: GroupSnapshot, owner: str, followers: list[str]) -> list[str]:
        self._postgres(owner)
        self.done.append(f"slots at {owner} for {', '.join(followers)}")
        there = self.slots.setdefault(owner, set())
        missing = [standby_slot(region) for region in followers if standby_slot(region) not in there]
        there |= set(missing)
        return missing

    async def drop_old_slots(self, group: GroupSnapshot, region: str, owner: str) -> list[str]:
        if "slots" in self.failing.get(region, set()):
            raise Unreachable(f"{region} does not answer")
        here, there = self._postgres(region), self._postgres(owner)
        self.done.append(f"old slots in {region}, {owner} owns")
        if here.role is not StoreRole.STANDBY or there.role is not StoreRole.PRIMARY:
            return []
        dropped = {standby_slot(owner)} & self.slots.get(region, set())
        self.slots[region] = self.slots.get(region, set()) - dropped
        return sorted(dropped)

    async def move_archive(self, group: GroupSnapshot, owner: str) -> str:
        self._postgres(owner)
        return "archived"

    async def drain(self, group: GroupSnapshot, region: str, grace: float) -> Drained:
        if region not in self.states:
            return Drained(found=0, terminated=0, left=0, seconds=0.0)
        return Drained(found=2, terminated=1, left=self.clinging, seconds=grace, why_not_refused=self.why_not_refused)

    async def promote(self, group: GroupSnapshot, region: str, epoch: int) -> Promotion:
        already = self._postgres(region).role is StoreRole.PRIMARY
        self.done.append(f"promote {region} for epoch {epoch}")
        self._become(region, StoreRole.PRIMARY)
        return Promotion(store="postgres", epoch=epoch, at=NOW, already=already)

    async def save_divergence(self, order: Rejoining) -> list[StoreDivergence]:
        if self._postgres(order.region).role is StoreRole.PRIMARY:
            raise Refused(f"the server in {order.region} runs as a primary")
        self.done.append(f"save {order.region}")
        return self.divergences or [StoreDivergence(store="postgres", region=order.region, bytes=0, transactions=0)]

    async def rejoin(self, order: Rejoining, progress: Progress) -> str:
        self._postgres(order.owner)
        self.done.append(f"rejoin {order.region} to {order.owner}")
        progress(1, 2, "rewinding")
        self._become(order.region, StoreRole.STANDBY)
        return f"{order.region}: rewound, 0.1 s"


@dataclass
class FakeProbe:
    """``recovery.ports.services.HealthProbe``: what has no ``answers`` by its address is well."""

    answers: dict[str, bytes] = field(default_factory=dict)

    async def check(self, url: str, *, expected: Expected, timeout: timedelta) -> CheckResult:
        wrong = expected.wrong(200, self.answers[url], 0.0) if url in self.answers else ""
        return CheckResult(name=url, passed=not wrong, detail=wrong)
