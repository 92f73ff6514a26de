"""PostgreSQL in the lab: a primary with its roles, streaming standbys, and places ready to be restored into."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg

from lab.control import Supervised
from lab.errors import LabError
from lab.servers import Planned, Site, write_private
from lab.state import Link, PostgresPlace
from lab.supervisor import Launch

STANDBY_SIGNAL = "standby.signal"

# The roles of a well-run shop: nobody but the operator is a superuser. What `backup` may do follows what Barman and
# pgBackRest ask for. pg_read_all_data covers pg_authid too, so pg_dumpall --globals-only stores the roles with their
# password hashes, without which nobody could log in after a recovery. (A base backup holds the same hashes.)
_ROLES = """
CREATE ROLE backup LOGIN REPLICATION PASSWORD {backup_password};
CREATE ROLE app LOGIN PASSWORD {app_password};
GRANT pg_read_all_data, pg_monitor, pg_checkpoint TO backup;
"""
_STANDBY_ROLE = """
CREATE ROLE {name} LOGIN REPLICATION PASSWORD {password};
-- What pg_rewind asks of a source that it reaches through a connection.
GRANT EXECUTE ON FUNCTION pg_catalog.pg_ls_dir(text, boolean, boolean), pg_catalog.pg_stat_file(text, boolean),
    pg_catalog.pg_read_binary_file(text), pg_catalog.pg_read_binary_file(text, bigint, bigint, boolean) TO {name};
"""
_GRANTS = """
GRANT EXECUTE ON FUNCTION pg_catalog.pg_create_restore_point(text), pg_catalog.pg_switch_wal(),
    pg_catalog.pg_backup_start(text, boolean), pg_catalog.pg_backup_stop(boolean) TO backup;
"""
_SETTINGS = """
wal_level = replica
max_wal_senders = 10
max_replication_slots = 10
hot_standby = on
max_connections = 100
shared_buffers = 64MB
unix_socket_directories = ''
password_encryption = scram-sha-256
# Each new connection computes these rounds; passwords of a lab are random and last as long as it does.
scram_iterations = 64
# Nothing of a killed server stays in /dev/shm.
dynamic_shared_memory_type = mmap
wal_receiver_timeout = 10s
wal_sender_timeout = 10s
log_line_prefix = '%m [%p] '
"""
_GUARDED_SETTINGS = """
# A standby that was away comes back without a base backup, and one that never does fills no disk.
wal_keep_size = 256MB
max_slot_wal_keep_size = 2GB
hot_standby_feedback = on
wal_receiver_status_interval = 1s
wal_retrieve_retry_interval = 500ms
"""
_HBA = """# type  database     user  address      method
host     all          all   127.0.0.0/8  scram-sha-256
host     replication  all   127.0.0.0/8  scram-sha-256
"""


def planned(site: Site, place: PostgresPlace) -> Planned:
    """Return the server of `place`; its ports stand on the command line too, so that a restored copy of another
    region's data directory listens in its own region."""
    launch = Launch(
        argv=[
            str(place.bin_directory / "postgres"),
            *("-D", str(place.data_directory)),
            *("-c", f"listen_addresses={place.host}", "-c", f"port={place.port}", "-c", "unix_socket_directories="),
        ],
        env=site.environment(),
        cwd=place.data_directory.parent,
        user=place.run_as,
    )
    return Planned(site.server("postgres", place.port, place.data_directory), launch)


def prepare_data_folder(place: PostgresPlace) -> None:
    """Make the folder above the data directory, owned by the user that the server runs as. The data directory itself
    does not exist yet."""
    parent = place.data_directory.parent
    parent.mkdir(parents=True, exist_ok=True)
    if place.run_as is not None:
        shutil.chown(parent, place.run_as)


def _secret_file(site: Site, place: PostgresPlace, name: str, text: str) -> Path:
    """Write a file beside the data directory that only the server's user may read."""
    path = place.data_directory.parent / name
    write_private(path, text)
    if place.run_as is not None:
        shutil.chown(path, place.run_as)
    return path


async def make_primary(supervised: Supervised, site: Site, place: PostgresPlace, guarded: bool = False) -> None:
    """Run initdb and write the settings; the server is not started."""
    await asyncio.to_thread(prepare_data_folder, place)
    password_file = await asyncio.to_thread(_secret_file, site, place, ".superuser", place.password)
    arguments = {
        "--pgdata": place.data_directory,
        "--username": place.superuser,
        "--pwfile": password_file,
        "--encoding": "UTF8",
        "--locale": "C",
        "--auth-host": "scram-sha-256",
        "--auth-local": "scram-sha-256",
        "--set": "scram_iterations=64",
    }
    await supervised.run(
        Launch(
            argv=[
                str(place.bin_directory / "initdb"),
                "--data-checksums",
                "--no-instructions",
                *(f"{key}={value}" for key, value in arguments.items()),
            ],
            env=site.environment(),
            cwd=place.data_directory.parent,
            user=place.run_as,
        )
    )
    password_file.unlink()
    address = f"listen_addresses = '{place.host}'\nport = {place.port}\n"
    with (place.data_directory / "postgresql.conf").open("a") as settings:
        settings.write(_SETTINGS + (_GUARDED_SETTINGS if guarded else "") + address)
    (place.data_directory / "pg_hba.conf").write_text(_HBA)


