"""The steps that lead the group's names to a region: one change, its undo, and what others did meanwhile."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.dns import DnsSteps
from activities.lock import guarded_by
from recovery.domain.group import DnsRecord, GroupSnapshot, Objectives, RegionPlan
from recovery.domain.guarding import Promotion
from recovery.domain.managed import ManagedTarget, Way
from recovery.domain.ownership import OwnershipRecord, Phase
from recovery.domain.plan import DnsBefore, Facts, LockDemand, PlanContext, PlanRequest, StepOutcome
from tests.fakes.dns import FakeDnsZone
from tests.fakes.ownership import FakeOwnershipStore

ZONE = "shop.test"
HELD = OwnershipRecord(
    group="shop", region="a", phase=Phase.RUNNING, run="run", changed_at=datetime(2026, 11, 22, tzinfo=UTC)
)
Step = Callable[[PlanContext], Awaitable[StepOutcome]]


class NotingZone(FakeDnsZone):
    """Counts changes, and has something to say about the name servers."""

    def __init__(self, *records: DnsBefore) -> None:
        super().__init__(list(records))
        self.changes = 0

    async def replace(self, changes: list[tuple[DnsBefore, DnsBefore]]) -> None:
        self.changes += 1
        await super().replace(changes)

    async def settle(self, records: list[DnsBefore]) -> list[str]:
        return ["name server ns-1 did not answer: not looked at"]


def stored(name: str, *values: str, **more: object) -> DnsBefore:
    found = DnsBefore(name=f"{name}.{ZONE}", type="A", ttl=300, values=list(values), zone=ZONE)
    return found.model_copy(update=more)


class Run:
    def __init__(self, zone: FakeDnsZone, *records: DnsRecord) -> None:
        group = GroupSnapshot(
            name="shop",
            objectives=Objectives(tier="critical", rto=timedelta(minutes=15), rpo=timedelta(minutes=5)),
            home_region="a",
            regions=[
                RegionPlan(name="a", task_queue="a", dns_value="192.0.2.1"),
                RegionPlan(name="b", task_queue="b", dns_value="192.0.2.2"),
            ],
            records=list(records),
        )
        self.zone, self.steps = zone, DnsSteps(zone)
        self.facts = Facts(group=group, target_region="b")

    async def call(self, step: Step, lock: LockDemand | None = None) -> StepOutcome:
        context = PlanContext(
            plan="Failover",
            run_id="run",
            lock=lock,
            workflow_id="recovery/shop",
            step="switch-dns",
            request=PlanRequest(group="shop"),
            facts=self.facts,
            started_at=datetime(2026, 11, 22, tzinfo=UTC),
        )
        outcome: StepOutcome = await ActivityEnvironment().run(step, context)
        self.facts = self.facts.merged(outcome.facts)
        return outcome

    def values(self, name: str, identifier: str | None = None) -> tuple[list[str], int | None]:
        found = self.zone.records[f"{name}.{ZONE}", "A", ZONE, identifier]
        return found.values, found.weight


class SlowZone(NotingZone):
    """While it is looked at, another run takes the group, moves it there and back, and ends: the records stand again as
    they stood, and no comparison of values shows it."""

    store: FakeOwnershipStore | None = None

    async def read(self, name: str, type: str, zone: str, identifier: str | None = None) -> DnsBefore:
        if self.store is not None:
            self.store.records["shop"] = (HELD.model_copy(update={"run": None, "epoch": 9}), "9")
        return await super().read(name, type, zone, identifier)


@pytest.mark.parametrize("back", [False, True], ids=["switch", "undo"])
async def test_a_worker_that_stood_still_while_it_looked_changes_no_name_of_a_group_it_lost(back: bool) -> None:
    zone = SlowZone(stored("api", "192.0.2.1"))
    run = Run(zone, DnsRecord(name=f"api.{ZONE}", zone=ZONE))
    await run.call(run.steps.remember_records)
    step, lock = run.steps.point_at_target, LockDemand.HELD
    if back:
        await run.call(step)
        step, lock = run.steps.restore_records, LockDemand.UNDO
    done = zone.changes
    zone.store = FakeOwnershipStore()
    zone.store.records["shop"] = (HELD, "1")
    run.facts = run.facts.model_copy(update={"ownership": HELD})
    with guarded_by(zone.store), pytest.raises(ApplicationError) as caught:
        await run.call(step, lock)
    assert (caught.value.type, zone.changes) == ("Refused", done)


async def test_all_records_move_in_one_change_and_back_with_their_own_time_to_live() -> None:
    zone = NotingZone(stored("api", "192.0.2.1"), stored("www", "192.0.2.1"))
    run = Run(zone, DnsRecord(name=f"api.{ZONE}", zone=ZONE), DnsRecord(name=f"www.{ZONE}", zone=ZONE))
    remembered = await run.call(run.steps.remember_records)
    assert remembered.summary == "api.shop.test is 192.0.2.1, www.shop.test is 192.0.2.1"
    moved = await run.call(run.steps.point_at_target)
    assert moved.summary == "api.shop.test → 192.0.2.2, www.shop.test → 192.0.2.2"
    assert moved.warnings == ["name server ns-1 did not answer: not looked at"]
    assert (zone.changes, zone.records[f"api.{ZONE}", "A", ZONE, None].ttl) == (1, 60)
    await run.call(run.steps.point_at_target)
    assert zone.changes == 1
    await run.call(run.steps.restore_records)
    assert (run.values("api"), zone.records[f"api.{ZONE}", "A", ZONE, None].ttl) == ((["192.0.2.1"], None), 300)
    assert (await run.call(run.steps.restore_records)).summary == "the records had not changed"


async def test_weights_move_from_region_to_region_and_back() -> None:
    zone = NotingZone(
        stored("api", "192.0.2.1", set_identifier="in-a", weight=100),
        stored("api", "192.0.2.2", set_identifier="in-b", weight=0),
    )
    members = [
        DnsRecord(name=f"api.{ZONE}", zone=ZONE, set_identifier=f"in-{region}", weight=100, region=region)
        for region in "ab"
    ]
    run = Run(zone, *members)
    await run.call(run.steps.remember_records)
    moved = await run.call(run.steps.point_at_target)
    assert "api.shop.test (in-a) → 192.0.2.1 (weight 0)" in moved.summary
    assert (run.values("api", "in-a"), run.values("api", "in-b")) == ((["192.0.2.1"], 0), (["192.0.2.2"], 100))
    await run.call(run.steps.restore_records)
    assert (run.values("api", "in-a"), run.values("api", "in-b")) == ((["192.0.2.1"], 100), (["192.0.2.2"], 0))


async def test_what_somebody_else_wrote_is_neither_overwritten_nor_undone() -> None:
    zone = NotingZone(stored("api", "192.0.2.1"))
    run = Run(zone, DnsRecord(name=f"api.{ZONE}", zone=ZONE))
    await run.call(run.steps.remember_records)
    zone.records[f"api.{ZONE}", "A", ZONE, None] = stored("api", "203.0.113.9")
    for step in (run.steps.point_at_target, run.steps.restore_records):
        with pytest.raises(ApplicationError, match="is no longer what it was"):
            await run.call(step)
    assert run.values("api") == (["203.0.113.9"], None)


async def test_a_record_of_the_database_holds_its_address() -> None:
    name = f"db.{ZONE}"
    zone = NotingZone(DnsBefore(name=name, type="CNAME", ttl=60, values=["old.rds.test."], zone=ZONE))
    run = Run(zone, DnsRecord(name=name, type="CNAME", zone=ZONE, points_at="database"))
    await run.call(run.steps.remember_records)
    with pytest.raises(ApplicationError, match="region b of shop has none"):
        await run.call(run.steps.point_at_target)
    target = ManagedTarget(
        way=Way.PROMOTE, source_region="a", source_instance="one", region="b", instance="two", host="two.rds.test"
    )
    run.facts = run.facts.model_copy(update={"managed": target})
    await run.call(run.steps.point_at_target)
    assert zone.records[name, "CNAME", ZONE, None].values == ["two.rds.test."]


async def test_a_health_check_that_stays_is_a_warning() -> None:
    zone = NotingZone(stored("api", "192.0.2.1", set_identifier="Primary", weight=1, health_check="hc-1"))
    run = Run(zone, DnsRecord(name=f"api.{ZONE}", zone=ZONE, set_identifier="Primary", weight=1))
    (warning,) = (await run.call(run.steps.remember_records)).warnings
    assert warning.startswith("api.shop.test (Primary) A keeps its health check hc-1: see that it looks at b")


async def test_a_failover_goes_on_where_the_records_could_not_be_read_before() -> None:
    zone = NotingZone(stored("api", "192.0.2.1"))
    run = Run(zone, DnsRecord(name=f"api.{ZONE}", zone=ZONE))
    with pytest.raises(ApplicationError, match="needs a target region and the records as they stood"):
        await run.call(run.steps.point_at_target)
    promotion = Promotion(store="postgres", epoch=2, at=datetime(2026, 11, 22, tzinfo=UTC))
    run.facts = run.facts.model_copy(update={"promoted_postgres": promotion})
    await run.call(run.steps.point_at_target)
    assert run.values("api") == (["192.0.2.2"], None)
    assert run.facts.dns_before is not None and run.facts.dns_before[0].values == ["192.0.2.1"]
