"""RDS: the adapter and the steps of its plan against moto behind a front that is as strict as RDS."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.stub import Stubber
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.lock import guarded_by
from activities.managed_fencing import ManagedFencing
from activities.managed_postgres import ManagedPostgresSteps
from recovery.adapters.rds import MARK, RdsPostgres
from recovery.domain.group import GroupSnapshot, Objectives, RegionPlan
from recovery.domain.managed import RECENT, ManagedRule, RestoreManaged
from recovery.domain.ownership import OwnershipRecord, Phase, Strength
from recovery.domain.plan import Facts, PlanContext, PlanRequest, StepOutcome
from recovery.errors import BadInput, NotFound, NotOurs, Refused, Unreachable
from tests.contract.rds_front import Front, rds
from tests.contract.rds_site import AWAY, CLOSED, HOME, NOW, OPEN, REPLICA, SOURCE, Probe, adapter_of, reset
from tests.fakes.ownership import FakeOwnershipStore


@pytest.fixture
async def front(amazon: str) -> AsyncIterator[Front]:
    await reset(amazon)
    async with rds(amazon) as front:
        yield front


@pytest.fixture
async def database(front: Front) -> AsyncIterator[RdsPostgres]:
    adapter = adapter_of(front)
    yield adapter
    await adapter.close()


# The adapter


async def test_an_instance_as_rds_describes_it(database: RdsPostgres) -> None:
    found = await database.instance(HOME, SOURCE)
    assert found is not None
    assert (found.status, found.replicas, found.replica_of) == ("available", [REPLICA], None)
    assert found.security_groups == [OPEN]
    replica = await database.instance(AWAY, REPLICA)
    assert replica is not None and (replica.replica_of, replica.replication_error) == (SOURCE, None)
    assert await database.instance(HOME, "nobody") is None


async def test_a_replica_that_does_not_follow_says_why(front: Front, database: RdsPostgres) -> None:
    front.broken[AWAY, REPLICA] = "requested WAL segment has already been removed"
    replica = await database.instance(AWAY, REPLICA)
    assert replica is not None
    assert replica.replication_error == "error: requested WAL segment has already been removed"


async def test_a_promotion_takes_its_time_and_is_repeated_without_harm(front: Front, database: RdsPostgres) -> None:
    await database.promote(AWAY, REPLICA)
    seen = []
    for _ in range(3):
        found = await database.instance(AWAY, REPLICA)
        assert found is not None
        seen.append((found.status, found.replica_of))
    assert [status for status, _ in seen] == ["modifying", "rebooting", "available"]
    assert seen[-1] == ("available", None)
    await database.promote(AWAY, REPLICA)
    assert [action for action, *_ in front.calls].count("PromoteReadReplica") == 1
    source = await database.instance(HOME, SOURCE)
    assert source is not None and source.replicas == []


async def test_an_instance_with_a_replica_is_never_stopped(database: RdsPostgres) -> None:
    with pytest.raises(
        Refused, match="RDS stops no instance that has read replicas or is one, and shop-production has"
    ):
        await database.stop(HOME, SOURCE)
    with pytest.raises(Refused, match="is one of shop-production"):
        await database.stop(AWAY, REPLICA)


async def test_an_order_to_a_busy_instance_is_worth_another_attempt(front: Front, database: RdsPostgres) -> None:
    front.coming[AWAY, REPLICA] = ["backing-up"] * 9
    with pytest.raises(Unreachable, match=f"RDS does not promote {REPLICA} in {AWAY} now: .* it is backing-up"):
        await database.promote(AWAY, REPLICA)


async def test_what_is_not_there_is_named(database: RdsPostgres) -> None:
    with pytest.raises(NotFound, match="RDS knows no instance nobody in eu-west-1"):
        await database.promote(AWAY, "nobody")
    with pytest.raises(NotFound, match="no RDS instance is configured in mars-1"):
        await database.instance("mars-1", SOURCE)


async def test_throttling_is_waited_for_and_a_dead_region_is_not_for_long(front: Front, database: RdsPostgres) -> None:
    front.faults = ["throttle", "throttle"]
    assert await database.instance(HOME, SOURCE) is not None
    front.silent = {HOME}
    with pytest.raises(Unreachable, match="could not look at instance shop-production in eu-central-1"):
        await database.instance(HOME, SOURCE)


async def test_snapshots_are_listed_newest_first(database: RdsPostgres) -> None:
    found = await database.snapshots(HOME, SOURCE)
    assert [each.name for each in found][:2] == ["newest", "older"]
    assert found[2].name.startswith("rds:")  # the automatic one
    assert await database.snapshots(AWAY, SOURCE) == []


def order(**changed: Any) -> RestoreManaged:
    wanted = RestoreManaged(
        region=HOME, instance="shop-restored", snapshot="newest", instance_class="db.r6g.xlarge", mark="0123456789ab"
    )
    return wanted.model_copy(update=changed)


async def test_a_restore_is_marked_repeated_and_removed_by_its_mark_only(front: Front, database: RdsPostgres) -> None:
    await database.restore(order())
    found = await database.instance(HOME, "shop-restored")
    assert found is not None
    assert (found.status, found.host, found.instance_class, found.mark) == (
        "creating",
        None,
        "db.r6g.xlarge",
        "0123456789ab",
    )
    await database.restore(order())
    assert [action for action, *_ in front.calls].count("RestoreDBInstanceFromDBSnapshot") == 1
    for call in (database.restore(order(mark="another")), database.remove(HOME, "shop-restored", "another")):
        with pytest.raises(NotOurs, match=f"its tag {MARK} is 0123456789ab.*not touched"):
            await call
    with pytest.raises(NotOurs, match="its tag .* is absent"):
        await database.remove(HOME, SOURCE, "0123456789ab")
    assert await database.remove(HOME, "shop-restored", "0123456789ab")
    assert not await database.remove(HOME, "shop-restored", "0123456789ab")


async def test_a_snapshot_of_another_region_must_be_copied_first(database: RdsPostgres) -> None:
    with pytest.raises((NotFound, BadInput), match="newest"):
        await database.restore(order(region=AWAY))


# The steps


class Run:
    """One run of the plan's steps, in the order in which a test calls them."""

    def __init__(self, database: RdsPostgres, **rule: Any) -> None:
        async def databases(group: str) -> RdsPostgres:
            return database

        self.probe, self.ownership = Probe(), FakeOwnershipStore()
        self.steps = ManagedPostgresSteps(databases, self.ownership, self.probe, look_every=0.01)
        self.fencing = ManagedFencing(databases, look_every=0.01)
        self.request = PlanRequest(group="shop")
        names = {"instances": {HOME: SOURCE, AWAY: REPLICA}} | rule
        self.group = GroupSnapshot(
            name="shop",
            objectives=Objectives(tier="standard", rto=timedelta(hours=1), rpo=timedelta(hours=1)),
            home_region=HOME,
            regions=[
                RegionPlan(name=HOME, task_queue="a", priority=100),
                RegionPlan(name=AWAY, task_queue="b", priority=90),
            ],
            managed=ManagedRule(**names),
        )
        record = OwnershipRecord(group="shop", epoch=4, region=HOME, phase=Phase.RUNNING, run="run-1", changed_at=NOW)
        self.facts = Facts(group=self.group, source_region=HOME, ownership=record)
        self.record = record

    async def begin(self) -> Run:
        await self.ownership.write(self.record, version=None)
        return self

    async def call(self, step: Callable[[PlanContext], Awaitable[StepOutcome]]) -> StepOutcome:
        context = PlanContext(
            plan="DatabaseFailover",
            run_id="run-1",
            workflow_id="recovery/shop",
            step="a-step",
            request=self.request,
            facts=self.facts,
            started_at=NOW,
        )
        with guarded_by(self.ownership):
            outcome: StepOutcome = await ActivityEnvironment().run(step, context)
        self.facts = self.facts.merged(outcome.facts)
        return outcome

    async def failure(self, step: Callable[[PlanContext], Awaitable[StepOutcome]]) -> str:
        with pytest.raises(ApplicationError) as raised:
            await self.call(step)
        return raised.value.message


