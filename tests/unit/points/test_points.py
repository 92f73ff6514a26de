"""Keys, ownership, filling and retention of recovery points, without servers."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import recovery.adapters.postgres_points as adapter
from recovery.backup.documents import sign_manifest
from recovery.backup.layout import manifest_key
from recovery.backup.sealing import Opener, Sealer, generate_age_key
from recovery.backup.signing import Signer, Verifier, generate_signing_key
from recovery.domain.ownership import OwnershipRecord
from recovery.domain.recovery_point import BackupKind, Manifest, VerdictState
from recovery.errors import Corrupt, Refused, Unreachable, WrongKey
from recovery.ports.recovery_points import BackupOrder
from tests.fakes.points import NOW
from tests.unit.points.rig import REGION, Rig, add_point


def quiet(done: int, expected: int, what: str) -> None:
    """Progress that nobody watches."""


async def test_a_wrong_key_is_said_before_any_object_is_downloaded(rig: Rig) -> None:
    stranger = generate_age_key()
    async with Opener([stranger.secret]) as opener:
        points = rig.with_keys(opener=opener)
        verdict = await points.validate(rig.group, rig.point_id, "run", quiet)
    assert verdict.state is VerdictState.FAILED
    assert stranger.public in verdict.reason
    assert rig.manifest.recipients[0] in verdict.reason
    assert [key for store in rig.stores for key in store.fetched_objects] == []
    assert rig.postgres.validated == 0


async def test_a_key_that_the_manifest_names_and_that_does_not_open_costs_one_object(rig: Rig, sealer: Sealer) -> None:
    """The manifest says one thing, the objects were sealed for another key."""
    stranger = generate_age_key()
    async with Sealer([stranger.public]) as other:
        manifest = await add_point(rig.stores, other, NOW + timedelta(hours=1))
    lying = manifest.model_copy(update={"recipients": rig.manifest.recipients})
    body = signed(rig, lying)
    for store in rig.stores:
        rig.change(store, manifest_key("shop", manifest.point_id), body)
        store.fetched.clear()
    verdict = await rig.points.validate(rig.group, manifest.point_id, "run", quiet)
    assert verdict.state is VerdictState.FAILED
    assert sum(len(store.fetched_objects) for store in rig.stores) == 1


def signed(rig: Rig, manifest: Manifest) -> bytes:
    return sign_manifest(manifest, rig.points.keys.signing()).body


async def test_a_worker_without_an_identity_says_what_it_lacks(rig: Rig) -> None:
    verdict = await rig.with_keys(opener=None).validate(rig.group, rig.point_id, "run", quiet)
    assert verdict.state is VerdictState.FAILED
    assert "keys.identities" in verdict.reason
    assert [key for store in rig.stores for key in store.fetched_objects] == []


async def test_a_point_of_an_unknown_signer_is_refused_with_both_keys(rig: Rig) -> None:
    trusted = Signer(generate_signing_key().secret)
    points = rig.with_keys(verifier=Verifier([trusted.public_key]))
    with pytest.raises(Corrupt, match=f"unknown key .*trusted are {trusted.key_id}"):
        await points.point(rig.group, rig.point_id)


async def test_a_worker_without_a_signing_key_does_not_begin_a_backup(rig: Rig) -> None:
    with pytest.raises(WrongKey, match=r"keys\.signing_key"):
        await rig.with_keys(signer=None).check_source(rig.group, REGION)


@pytest.fixture
def unlocked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Backups without a PostgreSQL that could hold their lock."""

    @asynccontextmanager
    async def free(*arguments: object) -> Any:
        yield

    monkeypatch.setattr(adapter, "backup_lock", free)


def order(rig: Rig, epoch: int | None) -> BackupOrder:
    return BackupOrder(
        group=rig.group,
        region=REGION,
        kind=BackupKind.PHYSICAL,
        point_id="20261123T101500Z-physical-99999999",
        run_id="run-9",
        attempt=1,
        started_at=NOW,
        epoch=epoch,
    )


async def own(rig: Rig, region: str, epoch: int) -> None:
    record = OwnershipRecord(group="shop", region=region, epoch=epoch, changed_at=datetime.now(UTC))
    found = await rig.ownership.read("shop")
    await rig.ownership.write(record, version=found[1] if found else None)


