"""Physical restores of real points, and everything that they refuse."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import asyncpg
import psutil
import pytest

from recovery.adapters.postgres import unpacking
from recovery.adapters.postgres.folder import ClaimedFolder, RestoreMark
from recovery.adapters.postgres.host import INCOMPLETE, server_processes
from recovery.adapters.postgres.observation import Scope, observe
from recovery.errors import BadInput, Contended, Corrupt, NoSpace, Refused, RestoreFailed, WrongKey
from recovery.ports.postgres import PostgresPlace, Restored, RestoreOptions
from tests.integration.postgres_servers import (
    MemoryPoint,
    Server,
    Writer,
    public_folder,
    running_source,
    take,
)
from tests.ports import free_port

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
async def physical(source: Server) -> tuple[MemoryPoint, Writer]:
    async with Writer(source) as writer:
        return await take(source.postgres.physical_source(source.login, "physical-1"), "physical-1"), writer


@pytest.fixture(scope="module")
async def logical(source: Server) -> MemoryPoint:
    async with Writer(source):
        return await take(source.postgres.logical_source(source.login, "logical-1", ["shop"]), "logical-1")


@pytest.fixture
def target(folder: Path) -> PostgresPlace:
    port = free_port()
    return PostgresPlace("127.0.0.1", port, folder / f"restored-{port}")


@pytest.fixture(scope="module")
async def restored(
    source: Server, physical: tuple[MemoryPoint, Writer], folder: Path
) -> AsyncIterator[tuple[Server, Restored]]:
    """The physical point, restored and running."""
    place = PostgresPlace("127.0.0.1", free_port(), folder / "restored")
    done = await source.postgres.restore_physical(physical[0], place, RestoreOptions("restore-1"))
    yield Server(source.postgres, place, folder), done
    await source.postgres.remove_restored(place, "restore-1")
    assert not place.data_directory.exists()


async def test_restored_server_is_a_primary_of_its_own_that_ends_at_the_stop_lsn(
    restored: tuple[Server, Restored], physical: tuple[MemoryPoint, Writer]
) -> None:
    server, done = restored
    point, writer = physical
    assert await server.value("SELECT pg_is_in_recovery()") is False
    assert await server.value("SELECT timeline_id FROM pg_control_checkpoint()") == 2
    history = (server.place.data_directory / "pg_wal" / "00000002.history").read_text()
    assert str(point.manifest.postgres.stop_lsn) in history
    assert done.restored_bytes == point.manifest.plain_bytes
    assert done.last_commit_at is not None
    assert point.manifest.postgres.last_commit_at is not None
    assert done.last_commit_at >= point.manifest.postgres.last_commit_at - timedelta(seconds=1)
    present = await server.value("SELECT array_agg(id) FROM events")
    promised = {number for number, at in writer.acknowledged.items() if at <= point.manifest.postgres.last_commit_at}
    assert promised, "the load must have run before the last promised commit"
    assert promised <= set(present), "every commit acknowledged by last_commit_at is in the point"
    assert set(writer.acknowledged) - set(present), "and the load went on after it"


async def test_restored_server_is_safe_and_sound(restored: tuple[Server, Restored], source: Server) -> None:
    server, _ = restored
    folder = server.place.data_directory
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert await server.value("SHOW archive_mode") == "off"
    assert await server.value("SHOW max_connections") == "57", "not less than at the source"
    assert await server.value("SHOW default_text_search_config") == "pg_catalog.german"
    assert await server.value("SHOW listen_addresses") == "127.0.0.1"
    assert not (folder / INCOMPLETE).exists()
    assert (folder / "postgresql.conf.source").exists()
    assert await server.value("SELECT count(*) FROM in_space") == 500
    location = await server.value("SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'fast'")
    assert location.startswith(str(folder)), "the source's tablespace is not shared with the copy"
    assert {process.username() for process in map(psutil.Process, server_processes(folder))} == {
        source.postgres.host.user_for(server.place) or psutil.Process(os.getpid()).username()
    }


async def test_read_only_until_it_is_opened(restored: tuple[Server, Restored]) -> None:
    server, _ = restored
    with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
        await server.execute("CREATE TABLE written (id int)")
    await server.postgres.set_read_only(server.place, False)
    await server.execute("CREATE TABLE written (id int); DROP TABLE written")
    await server.postgres.set_read_only(server.place, True)
    with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
        await server.execute("CREATE TABLE written (id int)")
    await server.postgres.set_read_only(server.place, False)


async def test_restored_server_survives_a_crash_and_a_restart(restored: tuple[Server, Restored]) -> None:
    server, _ = restored
    rows = await server.value("SELECT count(*) FROM events")
    server.kill()
    await server.postgres.host.start(server.place)
    assert await server.value("SELECT count(*) FROM events") == rows
    await server.postgres.host.stop(server.place)
    assert not server_processes(server.place.data_directory)
    await server.postgres.host.start(server.place)
    assert await server.value("SELECT count(*) FROM events") == rows


async def test_all_checks_pass_on_the_restored_server(
    restored: tuple[Server, Restored], physical: tuple[MemoryPoint, Writer]
) -> None:
    results = await restored[0].postgres.verify_restored(
        physical[0].manifest, restored[0].login, CRITICAL, everything=True
    )
    assert [result for result in results if not result.passed] == []
    assert {result.name for result in results} >= {"canary", "fingerprints", "tables-readable", "sequences"}
    compared = next(result for result in results if result.name == "fingerprints").detail
    assert "did not change" in compared


async def test_a_missing_canary_is_noticed(
    restored: tuple[Server, Restored], physical: tuple[MemoryPoint, Writer]
) -> None:
    server, _ = restored
    value = physical[0].manifest.postgres.canary
    await server.execute(f"DELETE FROM recovery_plans.canary WHERE value = '{value}'")
    results = await server.postgres.verify_restored(physical[0].manifest, server.login, [])
    assert [result.name for result in results if not result.passed] == ["canary"]
    await server.execute(f"INSERT INTO recovery_plans.canary VALUES ('{value}')")


async def test_a_damaged_page_makes_a_table_unreadable(restored: tuple[Server, Restored]) -> None:
    server, _ = restored
    path = server.place.data_directory / await server.value("SELECT pg_relation_filepath('customers')")
    await server.postgres.host.stop(server.place)
    with path.open("r+b") as file:
        file.seek(2 * 8192 + 4000)
        before = file.read(4)
        file.seek(2 * 8192 + 4000)
        file.write(b"\x00\xff\x00\xff")
    await server.postgres.host.start(server.place)
    seen = await observe(server.login, {"shop": "shop"}, Scope())
    assert list(seen.unreadable) == ["shop.public.customers"]
    assert "block 2" in seen.unreadable["shop.public.customers"]
    await server.postgres.host.stop(server.place)
    with path.open("r+b") as file:
        file.seek(2 * 8192 + 4000)
        file.write(before)
    await server.postgres.host.start(server.place)


async def test_a_repeated_restore_finds_its_finished_work(
    restored: tuple[Server, Restored], physical: tuple[MemoryPoint, Writer]
) -> None:
    server, done = restored
    unread = MemoryPoint(physical[0].manifest, {})
    again = await server.postgres.restore_physical(unread, server.place, RestoreOptions("restore-1"))
    assert (again.place, again.restored_bytes, again.last_commit_at) == (
        done.place,
        done.restored_bytes,
        done.last_commit_at,
    )
    with pytest.raises(Refused, match="is running in"):
        await server.postgres.restore_physical(unread, server.place, RestoreOptions("restore-2"))
    with pytest.raises(Refused, match="belongs to restore restore-1"):
        await server.postgres.remove_restored(server.place, "restore-2")
    assert await server.value("SELECT 1") == 1


async def _refused(
    source: Server, point: MemoryPoint, target: PostgresPlace, kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        await source.postgres.restore_physical(point, target, RestoreOptions("restore-x"))


async def test_a_physical_restore_refuses_with_what_to_do(
    source: Server, physical: tuple[MemoryPoint, Writer], logical: MemoryPoint, target: PostgresPlace
) -> None:
    point = physical[0]
    await _refused(source, logical, target, BadInput, "only a physical one makes a data directory")
    other = point.changed(major=14)
    await _refused(source, other, target, Refused, r"of PostgreSQL 14, and this machine has 16.*Install 14 here")
    relative = PostgresPlace("127.0.0.1", target.port, Path("relative"))
    await _refused(source, point, relative, BadInput, "must be an absolute path")
    busy = PostgresPlace("127.0.0.1", source.place.port, target.data_directory)
    await _refused(source, point, busy, Refused, "something listens at .* name another port")
    assert not target.data_directory.exists()
    target.data_directory.mkdir()
    (target.data_directory / "precious").write_text("keep me")
    await _refused(source, point, target, Refused, "is not empty: a restore overwrites nothing")
    assert (target.data_directory / "precious").read_text() == "keep me"
    with pytest.raises(Refused, match="nothing in it was touched"):
        await source.postgres.remove_restored(target, "restore-x")
    assert (target.data_directory / "precious").exists()


async def test_too_little_room_is_refused_before_anything_is_fetched(
    source: Server, physical: tuple[MemoryPoint, Writer], target: PostgresPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = physical[0].manifest.plain_bytes

    async def free(path: Path) -> int:
        return needed

    monkeypatch.setattr(source.postgres.host, "free_bytes", free)
    unread = MemoryPoint(physical[0].manifest, {})
    await _refused(source, unread, target, NoSpace, r"needs .* MiB in .*, and .* MiB are free there: free some space")
    assert not target.data_directory.exists()


async def _fails_and_removes(
    source: Server, target: PostgresPlace, point: MemoryPoint, kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        await source.postgres.restore_physical(point, target, RestoreOptions("restore-y"))
    assert not target.data_directory.exists()
    assert not target.data_directory.with_name(target.data_directory.name + ".tablespaces").exists()
    assert not server_processes(target.data_directory)


async def test_a_failing_restore_removes_its_target(
    source: Server, physical: tuple[MemoryPoint, Writer], target: PostgresPlace
) -> None:
    point = physical[0]
    for failure in (WrongKey("no identity at hand"), Corrupt("object 3 differs")):
        broken = MemoryPoint(point.manifest, point.content, failure)
        await _fails_and_removes(source, target, broken, type(failure), str(failure))
    flipped = bytearray(point.content["base.tar"])
    flipped[flipped.index(b"customer 1500")] ^= 1
    damaged = MemoryPoint(point.manifest, {**point.content, "base.tar": bytes(flipped)})
    await _fails_and_removes(source, target, damaged, Corrupt, "pg_verifybackup found damage.*checksum mismatch")
    cut = MemoryPoint(point.manifest, {**point.content, "base.tar": point.content["base.tar"][:-9_000_000]})
    await _fails_and_removes(
        source, target, cut, RestoreFailed, "base.tar could not be unpacked into .*: it ends too early"
    )


async def test_a_server_that_cannot_start_is_reported_with_its_log(
    source: Server, physical: tuple[MemoryPoint, Writer], target: PostgresPlace
) -> None:
    options = RestoreOptions("restore-z", settings={"shared_preload_libraries": "no_such_library"})
    with pytest.raises(RestoreFailed, match='could not access file "no_such_library"'):
        await source.postgres.restore_physical(physical[0], target, options)
    assert not target.data_directory.exists()


async def test_a_full_disk_in_mid_restore_is_said_and_the_target_removed(
    source: Server,
    physical: tuple[MemoryPoint, Writer],
    target: PostgresPlace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = 0

    def write(descriptor: int, data: bytes) -> None:
        nonlocal written
        written += os.write(descriptor, data)
        if written > 1_000_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(unpacking, "_write_all", write)
    await _fails_and_removes(source, target, physical[0], NoSpace, "became full during the restore")


async def test_a_cancelled_restore_leaves_nothing(
    source: Server, physical: tuple[MemoryPoint, Writer], target: PostgresPlace
) -> None:
    point = MemoryPoint(physical[0].manifest, physical[0].content)
    point.waiting = asyncio.Event()
    task = asyncio.create_task(source.postgres.restore_physical(point, target, RestoreOptions("restore-c")))
    await asyncio.wait_for(point.waiting.wait(), 60)
    with pytest.raises(Contended, match="still at work"):
        await source.postgres.remove_restored(target, "restore-c")
    with pytest.raises(Contended, match="still at work"):
        await source.postgres.restore_physical(physical[0], target, RestoreOptions("restore-c"))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 30)
    assert not target.data_directory.exists()
    # Other tests' servers may be our children as well: only what works on the target counts.
    children = psutil.Process(os.getpid()).children(recursive=True)
    assert not [child for child in children if any(str(target.data_directory) in part for part in _arguments(child))]


def _arguments(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


async def test_what_a_killed_worker_left_is_never_started_and_is_restored_anew(
    source: Server, physical: tuple[MemoryPoint, Writer], target: PostgresPlace
) -> None:
    folder = target.data_directory
    claimed = ClaimedFolder(folder, RestoreMark("restore-k", "physical-1", created_directory=False))
    with claimed:
        (folder / "PG_VERSION").write_text("16\n")
        (folder / "base").mkdir()
    with pytest.raises(Refused, match="interrupted restore and must not be started"):
        await source.postgres.host.start(target)
    assert await source.postgres.remove_restored(target, "restore-k") is True
    assert not folder.exists()
    assert await source.postgres.remove_restored(target, "restore-k") is False, (
        "idempotent, and fine when never created"
    )
    with ClaimedFolder(folder, RestoreMark("restore-k", "physical-1", created_directory=False)):
        (folder / "rubbish").write_text("of the killed worker")
    await source.postgres.restore_physical(physical[0], target, RestoreOptions("restore-k"))
    assert not (folder / "rubbish").exists()
    assert await Server(source.postgres, target, folder).value("SELECT count(*) FROM customers") == 3000
    assert await source.postgres.remove_restored(target, "restore-k") is True
    assert not server_processes(folder)


async def test_an_empty_folder_of_the_operators_stays_when_its_content_is_removed(
    source: Server, physical: tuple[MemoryPoint, Writer], target: PostgresPlace
) -> None:
    target.data_directory.mkdir()
    options = RestoreOptions("restore-m", start=False)
    await source.postgres.restore_physical(physical[0], target, options)
    assert await source.postgres.remove_restored(target, "restore-m") is True
    assert list(target.data_directory.iterdir()) == []
