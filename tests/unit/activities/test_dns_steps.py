"""The steps that lead the group's names to a region: one change, its undo, and what others did meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
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
from recovery.errors import RecoveryError, Unreachable
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

    async def call(self, step: Step, lock: LockDemand | None = None, seconds: float = 5.0) -> StepOutcome:
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
        environment = ActivityEnvironment()
        environment.info = replace(environment.info, start_to_close_timeout=timedelta(seconds=seconds))
        outcome: StepOutcome = await environment.run(step, context)
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


class LateZone(NotingZone):
    """The first change is held up past its check: meanwhile another run moves the group there and back, and ends.

    ``region``: where the group is afterwards. ``answer``: what the change that was made all the same ends with.
    ``back``: what the next change ends with.
    """

    store: FakeOwnershipStore | None = None
    region = "a"
    answer: BaseException | None = None
    back: RecoveryError | None = None

    async def replace(self, changes: list[tuple[DnsBefore, DnsBefore]]) -> None:
        store, self.store = self.store, None
        if store is None and self.back is not None:
            raise self.back
        await super().replace(changes)
        if store is not None:
            moved = HELD.model_copy(update={"run": None, "epoch": 9, "region": self.region})
            store.records["shop"] = (moved, "9")
            if self.answer is not None:
                raise self.answer


async def late(zone: LateZone, back: bool = False) -> Run:
    """About to change the name for a run that holds the group still: as a failover does it, where no lock is named."""
    run = Run(zone, DnsRecord(name=f"api.{ZONE}", zone=ZONE))
    await run.call(run.steps.remember_records)
    if back:
        await run.call(run.steps.point_at_target)
    zone.store = FakeOwnershipStore()
    zone.store.records["shop"] = (HELD, "1")
    run.facts = run.facts.model_copy(update={"ownership": HELD, "ownership_before": HELD, "source_region": "a"})
    return run


async def refused(run: Run, step: Step, lock: LockDemand | None = None) -> str:
    assert isinstance(run.zone, LateZone) and run.zone.store is not None
    with guarded_by(run.zone.store), pytest.raises(ApplicationError) as caught:
        await run.call(step, lock)
    assert caught.value.type == "Refused"
    return str(caught.value)


@pytest.mark.parametrize(
    ("back", "lock"),
    [(False, None), (False, LockDemand.HELD), (True, None), (True, LockDemand.UNDO)],
    ids=["failover", "recovery", "switchover taken back", "undo"],
)
async def test_a_change_that_was_held_up_past_its_check_is_taken_back_where_the_group_was_lost(
    back: bool, lock: LockDemand | None
) -> None:
    zone = LateZone(stored("api", "192.0.2.1"))
    zone.region = "b" if back else "a"
    run = await late(zone, back)
    stood = run.values("api")
    said = await refused(run, run.steps.restore_records if back else run.steps.point_at_target, lock)
    assert "is held by nobody, not by this run" in said
    assert (run.values("api"), zone.changes) == (stood, 3 if back else 2)


@pytest.mark.parametrize("answer", [Unreachable("no answer"), asyncio.CancelledError()], ids=["lost", "cancelled"])
async def test_a_late_change_whose_answer_nobody_heard_is_taken_back_too(answer: BaseException) -> None:
    zone = LateZone(stored("api", "192.0.2.1"))
    zone.answer = answer
    run = await late(zone)
    await refused(run, run.steps.point_at_target)
    assert run.values("api") == (["192.0.2.1"], None)


async def test_a_late_change_stays_where_the_group_was_moved_to_that_very_region() -> None:
    zone = LateZone(stored("api", "192.0.2.1"))
    zone.region = "b"
    run = await late(zone)
    await refused(run, run.steps.point_at_target)
    assert run.values("api") == (["192.0.2.2"], None)


async def test_a_late_change_that_cannot_be_taken_back_is_told_of() -> None:
    zone = LateZone(stored("api", "192.0.2.1"))
    zone.back = Unreachable("no answer")
    run = await late(zone)
    said = await refused(run, run.steps.point_at_target)
    assert said.endswith("But api.shop.test → 192.0.2.2 stands, and could not be changed back: no answer")


@pytest.mark.parametrize("lock", [None, LockDemand.HELD])
async def test_a_silent_witness_keeps_no_client_from_the_new_primary(lock: LockDemand | None) -> None:
    """After a promotion: before one, and in an undo, nothing is changed that nobody can be asked about."""

    class Silent(FakeOwnershipStore):
        async def read(self, group: str) -> tuple[OwnershipRecord, str] | None:
            raise Unreachable("the witness does not answer")

    run = await late(LateZone(stored("api", "192.0.2.1")))
    with guarded_by(Silent()):
        if lock is None:
            await run.call(run.steps.point_at_target)
        else:
            with pytest.raises(ApplicationError, match="the witness does not answer"):
                await run.call(run.steps.point_at_target, lock)
    assert run.values("api") == (["192.0.2.2" if lock is None else "192.0.2.1"], None)


@pytest.mark.parametrize(
    ("slow", "words"),
    [
        ("read", "asking how the names stand took longer than the 0.18 s of an attempt"),
        ("replace", "changing the names took longer than the 0.18 s"),
        ("settle", "api.shop.test → 192.0.2.2 is made, and waiting until all name servers say so took longer"),
    ],
)
async def test_a_provider_that_is_slower_than_an_attempt_is_named_before_the_attempt_ends(
    monkeypatch: pytest.MonkeyPatch, slow: str, words: str
) -> None:
    zone = NotingZone(stored("api", "192.0.2.1"))
    run = Run(zone, DnsRecord(name=f"api.{ZONE}", zone=ZONE))
    await run.call(run.steps.remember_records)

    async def never(*_: object) -> None:
        await asyncio.sleep(60)

    with monkeypatch.context() as patched:
        patched.setattr(zone, slow, never)
        with pytest.raises(ApplicationError) as caught:
            await run.call(run.steps.point_at_target, seconds=0.2)
    assert words in str(caught.value) and not caught.value.non_retryable
    await run.call(run.steps.point_at_target)
    assert (run.values("api"), zone.changes) == ((["192.0.2.2"], None), 1)


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