@pytest.mark.usefixtures("unlocked")
async def test_a_backup_of_the_owner_is_kept(rig: Rig) -> None:
    await own(rig, REGION, 4)
    taken = await rig.points.take(order(rig, 4), quiet)
    assert taken.complete == ["a", "b"]
    assert taken.manifest.epoch == 4


@pytest.mark.usefixtures("unlocked")
@pytest.mark.parametrize(("region", "epoch"), [("region-b", 5), (REGION, 6)], ids=["moved", "moved and back"])
async def test_a_backup_whose_region_lost_the_group_meanwhile_is_not_kept(rig: Rig, region: str, epoch: int) -> None:
    await own(rig, region, epoch)
    with pytest.raises(Refused, match=rf"moved to {region} \(epoch {epoch}\).*not kept"):
        await rig.points.take(order(rig, 4), quiet)
    assert [key for store in rig.stores for key in store.objects if "99999999" in key] == []
    assert (await rig.points.point(rig.group, rig.point_id)).locations == ["a", "b"]


@pytest.mark.usefixtures("unlocked")
async def test_a_second_attempt_finds_the_point_of_the_first_and_writes_nothing(rig: Rig) -> None:
    first = await rig.points.take(order(rig, None), quiet)
    before = {store.name: dict(store.objects) for store in rig.stores}
    again = await rig.points.take(order(rig, None), quiet)
    assert (again.manifest, again.complete) == (first.manifest, first.complete)
    assert before == {store.name: dict(store.objects) for store in rig.stores}


async def test_a_location_that_lost_the_point_is_filled_with_its_verdicts(rig: Rig) -> None:
    await rig.validate()
    a, b = rig.stores
    expected = dict(a.objects)
    await b.delete(list(b.objects))
    filled = await rig.points.fill(rig.group, rig.point_id, quiet)
    assert (sorted(filled.complete), filled.dropped) == (["a", "b"], {})
    assert b.objects == expected
    assert (await rig.points.newest_validated(rig.group)).locations == ["a", "b"]


async def test_a_location_with_a_damaged_object_does_not_spoil_the_others_filling(rig: Rig, sealer: Sealer) -> None:
    """The first source cannot give the point; the second can."""
    a, b = rig.stores
    c = type(a)("c")
    rig.stores.append(c)
    key = rig.object_keys[1]
    rig.change(a, key, b"damaged")
    filled = await rig.points.fill(rig.group, rig.point_id, quiet)
    assert filled.dropped == {}
    assert c.objects[key] == b.objects[key]


async def test_filling_does_not_copy_damage(rig: Rig) -> None:
    a, b = rig.stores
    key = rig.object_keys[1]
    rig.change(a, key, b"damaged")
    await b.delete(list(b.objects))
    filled = await rig.points.fill(rig.group, rig.point_id, quiet)
    assert key in filled.dropped["b"]
    assert "differs from the manifest" in filled.dropped["b"]
    assert manifest_key("shop", rig.point_id) not in b.objects, "what is not whole does not exist"


async def test_an_unfinished_point_is_removed_and_a_finished_one_is_not(rig: Rig) -> None:
    before = {store.name: dict(store.objects) for store in rig.stores}
    assert await rig.points.remove_unfinished(rig.group, rig.point_id) == 0
    assert before == {store.name: dict(store.objects) for store in rig.stores}
    for store in rig.stores:
        await store.put("shop/postgres/20261124T101500Z-physical-1/attempt-1-0/base.tar.000000.zst.age", b"x")
    assert await rig.points.remove_unfinished(rig.group, "20261124T101500Z-physical-1") == 2
    assert before == {store.name: dict(store.objects) for store in rig.stores}