async def make_roles_and_database(place: PostgresPlace, members: list[PostgresPlace], standbys: list[str]) -> None:
    """Create the roles, the shop database and one physical replication slot per standby.

    `members`: the regions that are or may become standbys, each with a role of its own.
    """
    roles = _ROLES.format(
        backup_password=_literal(place.backup_password),
        app_password=_literal(place.app_password),
    )
    async with connected(place, "postgres") as connection:
        await connection.execute(roles)
        for member in members:
            password = _literal(member.replication_password)
            await connection.execute(_STANDBY_ROLE.format(name=member.replication_user, password=password))
        await connection.execute(_GRANTS)
        for standby in standbys:
            await connection.execute("SELECT pg_create_physical_replication_slot($1, true)", slot_name(standby))
    async with connected(place, "template1") as connection:
        await connection.execute(_GRANTS)
    async with connected(place, "postgres") as connection:
        await connection.execute(f"CREATE DATABASE {place.database} OWNER app")
        await connection.execute(f"GRANT CREATE ON DATABASE {place.database} TO backup")


async def make_standby(supervised: Supervised, site: Site, place: PostgresPlace, link: Link) -> None:
    """Clone the primary that is seen through `link`, and set the copy up as its streaming standby."""
    await asyncio.to_thread(prepare_data_folder, place)
    line = f"*:*:*:{place.replication_user}:{place.replication_password}\n"
    password_file = await asyncio.to_thread(_secret_file, site, place, ".pgpass", line)
    await supervised.run(
        Launch(
            argv=[
                str(place.bin_directory / "pg_basebackup"),
                *("-h", link.host, "-p", str(link.port), "-U", place.replication_user, "-w"),
                *("-D", str(place.data_directory), "-X", "stream", "-c", "fast", "-S", slot_name(site.name)),
            ],
            env={**site.environment(), "PGPASSFILE": str(password_file)},
            cwd=place.data_directory.parent,
            user=place.run_as,
        )
    )
    await asyncio.to_thread(_write_standby_settings, site, place, link, password_file)


def _write_standby_settings(site: Site, place: PostgresPlace, link: Link, password_file: Path) -> None:
    source = {
        "host": link.host,
        "port": str(link.port),
        "user": place.replication_user,
        "passfile": str(password_file),
        "application_name": slot_name(site.name),
        "keepalives_idle": "2",
        "keepalives_interval": "1",
        "keepalives_count": "3",
    }
    conninfo = " ".join(f"{key}='{_escaped(value)}'" for key, value in source.items())
    with (place.data_directory / "postgresql.auto.conf").open("a") as settings:
        settings.write(f"primary_conninfo = {_literal(conninfo)}\nprimary_slot_name = '{slot_name(site.name)}'\n")
    with (place.data_directory / "postgresql.conf").open("a") as settings:
        settings.write(f"listen_addresses = '{place.host}'\n")
    signal_file = place.data_directory / STANDBY_SIGNAL
    signal_file.touch(mode=0o600)
    if place.run_as is not None:
        shutil.chown(signal_file, place.run_as)


def slot_name(region: str) -> str:
    """Return the slot and application name of a region's standby (letters, digits and underscores only)."""
    return "standby_" + "".join(letter if letter.isalnum() else "_" for letter in region.lower())


@contextlib.asynccontextmanager
async def connected(place: PostgresPlace, database: str) -> AsyncIterator[asyncpg.Connection]:
    """Yield a superuser's connection to `database`."""
    connection = await asyncpg.connect(place.dsn(database=database), timeout=10)
    try:
        yield connection
    finally:
        await connection.close(timeout=5)


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("'", "\\'")


def corrupt_page(data_directory: Path, relation: str, block: int, offset: int) -> tuple[Path, int]:
    """Flip one bit of a heap page on disk; returns the file and the position.

    A page whose checksum is wrong is noticed by a base backup and by a server that reads it from disk.
    """
    path = data_directory / relation
    position = block * 8192 + offset
    with path.open("r+b") as file:
        file.seek(position)
        old = file.read(1)
        if not old:
            raise LabError(f"{path} has no block {block}: it is {path.stat().st_size // 8192} blocks long.")
        file.seek(position)
        file.write(bytes([old[0] ^ 0x10]))
        file.flush()
        os.fsync(file.fileno())
    return path, position
