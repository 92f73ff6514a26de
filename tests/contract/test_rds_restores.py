"""Snapshots of RDS proven and put back, against moto behind a front as strict as RDS."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import cast

import pytest
from temporalio.testing import ActivityEnvironment

from activities.validations import ValidationSteps
from recovery.adapters import managed_validation
from recovery.adapters.managed_validation import validation_mark, validation_name
from recovery.adapters.restores_by_store import RestoresByStore
from recovery.backup.sealing import Opener, Sealer
from recovery.domain.managed import ManagedInstance, RestoreManaged, snapshot_tags
from recovery.domain.plan import Facts, PlanContext, PlanRequest
from recovery.domain.recovery_point import BackupKind, CheckResult, VerdictState
from recovery.errors import BadInput, NotOurs, Refused, RestoreFailed, Unreachable
from recovery.ports.recovery_points import RecoveryPoints, Restores
from tests.contract.rds_front import Front, rds
from tests.contract.rds_points import NAME, POINT, Managed, managed, nothing
from tests.contract.rds_site import AWAY, HOME, NOW, OPEN, REPLICA, SOURCE, reset
from tests.fakes.measurements import FakeMeasurements

TAGS, RUN = snapshot_tags("shop", POINT), "run-2"
COPY = validation_name(POINT, RUN)


@pytest.fixture
async def front(amazon: str) -> AsyncIterator[Front]:
    await reset(amazon)
    async with rds(amazon) as front:
        yield front


@pytest.fixture
async def site(front: Front, sealer: Sealer, opener: Opener) -> AsyncIterator[Managed]:
    async with managed(front, sealer, opener) as made:
        await made.take()
        yield made


def orders(instance: str, mark: str, region: str = HOME) -> RestoreManaged:
    return RestoreManaged(region=region, instance=instance, snapshot=NAME, instance_class="db.r6g.xlarge", mark=mark)


# Validation.


async def test_a_point_is_proven_by_an_instance_that_is_read_and_deleted_again(site: Managed) -> None:
    verdict = await site.validate()
    assert (verdict.state, verdict.reason) == (
        VerdictState.VALID,
        f"restored at RDS in {HOME}: 12 tables were read to the end",
    )
    assert [check.name for check in verdict.checks] == [
        f"snapshot in {HOME}",
        f"snapshot in {AWAY}",
        "restore",
        "tables-readable",
    ]
    ((region, host),) = site.reader.read
    assert region == HOME and COPY in host
    assert await site.instances(HOME) == []
    assert (await site.points.point(site.group, POINT)).is_valid


async def test_without_a_login_nothing_is_called_valid(site: Managed) -> None:
    site.reader.failure = Unreachable("no answer at its address")
    verdict = await site.validate()
    assert verdict.state is VerdictState.FAILED
    assert f"nobody could log in to {COPY} from here" in verdict.reason and "no answer at its address" in verdict.reason
    assert [check.passed for check in verdict.checks] == [True, True, True]  # what could be checked was
    assert await site.instances(HOME) == [] and site.reader.asked > 1
    site.reader.failure = Refused("grant it pg_read_all_data")
    assert (await site.validate()).state is VerdictState.FAILED
    site.reader.failure = RestoreFailed("database shop cannot be opened")
    assert (await site.validate()).state is VerdictState.RESTORE_FAILED
    assert await site.instances(HOME) == []


async def test_two_runs_that_prove_one_point_at_a_time_do_not_end_each_others_instance(site: Managed) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def reading(host: str) -> None:
        if COPY not in host:
            return
        begun.set()
        await go_on.wait()
        if COPY not in await site.instances(HOME):
            raise Unreachable("terminating connection due to administrator command")

    site.reader.reading = reading
    second = asyncio.create_task(site.validate(run_id=RUN))
    await begun.wait()
    assert (await site.validate(run_id="run-1")).state is VerdictState.VALID
    assert await site.instances(HOME) == [COPY]
    go_on.set()
    assert (await second).state is VerdictState.VALID
    assert (await site.instances(HOME), site.asked("RestoreDBInstanceFromDBSnapshot")) == ([], 2)


async def test_an_attempt_that_was_held_up_leaves_the_instance_to_the_one_that_goes_on(site: Managed) -> None:
    reads, go_on = [asyncio.Event(), asyncio.Event()], asyncio.Event()

    async def reading(host: str) -> None:
        reads[len(site.reader.read) - 1].set()
        await go_on.wait()

    site.reader.reading = reading
    attempts = []
    for begun in reads:
        attempts.append(asyncio.create_task(site.validate()))
        await begun.wait()
    attempts[0].cancel()
    await asyncio.wait({attempts[0]})
    assert await site.instances(HOME) == [COPY]
    go_on.set()
    assert (await attempts[1]).state is VerdictState.VALID
    assert (await site.instances(HOME), site.asked("RestoreDBInstanceFromDBSnapshot")) == ([], 1)


async def test_a_connection_that_is_lost_while_it_is_read_is_not_called_a_closed_door(site: Managed) -> None:
    async def reading(host: str) -> None:
        raise Unreachable("terminating connection due to administrator command")

    site.reader.reading = reading
    verdict = await site.validate()
    assert verdict.state is VerdictState.FAILED
    assert f"the connection to {COPY} was lost while it was read: terminating" in verdict.reason
    assert "security_groups" not in verdict.reason


async def test_tables_that_cannot_be_read_are_a_failed_restore(site: Managed) -> None:
    site.reader.checks = [CheckResult(name="tables-readable", passed=False, detail="orders (invalid page)")]
    verdict = await site.validate()
    assert (verdict.state, verdict.reason) == (
        VerdictState.RESTORE_FAILED,
        "check tables-readable: orders (invalid page)",
    )


async def test_a_lost_snapshot_is_no_damage_of_a_location_and_nothing_that_a_repair_could_mend(site: Managed) -> None:
    for region in (HOME, AWAY):
        assert await site.api.delete(region, NAME, TAGS)
    verdict = await site.validate()
    point = await site.points.point(site.group, POINT)
    assert (verdict.state, point.damaged_at) == (VerdictState.CORRUPT, [])
    about = PlanContext(
        plan="BackupValidation",
        run_id="run-2",
        workflow_id="validate",
        step="points.repair",
        request=PlanRequest(group="shop"),
        facts=Facts(group=site.group, verdicts=[verdict]),
        started_at=NOW,
    )
    steps = ValidationSteps(cast(RecoveryPoints, site.points), FakeMeasurements())
    outcome = await ActivityEnvironment().run(steps.repair, about)
    assert (outcome.facts.points_repaired, outcome.warnings) == ([], [])
    assert "0 points" in outcome.summary


async def gone(site: Managed) -> None:
    assert await site.api.delete(AWAY, NAME, TAGS)


async def another(site: Managed) -> None:
    assert await site.api.delete(HOME, NAME, TAGS)
    await site.api.take(HOME, SOURCE, NAME, {"owner": "ana"})


async def older(site: Managed) -> None:
    site.front.snapshot_changes[HOME, NAME] = {
        "EngineVersion": "9.6",
        "OriginalSnapshotCreateTime": "2020-01-01T00:00Z",
    }


async def broken(site: Managed) -> None:
    site.front.snapshot_changes[AWAY, NAME] = {"Status": "inaccessible-encryption-credentials"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (gone, f"{AWAY} has no snapshot {NAME} any more"),
        (another, "not of this recovery point"),
        (older, "its engine version is 9.6 instead of"),
        (older, "it was taken 2020-01-01"),
        (broken, f"in {AWAY} is not what was taken: its state is inaccessible-encryption-credentials"),
    ],
)
async def test_a_snapshot_that_is_not_what_was_taken_is_corrupt(
    site: Managed, change: Callable[[Managed], Awaitable[None]], said: str
) -> None:
    await change(site)
    verdict = await site.validate()
    assert (verdict.state, said in verdict.reason) == (VerdictState.CORRUPT, True), verdict.reason
    assert site.asked("RestoreDBInstanceFromDBSnapshot") == 0


async def test_another_account_proves_nothing_and_deletes_nothing(site: Managed) -> None:
    site.front.accounts = dict.fromkeys((HOME, AWAY), "210987654321")
    verdict = await site.validate()
    assert (verdict.state, "another account's" in verdict.reason) == (VerdictState.FAILED, True), verdict.reason
    await gone(site)
    assert await site.api.delete(HOME, NAME, TAGS)
    verdict = await site.validate()
    said = "is of account 123456789012, and the credentials of this machine show account 210987654321"
    assert (verdict.state, said in verdict.reason) == (VerdictState.FAILED, True), verdict.reason
    manifest = (await site.points.point(site.group, POINT)).manifest
    with pytest.raises(Refused, match=said):
        await site.part.discard(site.group, HOME, POINT, manifest)
    site.front.accounts = {}
    assert (await site.validate()).state is VerdictState.CORRUPT
    assert not await site.part.discard(site.group, HOME, POINT, manifest)


async def test_a_copy_proves_the_point_while_its_region_is_lost(site: Managed) -> None:
    site.front.silent = {HOME}
    verdict = await site.validate()
    assert verdict.state is VerdictState.VALID
    assert verdict.reason.startswith(f"restored at RDS in {AWAY}") and f"not looked at in {HOME}" in verdict.reason
    site.front.silent = {HOME, AWAY}
    silent = await site.validate()
    assert silent.state is VerdictState.FAILED and "no region that has the snapshot answers" in silent.reason


async def test_an_instance_that_is_still_being_deleted_is_waited_for(site: Managed) -> None:
    site.front.delete_looks = 4
    assert (await site.validate()).state is VerdictState.VALID
    assert await site.instances(HOME) == [COPY]
    assert (await site.validate()).state is VerdictState.VALID  # of another instance of that name
    assert site.asked("RestoreDBInstanceFromDBSnapshot") == 2


async def test_an_instance_that_somebody_deletes_meanwhile_proves_nothing(site: Managed) -> None:
    site.front.coming[HOME, COPY] = ["creating"]
    site.front.status[HOME, COPY] = "deleting"
    await site.database.restore(orders(COPY, validation_mark("shop", POINT, RUN)))
    site.front.coming[HOME, COPY] = ["creating", "creating"]
    verdict = await site.validate()
    assert verdict.state is VerdictState.FAILED
    assert f"somebody deleted instance {COPY} in {HOME} while it was made" in verdict.reason


async def test_an_instance_that_rds_cannot_make_is_deleted(site: Managed) -> None:
    site.front.status[HOME, COPY] = "incompatible-restore"
    verdict = await site.validate()
    assert verdict.state is VerdictState.RESTORE_FAILED
    assert f"instance {COPY} in {HOME} is incompatible-restore" in verdict.reason
    assert await site.instances(HOME) == []


async def test_an_instance_that_is_not_deleted_is_named(site: Managed) -> None:
    site.front.refused["DeleteDBInstance", HOME] = ("AccessDenied", "not you")
    verdict = await site.validate()
    assert verdict.state is VerdictState.VALID and f"{COPY} in {HOME} is not deleted yet" in verdict.reason
    assert await site.instances(HOME) == [COPY]
    site.front.refused.clear()
    assert (await site.validate()).state is VerdictState.VALID  # goes on with it, as after a worker's death
    assert (await site.instances(HOME), site.asked("RestoreDBInstanceFromDBSnapshot")) == ([], 1)


async def test_what_lost_workers_left_is_deleted_by_its_mark_once_it_is_old(
    site: Managed, monkeypatch: pytest.MonkeyPatch
) -> None:
    await site.database.restore(orders("left", validation_mark("shop", "another-point", RUN)))
    await site.database.restore(orders("not-ours", validation_mark("billing", "a-point", RUN)))
    await site.database.restore(orders("recovered", "0123456789ab"))
    site.front.coming.clear()
    await site.validate()
    assert sorted(await site.instances(HOME)) == ["left", "not-ours", "recovered"]  # it may be at work
    monkeypatch.setattr(managed_validation, "LEFT_AFTER", timedelta())
    verdict = await site.validate()
    assert f"left in {HOME}, which an earlier validation left, is deleted" in verdict.reason
    assert sorted(await site.instances(HOME)) == ["not-ours", "recovered"]


# Restores.


async def test_a_copy_comes_back_as_an_instance_with_the_network_of_the_groups_own(site: Managed) -> None:
    order = site.restore(target_instance="shop-back")
    by_store = RestoresByStore({BackupKind.SNAPSHOT: cast(Restores, site.restores)})
    checks = await by_store.verify_infrastructure(order)
    assert [check.passed for check in checks] == [True, True, True], checks
    seen: list[str] = []
    restored = await by_store.restore(order, lambda done, expected, what: seen.append(what))
    assert f"shop-back in {AWAY} is creating" in seen
    assert (restored.instance, restored.kind, restored.database) == ("shop-back", BackupKind.SNAPSHOT, "shop")
    assert restored.last_commit_at is not None and restored.last_commit_at <= datetime.now(UTC)
    made = await site.database.instance(AWAY, "shop-back")
    assert made is not None and (made.security_groups, made.mark) == ([OPEN], "0123456789ab")
    assert (made.host, made.port) == (restored.host, restored.port)
    assert await by_store.restore(order, nothing) == restored  # another attempt
    assert site.asked("RestoreDBInstanceFromDBSnapshot") == 1
    assert all(check.passed for check in await by_store.verify(site.group, restored))
    assert not await by_store.accepts_writes(site.group, restored)
    await by_store.open_writes(site.group, restored)
    await by_store.open_writes(site.group, restored)
    assert await by_store.accepts_writes(site.group, restored)
    assert await by_store.write_probe(site.group, restored, "run-1") == NOW
    assert site.probe.written == [(restored.host, restored.port)]
    with pytest.raises(NotOurs, match=f"shop-back in {AWAY} is in use since its restore was completed"):
        await by_store.remove(order)


async def test_the_configured_network_goes_before_the_groups_own(site: Managed) -> None:
    site.rule = {
        "security_groups": {AWAY: ["sg-0123456789abcdef0"]},
        "restored_instance": "shop-restored",
        "instance_class": "db.r6g.2xlarge",
    }
    restored = await site.restores.restore(site.restore(), nothing)
    made = await site.database.instance(AWAY, restored.instance or "")
    assert made is not None and made.name == "shop-restored"
    assert (made.security_groups, made.instance_class) == (["sg-0123456789abcdef0"], "db.r6g.2xlarge")


def upgraded(site: Managed, monkeypatch: pytest.MonkeyPatch) -> None:
    """The group's instances are of a later major version than the snapshot, with a parameter group of theirs."""
    look = site.database.instance

    async def instance(region: str, name: str) -> ManagedInstance | None:
        found = await look(region, name)
        if found is None or name not in (SOURCE, REPLICA):
            return found
        return found.model_copy(update={"parameter_group": "shop-17", "engine_version": "17.2"})

    monkeypatch.setattr(site.database, "instance", instance)
    site.front.families = {"shop-17": "postgres17", NAME: "postgres13"}