async def test_a_location_that_cannot_be_cleaned_is_said(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(keys: object) -> None:
        raise Unreachable("a is away")

    await rig.stores[0].put("shop/postgres/20261124T101500Z-physical-1/attempt-1-0/x.zst.age", b"x")
    monkeypatch.setattr(rig.stores[0], "delete", refuse)
    with pytest.raises(Unreachable, match="a: a is away"):
        await rig.points.remove_unfinished(rig.group, "20261124T101500Z-physical-1")


async def test_a_location_that_refuses_is_no_verdict_about_the_point(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Access denied at one location: the other is judged, and it is said."""
    get = rig.stores[0].get

    async def denied(key: str) -> tuple[bytes, str]:
        if key.endswith(".age"):
            raise Refused("a: access denied")
        return await get(key)

    monkeypatch.setattr(rig.stores[0], "get", denied)
    state, reason = await rig.validate()
    assert state is VerdictState.VALID
    assert "a did not answer: a: access denied" in reason


@pytest.mark.usefixtures("unlocked")
async def test_a_backup_warns_of_a_clock_that_is_not_its_locations(rig: Rig) -> None:
    """Where no log orders the points, one that is stamped in the future would stay the newest for long."""
    await own(rig, REGION, 4)
    a, b = rig.stores
    a._clock = lambda: datetime.now(UTC) - timedelta(days=30)
    taken = await rig.points.take(order(rig, 4), quiet)
    (warning,) = taken.warnings
    assert warning.startswith("the clock of this worker is 30 d ahead of that of a: mend")
    b._clock = lambda: datetime.now(UTC) + timedelta(minutes=50)
    a._clock = lambda: datetime.now(UTC)
    later = replace(order(rig, 4), point_id="20261123T111500Z-physical-99999999")
    assert (await rig.points.take(later, quiet)).warnings == []


async def test_retention_removes_old_points_and_never_the_last_validated(rig: Rig, sealer: Sealer) -> None:
    await rig.validate()
    newer = [await add_point(rig.stores, sealer, NOW + timedelta(days=day)) for day in (1, 2, 3)]
    rule = rig.group.retention.model_copy(update={"count": 1, "days": None})
    group = rig.group.model_copy(update={"retention": rule})
    planned = await rig.points.expire(group, datetime.now(UTC), dry_run=True)
    assert set(planned.removed) == {newer[0].point_id, newer[1].point_id}
    assert len(await rig.points.points(group)) == 4, "a dry run changes nothing"
    await rig.points.expire(group, datetime.now(UTC), dry_run=False)
    left = {point.point_id for point in await rig.points.points(group)}
    assert left == {rig.point_id, newer[2].point_id}
    keys = {key.split("/")[2] for store in rig.stores for key in store.objects}
    assert keys == left, "nothing of the removed ones is left at any location"


async def test_retention_asks_the_locations_since_when_they_have_a_point(rig: Rig, sealer: Sealer) -> None:
    """Five points, stored today; the last one's worker, and the one that runs retention, are 30 days ahead."""
    today = datetime.now(UTC)
    for day in (-3, -2, -1, 30):
        manifest = await add_point(rig.stores, sealer, today + timedelta(days=day))
        manifest = manifest.model_copy(update={"finished_at": manifest.started_at})
        for store in rig.stores:
            rig.change(store, manifest_key("shop", manifest.point_id), signed(rig, manifest))
    group = rig.group.model_copy(update={"retention": rig.group.retention.model_copy(update={"days": 5})})
    done = await rig.points.expire(group, today + timedelta(days=30), dry_run=False)
    assert done.removed == {}
    assert len(await rig.points.points(group)) == 5
    assert "stamped later than their location stored them" in done.warnings[0]


async def test_orphans_go_after_a_day_and_not_while_they_may_be_a_running_backups(rig: Rig) -> None:
    key = "shop/postgres/20261124T101500Z-physical-1/attempt-1-0/base.tar.000000.zst.age"
    await rig.stores[0].put(key, b"x")
    await rig.points.expire(rig.group, datetime.now(UTC) + timedelta(hours=23), dry_run=False)
    assert key in rig.stores[0].objects
    await rig.points.expire(rig.group, datetime.now(UTC) + timedelta(days=30), dry_run=False)
    assert key in rig.stores[0].objects, "the clock of retention's worker runs ahead: nothing else is younger"
    rig.stores[0].aged(key, timedelta(hours=25))
    await rig.points.expire(rig.group, datetime.now(UTC), dry_run=False)
    assert key not in rig.stores[0].objects
    assert rig.stores[0].objects.keys() == rig.stores[1].objects.keys()
