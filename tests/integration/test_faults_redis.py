"""SIGKILL of a worker before, amid and after each step that moves a Redis, and a cancellation amid it, on real ones.

Another worker takes over. The keys, their expiry and what is stored are those of a run without the fault; a cancelled
run leaves no key and no object.
"""

from __future__ import annotations

import pytest

from recovery.domain.recovery_point import RecoveryPoint
from recovery.domain.report import RunState
from tests.integration.installation import AWAY, CACHE, HOME, Site
from tests.integration.stored_whole import assert_whole, nothing_is_left
from tests.integration.test_faults_worker_loss import FAULT, at, attempts, both, cases, run_with_a_loss
from tests.integration.test_plans_redis import ask, filled, held, run
from workers import operations

__all__ = ["filled"]
TAKE, VALIDATE, RESTORE = "take-redis-backup", "validate-points", "restore-database"
EMPTY = "# Keyspace\r\n"


async def taken(site: Site) -> RecoveryPoint:
    report = await run(site, "Backup")
    assert report.state is RunState.COMPLETED, report.error
    validation = await site.ended(await operations.find(site.client, f"validate/{CACHE}/{report.point_ids[0]}"))
    assert validation.state is RunState.COMPLETED, validation.error
    return await (await site.catalogue(CACHE)).point(CACHE, report.point_ids[0])


@pytest.mark.parametrize(
    "fault",
    cases(
        *both("StoredRecoveryPoints.take"),
        at("S3Store.put", "before", number=2),
        at("S3Store.put", "before", key="manifest.json"),
        at("S3Store.put", "after", key="manifest.json"),  # one location has the point, the other has not
    ),
)
async def test_a_dump_survives_its_worker(filled: Site, fault: FAULT) -> None:
    expected = await held(filled, HOME)
    report = await run_with_a_loss(filled, {**fault, "step": TAKE}, "Backup", group=CACHE)
    assert report.state is RunState.COMPLETED, report.error
    assert attempts(report, TAKE) == 2
    (point_id,) = report.point_ids
    validation = await filled.ended(await operations.find(filled.client, f"validate/{CACHE}/{point_id}"))
    assert validation.state is RunState.COMPLETED, validation.error
    await assert_whole(filled, CACHE, point_id)
    assert await held(filled, HOME) == expected, "the source is as it was"


@pytest.mark.parametrize(
    "fault",
    cases(*both("StoredRecoveryPoints.validate"), at("S3Store.get", "after", number=2), at("S3Store.put", "after")),
)
async def test_a_validation_of_a_dump_survives_its_worker(filled: Site, fault: FAULT) -> None:
    point = await taken(filled)
    fault = {**fault, "step": VALIDATE}
    report = await run_with_a_loss(filled, fault, "BackupValidation", group=CACHE, point_id=point.point_id)
    assert report.state is RunState.COMPLETED, report.error
    assert attempts(report, VALIDATE) == 2
    judged = await (await filled.catalogue(CACHE)).point(CACHE, point.point_id)
    assert judged.verdict is not None
    assert judged.is_valid and judged.verdict.run_id == report.run_id
    assert await ask(filled, AWAY, "INFO", "keyspace") == EMPTY
    await assert_whole(filled, CACHE, point.point_id)


@pytest.mark.parametrize("way", ["replicate", "keys"])
@pytest.mark.parametrize("fault", cases(*both("RedisRestores.restore"), at("S3Store.get", "after")))
async def test_a_restore_of_a_dump_survives_its_worker(filled: Site, fault: FAULT, way: str) -> None:
    point = await taken(filled)
    expected = await held(filled, HOME)
    request = {"group": CACHE, "point_id": point.point_id, "region": AWAY, "way": way}
    report = await run_with_a_loss(filled, {**fault, "step": RESTORE}, "Restore", **request)
    assert report.state is RunState.COMPLETED, report.error
    assert attempts(report, RESTORE) == 2
    assert await held(filled, AWAY) == expected
    await assert_whole(filled, CACHE, point.point_id)


@pytest.mark.chaos
@pytest.mark.parametrize("when", ["before", "after"])
async def test_an_undone_restore_of_a_dump_survives_its_worker(filled: Site, when: str) -> None:
    """Cancelled when everything is there; the worker dies while it takes that back."""
    point = await taken(filled)
    filled.arm("RedisRestores.verify", step="verify-data", action="hold")
    handle = await filled.start("Restore", group=CACHE, point_id=point.point_id, region=AWAY)
    await filled.held()
    filled.arm("RedisRestores.remove", when, activity="restores.remove_restored", keep_held=True)
    await handle.cancel()
    assert await filled.fallen() == []
    filled.crew.hire()
    assert (await filled.ended(handle)).state is RunState.ROLLED_BACK
    assert await ask(filled, AWAY, "INFO", "keyspace") == EMPTY
    await assert_whole(filled, CACHE, point.point_id)


@pytest.mark.chaos
async def test_a_cancelled_dump_leaves_nothing(filled: Site) -> None:
    before = {point.point_id for point in await (await filled.catalogue(CACHE)).points(CACHE)}
    filled.arm("Sealer.seal", step=TAKE, action="hold")
    handle = await filled.start("Backup", group=CACHE)
    await filled.held()
    await filled.cancel_arrives(handle)
    assert (await filled.ended(handle)).state is RunState.ROLLED_BACK
    assert {point.point_id for point in await (await filled.catalogue(CACHE)).points(CACHE)} == before
    await nothing_is_left(filled, CACHE)