async def test_the_parameters_of_another_major_version_are_left_out_and_that_is_said(
    site: Managed, monkeypatch: pytest.MonkeyPatch
) -> None:
    upgraded(site, monkeypatch)
    checks = {check.name: check for check in await site.restores.verify_infrastructure(site.restore())}
    said = "gets RDS's default parameters: shop-17 of shop-replica is for PostgreSQL 17"
    assert checks["settings"].passed and said in checks["settings"].detail
    await site.restores.restore(site.restore(), nothing)
    verdict = await site.validate()
    assert verdict.state is VerdictState.VALID and "shop-17 of shop-production is for PostgreSQL 17" in verdict.reason
    assert not any("DBParameterGroupName" in asked for asked in site.front.restores)


async def test_the_parameters_of_the_same_major_version_are_taken(site: Managed) -> None:
    order = orders("shop-back", "0123456789ab")
    like = await site.database.instance(HOME, SOURCE)
    assert like is not None
    like = like.model_copy(update={"parameter_group": "shop-13"})
    with pytest.raises(BadInput, match="shop-13 not found"):  # it was asked for, and RDS knows none
        await site.database.restore(order.model_copy(update={"like": like, "engine_version": like.engine_version}))


async def test_an_instance_that_resembles_no_other_is_not_public(site: Managed) -> None:
    await site.database.restore(orders("shop-back", "0123456789ab"))
    assert site.front.restores[-1]["PubliclyAccessible"] == "false"


