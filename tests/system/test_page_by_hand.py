"""RESTORE-BY-HAND.md, which lies beside each recovery set: its commands as they stand bring each store back.

Only what the page leaves to its reader is added: ``cp -rT`` for a download from a folder, and free addresses.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from recovery.adapters.postgres.folder import give_to
from recovery.adapters.postgres.host import stop_server
from recovery.adapters.redis.recovery import RedisDumps
from recovery.backup.sealing import Opener, Sealer
from recovery.domain.recovery_point import Manifest, RecoveryPoint
from recovery.ports.postgres import BaseBackupOptions, PostgresPlace
from tests.fakes.points import AGE
from tests.integration.postgres_pair import cluster
from tests.integration.postgres_servers import Server, Writer, local_postgres, running_source
from tests.integration.redis_dumps import contents, fill
from tests.integration.redis_servers import own_redis
from tests.integration.test_incremental_backups import GROUP, points_of, taken
from tests.ports import free_port
from tests.system.by_hand import SET, Hand, PhysicalCopy, a_hand, program
from tests.system.debian_redis import Redis7

pytestmark = pytest.mark.system
PHYSICAL, LOGICAL, RDB = (f"20261122T101500Z-{kind}-1a2b3c4d" for kind in ("physical", "logical", "rdb"))
DEBUG = "enable-debug-command local"  # to compare what servers hold
UNTOUCHED = "SELECT md5(string_agg(c::text, ',' ORDER BY id)) FROM customers c"


@pytest.fixture
def hand() -> Iterator[Hand]:
    with a_hand() as made:
        yield made


async def copy_of(source: Server, hand: Hand, point: RecoveryPoint, name: str = "by-hand") -> PhysicalCopy:
    manifest = point.manifest
    tool = await source.postgres.host.binaries.tool(manifest.postgres.major, "pg_ctl")
    return PhysicalCopy(hand, source.postgres, tool.parent, hand.found_page(), name)


async def holds_what_was_committed(copy: Server, source: Server, writer: Writer, last: Manifest) -> None:
    at = last.postgres.last_commit_at
    assert at is not None
    here = set(await copy.value("SELECT array_agg(id) FROM events"))
    assert {number for number, acknowledged in writer.acknowledged.items() if acknowledged <= at} <= here
    assert here <= set(await source.value("SELECT array_agg(id) FROM events"))
    assert len(here) > 5
    assert await copy.value(UNTOUCHED) == await source.value(UNTOUCHED)
    assert await copy.value("SELECT length(lo_get(4711))") == 130_000


async def stays_apart(copy: Server) -> None:
    """From the servers that its data came from."""
    names = ("archive_mode", "primary_conninfo", "synchronous_standby_names")
    assert [await copy.value(f"SHOW {name}") for name in names] == ["off", "", ""]
    await copy.execute("CREATE TABLE written AS SELECT 1 AS one")


async def test_a_base_backup_of_a_server_that_archives_and_waits_for_standbys(hand: Hand) -> None:
    """With a tablespace, whose folder of old is free again; nothing that it was told there holds the copy up."""
    async with running_source(hand.folder, tablespace=True) as source:
        for setting in ("archive_mode = on", "archive_command = 'false'", "synchronous_standby_names = 'gone'"):
            await source.execute(f"ALTER SYSTEM SET {setting}")
        async with Writer(source) as writer:
            physical = source.postgres.physical_source(source.login, PHYSICAL)
            point = await hand.take(physical, PHYSICAL)
        await hand.page([point])
        copy = await copy_of(source, hand, point)
        give_to(hand.folder, copy.user)
        (hand.folder / "space").rename(hand.folder / "space-of-old")
        async with copy.running() as restored:
            assert await restored.value("SELECT count(*) FROM in_space") == 500
            (hand.folder / "space").rename(hand.folder / "space-by-hand")
            (hand.folder / "space-of-old").rename(hand.folder / "space")
            await holds_what_was_committed(restored, source, writer, point.manifest)
            await stays_apart(restored)


async def test_a_base_backup_of_a_standby_is_a_server_of_its_own(hand: Hand) -> None:
    async with cluster(hand.folder, "first", "second") as (primary, standby):
        await primary.execute("INSERT INTO marks SELECT i, '' FROM generate_series(1, 100) i")
        physical = primary.postgres.physical_source(primary.login, PHYSICAL, BaseBackupOptions(standby=standby.login))
        point = await hand.take(physical, PHYSICAL)
        assert point.manifest.postgres.streamed_from == standby.login.address
        await hand.page([point])
        copy = await copy_of(primary, hand, point)
        copy.server.database = primary.database
        async with copy.running() as restored:
            assert await restored.value("SELECT count(*) FROM marks") == 100
            await stays_apart(restored)


async def test_a_chain_is_combined_in_its_order(hand: Hand) -> None:
    """Of PostgreSQL 18: each member is checked before, and what comes out of it after it was combined."""
    async with (
        Sealer([AGE.public]) as sealer,
        Opener([AGE.secret]) as opener,
        running_source(hand.folder, major=18) as source,
    ):
        await source.execute("ALTER SYSTEM SET summarize_wal = on")
        await source.execute("SELECT pg_reload_conf()")
        points = points_of(source, hand.store, sealer, opener, hand.folder)
        async with Writer(source) as writer:
            chain = [await taken(points, number) for number in range(3)]
        ids = [manifest.point_id for manifest in chain]
        assert [manifest.postgres.bases for manifest in chain] == [[], ids[:1], ids[:2]]
        _, failed = await points.write_set(GROUP, ids[-1:], set_id=SET, run_id="by-hand")
        assert failed == {}
        last = await points.point(GROUP, ids[-1])
        copy = await copy_of(source, hand, last)
        combined = " ".join(f"{point_id}.data" for point_id in ids)
        assert f"pg_combinebackup --output=data {combined}\npg_verifybackup data\n" in copy.page.text
        async with copy.running() as restored:
            await holds_what_was_committed(restored, source, writer, last.manifest)
            await stays_apart(restored)

        # One that is damaged is found before anything is combined.
        (first,) = (hand.location / "shop/postgres" / ids[0]).rglob("base.tar.000000.*")
        first.write_bytes(first.read_bytes()[:-1])
        again = await copy_of(source, hand, last, "again")
        code, said = await again.make()
        assert code != 0 and f"{first.name}: FAILED" in said
        assert not again.place.data_directory.exists()


@pytest.fixture
async def empty(hand: Hand) -> AsyncIterator[Server]:
    """A new server without any data."""
    postgres = local_postgres(hand.folder)
    place = PostgresPlace("127.0.0.1", free_port(), hand.folder / "empty")
    place.data_directory.mkdir(mode=0o700)
    user = postgres.host.user_for(place)
    give_to(place.data_directory, user)
    await postgres.host.initialise(16, place.data_directory, run_as=user)
    with (place.data_directory / "postgresql.conf").open("a") as settings:
        settings.write(
            f"listen_addresses = '127.0.0.1'\nport = {place.port}\nunix_socket_directories = ''\nfsync = off\n"
        )
    await postgres.host.start(place)
    try:
        yield Server(postgres, place, hand.folder)
    finally:
        await stop_server(place.data_directory, gentle=False)


async def test_a_dump_is_loaded_with_roles_and_settings(hand: Hand, empty: Server) -> None:
    async with running_source(hand.folder, postgres=empty.postgres) as source:
        await source.execute("CREATE DATABASE \"odd name; 'x'\"", "postgres")
        await source.execute("CREATE TABLE one AS SELECT 1 AS one", "odd name; 'x'")
        databases = ["shop", "odd name; 'x'"]
        point = await hand.take(source.postgres.logical_source(source.login, LOGICAL, databases), LOGICAL)
        page = await hand.page([point])
        tool = await source.postgres.host.binaries.tool(16, "psql")
        address = {"PGHOST": "127.0.0.1", "PGPORT": str(empty.place.port), "PGUSER": "postgres"}
        await hand.done(page.blocks("logical"), hand.begin("by-hand"), path=tool.parent, **address)
        for question in (
            UNTOUCHED,
            "SELECT md5(string_agg(o::text, ',' ORDER BY id)) FROM orders o",
            "SELECT md5(string_agg(t::text, ',' ORDER BY customer)) FROM totals t",
            "SELECT md5(string_agg(d::text, ',' ORDER BY id)) FROM documents d",
            "SELECT length(lo_get(4711))",
            "SELECT last_value FROM countdown",
            "SELECT rolpassword FROM pg_authid WHERE rolname = 'clerk'",
            "SELECT pg_has_role('auditor', 'clerk', 'MEMBER')",
            "SELECT setconfig::text FROM pg_db_role_setting s JOIN pg_database d ON d.oid = setdatabase"
            " WHERE datname = 'shop'",
            "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'shop'",
            'SELECT count(*) FROM "odd.name ""quoted"',
        ):
            assert await empty.value(question) == await source.value(question), question
        assert await empty.value("SELECT one FROM one", database="odd name; 'x'") == 1


async def test_a_server_starts_on_a_dump_and_keeps_an_append_only_file_then(hand: Hand) -> None:
    """The page's server runs in front, at a port of its own here."""
    program("redis-server")
    source, again = (
        Redis7(hand.folder / name, append_only=name == "again", lines=(DEBUG,)) for name in ("source", "again")
    )
    with own_redis(source, again):
        await source.start()
        await fill(source.server, 500)
        point = await hand.take(RedisDumps(source.server).source(), RDB)
        expected = await contents(source.server)
        page = await hand.page([point])
        *blocks, last = page.blocks("rdb")
        started = "redis-server --dir"
        assert last.splitlines()[-1].startswith(started) and "`redis-cli config set appendonly yes`" in page.text
        options = (
            f"--{DEBUG} --port {again.port} --bind 127.0.0.1 --save '' --daemonize yes --requirepass {again.password}"
        )
        cli = f"redis-cli -p {again.port} --no-auth-warning"
        place = hand.begin("by-hand")
        said = await hand.done(
            [*blocks, last.rstrip("\n") + f" {options}", f"until {cli} ping | grep -q PONG; do sleep 0.05; done"],
            place, REDISCLI_AUTH=again.password or "",
        )  # fmt: skip
        assert "Checksum OK" in said
        assert await contents(again.server) == expected
        written = f"until {cli} info persistence | grep -q aof_rewrite_in_progress:0; do sleep 0.05; done"
        await hand.done(
            [f"{cli} config set appendonly yes", written, f"{cli} shutdown nosave"], place,
            REDISCLI_AUTH=again.password or "",
        )  # fmt: skip
        again.folder = place
        await again.start()
        assert await contents(again.server) == expected