async def test_the_replica_is_promoted_behind_a_closed_source(front: Front, database: RdsPostgres) -> None:
    front.status[HOME, SOURCE] = "storage-full"
    run = await Run(database, fence_security_groups={HOME: [CLOSED]}).begin()
    assessed = await run.call(run.steps.assess)
    assert assessed.summary == "shop-production in eu-central-1: storage-full"
    chosen = await run.call(run.steps.choose_replacement)
    assert chosen.summary == "promote shop-replica in eu-west-1, data as of 2026-11-22 08:59:53 UTC"
    del front.status[HOME, SOURCE]  # RDS changes nothing on an instance that is not available
    fenced = await run.call(run.fencing.fence_primary)
    assert fenced.summary == "shop-production lets nobody in, and was rebooted"
    assert [action for action, region, _ in front.calls if region == HOME and "Describe" not in action] == [
        "ModifyDBInstance",
        "RebootDBInstance",
    ]
    await run.call(run.steps.open_database)
    stored, _ = await run.ownership.read("shop") or (None, "")
    assert stored is not None and stored.fence is not None
    assert (stored.fence.how, stored.fence.epoch, stored.fence.strengths) == (
        "managed",
        4,
        {"postgres": Strength.MANUAL},
    )
    assert (await run.call(run.steps.observe_database)).effect_present is None
    await run.call(run.steps.wait_until_available)
    assert (await run.call(run.steps.observe_database)).effect_present is True
    assert run.facts.managed is not None and run.facts.managed.host
    await run.call(run.steps.confirm_service)
    assert run.probe.written == [(run.facts.managed.host, run.facts.managed.port)]


