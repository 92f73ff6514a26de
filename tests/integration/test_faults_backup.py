"""Backups under faults on real servers: stores, the source, Temporal, two at once, cancellation. Under write load.

In no case is an existing recovery point touched, and what is not whole is never visible.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
from ruamel.yaml import YAML

from drctl.demo.installation import GROUP
from lab.workload import Workload
from recovery.domain.plan import PlanRequest
from recovery.domain.recovery_point import BackupKind
from recovery.domain.report import RunReport, RunState
from tests.integration.installation import AWAY, HOME, Site, eventually
from workers import operations
from workers.operations import Handle

PHYSICAL, LOGICAL = BackupKind.PHYSICAL, BackupKind.LOGICAL
KINDS = [PHYSICAL, pytest.param(LOGICAL, marks=pytest.mark.chaos)]


@pytest.fixture
async def busy(site: Site) -> AsyncIterator[Site]:
    """A site with an existing recovery point and clients that write; the point is the same afterwards."""
    point_id = await site.point(PHYSICAL)
    before = await site.objects(point_id)
    async with Workload(site.lab, transactions_per_second=50, file=site.folder / "faults.log"):
        yield site
    after = await site.objects(point_id)
    for name, objects in before.items():  # a location that lacked it may have been given it meanwhile
        assert objects.items() <= after[name].items(), f"an existing point was touched at {name}"


async def held_backup(site: Site, kind: BackupKind, number: int = 2) -> Handle:
    """A backup that stands before it seals its n-th chunk: earlier ones are stored, later ones are not read yet."""
    site.arm("Sealer.seal", step=f"take-{kind}-backup", number=number, action="hold")
    handle = await site.start("Backup", kind=kind)
    await site.held()
    return handle


async def points(site: Site) -> set[str]:
    return {point.point_id for point in await (await site.catalogue()).points(GROUP)}


def failed(report: RunReport, step: str) -> str:
    assert report.state is RunState.ROLLED_BACK, report
    assert report.failed_step == step
    return report.error


async def discarded(site: Site, point_id: str) -> None:
    await site.validated(point_id)
    await (await site.catalogue()).delete_point(GROUP, point_id)


@pytest.mark.parametrize("kind", KINDS, ids=str)
async def test_a_cancelled_backup_is_gone_within_a_second(busy: Site, kind: BackupKind) -> None:
    before = await points(busy)
    handle = await held_backup(busy, kind)
    await busy.cancel_arrives(handle)
    assert (await operations.result(handle)).state is RunState.ROLLED_BACK
    assert await points(busy) == before
    busy.release()
    await busy.no_residue()


@pytest.mark.parametrize("kind", KINDS, ids=str)
async def test_a_source_that_dies_is_reported_in_its_own_words(busy: Site, kind: BackupKind) -> None:
    before = await points(busy)
    handle = await held_backup(busy, kind)
    await busy.lab.kill(HOME, "postgres")
    try:
        busy.release()
        error = failed(await busy.ended(handle), f"take-{kind}-backup")
    finally:
        await busy.lab.restart(HOME, "postgres")
    assert any(words in error for words in ("closed the connection unexpectedly", "terminating connection")), error
    assert await points(busy) == before
    await busy.no_residue()


async def test_one_location_refuses_and_is_filled_when_it_is_back(busy: Site) -> None:
    """The backup does not wait for it; a later backup gives it what it lacks, verdict included."""
    await busy.lab.kill(AWAY, "s3")
    try:
        report = await busy.run("Backup", kind=LOGICAL)
        assert report.state is RunState.COMPLETED, report.error
        (first,) = report.point_ids
        assert any("store-region-b" in warning and "was dropped" in warning for warning in report.warnings), report
        assert any("fill-locations" in warning for warning in report.warnings)
        await busy.validated(first)
    finally:
        await busy.lab.restart(AWAY, "s3")
    point = await (await busy.catalogue()).point(GROUP, first)
    assert (point.locations, point.is_valid) == (["store-region-a"], True)
    later = await busy.run("Backup", kind=LOGICAL)
    assert later.state is RunState.COMPLETED, later.error
    assert later.warnings == []
    point = await (await busy.catalogue()).point(GROUP, first)
    assert point.locations == ["store-region-a", "store-region-b"]
    objects = await busy.objects(first)
    assert objects["store-region-a"] == objects["store-region-b"]
    await discarded(busy, later.point_ids[0])
    await discarded(busy, first)
    await busy.no_residue()


@pytest.mark.chaos
async def test_one_location_freezes_in_mid_upload(busy: Site) -> None:
    handle = await held_backup(busy, PHYSICAL)
    await busy.lab.freeze(AWAY, "s3")
    try:
        busy.release()
        report = await busy.ended(handle)
    finally:
        await busy.lab.thaw(AWAY, "s3")
    assert report.state is RunState.COMPLETED, report.error
    (point_id,) = report.point_ids
    assert any("store-region-b" in warning and "was dropped" in warning for warning in report.warnings), report
    await busy.validated(point_id)
    refilled = await busy.run("Backup", kind=LOGICAL)
    point = await (await busy.catalogue()).point(GROUP, point_id)
    assert (point.locations, point.is_valid) == (["store-region-a", "store-region-b"], True)
    for each in (*refilled.point_ids, point_id):
        await discarded(busy, each)
    await busy.no_residue()


def through_the_network(site: Site) -> Path:
    """The same installation, whose second store is reached through a link that can be slow, with many small objects."""
    yaml = YAML()
    document = yaml.load(site.installation.config_file)
    host, port = site.lab.seen_from(HOME, AWAY, "s3")
    document["locations"][f"store-{AWAY}"]["endpoint"] = f"http://{host}:{port}"
    document["groups"][GROUP]["backup"]["chunk_size"] = "256KiB"
    target = site.installation.folder / "through-the-network.yaml"
    yaml.dump(document, target)
    return target


def children_of(pid: int) -> list[int]:
    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


def peak_bytes(pid: int) -> int:
    """The most memory that a process had."""
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


async def test_one_location_is_slow_and_holds_neither_the_others_up_nor_memory(busy: Site) -> None:
    """Every upload to it takes two seconds and succeeds: with it, this backup would take minutes."""
    await busy.crew.dismiss()
    worker = busy.crew.hire(await asyncio.to_thread(through_the_network, busy), TEST_PATIENCE_SECONDS="3")
    await worker.ready()
    handle = await held_backup(busy, PHYSICAL)
    await busy.lab.slow(AWAY, "s3", seconds=1)
    try:
        busy.arm("StoredRecoveryPoints.fill", action="hold", keep_held=True)
        began = time.monotonic()
        busy.release()
        await busy.held()
        took = time.monotonic() - began
        point = (await (await busy.catalogue()).points(GROUP))[0]
        peak = sum(peak_bytes(pid) for pid in (worker.process.pid, *children_of(worker.process.pid)))
    finally:
        await busy.lab.heal()
    objects = sum(len(artefact.objects) for artefact in point.manifest.artefacts)
    assert objects > 100
    assert took < objects / 4 * 2 / 2, "half of what four uploads at once would have taken"
    assert point.locations == [f"store-{HOME}"]
    assert peak < 400_000_000
    busy.release()
    report = await busy.ended(handle)
    assert report.state is RunState.COMPLETED, report.error
    assert report.point_ids == [point.point_id]
    told = [words for words in report.warnings if f"store-{AWAY} was dropped" in words]
    assert "slower than the other locations: they waited" in told[0]
    await busy.validated(point.point_id)
    stored = await busy.objects(point.point_id)
    assert stored[f"store-{HOME}"] == stored[f"store-{AWAY}"], "it is filled afterwards"
    await discarded(busy, point.point_id)
    await busy.no_residue()


@pytest.mark.chaos
async def test_all_locations_failing_is_a_failure_and_is_cleaned(busy: Site) -> None:
    before = await points(busy)
    handle = await held_backup(busy, PHYSICAL, number=4)
    for region in (HOME, AWAY):
        await busy.lab.kill(region, "s3")
    try:
        busy.release()

        async def given_up() -> bool:
            return (await operations.report(handle)).state is RunState.ROLLING_BACK

        await eventually(given_up, 80)
    finally:
        for region in (HOME, AWAY):
            await busy.lab.restart(region, "s3")
    error = failed(await busy.ended(handle), "take-physical-backup")
    assert "store-region-a" in error
    assert "store-region-b" in error
    assert await points(busy) == before
    await busy.no_residue()


async def test_two_backups_of_one_source_at_once(busy: Site) -> None:
    """The second is started by hand under any id, as in the Temporal UI: it is refused with the first one's point."""
    handle = await held_backup(busy, PHYSICAL)
    second = await busy.client.start_workflow(
        "Backup",
        {"group": GROUP, "kind": "physical"},
        id="by-hand",
        task_queue=busy.config.temporal.control_queue,
        result_type=RunReport,
    )
    error = failed(await operations.result(second), "take-physical-backup")
    assert "another physical backup of this PostgreSQL is running (" in error
    named = error.split("(")[1].split(")")[0]
    attached, new = await operations.start(busy.client, busy.config, "Backup", request(PHYSICAL))
    assert (attached.id, new) == (handle.id, False), "the same request again attaches"
    busy.release()
    report = await busy.ended(handle)
    assert report.state is RunState.COMPLETED, report.error
    assert report.point_ids == [named]
    await discarded(busy, named)
    await busy.no_residue()


