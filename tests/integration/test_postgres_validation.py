"""Verdicts on real points: valid ones under load, damaged ones, and trouble of our own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from lab import Lab
from lab.workload import Workload
from recovery.adapters.postgres import LocalPostgres, PostgresBinaries
from recovery.adapters.scratch_folder import sweep
from recovery.domain.recovery_point import VerdictState
from recovery.errors import Corrupt, Unreachable, WrongKey
from recovery.ports.postgres import BaseBackupOptions, PostgresLogin
from tests.integration.postgres_servers import MemoryPoint, Server, Writer, public_folder, running_source, take

CRITICAL = ["customers", "public.orders"]
KINDS = ["physical", "logical"]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with public_folder() as path:
        yield path


@pytest.fixture(scope="module")
async def source(folder: Path) -> AsyncIterator[Server]:
    async with running_source(folder, tablespace=True) as server:
        yield server


@pytest.fixture(scope="module")
async def points(source: Server) -> dict[str, MemoryPoint]:
    async with Writer(source):
        return {
            "physical": await take(source.postgres.physical_source(source.login, "physical-1"), "physical-1"),
            "logical": await take(source.postgres.logical_source(source.login, "logical-1", ["shop"]), "logical-1"),
        }


@pytest.fixture
def scratch(folder: Path) -> Iterator[Path]:
    path = folder / "scratch"
    yield path
    assert not path.exists() or list(path.iterdir()) == [], "the scratch server is always removed"
    ours = psutil.Process(os.getpid()).children(recursive=True)
    assert not [child for child in ours if str(path) in " ".join([child.cwd(), *child.cmdline()])]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_good_point_is_valid(source: Server, points: dict[str, MemoryPoint], scratch: Path, kind: str) -> None:
    state, reason, checks = await source.postgres.validate(points[kind], scratch, CRITICAL)
    assert state is VerdictState.VALID, reason
    assert ("not available: indexes" in reason) == (kind == "physical"), "what was not checked is said"
    names = {check.name for check in checks}
    assert names >= {"tables-readable", "critical-tables", "fingerprints", "sequences", "large-objects", "roles"}
    assert ("pg_verifybackup" in names and "canary" in names) == (kind == "physical")
    compared = next(check.detail for check in checks if check.name == "fingerprints")
    total = points[kind].manifest.postgres.table_count
    if kind == "logical":
        assert compared.startswith(f"{total} of {total} tables are equal"), "every table, exactly"
    else:
        assert not compared.startswith(f"{total} of"), "what was written to is not compared, and that is said"


async def test_a_check_that_fails_makes_the_verdict_restore_failed(
    source: Server, points: dict[str, MemoryPoint], scratch: Path
) -> None:
    state, reason, checks = await source.postgres.validate(points["logical"], scratch, ["invoices"])
    assert state is VerdictState.RESTORE_FAILED
    assert reason == "check critical-tables: critical tables: invoices is missing"
    assert [check.name for check in checks if not check.passed] == ["critical-tables"]


@pytest.mark.parametrize("kind", KINDS)
async def test_bytes_that_the_reader_finds_wrong_are_corrupt(
    source: Server, points: dict[str, MemoryPoint], scratch: Path, kind: str
) -> None:
    torn = MemoryPoint(points[kind].manifest, points[kind].content, Corrupt("object 3: SHA-256 differs"))
    state, reason, _ = await source.postgres.validate(torn, scratch, CRITICAL)
    assert (state, reason) == (VerdictState.CORRUPT, "object 3: SHA-256 differs")


async def test_a_flipped_byte_in_a_file_of_the_cluster_is_corrupt(
    source: Server, points: dict[str, MemoryPoint], scratch: Path
) -> None:
    point = points["physical"]
    for needle in (b"customer 2000", b"large object large"):
        body = bytearray(point.content["base.tar"])
        body[body.index(needle)] ^= 1
        damaged = MemoryPoint(point.manifest, {**point.content, "base.tar": bytes(body)})
        state, reason, _ = await source.postgres.validate(damaged, scratch, CRITICAL)
        assert state is VerdictState.CORRUPT, reason
        assert "checksum mismatch" in reason


async def test_a_damaged_dump_is_restore_failed(source: Server, points: dict[str, MemoryPoint], scratch: Path) -> None:
    point = points["logical"]
    dump = point.content["shop.dump"]
    cut = MemoryPoint(point.manifest, {**point.content, "shop.dump": dump[: len(dump) * 2 // 3]})
    state, reason, _ = await source.postgres.validate(cut, scratch, CRITICAL)
    assert state is VerdictState.RESTORE_FAILED
    assert "pg_restore" in reason
    changed = MemoryPoint(
        point.manifest, {**point.content, "shop.dump": dump.replace(b"customer 2000", b"customer 2009")}
    )
    state, reason, _ = await source.postgres.validate(changed, scratch, CRITICAL)
    assert state is VerdictState.RESTORE_FAILED
    assert "shop.public.customers has 3000 rows, and their content differs" in reason


async def test_our_own_trouble_is_failed_and_says_nothing_about_the_point(
    source: Server, points: dict[str, MemoryPoint], scratch: Path, folder: Path
) -> None:
    physical, logical = points["physical"], points["logical"]
    for failure in (Unreachable("store-a did not answer"), WrongKey("no identity at hand opens it")):
        point = MemoryPoint(physical.manifest, physical.content, failure)
        state, reason, _ = await source.postgres.validate(point, scratch)
        assert (state, reason) == (VerdictState.FAILED, str(failure))
    state, reason, _ = await source.postgres.validate(physical.changed(major=15), scratch)
    assert state is VerdictState.FAILED
    assert "of PostgreSQL 15, and this machine has 16" in reason
    state, reason, _ = await source.postgres.validate(logical.changed(major=15), scratch)
    assert state is VerdictState.FAILED
    assert "PostgreSQL 15 is needed on this machine" in reason
    lacking = logical.changed(extensions=["shop.plpgsql 1.0", "shop.timescaledb 2.1"])
    state, reason, _ = await source.postgres.validate(lacking, scratch)
    assert state is VerdictState.FAILED
    assert "lacks extensions of the point: timescaledb" in reason
    state, reason, _ = await source.postgres.validate(logical.changed(cluster_bytes=1 << 60), scratch)
    assert state is VerdictState.FAILED
    assert "MiB are free there" in reason
    bare = LocalPostgres(PostgresBinaries({}), run_as=source.postgres.host.user_for(source.place))
    if await bare.host.majors() == {}:
        state, reason, _ = await bare.validate(physical, scratch)
        assert state is VerdictState.FAILED


@pytest.mark.parametrize("kind", KINDS)
async def test_a_cancelled_validation_leaves_nothing(
    source: Server, points: dict[str, MemoryPoint], scratch: Path, kind: str
) -> None:
    point = MemoryPoint(points[kind].manifest, points[kind].content)
    point.waiting = asyncio.Event()
    task = asyncio.create_task(source.postgres.validate(point, scratch, CRITICAL))
    await asyncio.wait_for(point.waiting.wait(), 60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 30)


async def test_what_a_killed_worker_left_is_swept(scratch: Path) -> None:
    left = scratch / "scratch-left"
    left.mkdir(parents=True)
    (left / "lock").touch()
    (left / "data").mkdir()
    assert await sweep(scratch) == [left]
    assert not left.exists()


async def test_points_of_the_newest_version_are_valid() -> None:
    with public_folder() as folder:
        async with running_source(folder, major=18, tablespace=True) as newest:
            async with Writer(newest):
                taken = [
                    await take(newest.postgres.physical_source(newest.login, "physical-18"), "physical-18"),
                    await take(newest.postgres.logical_source(newest.login, "logical-18", ["shop"]), "logical-18"),
                ]
            for point in taken:
                assert point.manifest.postgres.major == 18
                state, reason, _ = await newest.postgres.validate(point, folder / "scratch", CRITICAL)
                assert state is VerdictState.VALID, reason


async def test_the_labs_backup_role_makes_valid_points_under_load(lab: Lab, folder: Path, scratch: Path) -> None:
    """Not a superuser: what a careful operator grants is enough."""
    place = lab.postgres("region-a")
    postgres = LocalPostgres(PostgresBinaries({place.version: place.bin_directory}), run_as=place.run_as)
    login = PostgresLogin(place.host, place.port, place.backup_user, place.database, place.backup_password)
    async with Workload(lab, transactions_per_second=100) as workload:
        await workload.wait_for(20)
        standby = replace(login, host=lab.postgres("region-b").host, port=lab.postgres("region-b").port)
        taken = [
            await take(
                postgres.physical_source(login, "lab-standby", BaseBackupOptions(standby=standby)), "lab-standby"
            ),
            await take(postgres.physical_source(login, "lab-physical"), "lab-physical"),
            await take(postgres.logical_source(login, "lab-logical", [place.database]), "lab-logical"),
        ]
    streamed = taken[0].manifest.postgres
    assert streamed.streamed_from == standby.address
    assert streamed.canary is not None, "written at the primary, and replayed by the standby"
    assert streamed.tables, "compared at the primary"
    for point in taken:
        state, reason, _ = await postgres.validate(point, scratch, ["orders", "customers"])
        assert state is VerdictState.VALID, reason
