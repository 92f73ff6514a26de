"""SIGKILL of a worker before, amid and after the effect of each step that moves data or ownership, on the real stores.

Another worker takes over. The outcome is that of a run without the fault, nothing partial is ever visible, and what
the dead worker left is removed.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from drctl.demo.installation import GROUP
from recovery.backup.layout import manifest_key
from recovery.backup.reader import verify_objects
from recovery.domain.ownership import Phase
from recovery.domain.recovery_point import BackupKind, RecoveryPoint, VerdictState
from recovery.domain.report import RunReport, RunState
from tests.integration.contents import contents
from tests.integration.installation import AWAY, HOME, Site, execute, value_of

FAULT = dict[str, Any]


def at(method: str, when: str, **more: Any) -> FAULT:
    return {"method": method, "when": when, **more}


def both(method: str, **more: Any) -> list[FAULT]:
    return [at(method, "before", **more), at(method, "after", **more)]


def cases(*faults: FAULT, quick: tuple[int, ...] = ()) -> list[Any]:
    """Those at the positions in ``quick`` run in every test run, the others in the chaos run."""
    return [
        pytest.param(fault, id=_name(fault), marks=() if number in quick else pytest.mark.chaos)
        for number, fault in enumerate(faults)
    ]


def _name(fault: FAULT) -> str:
    where = fault.get("activity", fault.get("step", ""))
    number = f"-{fault['number']}" if "number" in fault else ""
    return f"{where}:{fault['when']}-{fault['method']}{number}{fault.get('key', '').replace('/', '')}".lstrip(":")


def attempts(report: RunReport, step: str) -> int:
    return next(entry.attempts for entry in report.steps if entry.name == step)


async def run_with_a_loss(site: Site, fault: FAULT, plan: str, **request: Any) -> RunReport:
    """The plan, of which one worker is killed on the way and replaced."""
    site.arm(**fault)
    handle = await site.start(plan, **request)
    orphans = await site.fallen()
    assert orphans == [], "children of the killed worker live on"
    site.crew.hire()
    return await site.ended(handle)


BACKUP_FAULTS = [
    *both("StoredRecoveryPoints.take"),
    at("S3Store.put", "before", number=2),
    at("S3Store.put", "after", number=4),
    at("S3Store.put", "before", key="manifest.json"),  # everything but the manifest is stored
    at("S3Store.put", "after", key="manifest.json"),  # one location has the point, the other has not
    at("S3Store.put", "after", key="manifest.json", number=2),
]


@pytest.mark.parametrize("fault", cases(*BACKUP_FAULTS, quick=(5,)))
@pytest.mark.parametrize(
    "kind", [BackupKind.PHYSICAL, pytest.param(BackupKind.LOGICAL, marks=pytest.mark.chaos)], ids=str
)
async def test_a_backup_survives_its_worker(site: Site, kind: BackupKind, fault: FAULT) -> None:
    step = f"take-{kind}-backup"
    report = await run_with_a_loss(site, {**fault, "step": step}, "Backup", kind=kind)
    assert report.state is RunState.COMPLETED, report.error
    assert attempts(report, step) == 2
    (point_id,) = report.point_ids
    await assert_whole(site, point_id)
    assert (await site.validated(point_id)).state is RunState.COMPLETED
    await discard(site, point_id)
    await site.no_residue()


async def assert_whole(site: Site, point_id: str) -> RecoveryPoint:
    """The point is complete at each location, and nothing else is stored beside it."""
    point = await (await site.catalogue()).point(GROUP, point_id)
    assert sorted(point.locations) == ["store-region-a", "store-region-b"]
    named = {entry.key for artefact in point.manifest.artefacts for entry in artefact.objects}
    for store in await site.stores():
        assert all(check.passed for check in await verify_objects(store, point.manifest))
        there = {info.key async for info in store.list(f"{GROUP}/postgres/{point_id}/")}
        assert {key for key in there if "/verdicts/" not in key} == {*named, manifest_key(GROUP, point_id)}
    return point


async def discard(site: Site, point_id: str) -> None:
    await (await site.catalogue()).delete_point(GROUP, point_id)


@pytest.mark.parametrize(
    "fault",
    cases(
        at("StoredRecoveryPoints.fill", "after"),
        at("S3Store.put", "before", number=1),
        at("S3Store.put", "after", number=2),
        at("S3Store.put", "before", key="manifest.json"),
        at("S3Store.put", "after", key="manifest.json"),
    ),
)
async def test_filling_a_location_survives_its_worker(site: Site, fault: FAULT) -> None:
    """One location lost everything of the point before it was filled."""
    site.arm("StoredRecoveryPoints.fill", step="fill-locations", action="hold")
    handle = await site.start("Backup", kind=BackupKind.LOGICAL)
    await site.held()
    (point_id,) = (await progress(site, handle)).point_ids
    poor = next(store for store in await site.stores() if store.name == "store-region-b")
    await poor.delete([info.key async for info in poor.list(f"{GROUP}/postgres/{point_id}/")])
    site.arm(**{**fault, "step": "fill-locations"}, keep_held=True)
    site.release()
    assert await site.fallen() == []
    site.crew.hire()
    report = await site.ended(handle)
    assert report.state is RunState.COMPLETED, report.error
    assert report.warnings == []
    await assert_whole(site, point_id)
    await site.validated(point_id)
    await discard(site, point_id)
    await site.no_residue()


async def progress(site: Site, handle: Any) -> RunReport:
    from workers import operations

    return await operations.report(handle)


@pytest.mark.parametrize(
    "fault",
    cases(
        *both("StoredRecoveryPoints.validate"),
        at("S3Store.get", "before", number=6),
        *both("LocalPostgres.validate"),
        *both("validation.observe"),  # the scratch server runs
        at("S3Store.put", "before", key=".json"),
        at("S3Store.put", "after", key=".json"),
        quick=(5,),
    ),
)
@pytest.mark.parametrize(
    "kind", [BackupKind.PHYSICAL, pytest.param(BackupKind.LOGICAL, marks=pytest.mark.chaos)], ids=str
)
async def test_a_validation_survives_its_worker(site: Site, kind: BackupKind, fault: FAULT) -> None:
    point_id = await site.point(kind)
    report = await run_with_a_loss(site, {**fault, "step": "validate-points"}, "BackupValidation", point_id=point_id)
    assert report.state is RunState.COMPLETED, report.error
    assert attempts(report, "validate-points") == 2
    point = await (await site.catalogue()).point(GROUP, point_id)
    assert point.verdict is not None
    assert (point.verdict.state, point.verdict.run_id) == (VerdictState.VALID, report.run_id)
    await site.no_residue()


@pytest.mark.parametrize(
    "fault",
    cases(
        *both("StoredRecoveryPoints.repair", step="repair-copies"),
        *both("S3Store.put", step="repair-copies"),
        *both("StoredRecoveryPoints.validate", step="prove-again"),
        quick=(3,),
    ),
)
async def test_a_repair_survives_its_worker(site: Site, fault: FAULT) -> None:
    point_id = await site.backup(BackupKind.LOGICAL)
    point = await (await site.catalogue()).point(GROUP, point_id)
    entry = max((o for a in point.manifest.artefacts for o in a.objects), key=lambda entry: entry.size)
    await site.lab.corrupt(AWAY, "s3-object", key=f"points/{entry.key}")
    report = await run_with_a_loss(site, fault, "BackupValidation", point_id=point_id)
    assert report.state is RunState.COMPLETED, report.error
    assert attempts(report, fault["step"]) == 2
    point = await (await site.catalogue()).point(GROUP, point_id)
    assert point.is_valid
    await assert_whole(site, point_id)
    await discard(site, point_id)
    await site.no_residue()


@pytest.mark.parametrize(
    "fault",
    cases(
        *both("PostgresRestores.restore"),
        at("S3Store.get", "after", number=4),
        *both("LocalPostgresHost.launch"),
        at("LocalPostgres.restore_physical", "after"),
        quick=(2,),
    ),
)
async def test_a_physical_restore_survives_its_worker(site: Site, fault: FAULT) -> None:
    point_id = await site.point(BackupKind.PHYSICAL)
    report = await run_with_a_loss(
        site, {**fault, "step": "restore-database"}, "Restore", point_id=point_id, region=AWAY
    )
    assert report.state is RunState.COMPLETED, report.error
    assert attempts(report, "restore-database") == 2
    assert await contents(away(site)) == await site.source_of(BackupKind.PHYSICAL)
    await site.no_residue()


@pytest.mark.parametrize(
    "fault",
    cases(
        *both("PostgresRestores.restore"),
        at("S3Store.get", "after", number=3),
        *both("LocalPostgres.restore_logical"),
    ),
)
async def test_a_logical_restore_survives_its_worker(site: Site, fault: FAULT) -> None:
    point_id = await site.point(BackupKind.LOGICAL)
    home = site.lab.postgres(HOME)
    try:
        report = await run_with_a_loss(
            site,
            {**fault, "step": "restore-database"},
            "Restore",
            point_id=point_id,
            region=HOME,
            target_database="copy",
        )
        assert report.state is RunState.COMPLETED, report.error
        assert attempts(report, "restore-database") == 2
        assert await contents(home.dsn(database="copy")) == await site.source_of(BackupKind.LOGICAL)
        await site.no_residue()
    finally:
        await execute(home.dsn(), 'DROP DATABASE IF EXISTS "copy" WITH (FORCE)')


def away(site: Site) -> str:
    """The restored cluster has the source's passwords."""
    return site.lab.postgres(HOME).dsn(host=site.lab.postgres(AWAY).host)


