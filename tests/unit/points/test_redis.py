"""Recovery points of Redis: taken, kept, put back and taken back, without a server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import cast

import pytest
from temporalio.testing import ActivityEnvironment

from activities.recovery_points import RecoveryPointSteps
from recovery.adapters.guard_permission import demand_permission
from recovery.adapters.redis.recovery import RedisDumps
from recovery.adapters.redis.server_info import MARK_KEY
from recovery.backup.layout import manifest_key
from recovery.backup.pipeline import write_point
from recovery.domain.group import RetentionRule
from recovery.domain.guarding import GroupState, GuardStatus, StoreRole, StoreState
from recovery.domain.plan import Facts, PlanContext, PlanRequest
from recovery.domain.recovery_point import BackupKind, DataStore, RecoveryPoint, VerdictState
from recovery.domain.redis import KeyCount, Way
from recovery.domain.retention import plan_retention
from recovery.errors import BadInput, NotFound, RecoveryError, Refused, RestoreFailed, Unreachable
from recovery.ports.guard import Guards
from recovery.ports.postgres import BackupSource
from tests.fakes.measurements import FakeMeasurements
from tests.fakes.points import NOW, FakeSource, identity, signer
from tests.fakes.redis import a_dump
from tests.fakes.redis_target import FakeTarget
from tests.unit.points.redis_rig import POINT, Dumps
from tests.unit.points.rig import BUDGET, REGION
from tests.unit.points.stream_rig import nothing
from workers.redis import write_permit
from workflows.plans.backup import BACKUP
from workflows.steps import Step


async def test_a_point_of_redis_stands_beside_those_of_postgresql(dumps: Dumps) -> None:
    taken = await dumps.points.take(dumps.backup(), nothing)
    manifest = taken.manifest
    assert taken.complete == ["a", "b"]
    assert (manifest.store, manifest.kind) == ("redis", BackupKind.RDB)
    assert (manifest.redis.offset, manifest.redis.rdb_bytes) == (1234, len(a_dump()))
    assert [artefact.name for artefact in manifest.artefacts] == ["dump.rdb"]
    assert manifest_key("shop", POINT) == f"shop/redis/{POINT}/manifest.json"
    listed = {point.point_id: point.manifest for point in await dumps.points.points(dumps.rig.group)}
    assert listed == {POINT: manifest, dumps.rig.point_id: dumps.rig.manifest}
    with pytest.raises(BadInput, match="is of redis, and not of PostgreSQL"):
        _ = manifest.postgres
    assert (await dumps.points.take(dumps.backup(), nothing)).manifest == manifest  # found, not written again


async def test_the_source_is_asked_and_a_restore_at_work_there_is_told(dumps: Dumps) -> None:
    (check, *_) = await dumps.points.check_source(dumps.rig.group, REGION, [DataStore.REDIS])
    assert check.passed and check.detail.endswith("is Redis 6.2.14 and holds 3 keys")
    dumps.server.answers["GET"] = b"$9\r\nrestore-7\r\n"
    (check, *_) = await dumps.points.check_source(dumps.rig.group, REGION, [DataStore.REDIS])
    assert not check.passed and "and restore restore-7 is at work there" in check.detail


async def test_without_a_server_no_dump_is_called_valid(dumps: Dumps) -> None:
    await dumps.take()
    verdict = await dumps.points.validate(dumps.rig.group, POINT, "run-2", nothing)
    assert verdict.state is VerdictState.FAILED
    assert "is no redis-server" in verdict.reason
    assert not (await dumps.points.point(dumps.rig.group, POINT)).is_valid


async def test_a_dump_that_was_damaged_before_it_was_signed_is_not_valid(dumps: Dumps, tmp_path: Path) -> None:
    """By the server of this environment; its objects are as the manifest says."""
    manifest = await dumps.take()
    source = FakeSource({"dump.rdb": [a_dump()[:-3]]}, kind=BackupKind.RDB)
    source.source = manifest.redis  # type: ignore[assignment]
    other = POINT.replace("1a2b3c4d", "9a9b9c9d")
    await write_point(
        cast(BackupSource, source), identity=identity(point_id=other), stores=dumps.rig.stores,
        sealer=dumps.points.keys.sealer, signer=signer(), budget=BUDGET,
    )  # fmt: skip
    dumps.points.parts[DataStore.REDIS].program = None  # type: ignore[attr-defined]
    verdict = await dumps.points.validate(dumps.rig.group, other, "run-2", nothing)
    assert verdict.state is VerdictState.CORRUPT
    assert "does not end as a dump ends" in verdict.reason
    assert not list(tmp_path.glob("scratch-*"))


@pytest.mark.parametrize("step", [step for step in BACKUP.steps() if step.undo is not None], ids=lambda step: step.name)
async def test_each_step_of_a_backup_undoes_its_own_kind(dumps: Dumps, step: Step) -> None:
    """What it wrote goes by its point's id, which names the kind."""
    about = PlanContext(
        plan="Backup", run_id="run-7", workflow_id="backup/shop", step=step.name,
        request=PlanRequest(group="shop"), facts=Facts(group=dumps.rig.group), started_at=NOW,
    )  # fmt: skip
    asked = {kind: about.model_copy(update={"request": PlanRequest(group="shop", kind=kind)}) for kind in BackupKind}
    kinds = [kind for kind, wanted in asked.items() if step.when is not None and step.when(wanted)]
    whole = [BackupKind.PHYSICAL, BackupKind.SNAPSHOT]  # of a cluster of our own, and of one at RDS
    assert kinds == whole if "physical" in step.name else len(kinds) == 1
    for kind in kinds:
        key = f"shop/{kind.store}/{NOW:%Y%m%dT%H%M%SZ}-{kind}-{about.effect_id[:8]}/attempt-1-x/part.000000.zst.age"
        await dumps.rig.stores[0].put(key, b"unfinished")
        outcome = await ActivityEnvironment().run(
            RecoveryPointSteps(dumps.points, FakeMeasurements()).remove_unfinished, asked[kind]
        )
        assert outcome.summary == "1 objects removed"
        assert key not in dumps.rig.stores[0].objects


