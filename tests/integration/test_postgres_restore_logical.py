"""Logical restores of real points, every difference that a check must notice, and what a restore refuses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

from recovery.domain.recovery_point import BackupKind, CheckResult
from recovery.errors import BadInput, Contended, Corrupt, Refused, RestoreFailed
from recovery.ports.postgres import RestoreOptions
from tests.integration.postgres_servers import (
    MemoryPoint,
    Server,
    Writer,
    public_folder,
    running_source,
    take,
)

CRITICAL = ["customers", "public.orders", "shop.public.documents"]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with public_folder() as path:
        yield path


@pytest.fixture(scope="module")
async def source(folder: Path) -> AsyncIterator[Server]:
    async with running_source(folder, tablespace=True) as server:
        yield server


@pytest.fixture(scope="module")
async def logical(source: Server) -> MemoryPoint:
    async with Writer(source):
        return await take(source.postgres.logical_source(source.login, "logical-1", ["shop"]), "logical-1")


async def _copy(source: Server, logical: MemoryPoint, name: str, restore_id: str = "logical-restore") -> Server:
    await source.postgres.restore_logical(
        logical,
        source.login.at("postgres"),
        RestoreOptions(restore_id, read_only=False),
        source_database="shop",
        database=name,
    )
    return Server(source.postgres, source.place, source.folder, database=name)


@pytest.fixture(scope="module")
async def copy(source: Server, logical: MemoryPoint) -> AsyncIterator[Server]:
    yield await _copy(source, logical, "copy")
    assert await source.postgres.remove_restored_database(source.login, "copy", "logical-restore") is True
    assert await source.postgres.remove_restored_database(source.login, "copy", "logical-restore") is False


async def _failed_checks(server: Server, point: MemoryPoint) -> list[CheckResult]:
    results = await server.postgres.verify_restored(
        point.manifest, server.login, CRITICAL, database=server.database, everything=True
    )
    return [result for result in results if not result.passed]


async def test_a_logical_restore_is_exactly_the_dumps_snapshot(copy: Server, logical: MemoryPoint) -> None:
    assert await _failed_checks(copy, logical) == []
    assert await copy.value("SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'copy'") == "clerk"
    assert await copy.value("SHOW search_path") == "public, pg_temp"
    assert await copy.value("SELECT count(*) FROM totals") > 0


MUTATIONS = [
    ("fingerprints", "DELETE FROM orders WHERE id = (SELECT max(id) FROM orders)", "rows instead of"),
    ("fingerprints", "UPDATE customers SET note = 'x' WHERE id = 7", "their content differs"),
    ("sequences", "SELECT setval('events_id', 1)", "events_id stands at 1"),
    ("sequences", "SELECT setval('countdown', 998)", "countdown stands at 998"),
    ("large-objects", "SELECT lo_put(4711, 100, 'X')", "those of shop differ"),
    ("large-objects", "SELECT lo_from_bytea(0, 'more')", "2 instead of 1"),
    ("extensions", "DROP EXTENSION vector", "shop.vector"),
    ("critical-tables", "DROP TABLE documents", "shop.public.documents is missing"),
    ("critical-tables", "TRUNCATE documents", "documents is empty, the source's had 20 rows"),
]


@pytest.mark.parametrize(("check", "mutation", "words"), MUTATIONS, ids=[f"{m[0]}: {m[1]}" for m in MUTATIONS])
async def test_every_difference_is_noticed_by_its_check(
    source: Server, copy: Server, logical: MemoryPoint, check: str, mutation: str, words: str
) -> None:
    await source.execute("CREATE DATABASE mutant TEMPLATE copy", "postgres")
    mutant = Server(source.postgres, source.place, source.folder, database="mutant")
    try:
        await mutant.execute(mutation)
        failed = {result.name: result.detail for result in await _failed_checks(mutant, logical)}
        assert words in failed[check]
        assert set(failed) <= {check, "fingerprints"}
    finally:
        await source.execute("DROP DATABASE mutant WITH (FORCE)", "postgres")


async def test_a_missing_role_is_noticed(source: Server, copy: Server, logical: MemoryPoint) -> None:
    await source.execute("DROP ROLE auditor", "postgres")
    failed = await _failed_checks(copy, logical)
    assert [(result.name, result.detail) for result in failed] == [("roles", "missing: auditor")]
    await source.execute("CREATE ROLE auditor; GRANT clerk TO auditor", "postgres")


async def test_a_logical_restore_refuses_with_what_to_do(source: Server, logical: MemoryPoint) -> None:
    login = source.login.at("postgres")
    options = RestoreOptions("restore-l")

    async def restore(point: MemoryPoint, database: str = "shop", name: str | None = None) -> object:
        return await source.postgres.restore_logical(point, login, options, source_database=database, database=name)

    orders = await source.value("SELECT count(*) FROM orders")
    with pytest.raises(Refused, match=r"database 'shop' .* is not empty: a restore overwrites nothing"):
        await restore(logical)
    with pytest.raises(Refused, match=r"is of PostgreSQL 18, and the server at .* is PostgreSQL 16"):
        await restore(logical.changed(major=18), name="new")
    with pytest.raises(BadInput, match="holds no database 'shpo': it has shop"):
        await restore(logical, database="shpo", name="new")
    with pytest.raises(BadInput, match="restored into a folder"):
        physical = logical.manifest.model_copy(update={"kind": BackupKind.PHYSICAL})
        await restore(MemoryPoint(physical, {}), name="new")
    with pytest.raises(Refused, match="is not the work of restore restore-l"):
        await source.postgres.remove_restored_database(login, "shop", "restore-l")
    assert await source.value("SELECT count(*) FROM orders") == orders
    assert not await source.value("SELECT count(*) FROM pg_database WHERE datname = 'new'")


async def test_a_failing_logical_restore_drops_its_database(source: Server, logical: MemoryPoint) -> None:
    login = source.login.at("postgres")
    dump = logical.content["shop.dump"]
    cut = MemoryPoint(logical.manifest, {**logical.content, "shop.dump": dump[: len(dump) // 2]})
    torn = MemoryPoint(logical.manifest, logical.content, Corrupt("object 3 differs"))
    for point, kind, words in ((cut, RestoreFailed, "pg_restore into broken"), (torn, Corrupt, "object 3 differs")):
        with pytest.raises(kind, match=words):
            await source.postgres.restore_logical(
                point, login, RestoreOptions("restore-b"), source_database="shop", database="broken"
            )
        assert not await source.value("SELECT count(*) FROM pg_database WHERE datname = 'broken'")


async def test_a_cancelled_logical_restore_leaves_nothing_and_can_be_repeated(
    source: Server, logical: MemoryPoint
) -> None:
    login = source.login.at("postgres")
    point = MemoryPoint(logical.manifest, logical.content)
    point.waiting = asyncio.Event()

    def restore(reader: MemoryPoint) -> asyncio.Task[object]:
        return asyncio.ensure_future(
            source.postgres.restore_logical(
                reader, login, RestoreOptions("restore-d"), source_database="shop", database="again"
            )
        )

    task = restore(point)
    await asyncio.wait_for(point.waiting.wait(), 60)
    with pytest.raises(Contended, match="still at work"):
        await restore(logical)
    async with asyncio.timeout(30):
        while not task.done():
            task.cancel()  # again and again: it drops the database nevertheless, and before anybody else has its turn
            await asyncio.sleep(0.01)
    assert task.cancelled()
    assert not await source.value("SELECT count(*) FROM pg_database WHERE datname = 'again'")
    await restore(logical)
    await restore(MemoryPoint(logical.manifest, {}))  # finished already: nothing is read
    with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
        await Server(source.postgres, source.place, source.folder, database="again").execute("CREATE TABLE t ()")
    await source.postgres.remove_restored_database(login, "again", "restore-d")


async def test_existing_roles_are_left_as_they_are(source: Server, logical: MemoryPoint) -> None:
    await source.execute("ALTER ROLE clerk CONNECTION LIMIT 7", "postgres")
    done = await source.postgres.restore_logical(
        logical, source.login, RestoreOptions("restore-r"), source_database="shop", database="roles_again"
    )
    try:
        assert "clerk" in done.skipped_roles
        assert await source.value("SELECT rolconnlimit FROM pg_roles WHERE rolname = 'clerk'") == 7
        assert done.notes == ["tablespaces are not recreated: fast"]
    finally:
        await source.postgres.remove_restored_database(source.login, "roles_again", "restore-r")