OWNERSHIP = [
    fault
    for step in ("claim-group", "take-ownership", "open-writes", "release-group")  # in open-writes: the pivot's record
    for fault in both("WitnessStore.write", step=step)
]
RECOVERY_FAULTS = [
    *both("ConfiguredZones.replace", step="switch-dns"),
    *both("PostgresRestores.open_writes", step="open-writes"),
    *both("PostgresRestores.write_probe", step="confirm-service"),
    *both("PostgresRestores.restore", step="restore-database"),
    *OWNERSHIP,
]


@pytest.mark.parametrize("fault", cases(*RECOVERY_FAULTS, quick=(1, 3)))
async def test_a_recovery_survives_its_worker(site: Site, fault: FAULT) -> None:
    await site.point(BackupKind.PHYSICAL)
    report = await run_with_a_loss(site, fault, "FullRecovery")
    assert report.state is RunState.COMPLETED, report.error
    assert report.undo_order == []
    assert await site.address() == site.lab.postgres(AWAY).host
    record = await site.ownership()
    assert record is not None
    assert (record.region, record.epoch, record.run, record.pivot) == (AWAY, 2, None, None)
    assert record.phase is Phase.STEADY
    assert await value_of(away(site), "SHOW default_transaction_read_only") == "off"
    assert await value_of(away(site), "SELECT count(*) FROM recovery_plans.probe") == 1
    await site.no_residue()