def request(kind: BackupKind) -> PlanRequest:
    return PlanRequest(group=GROUP, kind=kind)


async def test_a_backup_of_a_region_that_lost_the_group_is_not_kept(busy: Site) -> None:
    """Nobody took the group when the backup began; before its manifest is written, a recovery moves it away."""
    before = await points(busy)
    handle = await held_backup(busy, PHYSICAL, number=4)
    recovered = await busy.run("FullRecovery")
    assert recovered.state is RunState.COMPLETED, recovered.error
    busy.release()
    error = failed(await busy.ended(handle), "take-physical-backup")
    assert f"moved to {AWAY} (epoch 2)" in error
    assert await points(busy) == before
    await busy.no_residue()


@pytest.mark.parametrize("kind", KINDS, ids=str)
async def test_temporal_is_killed_in_mid_backup(busy: Site, kind: BackupKind) -> None:
    handle = await held_backup(busy, kind)
    await busy.lab.kill("temporal")
    await busy.lab.restart("temporal")
    busy.release()
    report = await busy.ended(handle)
    assert report.state is RunState.COMPLETED, report.error
    (point_id,) = report.point_ids
    assert (await busy.validated(point_id)).state is RunState.COMPLETED
    await discarded(busy, point_id)
    await busy.no_residue()