async def test_the_undo_of_a_fence_gives_the_security_groups_back(database: RdsPostgres) -> None:
    run = await Run(database, fence_security_groups={HOME: [CLOSED]}).begin()
    await run.call(run.steps.choose_replacement)
    await run.call(run.fencing.fence_primary)
    closed = await database.instance(HOME, SOURCE)
    assert closed is not None and closed.security_groups == [CLOSED]
    await run.call(run.fencing.fence_primary)  # another attempt must not take the closed group for the usual one
    await run.call(run.fencing.unfence)
    opened = await database.instance(HOME, SOURCE)
    assert opened is not None and opened.security_groups == [OPEN]
    assert (await run.call(run.fencing.unfence)).summary == "shop-production had not been fenced"


async def test_without_means_to_fence_nothing_is_opened_before_a_person_vouches(
    front: Front, database: RdsPostgres
) -> None:
    run = await Run(database).begin()
    await run.call(run.steps.choose_replacement)
    outcome = await run.call(run.fencing.fence_primary)
    assert "Set rds.fence_security_groups.eu-central-1; now a person" in outcome.warnings[0]
    assert run.facts.fence is None
    assert "nothing is opened without it" in await run.failure(run.steps.open_database)
    assert "PromoteReadReplica" not in [action for action, *_ in front.calls]
    run.facts = run.facts.model_copy(update={"consents": {"confirm-fence": "ana"}})
    await run.call(run.steps.open_database)
    stored, _ = await run.ownership.read("shop") or (None, "")
    assert stored is not None and stored.fence is not None
    assert (stored.fence.how, stored.fence.by) == ("person", "ana")


async def test_while_rds_works_on_a_volume_its_instance_is_fenced_after_its_reboot_and_a_replica_is_up(
    front: Front, database: RdsPostgres
) -> None:
    front.status[HOME, SOURCE], front.status[AWAY, REPLICA] = "storage-optimization", "storage-initialization"
    run = await Run(database, fence_security_groups={HOME: [CLOSED]}).begin()
    assert "RDS says that shop-production is storage-optimization" in await run.failure(run.steps.assess)
    assert (await run.call(run.steps.choose_replacement)).summary.startswith("promote shop-replica")
    looks: list[str] = []
    looked = database.instance

    async def instance(region: str, name: str) -> Any:
        front.status[region, name] = "storage-optimization"  # again, once it has rebooted
        found = await looked(region, name)
        looks.append(found.status if found else "")
        return found

    database.instance = instance  # type: ignore[method-assign]
    async with asyncio.timeout(10):
        await run.call(run.fencing.fence_primary)
        assert looks[-2:] == ["rebooting", "storage-optimization"]
        await run.call(run.steps.open_database)
        await run.call(run.steps.wait_until_available)
    assert looks[-1] == "storage-optimization"


@pytest.mark.parametrize("status", ["incompatible-parameters", "insufficient-capacity"])
async def test_nobody_waits_for_an_instance_that_never_comes(front: Front, database: RdsPostgres, status: str) -> None:
    run = await Run(database, restored_instance="shop-restored").begin()
    run.request = run.request.model_copy(update={"point_id": "newest"})
    await run.call(run.steps.choose_replacement)
    front.status[HOME, "shop-restored"] = status
    await run.call(run.steps.restore_snapshot)
    async with asyncio.timeout(10):
        assert f"is {status} and never is available" in await run.failure(run.steps.wait_until_restored)


async def test_the_newest_event_is_known_however_many_there_are(database: RdsPostgres) -> None:
    now = datetime.now(UTC)
    pages: list[dict[str, Any]] = [
        {"Marker": "on", "Events": [{"Date": now - timedelta(hours=2), "Message": "backed up"}]},
        {"Events": [{"Date": now - timedelta(minutes=1), "Message": "failed over"}]},
    ]
    client = await database.of(HOME).run(lambda client: client, "have a client")
    with Stubber(client) as stub:
        for page in pages:
            stub.add_response("describe_events", page)
        assert [event.message for event in await database.events(HOME, SOURCE, RECENT)] == ["failed over", "backed up"]


