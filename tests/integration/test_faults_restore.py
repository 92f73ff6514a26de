"""Damage and wrong keys, as whole runs on real servers; refusals of a restore that would overwrite something."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from drctl.demo.installation import GROUP
from recovery.backup.layout import manifest_key
from recovery.backup.sealing import generate_age_key
from recovery.domain.recovery_point import BackupKind, VerdictState
from recovery.domain.report import RunReport, RunState
from tests.integration.contents import contents
from tests.integration.installation import AWAY, HOME, Site
from workers import operations

PHYSICAL, LOGICAL = BackupKind.PHYSICAL, BackupKind.LOGICAL


def failed(report: RunReport, step: str) -> str:
    assert report.state is RunState.ROLLED_BACK, report
    assert report.failed_step == step, report.error
    return report.error


async def messages(site: Site) -> list[str]:
    text = await asyncio.to_thread(site.lab.webhook().file.read_text)
    return [json.dumps(json.loads(line)) for line in text.splitlines()]


async def fresh_point(site: Site) -> str:
    point_id = await site.backup(LOGICAL)
    assert (await (await site.catalogue()).newest_validated(GROUP, LOGICAL)).point_id == point_id
    return point_id


@pytest.mark.parametrize("missing", [False, pytest.param(True, marks=pytest.mark.chaos)], ids=["flipped", "missing"])
async def test_a_damaged_object_makes_a_validation_corrupt_and_somebody_hears_of_it(site: Site, missing: bool) -> None:
    older = await site.point(LOGICAL)
    point_id = await fresh_point(site)
    point = await (await site.catalogue()).point(GROUP, point_id)
    entry = max((o for a in point.manifest.artefacts for o in a.objects), key=lambda entry: entry.size)
    await site.lab.corrupt(AWAY, "s3-object", key=f"points/{entry.key}", offset=entry.size // 3, missing=missing)
    site.arm("StoredRecoveryPoints.repair", action="fail", error="Refused", words="this location cannot be written to")
    error = failed(await site.run("BackupValidation", point_id=point_id), "judge")
    assert f"{point_id} is CORRUPT: at store-region-b" in error
    assert entry.key in error
    told = [message for message in await messages(site) if "not VALID" in message and entry.key in message]
    assert told, "the webhook has been told which object it is"
    assert (await (await site.catalogue()).newest_validated(GROUP, LOGICAL)).point_id != point_id
    # A restore takes the intact copy of the other location, if somebody insists on this point.
    report = await site.run("Restore", point_id=point_id, region=HOME, target_database="copy")
    assert report.state is RunState.COMPLETED, report.error
    assert any("named by the operator and is CORRUPT" in warning for warning in report.warnings)
    home = site.lab.postgres(HOME)
    assert await contents(home.dsn(database="copy")) == await contents(home.dsn())
    await site.drop("copy")
    await (await site.catalogue()).delete_point(GROUP, point_id)
    assert (await (await site.catalogue()).point(GROUP, older)).is_valid


async def remove(site: Site, key: str) -> None:
    (store,) = [store for store in await site.stores() if store.name == f"store-{AWAY}"]
    await store.delete([key])


async def stored(site: Site, point_id: str) -> dict[str, dict[str, bytes]]:
    """Location -> key -> bytes of everything that makes the point; verdicts come later."""
    prefix = f"{GROUP}/postgres/{point_id}/"
    return {
        store.name: {
            info.key: (await store.get(info.key))[0]
            async for info in store.list(prefix)
            if "/verdicts/" not in info.key
        }
        for store in await site.stores()
    }


@pytest.mark.parametrize("what", ["flipped", "cut", "removed", "manifest"])
async def test_a_damaged_copy_is_repaired_from_the_sound_one_and_proven_again(site: Site, what: str) -> None:
    """The daily validation finds it, writes it anew and restores it again, and somebody hears of the location."""
    kind = LOGICAL if what == "cut" else PHYSICAL
    point_id = await site.backup(kind)
    whole = await stored(site, point_id)
    point = await (await site.catalogue()).point(GROUP, point_id)
    entry = max((o for a in point.manifest.artefacts for o in a.objects), key=lambda entry: entry.size)
    key = manifest_key(GROUP, point_id) if what == "manifest" else entry.key
    if what == "removed":
        await remove(site, key)
    else:
        await site.lab.corrupt(AWAY, "s3-object", key=f"points/{key}", missing=what == "cut")
    report = await site.run("BackupValidation", point_id=point_id)
    assert report.state is RunState.COMPLETED, report.error
    assert any(f"damaged at store-{AWAY}, and {key} was written anew" in words for words in report.warnings), report
    assert await stored(site, point_id) == whole
    point = await (await site.catalogue()).point(GROUP, point_id)
    assert (point.is_valid, sorted(point.locations)) == (True, ["store-region-a", "store-region-b"])
    verdicts = [key for key in (await site.objects(point_id))["store-region-a"] if "/verdicts/" in key]
    assert len(verdicts) == 3, "what the backup's validation, this one and the proof found is all kept"
    told = [message for message in await messages(site) if "were repaired" in message and point_id in message]
    assert told, "the webhook has been told"
    await (await site.catalogue()).delete_point(GROUP, point_id)
    await site.no_residue()


async def test_a_damaged_manifest_fails_the_daily_validation(site: Site) -> None:
    """It is of no point that could be listed, so nobody would ask for it by name."""
    point_id = await fresh_point(site)
    for region in (HOME, AWAY):
        await site.lab.corrupt(region, "s3-object", key=f"points/{manifest_key(GROUP, point_id)}")
    try:
        error = failed(await site.run("BackupValidation", since=3600), "judge")
        assert f"{point_id} is CORRUPT" in error
        assert "not believed" in error
    finally:
        await (await site.catalogue()).delete_point(GROUP, point_id)


async def test_a_restore_overwrites_nothing(site: Site) -> None:
    physical, logical = await site.point(PHYSICAL), await site.point(LOGICAL)
    home = site.lab.postgres(HOME)
    before = await contents(home.dsn())
    error = failed(await site.run("Restore", point_id=logical, region=HOME), "verify-infrastructure")
    assert f"database shop at {home.host}:{home.port} is not empty: a restore overwrites nothing" in error
    error = failed(await site.run("Restore", point_id=physical, region=HOME), "verify-infrastructure")
    assert f"{home.data_directory} is not empty or {home.host}:{home.port} is in use" in error
    folder = site.folder / "occupied"
    folder.mkdir(exist_ok=True)
    (folder / "precious").write_text("mine")
    report = await site.run("Restore", point_id=physical, region=AWAY, target_directory=str(folder))
    assert "name another target, or move what is there" in failed(report, "verify-infrastructure")
    assert [path.name for path in folder.iterdir()] == ["precious"]
    assert (folder / "precious").read_text() == "mine"
    assert await contents(home.dsn()) == before
    await site.no_residue()


async def test_a_full_disk_is_said_and_the_target_removed(site: Site) -> None:
    """Full when everything is unpacked: it goes again."""
    physical = await site.point(PHYSICAL)
    site.arm(
        "PhysicalRestore.unpack",
        "after",
        step="restore-database",
        action="fail",
        error="NoSpace",
        words="the disk is full",
    )
    error = failed(await site.run("Restore", point_id=physical, region=AWAY), "restore-database")
    assert "the disk is full" in error
    site.target_is_empty()
    await site.no_residue()


async def test_unknown_points_and_regions_are_answered_with_the_known_ones(site: Site) -> None:
    physical = await site.point(PHYSICAL)
    report = await site.run("Restore", point_id="20200101T000000Z-physical-00000000", region=AWAY)
    assert physical in failed(report, "choose-recovery-point")
    handle = await site.client.start_workflow(
        "Restore",
        {"group": GROUP, "region": "atlantis"},
        id="by-hand",
        task_queue=site.config.temporal.control_queue,
        result_type=RunReport,
    )
    error = failed(await operations.result(handle), "load-configuration")
    assert "region-a" in error
    assert "region-b" in error


def with_another_identity(site: Site) -> Path:
    """The same installation, whose worker holds a key that opens nothing."""
    secret = site.installation.folder / "secrets" / "stranger.agekey"
    secret.write_text(generate_age_key().secret)
    yaml = YAML()
    document = yaml.load(site.installation.config_file)
    document["keys"]["identities"] = [f"file:{secret}"]
    target = site.installation.folder / "stranger.yaml"
    yaml.dump(document, target)
    return target


async def test_a_worker_with_the_wrong_key_says_so_and_fetches_no_object(site: Site) -> None:
    physical = await site.point(PHYSICAL)
    await site.crew.dismiss()
    await site.crew.hire(await asyncio.to_thread(with_another_identity, site)).ready()
    site.disarm()
    try:
        error = failed(await site.run("BackupValidation", point_id=physical), "judge")
        assert f"{physical} is FAILED: recovery point {physical} is encrypted for age1" in error
        error = failed(await site.run("FullRecovery"), "verify-infrastructure")
        assert "the keys at hand are of age1" in error
        assert [key for key in site.calls("S3Store.get") if key.endswith(".age")] == []
    finally:
        await site.crew.dismiss()
    point = await (await site.catalogue()).point(GROUP, physical)
    assert point.verdict is not None
    assert point.verdict.state is VerdictState.VALID, "who cannot judge takes nothing back"


async def test_a_backup_needs_no_private_key(site: Site) -> None:
    """The worker has none: it takes the backup, and leaves the validation to one that has."""
    await site.crew.dismiss()
    await site.crew.hire(site.installation.backup_config_file).ready()
    report = await site.run("Backup", kind=LOGICAL)
    assert report.state is RunState.COMPLETED, report.error
    (point_id,) = report.point_ids
    assert not (await (await site.catalogue()).point(GROUP, point_id)).is_valid
    await site.crew.dismiss()
    await site.crew.complete()
    assert (await site.validated(point_id)).state is RunState.COMPLETED
    await (await site.catalogue()).delete_point(GROUP, point_id)
