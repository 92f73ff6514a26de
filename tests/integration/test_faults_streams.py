"""SIGKILL of a worker before, amid and after each step that moves streams, and a cancellation amid it, on real NATS.

Another worker takes over. The streams, their consumers' positions and what is stored are those of a run without the
fault; a cancelled run leaves no stream and no object.
"""

from __future__ import annotations

import pytest

from recovery.adapters.nats.connection import api, connected
from recovery.domain.report import RunState
from tests.integration.installation import AWAY, HOME, STREAMS, Site
from tests.integration.stored_whole import assert_whole, nothing_is_left
from tests.integration.test_faults_worker_loss import FAULT, at, attempts, both, cases, run_with_a_loss
from tests.integration.test_plans_streams import everything, filled, server, taken
from workers import operations

__all__ = ["filled"]
TAKE, VALIDATE, RESTORE = "take-streams-backup", "validate-points", "restore-database"


async def streams_of(site: Site, region: str) -> list[str]:
    async with connected(server(site, region)) as client:
        return [entry["config"]["name"] for entry in (await api(client, "STREAM.LIST"))["streams"] or []]


@pytest.mark.parametrize(
    "fault",
    cases(
        *both("StoredRecoveryPoints.take"),
        at("S3Store.put", "before", number=2),
        at("S3Store.put", "before", key="manifest.json"),
        at("S3Store.put", "after", key="manifest.json"),  # one location has the point, the other has not
    ),
)
async def test_a_backup_of_streams_survives_its_worker(filled: Site, fault: FAULT) -> None:
    expected = await everything(filled, HOME)
    report = await run_with_a_loss(filled, {**fault, "step": TAKE}, "Backup", group=STREAMS, store="nats")
    assert report.state is RunState.COMPLETED, report.error
    assert attempts(report, TAKE) == 2
    (point_id,) = report.point_ids
    validation = await filled.ended(await operations.find(filled.client, f"validate/{STREAMS}/{point_id}"))
    assert validation.state is RunState.COMPLETED, validation.error
    await assert_whole(filled, STREAMS, point_id)
    assert await everything(filled, HOME) == expected, "the source is as it was"


@pytest.mark.parametrize(
    "fault",
    cases(
        *both("StoredRecoveryPoints.validate"),
        *both("Upload.finish"),  # in the scratch server
        at("S3Store.put", "after", key=".json"),
    ),
)
async def test_a_validation_of_streams_survives_its_worker(filled: Site, fault: FAULT) -> None:
    (point,) = await taken(filled, store="nats")
    fault = {**fault, "step": VALIDATE}
    report = await run_with_a_loss(filled, fault, "BackupValidation", group=STREAMS, point_id=point.point_id)
    assert report.state is RunState.COMPLETED, report.error
    assert attempts(report, VALIDATE) == 2
    judged = await (await filled.catalogue(STREAMS)).point(STREAMS, point.point_id)
    assert judged.verdict is not None
    assert judged.is_valid and judged.verdict.run_id == report.run_id
    assert await streams_of(filled, AWAY) == []
    await assert_whole(filled, STREAMS, point.point_id)


@pytest.mark.parametrize(
    "fault",
    cases(
        *both("StreamRestores.restore"),
        at("Upload.finish", "before", number=1),
        at("Upload.finish", "after", number=2),
    ),
)
async def test_a_restore_of_streams_survives_its_worker(filled: Site, fault: FAULT) -> None:
    (point,) = await taken(filled, store="nats")
    expected = await everything(filled, HOME)
    request = {"group": STREAMS, "point_id": point.point_id, "region": AWAY}
    report = await run_with_a_loss(filled, {**fault, "step": RESTORE}, "Restore", **request)
    assert report.state is RunState.COMPLETED, report.error
    assert attempts(report, RESTORE) == 2
    assert await everything(filled, AWAY) == expected
    await assert_whole(filled, STREAMS, point.point_id)


@pytest.mark.chaos
@pytest.mark.parametrize("when", ["before", "after"])
async def test_an_undone_restore_of_streams_survives_its_worker(filled: Site, when: str) -> None:
    """Cancelled when one stream is whole; the worker dies while it takes back what was made."""
    (point,) = await taken(filled, store="nats")
    filled.arm("Upload.finish", step=RESTORE, number=2, action="hold")
    handle = await filled.start("Restore", group=STREAMS, point_id=point.point_id, region=AWAY)
    await filled.held()
    filled.arm("StreamRestores.remove", when, activity="restores.remove_restored", keep_held=True)
    await handle.cancel()
    assert await filled.fallen() == []
    filled.crew.hire()
    assert (await filled.ended(handle)).state is RunState.ROLLED_BACK
    assert await streams_of(filled, AWAY) == []
    await assert_whole(filled, STREAMS, point.point_id)


@pytest.mark.chaos
async def test_a_cancelled_backup_of_streams_leaves_nothing(filled: Site) -> None:
    before = {point.point_id for point in await (await filled.catalogue(STREAMS)).points(STREAMS)}
    filled.arm("Sealer.seal", step=TAKE, number=2, action="hold")
    handle = await filled.start("Backup", group=STREAMS, store="nats")
    await filled.held()
    await filled.cancel_arrives(handle)
    assert (await filled.ended(handle)).state is RunState.ROLLED_BACK
    assert {point.point_id for point in await (await filled.catalogue(STREAMS)).points(STREAMS)} == before
    await nothing_is_left(filled, STREAMS)
