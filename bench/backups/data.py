"""The database that everybody backs up: a dozen equal tables, about half of whose bytes nothing can compress."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from lab.packages import postgres_binaries, system_user
from lab.processes import postmaster_pid
from recovery.adapters.postgres import LocalPostgres, PostgresBinaries
from recovery.adapters.postgres.binaries import DEBIAN_FOLDERS
from recovery.adapters.postgres.folder import give_to
from recovery.adapters.postgres.host import stop_server
from recovery.ports.postgres import PostgresLogin, PostgresPlace

HOST = "127.0.0.1"
DATABASE = "shop"
TABLES = 12
PACKAGED = 16  # the lab's PostgreSQL, where the distribution has none
AT_ONCE = 2  # tables that are loaded at the same time

_ROW_BYTES = 508  # with its share of the primary key
_RANDOM_BYTES = 220  # of each row
_ROWS = 2000  # in one piece of a COPY
_WORDS = """
stainless steel bottle cotton shirt garden chair wooden table winter coat leather shoes kitchen knife paper lamp order
was placed by telephone and paid in advance customer asked for delivery on a weekday between nine and noon returned
because of its colour exchanged for another size parcel left with the neighbour invoice sent by post
"""
_SETTINGS = """
listen_addresses = '{host}'
port = {port}
unix_socket_directories = '{socket}'
dynamic_shared_memory_type = mmap
shared_buffers = 256MB
max_wal_size = 2GB
autovacuum = off
archive_mode = on
archive_command = '/bin/true'
"""


def free_port() -> int:
    """A TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Source:
    """The running server. Its own user may enter ``socket`` and the folders that ``own_folder`` makes."""

    postgres: LocalPostgres
    place: PostgresPlace
    binaries: Path
    major: int
    folder: Path

    @property
    def user(self) -> str | None:
        return self.postgres.host.user_for(self.place)

    @property
    def socket(self) -> Path:
        return self.folder / "socket"

    @property
    def login(self) -> PostgresLogin:
        return PostgresLogin(self.place.host, self.place.port, "postgres", DATABASE, sslmode="disable")

    @property
    def pids(self) -> list[int]:
        """The server's, for its processor seconds."""
        pid = postmaster_pid(self.place.data_directory)
        return [] if pid is None else [pid]

    def own_folder(self, name: str) -> Path:
        """An empty folder of the server's user."""
        folder = self.folder / name
        folder.mkdir(mode=0o700)
        give_to(folder, self.user)
        return folder

    async def execute(self, *statements: str, database: str = DATABASE) -> None:
        connection = await self._connect(database)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    async def _connect(self, database: str) -> asyncpg.Connection[asyncpg.Record]:
        place = self.place
        return await asyncpg.connect(
            host=place.host, port=place.port, user="postgres", database=database, ssl=False, timeout=10
        )

    async def archive_with(self, command: str) -> None:
        """Another ``archive_command``."""
        quoted = command.replace("'", "''")
        await self.execute(f"ALTER SYSTEM SET archive_command = '{quoted}'", "SELECT pg_reload_conf()")

    async def load(self, size: int) -> int:
        """Fills the tables to about ``size`` bytes; the size that PostgreSQL reports."""
        await self.execute(f"CREATE DATABASE {DATABASE}", database="postgres")
        rows = max(1, size // TABLES // _ROW_BYTES)
        slots = asyncio.Semaphore(AT_ONCE)

        async def load(number: int) -> None:
            async with slots:
                await self._load_table(f"orders_{number:02}", rows, seed=number)

        await asyncio.gather(*(load(number) for number in range(TABLES)))
        await self.execute("CHECKPOINT")
        connection = await self._connect(DATABASE)
        try:
            return int(await connection.fetchval("SELECT sum(pg_database_size(datname)) FROM pg_database"))
        finally:
            await connection.close()

    async def _load_table(self, name: str, rows: int, seed: int) -> None:
        connection = await self._connect(DATABASE)
        try:
            await connection.execute(
                f"CREATE TABLE {name} (id bigint, customer integer, placed_at timestamptz, note text, scan bytea)"
            )
            await connection.copy_to_table(name, source=_lines(rows, seed), timeout=3600)
            await connection.execute(f"ALTER TABLE {name} ADD PRIMARY KEY (id)", timeout=3600)
            await connection.execute(f"VACUUM (FREEZE, ANALYZE) {name}", timeout=3600)
        finally:
            await connection.close(timeout=10)


async def _lines(rows: int, seed: int) -> AsyncIterator[bytes]:
    """Rows as COPY reads them: the same ones for the same seed."""
    chosen = random.Random(seed)
    notes = [" ".join(chosen.choices(_WORDS.split(), k=36))[:200] for _ in range(1000)]
    days = [f"2026-{1 + day % 11:02}-{1 + day % 28:02} {day % 24:02}:00:00+00" for day in range(300)]
    digits = 2 * _RANDOM_BYTES
    for first in range(0, rows, _ROWS):
        count = min(_ROWS, rows - first)
        scans = chosen.randbytes(count * _RANDOM_BYTES).hex()
        lines = [
            f"{first + row}\t{(first + row) * 7919 % 100003}\t{days[row % 300]}\t{notes[(first + row * 31) % 1000]}"
            f"\t\\\\x{scans[row * digits : (row + 1) * digits]}\n"
            for row in range(count)
        ]
        yield "".join(lines).encode()


def installed(folder: Path) -> tuple[int, Path]:
    """Major version and programs: the distribution's newest, or else the lab's.

    The distribution's pgBackRest knows the distribution's PostgreSQL, and need not know a newer one.
    """
    found = {int(path.parent.name): path for path in DEBIAN_FOLDERS.glob("*/bin") if (path / "postgres").exists()}
    if found:
        return max(found), found[max(found)]
    return PACKAGED, postgres_binaries(PACKAGED, system_user(), folder)


@contextlib.asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Source]:
    """A server without data in a folder of its own; ended afterwards."""
    major, programs = await asyncio.to_thread(installed, folder)
    postgres = LocalPostgres(PostgresBinaries({major: programs}), run_as=system_user())
    place = PostgresPlace(HOST, free_port(), folder / "source")
    source = Source(postgres, place, programs, major, folder)
    source.own_folder("source")
    source.own_folder("socket")
    await postgres.host.initialise(major, place.data_directory, run_as=source.user)
    with (place.data_directory / "postgresql.conf").open("a") as settings:
        settings.write(_SETTINGS.format(host=HOST, port=place.port, socket=source.socket))
    await postgres.host.start(place)
    try:
        yield source
    finally:
        await stop_server(place.data_directory)
