"""Recovery points that are snapshots of RDS: taken, copied, kept, against moto behind a front as strict as RDS."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from unittest.mock import AsyncMock

import pytest
from temporalio.testing import ActivityEnvironment

from activities.recovery_points import RecoveryPointSteps
from recovery.backup.by_hand import by_hand
from recovery.backup.layout import manifest_key
from recovery.backup.sealing import Opener, Sealer
from recovery.domain.group import RetentionRule
from recovery.domain.managed import snapshot_name, snapshot_tags
from recovery.domain.plan import Facts, PlanContext, PlanRequest
from recovery.domain.recovery_point import BackupKind
from recovery.domain.recovery_set import set_of
from recovery.errors import BadInput, NotFound, NotOurs, Refused, SourceFailed, Unreachable
from tests.contract.rds_front import Front, rds
from tests.contract.rds_points import NAME, POINT, Managed, managed
from tests.contract.rds_site import AWAY, HOME, SOURCE, reset
from tests.fakes.measurements import FakeMeasurements
from tests.fakes.points import NOW

TAGS = snapshot_tags("shop", POINT)


@pytest.fixture
async def front(amazon: str) -> AsyncIterator[Front]:
    await reset(amazon)
    async with rds(amazon) as front:
        yield front


@pytest.fixture
async def site(front: Front, sealer: Sealer, opener: Opener) -> AsyncIterator[Managed]:
    async with managed(front, sealer, opener) as made:
        yield made


# The adapter.


async def test_a_snapshot_is_begun_once_and_looked_at_until_it_is_there(site: Managed) -> None:
    assert await site.api.snapshot(HOME, NAME) is None
    await site.api.take(HOME, SOURCE, NAME, TAGS)
    await site.api.take(HOME, SOURCE, NAME, TAGS)  # as an attempt does that did not hear of the first one
    seen = [await site.api.snapshot(HOME, NAME) for _ in range(4)]
    assert [(each.status, each.percent) for each in seen if each] == [
        ("creating", 0),
        ("creating", 40),
        ("creating", 95),
        ("available", 100),
    ]
    assert seen[-1] is not None and seen[-1].tags == TAGS
    assert (seen[-1].instance, seen[-1].gigabytes, seen[-1].encrypted) == (SOURCE, 20, False)


async def test_throttling_is_waited_for(front: Front, sealer: Sealer, opener: Opener) -> None:
    async with managed(front, sealer, opener, patience=timedelta(seconds=30)) as site:
        site.front.faults = ["throttle", "throttle"]
        await site.api.take(HOME, SOURCE, NAME, TAGS)
        site.front.faults = ["throttle"]
        assert await site.there(HOME)


async def test_what_rds_refuses_is_said_in_a_sentence(site: Managed) -> None:
    with pytest.raises(NotFound, match="RDS knows no instance nobody in eu-central-1"):
        await site.api.take(HOME, "nobody", NAME, TAGS)
    site.front.coming[HOME, SOURCE] = ["modifying"] * 9
    with pytest.raises(Unreachable, match=f"RDS takes no snapshot of {SOURCE} in {HOME} now: .* it is modifying"):
        await site.api.take(HOME, SOURCE, NAME, TAGS)
    site.front.refused["CreateDBSnapshot", HOME] = ("SnapshotQuotaExceeded", "100 are there")
    del site.front.coming[HOME, SOURCE]
    with pytest.raises(Refused, match=r"may have no more snapshots in eu-central-1 \(100 are there\)"):
        await site.api.take(HOME, SOURCE, NAME, TAGS)
    with pytest.raises(NotFound, match="no RDS instance is configured in mars-1"):
        await site.api.snapshot("mars-1", NAME)


async def test_only_what_carries_the_points_tags_is_deleted(site: Managed) -> None:
    await site.api.take(HOME, SOURCE, NAME, TAGS)
    with pytest.raises(Unreachable, match=f"RDS does not delete snapshot {NAME} in {HOME} now: .* it is creating"):
        await site.api.delete(HOME, NAME, TAGS)
    site.front.making.clear()
    with pytest.raises(NotOurs, match=f"not of this recovery point .*recovery-plans-point {POINT}.*not touched"):
        await site.api.delete(HOME, NAME, snapshot_tags("shop", "another"))
    with pytest.raises(NotOurs, match="recovery-plans-group absent"):
        await site.api.delete(HOME, "newest", TAGS)
    assert await site.api.delete(HOME, NAME, TAGS)
    assert not await site.api.delete(HOME, NAME, TAGS)


# Backups.


async def test_a_point_is_its_manifest_the_snapshot_and_its_copy(site: Managed) -> None:
    seen: list[tuple[int, int, str]] = []
    taken = await site.points.take(site.backup(), lambda *state: seen.append(state))
    manifest = taken.manifest
    assert (taken.complete, manifest.store, manifest.kind) == (["a", "b"], "postgres", BackupKind.SNAPSHOT)
    assert (manifest.artefacts, manifest.stored_bytes, manifest.plain_bytes) == ([], 0, 20 * 1024**3)
    source = manifest.snapshot
    assert (source.name, source.instance, source.is_complete) == (NAME, SOURCE, True)
    assert list(source.copies) == [HOME, AWAY]
    assert all(f":{region}:" in copy.arn and copy.arn.endswith(NAME) for region, copy in source.copies.items())
    assert manifest.postgres.server_version.startswith(str(manifest.postgres.major))
    assert manifest.source.window == (source.began_at, source.taken_at)
    assert {what for _, _, what in seen} >= {"snapshot, 40 %", f"copy to {AWAY}, 95 %"}
    assert (8 * 1024**3, 20 * 1024**3, "snapshot, 40 %") in seen
    for region in (HOME, AWAY):
        found = await site.api.snapshot(region, NAME)
        assert found is not None and found.tags == TAGS | {"recovery-plans-run": "run-1"}
    assert [point.point_id for point in await site.points.points(site.group)] == [POINT]
    assert manifest_key("shop", POINT) == f"shop/postgres/{POINT}/manifest.json"
    assert await site.take() == manifest  # found, not taken again
    assert (site.asked("CreateDBSnapshot"), site.asked("CopyDBSnapshot")) == (1, 1)


async def test_an_attempt_goes_on_with_what_an_earlier_one_began(site: Managed) -> None:
    site.front.lost = {"CreateDBSnapshot"}
    with pytest.raises(Unreachable, match=f"could not take snapshot {NAME} of {SOURCE}"):
        await site.take()
    site.front.lost = {"CopyDBSnapshot"}  # it is looked whether there is one now
    assert list((await site.take()).snapshot.copies) == [HOME, AWAY]
    assert (site.asked("CreateDBSnapshot"), site.asked("CopyDBSnapshot")) == (1, 1)


async def test_a_copys_region_that_is_silent_for_a_while_is_asked_again(site: Managed) -> None:
    async def answers_again() -> None:
        while site.asked("DescribeDBSnapshots", AWAY) < 2:
            await asyncio.sleep(0.01)
        await asyncio.sleep(1.0)  # longer than one call is tried
        site.front.silent = set()

    site.front.silent = {AWAY}
    answering = asyncio.create_task(answers_again())
    assert list((await site.take()).snapshot.copies) == [HOME, AWAY]
    await answering


async def test_a_copy_that_takes_longer_than_the_backup_is_found_by_a_validation(site: Managed) -> None:
    site.front.making[AWAY, NAME] = [("creating", 40)] * 100_000
    site.part.within_seconds = 4.0
    manifest = await site.take()
    assert "not completed in the time of the backup" in manifest.snapshot.lacking[AWAY]
    assert f"there is no copy in {AWAY} yet: it is creating" in (await site.validate()).reason
    site.front.making.clear()
    verdict = await site.validate()
    assert f"snapshot in {AWAY}" in [check.name for check in verdict.checks]
    site.front.silent = {HOME}
    assert (await site.validate()).reason.startswith(f"restored at RDS in {AWAY}")


async def test_a_copy_waits_while_as_many_are_made_as_rds_makes_at_once(site: Managed) -> None:
    async def others_end() -> None:
        while site.asked("CopyDBSnapshot", AWAY) < 1:
            await asyncio.sleep(0.01)
        await asyncio.sleep(1.0)  # longer than a region may be silent
        site.front.refused.clear()

    words = "Cannot copy more than 20 snapshots across regions"  # a quota's code, and no quota of snapshots
    site.front.refused["CopyDBSnapshot", AWAY] = ("SnapshotQuotaExceeded", words)
    site.part.silence_seconds = 0.3  # RDS answers: that is no silence
    ending = asyncio.create_task(others_end())
    async with asyncio.timeout(20):
        assert list((await site.take()).snapshot.copies) == [HOME, AWAY]
    ending.cancel()


async def test_a_copy_that_fails_is_a_warning_and_the_point_is_kept(site: Managed) -> None:
    site.front.silent, site.part.silence_seconds = {AWAY}, 0.5
    manifest = await site.take()
    assert list(manifest.snapshot.copies) == [HOME] and not manifest.snapshot.is_complete
    assert f"could not look at snapshot {NAME} in {AWAY}" in manifest.snapshot.lacking[AWAY]
    assert manifest.source.notes[0].startswith(f"no copy in {AWAY}: ")


async def test_a_copy_that_rds_gives_up_is_deleted_and_named(site: Managed) -> None:
    site.front.snapshot_changes[AWAY, NAME] = {"Status": "failed"}
    site.front.making[AWAY, NAME] = []
    assert "is failed: look at its instance's events" in (await site.take()).snapshot.lacking[AWAY]
    assert not await site.there(AWAY)


async def test_a_snapshot_that_failed_is_deleted_so_that_it_can_be_taken_again(site: Managed) -> None:
    site.front.snapshot_changes[HOME, NAME] = {"Status": "failed"}
    site.front.making[HOME, NAME] = []
    with pytest.raises(SourceFailed, match=rf"snapshot {NAME} in {HOME} is failed: .* events in RDS$"):
        await site.take()
    assert not await site.there(HOME)
    site.front.refused["DeleteDBSnapshot", HOME] = ("AccessDenied", "not you")
    with pytest.raises(SourceFailed, match=f"It is still in {HOME}: delete it"):
        await site.take()


async def test_a_name_that_others_gave_is_not_taken_for_the_points_own(site: Managed) -> None:
    await site.api.take(HOME, SOURCE, NAME, {"owner": "ana"})
    with pytest.raises(NotOurs, match="not of this recovery point"):
        await site.take()
    assert await site.there(HOME)


async def test_an_encrypted_snapshot_is_copied_with_a_key_only(site: Managed) -> None:
    site.front.snapshot_changes[HOME, NAME] = {"Encrypted": "true", "KmsKeyId": "arn:aws:kms:eu-central-1:1:key/k"}
    manifest = await site.take()
    assert "set rds.kms_keys.eu-west-1" in manifest.snapshot.lacking[AWAY]
    assert manifest.snapshot.encrypted
    assert manifest.snapshot.copies[HOME].kms_key == "arn:aws:kms:eu-central-1:1:key/k"
    for store in site.stores:
        await store.delete([manifest_key("shop", POINT)])
    site.rule = {"kms_keys": {AWAY: "no-such-key"}}
    said = (await site.take()).snapshot.lacking[AWAY]
    assert "the key no-such-key of eu-west-1 cannot be used" in said and "rds.kms_keys.eu-west-1" in said


async def test_what_stands_in_the_way_is_said_beforehand(site: Managed) -> None:
    checks = await site.points.check_source(site.group, HOME)
    named = {check.name: check for check in checks}
    assert f"{SOURCE} is available, PostgreSQL " in named[f"{HOME} postgres"].detail
    assert named[f"{AWAY} copy"].passed
    site.front.silent, site.front.status[HOME, SOURCE] = {AWAY}, "storage-full"
    named = {check.name: check for check in await site.points.check_source(site.group, HOME)}
    assert not named[f"{HOME} postgres"].passed and "storage-full" in named[f"{HOME} postgres"].detail
    assert not named[f"{AWAY} copy"].passed
    with pytest.raises(NotFound, match=r"no RDS instance in mars-1: set groups\.shop\.rds\.instances\.mars-1"):
        await site.points.check_source(site.group, "mars-1")
    without = site.group.model_copy(update={"managed": None})
    with pytest.raises(BadInput, match=r"set groups\.shop\.rds"):
        await site.points.check_source(without, HOME)


async def test_the_step_of_a_base_backup_takes_it_and_its_undo_deletes_it(site: Managed) -> None:
    measured = FakeMeasurements()
    steps = RecoveryPointSteps(site.points, measured)
    site.front.refused["CopyDBSnapshot", AWAY] = ("SnapshotQuotaExceeded", "100 are there")
    about = PlanContext(
        plan="Backup", run_id="run-7", workflow_id="backup/shop", step="take-physical-backup", started_at=NOW,
        request=PlanRequest(group="shop"), facts=Facts(group=site.group, source_region=HOME),
    )  # fmt: skip
    outcome = await ActivityEnvironment().run(steps.take_physical_backup, about)
    point = outcome.facts.snapshot_point
    assert point is not None and "-snapshot-" in point and about.kinds_missing == [BackupKind.SNAPSHOT]
    assert f"of {SOURCE} in {HOME}, described at a, b" in outcome.summary
    assert outcome.warnings == [f"there is no copy in {AWAY}: {outcome.warnings[0].partition(': ')[2]}"]
    assert measured.stored == [("snapshot", {f"RDS {HOME}": 20 * 1024**3})]
    done = await ActivityEnvironment().run(steps.remove_unfinished, about)
    assert done.summary == "0 objects removed" and await site.there(HOME, point)  # it has its manifest
    for store in site.stores:
        await store.delete([manifest_key("shop", point)])
    assert (await ActivityEnvironment().run(steps.remove_unfinished, about)).summary == "1 objects removed"
    assert not await site.there(HOME, point)
    assert (await ActivityEnvironment().run(steps.remove_unfinished, about)).summary == "0 objects removed"


async def test_credentials_that_may_not_delete_leave_the_snapshot(site: Managed) -> None:
    await site.take()
    for store in site.stores:
        await store.delete([manifest_key("shop", POINT)])
    site.front.refused["DeleteDBSnapshot", HOME] = ("AccessDenied", "not you")
    assert await site.points.remove_unfinished(site.group, POINT, HOME) == 1  # the copy
    assert (await site.there(HOME), await site.there(AWAY)) == (True, False)


# Retention.


async def test_retention_deletes_snapshot_and_copy_of_what_expired_and_of_nothing_else(site: Managed) -> None:
    ids = [f"202611{day}T101500Z-snapshot-1a2b3c4d" for day in (20, 21, 22)]
    for point_id in ids:
        await site.take(point_id)
    await site.validate(ids[0])
    group = site.group.model_copy(update={"retention": RetentionRule(count=1)})
    preview = await site.points.expire(group, NOW, dry_run=True)
    assert list(preview.removed) == [ids[1]]
    assert await site.there(HOME, ids[1])
    site.front.silent = {AWAY}
    with pytest.raises(Unreachable, match="eu-west-1"):
        await site.points.expire(group, NOW, dry_run=False)
    assert {point.point_id for point in await site.points.points(group)} == set(ids)  # a later one finds it again
    site.front.silent = set()
    await site.points.expire(group, NOW, dry_run=False)
    assert {point.point_id for point in await site.points.points(group)} == {ids[0], ids[2]}
    for region in (HOME, AWAY):
        assert [await site.there(region, each) for each in ids] == [True, False, True]
    assert len(await site.database.snapshots(HOME, SOURCE)) == 5  # with the two that people took, and RDS' own


async def test_a_snapshot_without_the_points_tags_outlives_it(site: Managed) -> None:
    first, second = (f"202611{day}T101500Z-snapshot-1a2b3c4d" for day in (20, 22))
    for point_id in (first, second):
        await site.take(point_id)
        await site.validate(point_id)
    tags = snapshot_tags("shop", first)
    assert await site.api.delete(HOME, snapshot_name(first), tags)
    await site.api.take(HOME, SOURCE, snapshot_name(first), {"owner": "ana"})
    group = site.group.model_copy(update={"retention": RetentionRule(count=1)})
    await site.points.expire(group, NOW + timedelta(days=1), dry_run=False)
    assert [point.point_id for point in await site.points.points(group)] == [second]
    assert (await site.there(HOME, first), await site.there(AWAY, first)) == (True, False)


def made_at(site: Managed, point_id: str, moment: str) -> None:
    for region in (HOME, AWAY):
        site.front.snapshot_changes[region, snapshot_name(point_id)] = {"OriginalSnapshotCreateTime": moment}


async def left_by_an_aborted_backup(site: Managed, moment: str) -> str:
    point_id = "20261101T101500Z-snapshot-0a0b0c0d"
    made_at(site, point_id, moment)
    await site.api.take(HOME, SOURCE, snapshot_name(point_id), snapshot_tags("shop", point_id))
    with pytest.raises(Unreachable, match="it is creating"):
        await site.points.remove_unfinished(site.group, point_id, HOME)
    site.front.making.clear()
    return point_id


async def test_what_an_aborted_backup_left_is_deleted_by_a_later_retention(
    site: Managed, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_at(site, POINT, "2026-10-01T10:00:00Z")
    await site.take()
    left = await left_by_an_aborted_backup(site, "2026-11-01T10:00:00Z")
    await site.api.take(HOME, SOURCE, "recovery-by-hand", {"recovery-plans-group": "shop"})
    with monkeypatch.context() as change:
        change.setattr(site.stores[1], "folders", AsyncMock(side_effect=Unreachable("b does not answer")))
        with contextlib.suppress(Unreachable):
            await site.points.expire(site.group, NOW, dry_run=False)
    assert await site.there(HOME, left)  # the location that is silent may hold its manifest
    done = await site.points.expire(site.group, NOW, dry_run=False)
    assert (done.orphans, done.warnings) == (1, [])
    assert not await site.there(HOME, left)
    assert await site.there(HOME) and await site.api.snapshot(HOME, "recovery-by-hand") is not None


async def test_a_snapshot_older_than_all_points_is_named_and_stays(site: Managed) -> None:
    await site.take()
    left = await left_by_an_aborted_backup(site, "2026-11-01T10:00:00Z")
    done = await site.points.expire(site.group, NOW, dry_run=False)
    assert len(done.warnings) == 1 and f"snapshot {snapshot_name(left)} in {HOME} is of no point" in done.warnings[0]
    assert await site.there(HOME, left)


async def test_one_snapshot_that_cannot_be_deleted_does_not_keep_the_others(site: Managed) -> None:
    manifest = await site.take()
    site.front.making[HOME, NAME] = [("creating", 40)] * 1000
    site.front.making.pop((AWAY, NAME), None)
    with pytest.raises(Unreachable, match=f"does not delete snapshot {NAME} in {HOME} now"):
        await site.part.discard(site.group, HOME, POINT, manifest)
    assert not await site.there(AWAY)


# For people.


async def test_the_page_beside_a_set_says_how_it_is_restored_by_hand(site: Managed) -> None:
    manifest = await site.take()
    (point,) = await site.points.points(site.group)
    page = by_hand(set_of([point], set_id="set-1", run_id="run-1"), [manifest])
    for region in (HOME, AWAY):
        assert f"restore-db-instance-from-db-snapshot --region {region} --db-snapshot-identifier {NAME}" in page
    assert "aws s3 cp --recursive" not in page.partition("## postgres, snapshot")[2]


async def test_another_store_has_no_part_in_it(site: Managed) -> None:
    with pytest.raises(BadInput, match="there are no recovery points of redis"):
        site.points.part(BackupKind.RDB)
    assert await site.points.remove_unfinished(site.group, "20261122T101500Z-physical-1a2b3c4d") == 0
