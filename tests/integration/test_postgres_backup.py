"""Backup sources on a real server that is being written to, killed, and damaged."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import json
import os
import tarfile
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import psutil
import pytest

from recovery.adapters.postgres.connection import connected
from recovery.adapters.postgres.fingerprint import Checksum, count_versions, read_content, read_horizon, read_tables
from recovery.adapters.postgres.physical import PhysicalSource
from recovery.adapters.postgres.unchanged import holds
from recovery.domain.recovery_point import PostgresSource
from recovery.errors import BadInput, DamagedPages, Refused, SourceFailed, Unreachable
from recovery.ports.postgres import BackupSource, PostgresLogin
from tests.integration.postgres_servers import Server, Writer, eventually, public_folder, running_source, take


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with public_folder() as path:
        yield path


@pytest.fixture(scope="module")
async def source(folder: Path) -> AsyncIterator[Server]:
    async with running_source(folder) as server:
        yield server


@pytest.fixture
async def victim() -> AsyncIterator[Server]:
    with public_folder() as path:
        async with running_source(path) as server:
            yield server


async def test_physical_point_is_complete_and_knows_its_source(source: Server) -> None:
    async with Writer(source):
        point = await take(source.postgres.physical_source(source.login, "point-1"))
    found = point.manifest.postgres
    assert list(point.content) == ["base.tar", "backup_manifest"]
    with tarfile.open(fileobj=io.BytesIO(point.content["base.tar"])) as archive:
        members = archive.getnames()
    assert {"backup_label", "global/pg_control", "PG_VERSION"} <= set(members)
    assert any(name.startswith("pg_wal/0") for name in members), "the WAL that it needs comes with it"
    listed = json.loads(point.content["backup_manifest"])
    assert listed["WAL-Ranges"][0]["End-LSN"] == found.stop_lsn
    assert found.system_identifier == await source.value("SELECT system_identifier::text FROM pg_control_system()")
    assert (found.major, found.timeline, found.data_checksums, found.superuser) == (16, 1, True, "postgres")
    assert set(found.roles) == {"postgres", "clerk", "auditor"}
    assert any(entry.startswith("shop.vector ") for entry in found.extensions)
    assert found.canary == "point-1 during"
    assert found.last_commit_at is not None
    compared = {entry.table: entry for entry in found.tables}
    assert compared["shop.public.customers"].rows == 3000
    assert 'shop.public.odd.name "quoted' in compared
    assert "shop.public.events" not in compared, "a table that is written to cannot be compared"
    assert "shop.public.orders" not in compared
    assert found.fingerprints_taken == "unchanged-tables"
    assert found.settings["default_text_search_config"] == "pg_catalog.german"
    assert "work_mem" not in found.settings, "memory is a matter of the machine"


async def test_nothing_stays_at_the_source_after_a_physical_backup(source: Server) -> None:
    async with source.postgres.physical_source(source.login, "point-2") as backup:
        assert await source.value("SELECT count(*) FROM pg_replication_slots WHERE temporary AND active") == 1
        async for artefact in backup.artefacts():
            async for _ in artefact.chunks():
                pass
        await backup.finish()
    assert await source.value("SELECT count(*) FROM pg_replication_slots") == 0
    await _nothing_left(source)


async def test_a_row_that_came_and_went_during_the_backup_is_a_change(source: Server) -> None:
    async with source.postgres.physical_source(source.login, "point-7") as backup:
        await source.execute("INSERT INTO empty_one VALUES (1)")
        await source.execute("DELETE FROM empty_one; SELECT pg_stat_force_next_flush()")
        async for artefact in backup.artefacts():
            async for _ in artefact.chunks():
                pass
        found = await backup.finish()
    assert isinstance(found, PostgresSource)
    compared = {entry.table for entry in found.tables}
    assert "shop.public.customers" in compared
    assert "shop.public.empty_one" not in compared


async def test_a_column_that_was_added_without_touching_a_row_is_a_change(source: Server) -> None:
    """Every row version is the same as before, and reads differently."""
    await source.execute("CREATE TABLE widened AS SELECT i FROM generate_series(1, 10) i")
    try:
        async with source.postgres.physical_source(source.login, "point-9") as backup:
            await source.execute("ALTER TABLE widened ADD COLUMN colour text DEFAULT 'red'")
            async for artefact in backup.artefacts():
                async for _ in artefact.chunks():
                    pass
            found = await backup.finish()
    finally:
        await source.execute("DROP TABLE widened")
    assert isinstance(found, PostgresSource)
    compared = {entry.table for entry in found.tables}
    assert "shop.public.customers" in compared
    assert "shop.public.widened" not in compared


@pytest.mark.parametrize(
    ("change", "held"),
    [
        ("SELECT 1", True),
        ("VACUUM FREEZE versioned", True),
        ("UPDATE versioned SET i = 11 WHERE i = 10", False),
        ("DELETE FROM versioned WHERE i = 10; INSERT INTO versioned VALUES (11)", False),
        ("DELETE FROM versioned WHERE i = 10", False),
        ("INSERT INTO versioned VALUES (10)", False),
    ],
)
@pytest.mark.parametrize("meanwhile", ["nobody", "an older transaction"])
async def test_row_versions_alone_tell_what_changed(source: Server, change: str, held: bool, meanwhile: str) -> None:
    """Counters of changes arrive late: what was read is compared by its rows. With a transaction that runs since before
    all of it every row may be younger than what was read, and its values are read again."""
    async with connected(source.login, "write") as older, connected(source.login, "w") as writer:
        if meanwhile != "nobody":
            await older.execute("BEGIN; SELECT pg_current_xact_id()")
        await writer.execute("CREATE TABLE versioned AS SELECT i FROM generate_series(1, 10) i")
        try:
            async with connected(source.login, "read", stable_text=True) as reader:
                async with reader.transaction(isolation="repeatable_read", readonly=True):
                    (table,) = [one for one in await read_tables(reader, "shop") if one.name == "versioned"]
                    content, horizon = await read_content(reader, table, Checksum.VALUES), await read_horizon(reader)
                for statement in change.split("; "):
                    await writer.execute(statement)
                assert await holds(reader, table, content, horizon) is held
                rows, later = await count_versions(reader, table, horizon)
                if held:
                    assert (rows, later) == (10, 0 if meanwhile == "nobody" else 10)
        finally:
            await writer.execute("DROP TABLE versioned")


# Values that differ as text; of most of these types PostgreSQL calls them equal, and hashes them alike.
DIFFERENT = {
    "numeric": ("1.0", "1.00"), "float8": ("0", "-0"), "interval": ("1 month", "30 days"), "jsonb": ("1.0", "1.00"),
    "json": ("[1]", "[ 1]"), "int8": ("1", "4294967296"), "timestamptz": ("2026-01-01 00:00Z", "2026-01-01 00:01Z"),
    "text": ("a", "b"), "varchar(3)": ("a ", "a"), "name": ("a", "b"), "bytea": ("a", "a\\000"), "bool": ("t", "f"),
    "text[]": ("{a}", "{A}"), "numeric[]": ("{1.0}", "{1.00}"), "numrange": ("[1.0,2)", "[1.00,2)"),
    "exact": ("1.0", "1.00"), "uuid": ("0" * 32, "1" * 32), "date": ("2026-01-01", "2026-01-02"),
}  # fmt: skip
PAIRS = 40  # of two rows: a sum of what PostgreSQL hashes for a row stays the same in two swaps out of three


async def test_sums_of_values_differ_where_the_text_does(source: Server) -> None:
    await source.execute("CREATE SCHEMA sums; CREATE DOMAIN exact AS numeric")
    try:
        for number, (kind, values) in enumerate(DIFFERENT.items()):
            for name, value in zip("ab", values, strict=True):
                table = f"sums.t{number}{name}"
                await source.execute(
                    f"CREATE TABLE {table} (gone int, one {kind}, two int, three {kind}); "
                    f"INSERT INTO {table} VALUES (1, '{value}', 1, NULL), (2, NULL, 2, NULL); "
                    f"ALTER TABLE {table} DROP gone"
                )
        await source.execute(
            "CREATE TABLE sums.moved AS SELECT NULL::text AS one, 1 AS two, 'a'::text AS three UNION ALL "
            "SELECT NULL, 2, NULL; CREATE TABLE sums.turned AS SELECT NULL::text AS one, 2 AS two, NULL::text AS three "
            "UNION ALL SELECT 'a', 1, NULL; CREATE TABLE sums.bare (); INSERT INTO sums.bare DEFAULT VALUES"
        )
        await source.execute(
            "; ".join(
                f"CREATE TABLE sums.p{n}{name} AS SELECT * FROM "
                f"(VALUES ('a{n}'::text, {first}::int8), ('b{n}', {second})) x (one, two)"
                for n in range(PAIRS)
                for name, first, second in (("a", n, n + 1000), ("b", n + 1000, n))
            )
        )
        async with connected(source.login, "read sums", stable_text=True) as session:
            tables = [table for table in await read_tables(session, "shop") if table.schema == "sums"]
            found = {table.name: await read_content(session, table, Checksum.VALUES) for table in tables}
    finally:
        await source.execute("DROP SCHEMA sums CASCADE; DROP DOMAIN exact")
    assert {content.checksum for content in found.values()} == {None}
    sums = {name: content.values for name, content in found.items()}
    assert None not in sums.values()
    alike = [kind for number, kind in enumerate(DIFFERENT) if sums[f"t{number}a"] == sums[f"t{number}b"]]
    assert alike == []
    assert [n for n in range(PAIRS) if sums[f"p{n}a"] == sums[f"p{n}b"]] == [], "values that changed their rows"
    text = list(DIFFERENT).index("text")
    assert sums["turned"] == sums[f"t{text}a"], "in any order of rows, whatever was dropped before"
    assert sums["moved"] != sums["turned"], "a value in another column"


async def test_last_commit_is_never_later_than_the_stop(source: Server) -> None:
    backup = PhysicalSource(source.login, "point-8")
    async with Writer(source), backup:
        async for artefact in backup.artefacts():
            async for _ in artefact.chunks():
                pass
        stopped = await source.value("SELECT clock_timestamp()")

        async def looked_at_again() -> bool:
            return bool(backup._moments[-1][0] > stopped)

        await eventually(looked_at_again)
        found = await backup.finish()
    assert found.last_commit_at is not None
    assert found.last_commit_at < stopped, "commits after the stop are not in the point"


async def _nothing_left(server: Server) -> None:
    sessions: list[str] = []

    async def clean() -> bool:
        sessions[:] = (
            await server.value(
                "SELECT array_agg(concat_ws(' ', pid, backend_type, state, wait_event_type, wait_event, query))"
                " FROM pg_stat_activity WHERE application_name = 'recovery-plans'"
            )
            or []
        )
        return not sessions

    try:
        await eventually(clean)
    except TimeoutError:
        pytest.fail(f"sessions are left: {sessions}")
    assert await server.value("SELECT count(*) FROM pg_replication_slots") == 0
    await _no_dump_runs()


async def _no_dump_runs() -> None:
    async def none() -> bool:
        return not _dump_processes()

    await eventually(none)


def _dump_processes() -> list[int]:
    found = []
    for child in psutil.Process(os.getpid()).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if child.name().startswith(("pg_dump", "pg_restore")) and child.status() != psutil.STATUS_ZOMBIE:
                found.append(child.pid)
    return found


@pytest.mark.parametrize("kind", ["physical", "logical"])
async def test_a_cancelled_backup_leaves_no_slot_no_session_and_no_process(source: Server, kind: str) -> None:
    started = asyncio.Event()

    async def backup() -> None:
        async with _source_of(source, kind) as running:
            async for artefact in running.artefacts():
                async for _ in artefact.chunks():
                    if artefact.name != "globals.sql":
                        started.set()
                        await asyncio.Event().wait()

    task = asyncio.create_task(backup())
    await asyncio.wait_for(started.wait(), 60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 30)
    await _nothing_left(source)


def _source_of(server: Server, kind: str) -> AbstractAsyncContextManager[BackupSource]:
    if kind == "physical":
        return server.postgres.physical_source(server.login, "point")
    return server.postgres.logical_source(server.login, "point", ["shop"])


@pytest.mark.parametrize("kind", ["physical", "logical"])
async def test_a_consumer_that_stops_reading_ends_the_backup(source: Server, kind: str) -> None:
    async with _source_of(source, kind) as running:
        async for artefact in running.artefacts():
            chunks = artefact.chunks()
            await anext(chunks)
            assert isinstance(chunks, AsyncGenerator)
            await chunks.aclose()
            break
    await _nothing_left(source)


async def test_a_backup_that_ends_while_its_readers_log_in_leaves_no_session(source: Server) -> None:
    """At whatever moment of their first statements it ends; and no garbage collector has to come by first."""
    gc.collect()
    gc.disable()
    try:
        for number in range(40):
            async with _source_of(source, "logical"):
                await asyncio.sleep(number / 1000)
        await _nothing_left(source)
    finally:
        gc.enable()


@pytest.mark.parametrize("kind", ["physical", "logical"])
async def test_a_source_that_dies_in_mid_backup_is_reported_in_its_own_words(victim: Server, kind: str) -> None:
    with pytest.raises((SourceFailed, Unreachable)) as failure:
        async with _source_of(victim, kind) as running:
            async for artefact in running.artefacts():
                async for _ in artefact.chunks():
                    if artefact.name != "globals.sql":
                        victim.kill()
            await running.finish()
    assert "clos" in str(failure.value) or "terminat" in str(failure.value), failure.value
    await _no_dump_runs()


async def test_a_physical_backup_of_a_killed_source_is_a_failed_source(victim: Server) -> None:
    with pytest.raises(SourceFailed, match=r"closed the connection unexpectedly|terminating connection"):
        async with victim.postgres.physical_source(victim.login, "point") as running:
            async for artefact in running.artefacts():
                async for _ in artefact.chunks():
                    victim.kill()


async def test_damaged_pages_at_the_source_are_named_with_file_and_block(victim: Server) -> None:
    path = await victim.value("SELECT pg_relation_filepath('customers')")
    await victim.postgres.host.stop(victim.place)
    with (victim.place.data_directory / path).open("r+b") as file:
        file.seek(3 * 8192 + 5000)
        file.write(b"damage")
    await victim.postgres.host.start(victim.place)
    source = PhysicalSource(victim.login, "point")
    with pytest.raises(DamagedPages, match=rf"{path}.*block 3") as failure:
        await take(source)
    assert "checksum" in str(failure.value)


async def test_logical_fingerprints_are_those_of_the_dump_under_load(source: Server) -> None:
    async with Writer(source) as writer:
        before = len(writer.acknowledged)
        point = await take(source.postgres.logical_source(source.login, "point-3", ["shop"]))
        assert len(writer.acknowledged) > before, "the load must have gone on during the backup"
    found = point.manifest.postgres
    assert list(point.content) == ["globals.sql", "shop.dump"]
    assert point.content["shop.dump"].startswith(b"PGDMP")
    assert b"CREATE ROLE clerk" in point.content["globals.sql"]
    assert found.fingerprints_taken == "same-snapshot"
    names = {entry.table for entry in found.tables}
    assert {"shop.public.orders", "shop.public.events", "shop.public.empty_one"} <= names
    assert "shop.public.totals" not in names, "a restore fills a materialised view anew"
    assert found.table_count == len(found.tables)
    assert found.large_objects == 1
    assert found.sequences["shop.public.events_id"] < found.sequences_after["shop.public.events_id"]
    assert found.database_properties["shop"].owner == "clerk"


async def test_globals_without_passwords_say_so(source: Server) -> None:
    await source.execute("CREATE ROLE dumper LOGIN PASSWORD 'p'; GRANT SELECT ON LARGE OBJECT 4711 TO dumper")
    for schema in await source.value(
        "SELECT array_agg(nspname::text) FROM pg_namespace WHERE nspname !~ '^(pg_|info)'"
    ):
        await source.execute(
            f"GRANT USAGE ON SCHEMA {schema} TO dumper; GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO dumper"
        )
        await source.execute(f"GRANT SELECT ON ALL SEQUENCES IN SCHEMA {schema} TO dumper")
    try:
        login = PostgresLogin(source.place.host, source.place.port, "dumper", "shop", "p", sslmode="disable")
        point = await take(source.postgres.logical_source(login, "point-4", ["shop"]))
        assert b"PASSWORD" not in point.content["globals.sql"]
        assert any("may not read pg_authid" in note for note in point.manifest.postgres.notes)
    finally:
        await source.execute("DROP OWNED BY dumper; DROP ROLE dumper")


async def test_no_secret_is_in_a_childs_arguments_or_environment(source: Server) -> None:
    login = PostgresLogin(
        source.place.host, source.place.port, "postgres", "shop", password="geheim-4711", sslmode="disable"
    )
    seen: list[str] = []
    async with source.postgres.logical_source(login, "point-5", ["shop"]) as backup:
        async for artefact in backup.artefacts():
            async for _ in artefact.chunks():
                for pid in _dump_processes():
                    with contextlib.suppress(psutil.NoSuchProcess):
                        child = psutil.Process(pid)
                        seen += [*child.cmdline(), *child.environ().values()]
    assert any(word.startswith("--snapshot=") for word in seen), "the dump was looked at"
    assert not [word for word in seen if "geheim" in word]
    assert "geheim" not in repr(login)


async def test_what_cannot_be_backed_up_is_said(source: Server) -> None:
    with pytest.raises(BadInput, match=r"no database 'shpo'.*postgres, shop"):
        await take(source.postgres.logical_source(source.login, "point", ["shpo"]))
    nowhere = PostgresLogin("127.0.0.1", 1, sslmode="disable")
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1 did not answer"):
        await take(source.postgres.physical_source(nowhere, "point"))
    await source.execute("CREATE ROLE stranger LOGIN")
    try:
        stranger = PostgresLogin(source.place.host, source.place.port, "stranger", "postgres", sslmode="disable")
        with pytest.raises((Refused, SourceFailed), match=r"(?i)permission|replication"):
            await take(PhysicalSource(stranger, "point"))
    finally:
        await source.execute("DROP ROLE stranger")
    assert await source.value("SELECT count(*) FROM pg_replication_slots") == 0


async def test_a_source_that_cannot_be_written_to_has_no_canary_and_says_why(source: Server) -> None:
    await source.execute("ALTER DATABASE shop SET default_transaction_read_only = on")
    try:
        point = await take(source.postgres.physical_source(source.login, "point-6"))
    finally:
        await source.execute("ALTER DATABASE shop RESET default_transaction_read_only", "postgres")
    assert point.manifest.postgres.canary is None
    assert any("no canary" in note and "read-only" in note for note in point.manifest.postgres.notes)