@pytest.mark.parametrize(
    "fault",
    cases(
        *both("PostgresRestores.remove", activity="restores.remove_restored"),
        *both("WitnessStore.write", activity="ownership.return_ownership"),
        *both("WitnessStore.write", activity="ownership.release_run"),
        *both("LocalPostgres.remove_restored"),
        quick=(1,),
    ),
)
async def test_a_rollback_survives_its_worker(site: Site, fault: FAULT) -> None:
    """The application in the target is down, and the worker dies while everything is undone."""
    await site.point(BackupKind.PHYSICAL)
    await site.lab.kill(AWAY, "app")
    try:
        report = await run_with_a_loss(site, fault, "FullRecovery")
    finally:
        await site.lab.restart(AWAY, "app")
    assert report.state is RunState.ROLLED_BACK, report
    assert report.failed_step == "verify-services"
    assert report.undo_order == ["take-ownership", "restore-database", "claim-group"]
    assert [step.undo_error for step in report.steps if step.undo_error] == []
    site.target_is_empty()
    record = await site.ownership()
    assert record is not None
    assert (record.region, record.epoch, record.run) == (HOME, 3, None)
    assert await site.address() == site.lab.postgres(HOME).host
    await site.no_residue()


@pytest.mark.parametrize(
    "fault",
    cases(
        *both("StoredRecoveryPoints.expire"),
        at("S3Store.delete", "before", number=1),
        at("S3Store.delete", "after", number=1),  # the manifest is gone at one location, its objects are not
        at("S3Store.delete", "after", number=2),
        at("S3Store.delete", "after", number=3),
    ),
)
async def test_retention_survives_its_worker(site: Site, fault: FAULT) -> None:
    """Three points of a group that keeps one: the newest stays, whole; of the others nothing stays."""
    kept = await only_one_is_kept(site)
    before = await site.point(BackupKind.PHYSICAL)
    report = await run_with_a_loss(site, {**fault, "step": "expire-points"}, "Retention")
    assert report.state is RunState.COMPLETED, report.error
    catalogue = await site.catalogue()
    left = {point.point_id for point in await catalogue.points(GROUP) if point.manifest.kind is BackupKind.LOGICAL}
    assert left == kept
    for point_id in kept | {before}:
        await assert_whole(site, point_id)
    # What an interrupted removal left has no manifest: the next retention after a day takes it.
    _, failed = await catalogue.remove_orphans(GROUP, datetime.now(UTC) + timedelta(hours=1))
    assert failed == {}
    await site.no_residue()


async def only_one_is_kept(site: Site) -> set[str]:
    """The configuration keeps one logical point; there are two more, older ones."""
    for _ in range(3):
        newest = await site.backup(BackupKind.LOGICAL)
    return {newest}
