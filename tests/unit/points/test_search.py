"""Recovery points of search engines: taken, proven and kept, against the documented answers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from temporalio.testing import ActivityEnvironment

from activities.recovery_points import RecoveryPointSteps
from recovery.adapters.search.marks import MARK
from recovery.adapters.search.points import rule_of
from recovery.adapters.search.recovery import SearchSnapshots
from recovery.adapters.search.restoring import Restore
from recovery.backup.layout import manifest_key
from recovery.domain.group import RetentionRule
from recovery.domain.plan import Facts, PlanContext, PlanRequest
from recovery.domain.recovery_point import BackupKind, DataStore, VerdictState
from recovery.domain.search import snapshot_name
from recovery.errors import BadInput, NotFound, NotOurs, Refused, SourceFailed, Unreachable
from recovery.ports.search import SearchRestoreOptions
from tests.contract.search_answers import Index, Snapshot, failing
from tests.fakes.handover import group_of
from tests.fakes.measurements import FakeMeasurements
from tests.fakes.object_store import FaultyStore
from tests.fakes.points import NOW
from tests.unit.points.rig import REGION
from tests.unit.points.search_rig import PLACE, POINT, Searches, nothing

SNAPSHOT = snapshot_name(POINT)


# Backups.


async def test_a_point_is_its_manifest_and_the_snapshot_stands_in_the_regions_own_folder(searches: Searches) -> None:
    seen: list[tuple[int, int, str]] = []
    searches.east.snapshot_looks = 3
    taken = await searches.points.take(searches.backup(), lambda *state: seen.append(state))
    manifest = taken.manifest
    assert (taken.complete, manifest.store, manifest.kind) == (["a", "b"], "search", BackupKind.SEARCH)
    assert (manifest.artefacts, manifest.stored_bytes, manifest.plain_bytes) == ([], 0, 47_000)
    assert [part.index for part in manifest.search.indices] == ["orders-1", "products"]
    assert list(searches.kept) == [manifest.search.snapshot] == [SNAPSHOT]
    assert (manifest.search.repository_type, manifest.search.repository_settings) == ("fs", {"location": PLACE})
    assert manifest_key("shop", POINT) == f"shop/search/{POINT}/manifest.json"
    assert any("of 3 shards" in what for _, _, what in seen), seen
    listed = await searches.points.points(searches.rig.group)
    assert {point.point_id for point in listed} == {POINT, searches.rig.point_id}
    with pytest.raises(BadInput, match="is of search, and not of PostgreSQL"):
        _ = manifest.postgres
    with pytest.raises(BadInput, match="is of postgres, and not of a search engine"):
        _ = searches.rig.manifest.search
    assert await searches.take() == manifest  # found, not taken again


async def test_a_partial_snapshot_is_a_failure_with_its_shards_and_is_taken_anew(searches: Searches) -> None:
    searches.east.outcome = failing("PARTIAL", 1)
    with pytest.raises(SourceFailed, match=r"ended PARTIAL: 1 of 3 shards failed: orders\[0\]: IOException\[disk\]"):
        await searches.take()
    assert searches.kept == {}
    searches.east.outcome = lambda snapshot: None
    assert (await searches.take()).search.shards == 3


async def test_without_a_place_the_repository_is_as_others_registered_it(searches: Searches) -> None:
    rule = searches.rig.group.search
    assert rule is not None
    own = rule.model_copy(update={"storage": None, "repository": "nightly"})
    searches.rig.group = searches.rig.group.model_copy(update={"search": own})
    (check, *_) = await searches.points.check_source(searches.rig.group, REGION, [DataStore.SEARCH])
    assert not check.passed and "nightly" in check.detail
    with pytest.raises(NotFound, match="nightly"):
        await searches.take()
    await searches.site.east.register(searches.site.repository("nightly"))
    (check, *_) = await searches.points.check_source(searches.rig.group, REGION, [DataStore.SEARCH])
    assert check.passed and "OpenSearch 2.19.1, cluster east; repository nightly at east-1" in check.detail
    assert (await searches.take()).search.repository_settings == {"location": "/repository/nightly"}


async def test_a_cluster_that_was_made_anew_writes_only_once_somebody_says_so(searches: Searches) -> None:
    await searches.take()
    searches.east.uuid = "another"
    second = POINT.replace("1015", "1115")
    with pytest.raises(Refused, match="say take over"):
        await searches.take(second)
    await searches.take(second, take_over=True)
    await searches.take(POINT.replace("1015", "1215"))
    assert len(searches.kept) == 3


async def test_a_backup_says_where_its_bytes_are_and_its_undo_asks_the_region_that_took_it(searches: Searches) -> None:
    measured = FakeMeasurements()
    steps = RecoveryPointSteps(searches.points, measured)
    about = PlanContext(
        plan="Backup", run_id="run-7", workflow_id="backup/shop", step="take-search-backup", started_at=NOW,
        request=PlanRequest(group="shop"), facts=Facts(group=searches.rig.group, source_region=REGION),
    )  # fmt: skip
    outcome = await ActivityEnvironment().run(steps.take_search_backup, about)
    assert "of 2 indices in repository recovery" in outcome.summary and "described at a, b" in outcome.summary
    assert outcome.facts.search_point is not None
    assert (measured.stored, measured.backups) == ([("search", {"repository recovery": 47_000})], [])
    for store in searches.rig.stores:
        await store.delete([manifest_key("shop", outcome.facts.search_point)])
    away = about.facts.model_copy(update={"source_region": "region-b"})
    other = await ActivityEnvironment().run(steps.remove_unfinished, about.model_copy(update={"facts": away}))
    assert (other.summary, len(searches.kept)) == ("0 objects removed", 1)
    undone = await ActivityEnvironment().run(steps.remove_unfinished, about)
    assert (undone.summary, searches.kept) == ("1 objects removed", {})


# Undo.


async def test_what_has_no_manifest_is_deleted_and_what_has_one_stays(searches: Searches) -> None:
    searches.rig.stores[:] = [cast(Any, FaultyStore("a", fault=lambda number, key: Unreachable("full")))]
    with pytest.raises(Unreachable, match="no backup location is left"):
        await searches.take()
    assert list(searches.kept) == [SNAPSHOT]  # another attempt finds it
    group = searches.rig.group
    assert await searches.points.remove_unfinished(group, POINT, REGION) == 1
    assert (searches.kept, await searches.points.remove_unfinished(group, POINT, REGION)) == ({}, 0)
    cast(FaultyStore, searches.rig.stores[0]).fault = lambda number, key: None
    await searches.take()
    assert await searches.points.remove_unfinished(group, POINT, REGION) == 0
    assert list(searches.kept) == [SNAPSHOT]


async def test_a_silent_location_may_hold_the_manifest(searches: Searches, monkeypatch: pytest.MonkeyPatch) -> None:
    async def silent(key: str) -> Any:
        raise Unreachable("b does not answer")

    await searches.take()
    store = searches.rig.stores[0]
    await store.delete([manifest_key("shop", POINT)])
    monkeypatch.setattr(searches.rig.stores[1], "get", silent)
    with pytest.raises(Unreachable, match="b does not answer"):
        await searches.points.remove_unfinished(searches.rig.group, POINT, REGION)
    assert list(searches.kept) == [SNAPSHOT]


async def test_a_snapshot_of_others_is_never_deleted(searches: Searches) -> None:
    searches.site.disk.places[PLACE] = {SNAPSHOT: Snapshot(SNAPSHOT, {}, {}, "2.19.1", False, None, 0)}
    with pytest.raises(NotOurs, match="was made by others and was not touched"):
        await searches.take()
    with pytest.raises(NotOurs):
        await searches.points.remove_unfinished(searches.rig.group, POINT, REGION)
    assert list(searches.kept) == [SNAPSHOT]


# Validation.


async def test_a_point_is_proven_by_a_restore_under_other_names(searches: Searches) -> None:
    await searches.site.make("west", "orders-1", 3)  # the scratch cluster is somebody's
    await searches.take()
    verdict = await searches.validate()
    assert verdict.state is VerdictState.VALID, verdict.reason
    assert "restored at OpenSearch 2.19.1, cluster west, under other names and deleted again: 2 indices with 47" in (
        verdict.reason
    )
    assert [check.name for check in verdict.checks] == ["snapshot", "restore"]
    assert await searches.site.docs("west") == {"orders-1": 3}
    assert searches.west.repositories == {
        f"recovery-{REGION}": {"type": "fs", "settings": {"location": PLACE, "readonly": "true"}}
    }
    assert (await searches.points.point(searches.rig.group, POINT)).is_valid
    assert not searches.west.indices["orders-1"].aliases
    asked = searches.west.bodies[f"POST /_snapshot/recovery-{REGION}/{SNAPSHOT}/_restore"]
    assert "index.lifecycle.*" in asked["ignore_index_settings"], "the copy is not the policy's to delete"


async def test_nothing_is_called_valid_that_nobody_restored(searches: Searches) -> None:
    searches.has_scratch = False
    await searches.take()
    verdict = await searches.validate()
    assert verdict.state is VerdictState.FAILED
    assert "3 shards with files of 47000 bytes, all listed as they were taken" in verdict.reason
    assert "was not restored: name a cluster for that in groups.shop.elasticsearch.scratch" in verdict.reason
    assert [(check.name, check.passed) for check in verdict.checks] == [("snapshot", True)]


def gone(snapshots: dict[str, Snapshot]) -> None:
    del snapshots[SNAPSHOT]


def made_anew(snapshots: dict[str, Snapshot]) -> None:
    snapshots[SNAPSHOT].uuid = "another"


def smaller(snapshots: dict[str, Snapshot]) -> None:
    snapshots[SNAPSHOT].indices["orders-1"].shards = [20, 19]


def partial(snapshots: dict[str, Snapshot]) -> None:
    failing("PARTIAL", 1)(snapshots[SNAPSHOT])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (gone, "holds no snapshot"),
        (made_anew, "is another one"),
        (smaller, "files of 46000 bytes instead of 47000"),
        (partial, "ended PARTIAL"),
    ],
)
@pytest.mark.parametrize("has_scratch", [True, False])
async def test_a_snapshot_that_is_not_what_was_taken_is_corrupt(
    searches: Searches, change: Any, said: str, has_scratch: bool
) -> None:
    searches.has_scratch = has_scratch
    await searches.take()
    change(searches.kept)
    verdict = await searches.validate()
    assert (verdict.state, said in verdict.reason) == (VerdictState.CORRUPT, True), verdict.reason


async def test_files_that_cannot_be_read_fail_the_restore_and_leave_nothing(searches: Searches) -> None:
    await searches.take()
    searches.site.disk.damaged.add(PLACE)
    verdict = await searches.validate()
    assert verdict.state is VerdictState.RESTORE_FAILED
    assert "shard has failed to be restored" in verdict.reason
    assert searches.west.indices == {}


async def test_a_point_of_a_lost_region_is_proven_all_the_same(searches: Searches) -> None:
    await searches.take()
    searches.lost = {"east"}
    verdict = await searches.validate()
    assert verdict.state is VerdictState.VALID
    assert "not looked at by the cluster that took it: 127.0.0.1:9 could not be asked" in verdict.reason
    searches.lost = {"east", "scratch"}
    assert (await searches.validate()).state is VerdictState.FAILED


async def test_what_a_lost_validation_left_is_removed_by_a_later_one_and_a_running_ones_is_not(
    searches: Searches,
) -> None:
    old, new = (f"validation-{datetime.now(UTC) - timedelta(hours=age):%Y%m%dT%H%M%SZ}-1a2b3c4d" for age in (25, 1))
    for name, mark in (("old", old), ("new", new), ("restored", "restore-1")):
        searches.west.indices[name] = Index([1], settings={MARK: mark})
    await searches.take()
    assert (await searches.validate()).state is VerdictState.VALID
    assert set(searches.west.indices) == {"new", "restored"}


async def test_a_snapshot_that_an_earlier_attempt_began_is_not_called_compared(searches: Searches) -> None:
    """What its shards held at least is not known: an emptied copy would not be noticed."""
    searches.rig.stores[:] = [cast(Any, FaultyStore("a", fault=lambda number, key: Unreachable("full")))]
    with pytest.raises(Unreachable):
        await searches.take()
    cast(FaultyStore, searches.rig.stores[0]).fault = lambda number, key: None
    assert (await searches.take()).search.notes
    for index in searches.kept[SNAPSHOT].indices.values():
        index.shards = [0 for _ in index.shards]
    searches.lost = {"east"}  # else it would see other files
    verdict = await searches.validate()
    assert verdict.state is VerdictState.VALID and "as they were taken" not in verdict.reason
    unknown = "not compared, for they were closed or new when taken, or an earlier attempt had begun that:"
    assert f"{unknown} validation-" in verdict.reason
    restored = await searches.restores.restore(searches.order(), nothing)
    (check,) = await searches.restores.verify(searches.rig.group, restored)
    assert check.detail.startswith("0 hold every document") and f"{unknown} orders-1, products" in check.detail


async def test_a_snapshot_holds_no_copies_of_validations(searches: Searches) -> None:
    """A region's own cluster may be the one in which points are proven."""
    copy = {MARK: "validation-20261122T101500Z-1a2b3c4d"}
    for name in ("validation-1a2b3c4d-orders-1", ".ds-validation-1a2b3c4d-logs-000001"):
        searches.east.indices[name] = Index([1], settings=dict(copy))
    searches.east.indices["validation-results"] = Index([1])
    manifest = await searches.take()
    assert [part.index for part in manifest.search.indices] == ["orders-1", "products", "validation-results"]
    assert manifest.search.patterns == ["*"]
    assert await searches.take() == manifest
    rule = searches.rig.group.search
    assert rule is not None
    named = rule.model_copy(update={"indices": ["products"]})  # behind which a hyphen excludes nothing
    searches.rig.group = searches.rig.group.model_copy(update={"search": named})
    second = POINT.replace("1015", "1115")
    assert [part.index for part in (await searches.take(second)).search.indices] == ["products"]
    assert searches.east.bodies[f"PUT /_snapshot/recovery/{snapshot_name(second)}"]["indices"] == ["products"]


