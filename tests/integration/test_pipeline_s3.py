"""The pipeline against real S3 servers that are killed, frozen and thawed, and with a worker that is killed."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import secrets
import sys
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from lab import Lab
from recovery.adapters.folder import FolderStore
from recovery.adapters.s3 import S3Store
from recovery.backup.catalogue import Catalogue
from recovery.backup.fill import fill_location
from recovery.backup.leftovers import remove_leftovers
from recovery.backup.pipeline import TransferProgress, WrittenPoint, write_point
from recovery.backup.reader import check_key, open_point, verify_objects
from recovery.backup.sealing import Opener, Sealer
from recovery.backup.upload import WriteBudget
from recovery.domain.recovery_point import VerdictState
from recovery.errors import Contended, Unreachable
from recovery.ports.object_store import ObjectStore
from tests.fakes.points import AGE, SIGNING, identity, signer, verdict_on, verifier
from tests.integration.streaming_worker import MIB, GeneratedSource

A, B = "region-a", "region-b"
BUDGET = WriteBudget(chunk_bytes=MIB, object_seconds=8.0, attempt_seconds=4.0, patience_seconds=2.0)


@pytest.fixture(scope="module")
async def lab() -> AsyncIterator[Lab]:
    async with await Lab.start(regions=(A, B), services={"s3"}) as running:
        yield running


@pytest.fixture(scope="module")
async def sealer() -> AsyncIterator[Sealer]:
    async with Sealer([AGE.public]) as made:
        yield made


@pytest.fixture(scope="module")
async def opener() -> AsyncIterator[Opener]:
    async with Opener([AGE.secret]) as made:
        yield made


def _settings(lab: Lab, region: str, prefix: str) -> dict[str, Any]:
    place = lab.s3(region)
    return {
        "bucket": place.bucket, "prefix": prefix, "endpoint_url": place.endpoint, "access_key": place.access_key,
        "secret_key": place.secret_key, "region": place.region,
    }  # fmt: skip


@pytest.fixture
def prefix() -> str:
    return f"test/{secrets.token_hex(6)}"


@pytest.fixture
async def stores(lab: Lab, prefix: str) -> AsyncIterator[list[ObjectStore]]:
    made = [
        S3Store(region, **_settings(lab, region, prefix), connect_timeout=1.0, read_timeout=2.0) for region in (A, B)
    ]
    yield list(made)
    for store in made:
        await store.close()


def _catalogue(stores: list[ObjectStore]) -> Catalogue:
    return Catalogue(stores, verifier())


async def _write(stores: list[ObjectStore], sealer: Sealer, mib: int = 24, **options: Any) -> WrittenPoint:
    settings = {"identity": identity(), "signer": signer(), "budget": BUDGET, **options}
    return await write_point(GeneratedSource(mib), stores=stores, sealer=sealer, **settings)


async def _keys(store: ObjectStore) -> set[str]:
    return {info.key async for info in store.list("")}


async def _digest(stores: list[ObjectStore] | ObjectStore, written: WrittenPoint, opener: Opener) -> str:
    digest = hashlib.sha256()
    async for piece in open_point(stores, written.manifest, opener).stream("base.tar"):
        digest.update(piece)
    return digest.hexdigest()


async def test_a_point_goes_to_s3_and_a_folder_and_comes_back_from_each(
    stores: list[ObjectStore], sealer: Sealer, opener: Opener, tmp_path: Path
) -> None:
    everywhere = [*stores, FolderStore("folder", tmp_path)]
    written = await _write(everywhere, sealer)
    assert written.complete_locations == ["folder", A, B]
    listed = _catalogue(everywhere)
    verdict = verdict_on(written.manifest, written.manifest_sha256, state=VerdictState.VALID, location=A)
    assert await listed.write_verdict(verdict, signer()) == ["folder", A, B]
    found = await listed.newest_validated("shop")
    assert (found.manifest, found.locations, found.verdict) == (written.manifest, ["folder", A, B], verdict)
    digests = {await _digest(store, written, opener) for store in everywhere}
    assert len(digests) == 1
    for store in everywhere:
        await check_key(found.manifest, opener, store)
        assert all(result.passed for result in await verify_objects(store, found.manifest))
    await listed.delete_point("shop", found.point_id)
    assert [await _keys(store) for store in everywhere] == [set(), set(), set()]


@pytest.mark.parametrize("fault", ["kill", pytest.param("freeze", marks=pytest.mark.chaos)])
async def test_a_store_lost_in_mid_upload_is_dropped_and_filled_when_it_is_back(
    lab: Lab, stores: list[ObjectStore], sealer: Sealer, opener: Opener, fault: str
) -> None:
    reached = asyncio.Event()

    def progress(state: TransferProgress) -> None:
        if state.objects >= 8:
            reached.set()

    async def strike() -> None:
        await reached.wait()
        await (lab.kill(A, "s3") if fault == "kill" else lab.freeze(A, "s3"))

    striking = asyncio.ensure_future(strike())
    try:
        written = await _write(stores, sealer, mib=96, progress=progress)
        assert written.complete_locations == [B]
        assert A in written.dropped
        began = time.monotonic()
        listed = await _catalogue(stores).survey("shop")
        assert [point.locations for point in listed.points] == [[B]]
        assert A in listed.unreachable
        assert time.monotonic() - began < 40  # two requests that are given up, each after 10 s
        await _digest(stores, written, opener)  # a restore that asks the lost store first still succeeds
    finally:
        await striking
        await (lab.restart(A, "s3") if fault == "kill" else lab.thaw(A, "s3"))
    point = await _wait_for_both(stores)
    assert point.locations == [B]
    await fill_location(point, stores[1], stores[0])
    assert (await _catalogue(stores).point("shop", point.point_id)).locations == [A, B]
    assert all(result.passed for result in await verify_objects(stores[0], written.manifest))
    assert await _digest(stores[0], written, opener) == await _digest(stores[1], written, opener)


async def _wait_for_both(stores: list[ObjectStore]) -> Any:
    """Until the restarted server answers again."""
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(Unreachable):
                survey = await _catalogue(stores).survey("shop")
                if not survey.unreachable:
                    return survey.points[0]


async def test_cancelled_in_mid_upload_leaves_nothing_in_s3(stores: list[ObjectStore], sealer: Sealer) -> None:
    reached = asyncio.Event()
    writing = asyncio.ensure_future(_write(stores, sealer, mib=400, progress=lambda state: reached.set()))
    await reached.wait()
    began = time.monotonic()
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert time.monotonic() - began < 30  # the rest of 400 MiB would take longer
    assert [await _keys(store) for store in stores] == [set(), set()]


async def test_two_attempts_race_and_one_point_comes_out_of_it(
    stores: list[ObjectStore], sealer: Sealer, opener: Opener
) -> None:
    outcomes = await asyncio.gather(
        _write(stores, sealer, identity=identity(1)),
        _write(stores, sealer, identity=identity(2)),
        return_exceptions=True,
    )
    (winner,) = [outcome for outcome in outcomes if isinstance(outcome, WrittenPoint)]
    assert [type(outcome) for outcome in outcomes if not isinstance(outcome, WrittenPoint)] == [Contended]
    (point,) = await _catalogue(stores).points("shop")
    assert point.manifest_sha256 == winner.manifest_sha256
    assert point.locations == [A, B]
    assert await _catalogue(stores).orphans("shop") == []
    await _digest(stores, winner, opener)


@contextlib.asynccontextmanager
async def _worker(lab: Lab, prefix: str, **order: Any) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.integration.streaming_worker", cwd=Path(__file__).parents[2],
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    stores = {region: _settings(lab, region, prefix) for region in (A, B)}
    whole = {
        "stores": stores, "recipient": AGE.public, "signing_key": SIGNING.secret, "attempt": 1,
        "point_id": identity().point_id, **order,
    }  # fmt: skip
    process.stdin.write(json.dumps(whole).encode() + b"\n")
    await process.stdin.drain()
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_a_killed_worker_leaves_nothing_visible_and_the_next_attempt_takes_over(
    lab: Lab, prefix: str, stores: list[ObjectStore], sealer: Sealer
) -> None:
    async with _worker(lab, prefix, mib=400, stall_after=80) as process:
        assert process.stdout is not None
        while json.loads(await process.stdout.readline())["objects"] < 5:
            continue
        process.kill()
        await process.wait()
    assert await _catalogue(stores).points("shop") == []
    assert {orphan.location for orphan in await _catalogue(stores).orphans("shop")} == {A, B}

    written = await _write(stores, sealer, identity=identity(2))
    assert written.complete_locations == [A, B]
    assert await remove_leftovers(stores, "shop", written.manifest.point_id, identity(2).folder) == {}
    assert await _catalogue(stores).orphans("shop") == []
    (point,) = await _catalogue(stores).points("shop")
    assert point.manifest.attempt == 2
    for store in stores:
        assert all(result.passed for result in await verify_objects(store, point.manifest))


async def test_orphans_of_a_backup_that_nobody_repeats_are_removed_by_age(
    lab: Lab, prefix: str, stores: list[ObjectStore], sealer: Sealer
) -> None:
    await _write(stores, sealer, mib=2)
    await stores[0].put("shop/postgres/20261101T000000Z-physical-ffffff/attempt-1-x/base.tar.000000.zst.age", b"x")
    listed = _catalogue(stores)
    assert (await listed.remove_orphans("shop", datetime.now(UTC) - timedelta(hours=1))) == ([], {})
    removed, failed = await listed.remove_orphans("shop", datetime.now(UTC) + timedelta(hours=1))
    assert ([(orphan.location, orphan.objects) for orphan in removed], failed) == ([(A, 1)], {})
    assert len(await listed.points("shop")) == 1


async def test_a_workers_memory_stays_under_400_mb_with_two_locations(lab: Lab, prefix: str) -> None:
    async with _worker(lab, prefix, mib=320) as process:
        output, _ = await process.communicate()
    last = json.loads(output.splitlines()[-1])
    assert last["complete"] == [A, B]
    assert last["peak_bytes"] < 400_000_000