# Retention.


async def test_a_redis_that_came_back_empty_pushes_out_nothing(dumps: Dumps) -> None:
    manifest = await dumps.take()
    points = []
    for number, keys in enumerate([900, 1000, 0, 0, 0, 0]):
        counted = manifest.redis.model_copy(update={"keys": {"0": KeyCount(before=keys, after=keys)}})
        at = {"point_id": f"point-{number}", "finished_at": NOW + timedelta(days=number)}
        points.append(RecoveryPoint(manifest=manifest.model_copy(update={**at, "source": counted}), locations=["a"]))
    stored = {entry.point_id: entry.manifest.finished_at for entry in points}
    plan = plan_retention(points, RetentionRule(count=1), NOW + timedelta(days=9), stored)
    assert plan.keep == ["point-5", "point-1"]


# Restores.


async def test_a_running_server_carries_the_mark_until_it_is_opened(dumps: Dumps) -> None:
    manifest = await dumps.take()
    group = dumps.rig.group
    assert await dumps.refusals() == {}
    restored = await dumps.restores.restore(dumps.order(), nothing)
    assert dumps.target.got == [a_dump()] and dumps.target.ways == ["replicate"]
    assert (restored.host, restored.port, restored.keys) == ("10.0.0.2", 6379, {0: 3})
    assert (restored.kind, restored.last_commit_at) == (BackupKind.RDB, manifest.redis.held_until)
    assert not await dumps.restores.accepts_writes(group, restored)
    assert await dumps.restores.restore(dumps.order(), nothing) == restored  # another attempt starts over
    assert all(check.passed for check in await dumps.restores.verify(group, restored))
    await dumps.restores.open_writes(group, restored)
    await dumps.restores.open_writes(group, restored)
    assert await dumps.restores.accepts_writes(group, restored)
    assert not await dumps.restores.remove(dumps.order())  # they are the clients' now
    assert dumps.target.keys == {0: 3}
    with pytest.raises(Refused, match="nothing is written"):
        await dumps.restores.write_probe(group, restored, "run")