async def test_a_copy_that_could_not_be_deleted_is_not_called_deleted(
    searches: Searches, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lost(self: SearchSnapshots, restore_id: str) -> list[str]:
        raise Unreachable("the cluster is gone")

    await searches.take()
    monkeypatch.setattr(SearchSnapshots, "remove_restored", lost)
    verdict = await searches.validate()
    assert verdict.state is VerdictState.VALID
    assert "deleted again" not in verdict.reason
    assert "not deleted yet, which a later validation does: 2 indices with 47 documents" in verdict.reason


# Retention.


async def test_a_snapshot_goes_with_its_point_and_no_other(searches: Searches) -> None:
    points = [POINT.replace("1015", f"1{hour}15") for hour in range(1, 5)]
    for point in points:
        await searches.take(point)
    await searches.site.foreign_snapshot("shop/region-a", "by-hand")
    searches.rig.group = searches.rig.group.model_copy(update={"retention": RetentionRule(count=2)})
    dry = await searches.points.expire(searches.rig.group, datetime.now(UTC), dry_run=True)
    assert (set(dry.removed), len(searches.kept)) == (set(points[:2]), 5)
    done = await searches.points.expire(searches.rig.group, datetime.now(UTC), dry_run=False)
    assert done.removed.keys() == dry.removed.keys()
    assert set(searches.kept) == {"by-hand", *(snapshot_name(point) for point in points[2:])}
    assert {point.point_id for point in await searches.points.points(searches.rig.group)} == {
        *points[2:], searches.rig.point_id,
    }  # fmt: skip


async def test_a_point_stays_until_its_snapshot_could_be_deleted(searches: Searches) -> None:
    second = POINT.replace("1015", "1115")
    for point in (POINT, second):
        await searches.take(point)
    searches.rig.group = searches.rig.group.model_copy(update={"retention": RetentionRule(count=1)})
    searches.lost = {"east"}
    with pytest.raises(Unreachable, match=f"{POINT}: .*could not be asked"):
        await searches.points.expire(searches.rig.group, datetime.now(UTC), dry_run=False)
    searches.lost = set()
    assert (await searches.points.point(searches.rig.group, POINT)).manifest.search.snapshot in searches.kept
    searches.kept[SNAPSHOT].metadata = None  # somebody else's by now
    await searches.points.expire(searches.rig.group, datetime.now(UTC), dry_run=False)
    assert set(searches.kept) == {SNAPSHOT, snapshot_name(second)}
    with pytest.raises(NotFound):
        await searches.points.point(searches.rig.group, POINT)


async def test_a_restores_id_is_part_of_names_and_keeps_to_their_letters() -> None:
    for wrong in ("", "a/b", "a b", "x" * 201):
        with pytest.raises(BadInput, match="restore's id"):
            Restore(cast(Any, None), cast(Any, None), SearchRestoreOptions(wrong))


def test_a_group_without_a_search_engine_is_told_where_to_name_one() -> None:
    with pytest.raises(BadInput, match=r"groups\.shop\.elasticsearch"):
        rule_of(group_of("a", "b"))