async def test_a_snapshot_that_is_not_ready_is_worth_another_attempt(front: Front, database: RdsPostgres) -> None:
    front.refused["RestoreDBInstanceFromDBSnapshot", HOME] = ("InvalidDBSnapshotState", "it is being copied")
    with pytest.raises(Unreachable, match="snapshot newest in .* cannot be restored now: it is being copied"):
        await database.restore(order())


async def test_an_instance_that_failed_serves_nobody(front: Front, database: RdsPostgres) -> None:
    front.status[HOME, SOURCE] = "failed"
    run = await Run(database).begin()
    await run.call(run.steps.choose_replacement)
    assert (await run.call(run.fencing.fence_primary)).summary == "RDS says that shop-production is failed"
    assert run.facts.fence is not None and run.facts.fence.by == "RDS (status)"


async def test_a_healthy_instance_is_only_replaced_by_force(database: RdsPostgres) -> None:
    run = await Run(database).begin()
    assert "start the run with --force and a reason" in await run.failure(run.steps.assess)
    run.request = run.request.model_copy(update={"force": True, "reason": "clients cannot reach it"})
    assert (await run.call(run.steps.assess)).summary == "all instances are available"


@pytest.mark.parametrize("why", ["broken", "asked"])
async def test_without_a_replica_the_newest_snapshot_is_restored(front: Front, database: RdsPostgres, why: str) -> None:
    run = await Run(database, restored_instance="shop-restored", fence_security_groups={HOME: [CLOSED]}).begin()
    if why == "broken":
        front.broken[AWAY, REPLICA] = "it lacks WAL"
    else:
        run.request = run.request.model_copy(update={"point_id": "older"})
    chosen = await run.call(run.steps.choose_replacement)
    wanted = "newest" if why == "broken" else "older"
    assert chosen.summary.startswith(f"restore {wanted} as shop-restored in eu-central-1, data as of ")
    if why == "broken":
        assert chosen.warnings == ["shop-replica in eu-west-1: it does not follow: error: it lacks WAL"]
    await run.call(run.fencing.fence_primary)
    await run.call(run.steps.restore_snapshot)
    assert (await run.call(run.steps.observe_database)).effect_present is False
    await run.call(run.steps.wait_until_restored)
    await run.call(run.steps.open_database)
    restored = await database.instance(HOME, "shop-restored")
    assert restored is not None
    assert (restored.security_groups, restored.instance_class) == ([OPEN], "db.r6g.xlarge")
    assert (await run.call(run.steps.observe_database)).effect_present is True
    assert "rds.instances.eu-central-1" in (await run.call(run.steps.confirm_service)).warnings[0]
    run.probe.missing = ["orders"]
    assert "orders: is missing" in await run.failure(run.steps.verify_data)


async def test_the_undo_of_a_restore_removes_what_this_run_made(database: RdsPostgres) -> None:
    run = await Run(database, restored_instance="shop-restored").begin()
    run.request = run.request.model_copy(update={"point_id": "newest"})
    await run.call(run.steps.choose_replacement)
    assert (await run.call(run.steps.remove_restored)).summary == "nothing had been restored"
    await run.call(run.steps.restore_snapshot)
    await run.call(run.steps.remove_restored)
    assert await database.instance(HOME, "shop-restored") is None


async def test_a_dead_region_leads_to_the_replica_and_to_a_person(front: Front, database: RdsPostgres) -> None:
    front.silent = {HOME}
    run = await Run(database).begin()
    assessed = await run.call(run.steps.assess)
    assert "could not look at instance shop-production" in assessed.summary
    assert (await run.call(run.steps.choose_replacement)).summary.startswith("promote shop-replica in eu-west-1")
    assert "could not look at instance" in await run.failure(run.fencing.fence_primary)


async def test_nothing_to_replace_it_with_is_said_with_reasons(front: Front, database: RdsPostgres) -> None:
    run = await Run(database, instances={AWAY: REPLICA, HOME: SOURCE}).begin()
    front.coming[AWAY, REPLICA] = ["rebooting"] * 9
    run.request = run.request.model_copy(update={"region": AWAY})
    said = await run.failure(run.steps.choose_replacement)
    assert "nothing can replace shop-production" in said and "shop-replica in eu-west-1: it is rebooting" in said


async def test_a_group_under_guard_is_not_replaced_by_rds(database: RdsPostgres) -> None:
    run = await Run(database).begin()
    regions = [region.model_copy(update={"guard": "http://guard.test:7450"}) for region in run.group.regions]
    guarded = run.group.model_copy(update={"regions": regions})
    run.facts = run.facts.model_copy(update={"group": guarded})
    assert "is under guard" in await run.failure(run.steps.assess)
    run.request = run.request.model_copy(update={"force": True})
    run.facts = run.facts.model_copy(update={"group": guarded.model_copy(update={"managed_by": "rds"})})
    await run.call(run.steps.assess)
