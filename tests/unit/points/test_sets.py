"""Recovery sets: which points belong together, and what is said of them later."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from temporalio.testing import ActivityEnvironment

from activities.recovery_points import RecoveryPointSteps
from activities.recovery_sets import RecoverySetSteps
from recovery.backup import catalogue as catalogue_module
from recovery.backup import sets as sets_module
from recovery.backup.layout import manifest_key
from recovery.backup.sets import page_key, set_key
from recovery.domain.group import RetentionRule
from recovery.domain.plan import Facts, PlanContext, PlanRequest
from recovery.domain.recovery_point import BackupKind, RecoveryPoint, VerdictState
from recovery.domain.recovery_set import SetState, set_of, state_of
from recovery.errors import NotFound, Refused, Unreachable
from tests.fakes.measurements import FakeMeasurements
from tests.fakes.points import NOW, point, verdict_on
from tests.unit.points.rig import add_point
from tests.unit.points.stream_rig import POINT, Streams
from workflows.plans.backup import BACKUP, lacks_a_point, takes_a_set


def context(streams: Streams, *, kinds: list[str] | None = None, **facts: Any) -> PlanContext:
    kinds = kinds or ["physical", "streams"]
    group = streams.rig.group.model_copy(update={"backup_kinds": kinds})
    return PlanContext(
        plan="Backup", run_id="run-7", workflow_id="backup/shop", step="write-recovery-set",
        request=PlanRequest(group="shop"), facts=Facts(group=group, **facts), started_at=NOW,
    )  # fmt: skip


async def written(streams: Streams, **facts: Any) -> str:
    """The id of a set of the rig's physical point and a new one of streams."""
    await streams.take()
    about = context(streams, physical_point=streams.rig.point_id, streams_point=POINT, **facts)
    outcome = await ActivityEnvironment().run(RecoverySetSteps(streams.points).write, about)
    assert "2 points of postgres and nats, read within" in outcome.summary
    return str(outcome.summary.partition(":")[0])


async def test_a_set_says_which_points_belong_together_and_when_they_were_read(streams: Streams) -> None:
    set_id = await written(streams)
    catalogue = streams.points.catalogue(streams.rig.group)
    (found,) = (await catalogue.sets("shop")).sets
    assert (found.set_id, found.source_region, found.missing) == (set_id, "region-a", [])
    assert [(each.store, each.point_id) for each in found.members] == [
        ("postgres", streams.rig.point_id), ("nats", POINT),
    ]  # fmt: skip
    snapshots = (await catalogue.point("shop", POINT)).manifest.jetstream.window
    assert snapshots is not None
    assert found.window == (NOW, max(snapshots[1], streams.rig.manifest.finished_at))
    for store in streams.rig.stores:
        page = store.objects[page_key("shop", set_id)].decode()
        assert f"check {POINT}\n" in page and f"check {streams.rig.point_id}\n" in page
    again = await written(streams)  # another attempt writes the same
    assert again == set_id
    assert (await catalogue.sets("shop")).sets == [found]


async def test_a_point_that_is_not_there_makes_no_set(streams: Streams) -> None:
    with pytest.raises(NotFound):
        await streams.points.write_set(streams.rig.group, [POINT], set_id="set-1", run_id="run")
    assert (await streams.points.catalogue(streams.rig.group).sets("shop")).sets == []


async def test_what_nobody_signed_is_no_set(streams: Streams) -> None:
    set_id = await written(streams)
    a, b = streams.rig.stores
    a.objects[set_key("shop", set_id)] = a.objects[set_key("shop", set_id)].replace(b"region-a", b"region-b")
    await b.put(set_key("shop", "another"), b.objects[set_key("shop", set_id)])
    listed = await streams.points.catalogue(streams.rig.group).sets("shop")
    assert [found.set_id for found in listed.sets] == [set_id]  # as the other location has it
    assert "signature does not fit" in listed.rejected[set_key("shop", set_id)]
    assert "it belongs to shop/sets/" in listed.rejected[set_key("shop", "another")]


async def test_a_location_that_does_not_take_it_is_named(streams: Streams) -> None:
    await streams.take()
    a, b = streams.rig.stores

    async def refuse(*arguments: object, **options: object) -> str:
        raise Unreachable("b is down")

    b.put = refuse  # type: ignore[method-assign]
    _, failed = await streams.points.write_set(streams.rig.group, [POINT], set_id="set-1", run_id="run")
    assert failed == {"b": "b is down"}
    a.put = refuse  # type: ignore[method-assign]
    with pytest.raises(Unreachable, match="no location took recovery set set-1"):
        await streams.points.write_set(streams.rig.group, [POINT], set_id="set-1", run_id="run")