async def test_a_server_that_somebody_emptied_is_not_opened(dumps: Dumps) -> None:
    await dumps.take()
    restored = await dumps.restores.restore(dumps.order(), nothing)
    dumps.target.keys, dumps.target.mark = {}, None
    with pytest.raises(RestoreFailed, match="carries no mark of restore restore-1: what was restored is gone"):
        await dumps.restores.open_writes(dumps.rig.group, restored)


async def test_only_what_carries_our_mark_is_taken_back(dumps: Dumps) -> None:
    await dumps.take()
    await dumps.restores.restore(dumps.order(), nothing)
    assert await dumps.restores.remove(dumps.order())
    assert dumps.target.keys == {}
    assert not await dumps.restores.remove(dumps.order())
    dumps.target.keys, dumps.target.mark = {0: 9}, "restore-0"
    assert not await dumps.restores.remove(dumps.order())
    assert dumps.target.keys == {0: 9}
    assert "holds data already" in (await dumps.refusals())["empty target"]
    assert await dumps.refusals(replace=True) == {}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"mark": None}, "the restore that it carries the mark of is None"),  # somebody emptied it
        ({"is_primary": False}, "is a replica"),
        ({"keys": {0: 0}}, "0 keys, and 3 were restored into databases 0"),
        ({"keys": {0: 30}}, None),  # clients wrote since
    ],
)
async def test_a_restored_redis_is_held_against_what_was_restored(
    dumps: Dumps, change: dict[str, object], said: str | None
) -> None:
    await dumps.take()
    restored = await dumps.restores.restore(dumps.order(), nothing)
    for name, value in change.items():
        setattr(dumps.target, name, value)
    failed = [check.detail for check in await dumps.restores.verify(dumps.rig.group, restored) if not check.passed]
    assert (said is None and not failed) or (said is not None and said in "; ".join(failed))


async def test_missing_functions_are_named(dumps: Dumps) -> None:
    manifest = await dumps.take()
    restored = await dumps.restores.restore(dumps.order(), nothing)
    held = manifest.redis.model_copy(update={"functions": {"carts": ["add"]}})
    catalogue = dumps.restores.catalogue(dumps.rig.group)
    point = await catalogue.point("shop", POINT)
    found = point.model_copy(update={"manifest": manifest.model_copy(update={"source": held})})

    class Known:
        async def point(self, group: str, point_id: str) -> RecoveryPoint:
            return found

    dumps.restores.catalogue = lambda group: Known()  # type: ignore[assignment,return-value]
    failed = [check for check in await dumps.restores.verify(dumps.rig.group, restored) if not check.passed]
    assert [(check.name, check.detail) for check in failed] == [("functions", "libraries carts are missing")]


@pytest.mark.parametrize("append_only", [False, True])
async def test_a_stopped_servers_folder_gets_the_dump_and_gives_it_back(
    dumps: Dumps, tmp_path: Path, append_only: bool
) -> None:
    await dumps.take()
    folder = tmp_path / "stopped"
    order = dumps.order(REGION, target_directory=str(folder), append_only=append_only)
    (refused,) = [each for each in await dumps.restores.verify_infrastructure(order) if not each.passed]
    assert "is no folder: make it" in refused.detail
    folder.mkdir()
    assert all(check.passed for check in await dumps.restores.verify_infrastructure(order))
    for _ in range(2):
        restored = await dumps.restores.restore(order, nothing)
    file = folder / ("appendonly.aof" if append_only else "dump.rdb")
    assert file.read_bytes() == a_dump()
    assert (restored.data_directory, restored.append_only) == (str(folder), append_only)
    group = dumps.rig.group
    assert all(check.passed for check in await dumps.restores.verify(group, restored))
    await dumps.restores.open_writes(group, restored)
    assert not await dumps.restores.accepts_writes(group, restored)
    assert await dumps.restores.remove(order)
    assert list(folder.iterdir()) == []
    assert not (await dumps.restores.verify(group, restored))[0].passed
    file.write_bytes(b"somebody else's")
    assert not await dumps.restores.remove(order)
    assert file.read_bytes() == b"somebody else's"
    (refused,) = [each for each in await dumps.restores.verify_infrastructure(order) if not each.passed]
    assert "is there already" in refused.detail