async def test_a_lack_of_room_at_rds_is_worth_another_attempt(site: Managed) -> None:
    site.front.refused["RestoreDBInstanceFromDBSnapshot", AWAY] = ("InsufficientDBInstanceCapacity", "no db.r6g.xlarge")
    with pytest.raises(Unreachable, match=rf"no room for a db\.r6g\.xlarge in {AWAY} now \(no db"):
        await site.restores.restore(site.restore(), nothing)
    site.front.refused.clear()
    await site.restores.restore(site.restore(), nothing)


async def test_a_restore_that_is_cancelled_ends_after_its_call(site: Managed) -> None:
    site.front.slow = asyncio.Event()
    restoring = asyncio.create_task(site.restores.restore(site.restore(), nothing))
    while not site.front.restores:
        await asyncio.sleep(0.01)
    restoring.cancel()
    await asyncio.wait({restoring}, timeout=0.2)
    site.front.slow.set()
    with pytest.raises(asyncio.CancelledError):
        await restoring
    assert await site.restores.remove(site.restore())  # nothing is made after the undo
    assert await site.instances(AWAY) == []


async def test_the_undo_deletes_what_this_restore_made_and_nothing_else(site: Managed) -> None:
    order = site.restore()
    assert not await site.restores.remove(order)
    restored = await site.restores.restore(order, nothing)
    assert restored.instance == f"{REPLICA}-0123456789ab"
    assert not await site.restores.remove(site.restore(restore_id="another", target_instance=restored.instance))
    assert await site.restores.remove(order)
    assert await site.instances(AWAY) == []
    with pytest.raises(RestoreFailed, match="is gone from eu-west-1"):
        await site.restores.open_writes(site.group, restored)
    own = site.restore(target_instance=REPLICA)
    assert not await site.restores.remove(own)
    assert await site.database.instance(AWAY, REPLICA) is not None