async def test_a_frozen_location_costs_its_patience_once_and_not_for_each_point(
    streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    await streams.take()
    monkeypatch.setattr(catalogue_module, "REQUEST_SECONDS", 0.5)
    a, b = streams.rig.stores
    asked = most = 0

    async def hang(key: str) -> tuple[bytes, str]:
        nonlocal asked, most
        asked += 1
        most = max(most, asked)
        try:
            await asyncio.Event().wait()
        finally:
            asked -= 1
        raise AssertionError

    b.get = hang  # type: ignore[method-assign]
    members = [streams.rig.point_id, POINT]
    found, _ = await streams.points.write_set(streams.rig.group, members, set_id="set-1", run_id="run")
    assert most == len(members)  # asked for at the same time
    assert [each.point_id for each in found.members] == members
    assert set_key("shop", "set-1") in a.objects


async def test_a_set_goes_when_the_last_of_its_points_went(streams: Streams) -> None:
    await written(streams)
    catalogue = streams.points.catalogue(streams.rig.group)
    group = streams.rig.group.model_copy(update={"retention": RetentionRule(count=1)})
    await streams.points.expire(group, NOW, dry_run=False)
    assert len((await catalogue.sets("shop")).sets) == 1  # the newest of each store stays
    await catalogue.delete_point("shop", POINT)
    await streams.points.expire(group, NOW, dry_run=False)
    assert len((await catalogue.sets("shop")).sets) == 1
    await catalogue.delete_point("shop", streams.rig.point_id)
    await streams.points.expire(group, NOW, dry_run=False)
    assert (await catalogue.sets("shop")).sets == []


async def test_a_set_of_a_backup_that_completes_during_the_retention_stays(streams: Streams) -> None:
    newer = NOW + timedelta(days=1)
    await add_point(streams.rig.stores, streams.points.keys.sealer, newer)
    a = streams.rig.stores[0]
    delete, done = a.delete, False

    async def meanwhile(keys: Sequence[str]) -> None:
        nonlocal done
        if not done and manifest_key("shop", streams.rig.point_id) in keys:
            done = True
            await streams.take()
            await streams.points.write_set(streams.rig.group, [POINT], set_id="set-1", run_id="run")
        await delete(keys)

    a.delete = meanwhile  # type: ignore[method-assign]
    group = streams.rig.group.model_copy(update={"retention": RetentionRule(count=1)})
    expired = await streams.points.expire(group, newer + timedelta(days=1), dry_run=False)
    assert (list(expired.removed), done) == ([streams.rig.point_id], True)
    assert [found.set_id for found in (await streams.points.catalogue(group).sets("shop")).sets] == ["set-1"]
    assert page_key("shop", "set-1") in a.objects


async def test_a_set_stays_while_a_location_does_not_say_which_points_it_has(streams: Streams) -> None:
    await streams.take()
    a, b = streams.rig.stores
    await streams.points.write_set(streams.rig.group, [POINT], set_id="set-1", run_id="run")
    await a.delete([key for key in a.objects if POINT in key])  # only the other location has it

    async def silent(prefix: str) -> Sequence[str]:
        raise Unreachable("b is down")

    b.folders = silent  # type: ignore[method-assign]
    await streams.points.expire(streams.rig.group, NOW, dry_run=False)
    assert set_key("shop", "set-1") in a.objects


async def test_a_set_that_one_location_does_not_remove_keeps_nothing_else_from_going(streams: Streams) -> None:
    await written(streams)
    a, b = streams.rig.stores
    catalogue = streams.points.catalogue(streams.rig.group)
    for point_id in (POINT, streams.rig.point_id):
        await catalogue.delete_point("shop", point_id)
    left, running = (f"shop/nats/20261101T000000Z-streams-{number}/attempt-1-x/left" for number in range(2))
    for key in (left, running):
        await b.put(key, b"x")
    b.aged(left, timedelta(days=2))
    delete = a.delete

    async def no_sets(keys: Sequence[str]) -> None:
        if any("/sets/" in key for key in keys):
            raise Refused("a: DeleteObjects answered AccessDenied")
        await delete(keys)

    a.delete = no_sets  # type: ignore[method-assign]
    with pytest.raises(Unreachable, match="a: a: DeleteObjects answered AccessDenied"):
        await streams.points.expire(streams.rig.group, datetime.now(UTC) + timedelta(days=2), dry_run=False)
    assert list(b.objects) == [running]
    assert len(a.objects) == 2
    a.delete = delete  # type: ignore[method-assign]
    await streams.points.expire(streams.rig.group, datetime.now(UTC) + timedelta(days=2), dry_run=False)
    assert a.objects == {}


async def test_many_sets_are_listed_however_long_all_of_them_take(
    streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(10):
        await streams.points.write_set(streams.rig.group, [streams.rig.point_id], set_id=f"set-{number}", run_id="run")
    monkeypatch.setattr(sets_module, "REQUEST_SECONDS", 0.3)  # in which not all can be read
    monkeypatch.setattr(sets_module, "PARALLEL_READS", 1)
    a, b = streams.rig.stores
    for store in (a, b):
        monkeypatch.setattr(store, "get", _slowly(store.get))
    listed = await streams.points.catalogue(streams.rig.group).sets("shop")
    assert (len(listed.sets), listed.unreachable) == (10, {})
    monkeypatch.setattr(b, "get", _slowly(b.get, 30.0))
    async with asyncio.timeout(10):
        listed = await streams.points.catalogue(streams.rig.group).sets("shop")
    assert (len(listed.sets), listed.unreachable) == (10, {"b": "no answer within 0 s"})


def _slowly(get: Callable[[str], Awaitable[tuple[bytes, str]]], seconds: float = 0.05) -> Any:
    async def slow(key: str) -> tuple[bytes, str]:
        await asyncio.sleep(seconds)
        return await get(key)

    return slow


def test_a_set_is_worth_what_its_worst_point_is() -> None:
    valid = [point(number, state=VerdictState.VALID) for number in (1, 2)]
    found = set_of(valid, set_id="set-1", run_id="run")
    unproven = valid[1].model_copy(update={"verdict": None})
    corrupt, failed, unjudged = (
        valid[1].model_copy(update={"verdict": verdict_on(valid[1].manifest, "digest", state=state)})
        for state in (VerdictState.CORRUPT, VerdictState.RESTORE_FAILED, VerdictState.FAILED)
    )
    other = valid[1].model_copy(update={"manifest_sha256": "another"})
    assert state_of(found, valid) is SetState.VALID
    # FAILED: the validation could not judge, which says nothing of the point.
    assert {state_of(found, [valid[0], rest]) for rest in (unproven, unjudged)} == {SetState.UNPROVEN}
    gone: list[list[RecoveryPoint]] = [[corrupt], [failed], [other], []]
    assert {state_of(found, [valid[0], *rest]) for rest in gone} == {SetState.BROKEN}


@pytest.mark.parametrize(
    ("kinds", "facts", "a_set", "lacking"),
    [
        (["physical", "logical"], {"physical_point": "p", "logical_point": "l"}, False, False),
        (["physical", "streams"], {"physical_point": "p", "streams_point": "s"}, True, False),
        (["physical", "streams"], {"physical_point": "p"}, False, True),
        (["physical", "logical", "streams"], {"physical_point": "p", "streams_point": "s"}, True, True),
        (["physical", "rdb"], {"physical_point": "p", "rdb_point": "r"}, True, False),
        (["physical", "streams", "rdb"], {"physical_point": "p", "streams_point": "s"}, True, True),
        (["physical", "search"], {"physical_point": "p", "search_point": "s"}, True, False),
        (["search"], {}, False, True),
    ],
)
def test_a_backup_of_several_stores_writes_a_set_and_is_judged(
    streams: Streams, kinds: list[str], facts: dict[str, str], a_set: bool, lacking: bool
) -> None:
    about = context(streams, kinds=kinds, **facts)
    assert (takes_a_set(about), lacks_a_point(about)) == (a_set, lacking)
    assert {step.name for step in BACKUP.steps() if step.when is not None and step.when(about)} >= (
        {"write-recovery-set"} if a_set else set()
    ) | ({"judge"} if lacking else set())


async def test_a_store_without_a_new_point_fails_the_backup_and_names_what_is_kept(streams: Streams) -> None:
    steps = RecoveryPointSteps(streams.points, FakeMeasurements())
    with pytest.raises(Exception, match="no new recovery point of kind streams.*Taken and kept: point-1"):
        await ActivityEnvironment().run(steps.judge_backup, context(streams, physical_point="point-1"))


@pytest.mark.parametrize(
    ("request_", "wanted"),
    [
        ({}, {"physical", "streams"}),
        ({"kind": "logical"}, {"logical"}),
        ({"store": "nats"}, {"streams"}),
        ({"store": "postgres"}, {"physical"}),
        ({"store": "nats", "kind": "streams"}, {"streams"}),
        ({"kind": "rdb"}, {"rdb"}),
        ({"store": "search"}, set()),  # not among the configured kinds
        ({"store": "search", "kind": "search"}, {"search"}),
    ],
)
def test_what_a_backup_takes(streams: Streams, request_: dict[str, str], wanted: set[str]) -> None:
    about = context(streams).model_copy(update={"request": PlanRequest.model_validate({"group": "shop", **request_})})
    assert {kind.value for kind in BackupKind if about.wants(kind)} == wanted