@pytest.mark.chaos
async def test_temporal_is_killed_in_mid_restore(site: Site) -> None:
    await site.point(PHYSICAL)
    site.arm("S3Store.get", step="restore-database", number=3, action="hold")
    handle = await site.start("FullRecovery")
    await site.held()
    await site.lab.kill("temporal")
    await site.lab.restart("temporal")
    site.release()
    report = await site.ended(handle)
    assert report.state is RunState.COMPLETED, report.error
    assert report.undo_order == []
    record = await site.ownership()
    assert record is not None
    assert (record.region, record.epoch, record.run) == (AWAY, 2, None)
    await site.no_residue()


@pytest.mark.chaos
async def test_a_frozen_worker_does_not_keep_the_next_from_backing_up(busy: Site) -> None:
    """It holds the lock of backups and its session lives; Temporal gives the step to another worker."""
    handle = await held_backup(busy, PHYSICAL)
    frozen = await busy.freeze_holder()
    busy.release()
    try:
        report = await busy.ended(handle)
        assert report.state is RunState.COMPLETED, report.error
    finally:
        frozen.resume()
    (point_id,) = report.point_ids
    await busy.validated(point_id)
    await busy.no_residue()
    point = await (await busy.catalogue()).point(GROUP, point_id)
    assert point.locations == ["store-region-a", "store-region-b"]
    await discarded(busy, point_id)