async def test_an_append_only_file_needs_its_folder(dumps: Dumps) -> None:
    await dumps.take()
    with pytest.raises(BadInput, match="name that folder"):
        await dumps.restores.restore(dumps.order(append_only=True), nothing)
    assert dumps.target.got == []


# Servers under a guard.


class _Guards:
    def __init__(self, answer: GuardStatus | RecoveryError) -> None:
        self.answer = answer

    async def status(self, region: str, group: str | None = None) -> GuardStatus:
        if isinstance(self.answer, RecoveryError):
            raise self.answer
        return self.answer


def _guards(answer: GuardStatus | RecoveryError) -> Guards:
    return cast(Guards, _Guards(answer))


def _status(
    role: StoreRole = StoreRole.PRIMARY, owner: str = REGION, *, lease: bool = True, store: str = "redis"
) -> GuardStatus:
    state = GroupState(group="shop", epoch=3, owner=owner, stores=[StoreState(store=store, role=role)])
    return GuardStatus(region=REGION, instance="one", ttl=5.0, holds_lease=lease, groups=[state])


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (_status(), None),
        (_status(lease=False).model_copy(update={"by_promise": True}), None),
        (_status(owner="region-b"), "region-b owns the group, and redis here is primary"),
        (_status(StoreRole.STANDBY), "its guard says that it is standby"),
        (_status(StoreRole.STALE), "its guard says that it is stale"),
        (_status(lease=False), "its guard holds no lease now"),
        (_status(store="nats"), "its guard knows nothing of it"),
        (_status().model_copy(update={"groups": []}), "its guard knows nothing of it"),
        (NotFound("region region-a has no guard"), "does not say that it may be written into: region region-a has no"),
        (Unreachable("the guard is gone"), "does not say that it may be written into: the guard is gone"),
    ],
)
async def test_only_a_guards_primary_may_be_written_into(
    dumps: Dumps, answer: GuardStatus | RecoveryError, said: str | None
) -> None:
    group = dumps.rig.group.model_copy(
        update={"regions": [each.model_copy(update={"guard": "http://g:1"}) for each in dumps.rig.group.regions]}
    )
    await demand_permission(_guards(Unreachable("nobody is asked")), dumps.rig.group, REGION, "redis")
    permit = write_permit(_guards(answer), group, REGION)
    assert permit is not None and write_permit(_guards(answer), dumps.rig.group, REGION) is None
    with pytest.raises(Refused, match="must not become a replica: restore key by key"):
        await permit("replicate")
    if said is None:
        await permit("keys")
        return
    with pytest.raises(Unreachable if isinstance(answer, Unreachable) else Refused, match=said):
        await permit("keys")


async def test_a_guarded_group_gets_its_keys_one_by_one(dumps: Dumps) -> None:
    await dumps.take()
    regions = [each.model_copy(update={"guard": "http://g:1"}) for each in dumps.rig.group.regions]
    dumps.rig.group = dumps.rig.group.model_copy(update={"regions": regions})
    await dumps.restores.restore(dumps.order(), nothing)
    assert dumps.target.ways == ["keys"]


async def _allowed(way: Way) -> None:
    return None


async def _forbidden(way: Way) -> None:
    raise Refused("its guard says no")


UNDO: dict[str, Callable[[RedisDumps], Awaitable[bool]]] = {
    "complete": lambda recovery: recovery.complete("restore-1"),
    "remove": lambda recovery: recovery.remove_restored("restore-1"),
}


@pytest.mark.parametrize("what", UNDO)
async def test_nothing_is_written_before_the_guard_was_asked(what: str) -> None:
    fake = FakeTarget(data={MARK_KEY: "restore-1/an-attempt", "key": "value"})
    writes = {"complete": ["DEL", MARK_KEY], "remove": ["FLUSHALL"]}[what]
    async with fake.serving() as server:
        with pytest.raises(Refused, match="its guard says no"):
            await UNDO[what](RedisDumps(server, permit=_forbidden))
        assert writes not in fake.said
        assert await UNDO[what](RedisDumps(server, permit=_allowed))
        assert writes in fake.said
        fake.said.clear()
        fake.data.clear()
        assert not await UNDO[what](RedisDumps(server, permit=_forbidden))  # where nothing is ours, nobody is asked
        assert writes not in fake.said