async def test_what_stands_in_the_way_is_said_before_anything_is_made(site: Managed) -> None:
    async def refusals(**wanted: str) -> dict[str, str]:
        checks = await site.restores.verify_infrastructure(site.restore(**wanted))
        return {check.name: check.detail for check in checks if not check.passed}

    assert await refusals() == {}
    taken = await refusals(target_instance=REPLICA)
    assert f"there is an instance {REPLICA} in {AWAY} already" in taken["empty target"]
    with pytest.raises(NotOurs, match="was not touched"):
        await site.restores.restore(site.restore(target_instance=REPLICA), nothing)
    await gone(site)
    assert f"{AWAY} has no snapshot {NAME}: it was in {HOME} and {AWAY}" in (await refusals())["snapshot"]
    site.front.silent = {AWAY}
    assert (await refusals()).keys() == {"snapshot", "empty target"}
    assert site.asked("RestoreDBInstanceFromDBSnapshot") == 0


async def test_a_restored_instance_that_is_not_right_fails_its_checks(site: Managed) -> None:
    restored = await site.restores.restore(site.restore(), nothing)
    site.probe.missing = ["orders"]
    site.front.status[AWAY, restored.instance or ""] = "storage-full"
    found = await site.restores.verify(site.group, restored)
    assert [(check.name, check.passed) for check in found] == [("instance", False), ("orders", False)]
