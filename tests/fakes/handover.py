"""Guards and servers in memory, as plans ask them: states are set by the test, orders are remembered."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal

from recovery.domain.group import GroupSnapshot, Objectives, PostgresAt, RegionPlan
from recovery.domain.guarding import GroupState, GuardOrder, GuardStatus, Promotion, StoreRole, StoreState
from recovery.domain.handover import StoreDivergence
from recovery.domain.health_answer import Expected
from recovery.domain.ownership import FenceProof, OwnershipRecord, Strength
from recovery.domain.positions import position_number
from recovery.domain.recovery_point import CheckResult
from recovery.domain.replication import Drained
from recovery.errors import RecoveryError, Unreachable
from recovery.ports.handover import Progress, Rejoining
from tests.fakes.ownership import FakeOwnershipStore

NOW = datetime(2026, 11, 22, 5, 0, tzinfo=UTC)
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
        "name": "shop",
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
    """``recovery.ports.guard.Guards``. ``states``: region -> stores; a region that is not in it does not answer."""

    ownership: FakeOwnershipStore
    states: dict[str, list[StoreState]] = field(default_factory=dict)
    watched: dict[str, float] = field(default_factory=dict)
    leaseless: set[str] = field(default_factory=set)
    orders: list[tuple[str, GuardOrder]] = field(default_factory=list)
    positions: dict[str, str] = field(default_factory=dict)
    strengths: dict[str, Strength] = field(default_factory=dict)
    fails: dict[str, RecoveryError] = field(default_factory=dict)
    how: Literal["demotion-confirmed", "lease-broken"] = "demotion-confirmed"

    def told(self, what: str, order: GuardOrder) -> None:
        self.orders.append((what, order))
        if what in self.fails:
            raise self.fails[what]

    async def status(self, region: str, group: str | None = None) -> GuardStatus:
        if region not in self.states:
            raise Unreachable(f"the guard of {region} takes no connection")
        found = GroupState(group=group or "shop", stores=self.states[region])
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
        return FenceProof(
            epoch=order.epoch, region=order.source, how=self.how, by=f"{order.target}/1", at=NOW,
            run=order.run, positions=self.positions, strengths=self.strengths,
        )  # fmt: skip

    async def unfence(self, order: GuardOrder) -> OwnershipRecord:
        self.told("unfence", order)
        return self.ownership.records["shop"][0]

    async def promote(self, order: GuardOrder) -> Promotion:
        self.told("promote", order)
        record, version = self.ownership.records["shop"]
        if record.epoch == order.epoch:
            record = record.model_copy(update={"region": order.target, "epoch": order.epoch + 1})
            self.ownership.records["shop"] = (record, version)
        return Promotion(store=order.store or "postgres", epoch=record.epoch, at=NOW, record=record)

    async def follow(self, region: str, order: GuardOrder) -> StoreState:
        self.told(f"follow {region}", order)
        return next(each for each in self.states[region] if each.store == order.store)


@dataclass
class FakeHandover:
    """``recovery.ports.handover.Handover``. ``failing``: names of checks that fail, by region."""

    states: dict[str, list[StoreState]] = field(default_factory=dict)
    failing: dict[str, set[str]] = field(default_factory=dict)
    last: datetime | None = None
    done: list[str] = field(default_factory=list)
    divergences: list[StoreDivergence] = field(default_factory=list)
    clinging: int = 0  # clients that do not end
    why_not_refused: str = ""

    def _check(self, region: str, name: str) -> CheckResult:
        passed = name not in self.failing.get(region, set())
        return CheckResult(name=name, passed=passed, detail="as it should be" if passed else "broken")

    async def observe(self, group: GroupSnapshot, region: str) -> list[StoreState]:
        if region not in self.states:
            raise Unreachable(f"{region} does not answer")
        return self.states[region]

    async def precheck(self, group: GroupSnapshot, region: str, *, primary: bool) -> list[CheckResult]:
        return [self._check(region, "postgres connectivity")]

    async def last_commit(self, group: GroupSnapshot, region: str) -> datetime | None:
        return self.last

    async def write_probe(self, group: GroupSnapshot, region: str, run_id: str) -> datetime:
        self.done.append(f"probe {region}")
        return NOW + timedelta(seconds=2)

    async def checklist(self, group: GroupSnapshot, region: str) -> list[CheckResult]:
        return [self._check(region, "postgres accepts writes")]

    async def make_slots(self, group: GroupSnapshot, owner: str, followers: list[str]) -> list[str]:
        self.done.append(f"slots at {owner} for {', '.join(followers)}")
        return followers

    async def drop_old_slots(self, group: GroupSnapshot, region: str, owner: str) -> list[str]:
        if "slots" in self.failing.get(region, set()):
            raise Unreachable(f"{region} does not answer")
        self.done.append(f"old slots in {region}, {owner} owns")
        return [f"standby_{owner}"]

    async def move_archive(self, group: GroupSnapshot, owner: str) -> str:
        return "archived"

    async def drain(self, group: GroupSnapshot, region: str, grace: float) -> Drained:
        return Drained(found=2, terminated=1, left=self.clinging, seconds=grace, why_not_refused=self.why_not_refused)

    async def promote(self, group: GroupSnapshot, region: str, epoch: int) -> Promotion:
        self.done.append(f"promote {region} for epoch {epoch}")
        return Promotion(store="postgres", epoch=epoch, at=NOW)

    async def save_divergence(self, order: Rejoining) -> list[StoreDivergence]:
        self.done.append(f"save {order.region}")
        return self.divergences

    async def rejoin(self, order: Rejoining, progress: Progress) -> str:
        self.done.append(f"rejoin {order.region} to {order.owner}")
        progress(1, 2, "rewinding")
        return "rewound"


@dataclass
class FakeProbe:
    """``recovery.ports.services.HealthProbe``: what has no ``answers`` by its address is well."""

    answers: dict[str, bytes] = field(default_factory=dict)

    async def check(self, url: str, *, expected: Expected, timeout: timedelta) -> CheckResult:
        wrong = expected.wrong(200, self.answers[url], 0.0) if url in self.answers else ""
        return CheckResult(name=url, passed=not wrong, detail=wrong)
