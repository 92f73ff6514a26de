"""Backup, validation and restore as whole plans, on real servers, while clients write."""

from __future__ import annotations

import asyncio
import shutil
import time

import pytest

from drctl.demo.installation import GROUP
from lab.workload import Workload
from recovery.adapters.postgres.host import stop_server
from recovery.domain.recovery_point import BackupKind, VerdictState
from recovery.domain.report import RunReport, RunState, StepState
from tests.integration.contents import acknowledged, contents, missing, torn_transactions
from tests.integration.installation import AWAY, HOME, Site, execute, value_of
from tests.ports import free_port

KINDS = [BackupKind.PHYSICAL, BackupKind.LOGICAL]


def assert_completed(report: RunReport) -> None:
    assert report.state is RunState.COMPLETED, report.error
    assert not [step for step in report.steps if step.state not in (StepState.DONE, StepState.SKIPPED)], report.steps


async def test_both_kinds_are_taken_under_load_validated_and_restored(site: Site) -> None:
    """The main path: what was acknowledged before the backup began is in the restored copy, and nothing is torn."""
    async with Workload(site.lab, transactions_per_second=100) as workload:
        await workload.wait_for(50)
        before = time.time()
        report = await site.run("Backup")
        ongoing = workload.acknowledged()
        await workload.wait_for(ongoing + 1)  # the load went on until the end
        assert_completed(report)
        assert sorted(point.split("-")[1] for point in report.point_ids) == ["logical", "physical"]
        for point_id in report.point_ids:
            assert_completed(await site.validated(point_id))
    points = {point.point_id: point for point in await (await site.catalogue()).points(GROUP)}
    for point_id in report.point_ids:
        verdict = points[point_id].verdict
        assert verdict is not None and verdict.state is VerdictState.VALID, verdict
        assert sorted(points[point_id].locations) == ["store-region-a", "store-region-b"]
        passed = {check.name: check.detail for check in verdict.checks}
        assert {"fingerprints", "sequences", "large-objects", "roles", "extensions", "critical-tables"} <= set(passed)
    physical, logical = sorted(report.point_ids, key=lambda point: "logical" in point)
    committed = acknowledged(workload.file, before)
    assert len(committed) >= 50
    home = site.lab.postgres(HOME)

    assert_completed(await site.run("Restore", point_id=logical, region=HOME, target_database="copy"))
    try:
        copy = home.dsn(database="copy")
        assert await missing(copy, committed) == set()
        assert await torn_transactions(copy) == 0
    finally:
        await execute(home.dsn(), 'DROP DATABASE "copy" WITH (FORCE)')

    folder, port = site.folder / "copies" / "physical", free_port()
    folder.parent.mkdir(mode=0o711, exist_ok=True)
    restored = await site.run("Restore", point_id=physical, region=AWAY, target_directory=str(folder), target_port=port)
    assert_completed(restored)
    try:
        away = site.lab.postgres(AWAY).model_copy(update={"port": port, "password": home.password})
        assert await missing(away.dsn(), committed) == set()
        assert await torn_transactions(away.dsn()) == 0
    finally:
        await stop_server(folder, gentle=False)
        await asyncio.to_thread(shutil.rmtree, folder)
    await site.no_residue()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_restored_copy_equals_its_quiet_source(site: Site, kind: BackupKind) -> None:
    point_id = await site.point(kind)
    home = site.lab.postgres(HOME)
    expected = await site.source_of(kind)
    if kind is BackupKind.LOGICAL:
        report = await site.run("Restore", point_id=point_id, region=HOME, target_database="copy")
        dsn = home.dsn(database="copy")
    else:
        report = await site.run("Restore", point_id=point_id, region=AWAY)
        dsn = home.dsn(host=site.lab.postgres(AWAY).host)
    assert_completed(report)
    try:
        found = await contents(dsn)
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert found[key] == value, key
        assert await value_of(dsn, "SHOW default_transaction_read_only") == "off"
    finally:
        if kind is BackupKind.LOGICAL:
            await execute(home.dsn(), 'DROP DATABASE "copy" WITH (FORCE)')


async def test_the_newest_validated_point_is_taken_and_not_a_newer_unproven_one(site: Site) -> None:
    await site.point(BackupKind.PHYSICAL)
    validated = (await (await site.catalogue()).newest_validated(GROUP, BackupKind.PHYSICAL)).point_id
    site.arm("StoredRecoveryPoints.validate", action="hold")
    unproven = (await site.run("Backup", kind=BackupKind.PHYSICAL)).point_ids[0]
    await site.held()
    try:
        report = await site.run("Restore", region=AWAY)
        assert_completed(report)
        assert report.point_ids == [validated]
    finally:
        site.release()
        await site.validated(unproven)
        await (await site.catalogue()).delete_point(GROUP, unproven)
