"""Real PostgreSQL servers of a test's own: to be filled, written to, killed and damaged."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import asyncpg

from lab.packages import postgres_binaries, system_user
from recovery.adapters.postgres import LocalPostgres, PostgresBinaries
from recovery.adapters.postgres.folder import give_to
from recovery.adapters.postgres.host import server_processes, stop_server
from recovery.domain.recovery_point import Artefact, BackupKind, Manifest, PostgresSource, StoredObject
from recovery.ports.postgres import BackupSource, PostgresLogin, PostgresPlace, Progress
from tests.ports import free_port

DATABASE = "shop"

SCHEMA = """
CREATE TABLE customers (id bigserial PRIMARY KEY, name text NOT NULL, note text);
INSERT INTO customers (name, note) SELECT 'customer ' || i, repeat(md5(i::text), 100) FROM generate_series(1, 3000) i;
CREATE TABLE orders (id bigserial PRIMARY KEY, customer bigint REFERENCES customers, total numeric, at timestamptz);
INSERT INTO orders (customer, total, at)
    SELECT 1 + i % 3000, i * 1.07, timestamptz '2026-01-01' + i * interval '1 s' FROM generate_series(1, 20000) i;
CREATE TABLE events (id bigint PRIMARY KEY, payload text);
CREATE SEQUENCE events_id;
CREATE SEQUENCE countdown INCREMENT -1 MAXVALUE 1000 START 1000;
SELECT nextval('countdown'), nextval('countdown');
CREATE TABLE documents (id int PRIMARY KEY, body bytea);
INSERT INTO documents SELECT i, decode(repeat(md5(i::text), 4000), 'hex') FROM generate_series(1, 20) i;
ALTER TABLE documents ALTER body SET STORAGE EXTERNAL;
UPDATE documents SET body = body || '\\x00';
CREATE TABLE "odd.name ""quoted" (t text, "select" int);
INSERT INTO "odd.name ""quoted" VALUES ('x', 1), (NULL, NULL);
CREATE TABLE empty_one (id int);
CREATE VIEW big_orders AS SELECT * FROM orders WHERE total > 1000;
CREATE MATERIALIZED VIEW totals AS SELECT customer, sum(total) FROM orders GROUP BY 1;
SELECT lo_from_bytea(4711, convert_to(repeat('large object ', 10000), 'UTF8'));
CREATE EXTENSION vector;
"""


@dataclass
class Server:
    """A running server in a folder of its own."""

    postgres: LocalPostgres
    place: PostgresPlace
    folder: Path
    database: str = DATABASE

    @property
    def login(self) -> PostgresLogin:
        return PostgresLogin(self.place.host, self.place.port, "postgres", self.database, sslmode="disable")

    async def connect(self, database: str | None = None) -> asyncpg.Connection[asyncpg.Record]:
        return await asyncpg.connect(
            host=self.place.host, port=self.place.port, user="postgres", database=database or self.database, ssl=False
        )

    async def execute(self, sql: str, database: str | None = None) -> None:
        connection = await self.connect(database)
        try:
            await connection.execute(sql)
        finally:
            await connection.close()

    async def value(self, sql: str, *arguments: object, database: str | None = None) -> Any:
        connection = await self.connect(database)
        try:
            return await connection.fetchval(sql, *arguments)
        finally:
            await connection.close()

    def kill(self) -> None:
        """SIGKILL to every process, as when the machine loses power."""
        while found := server_processes(self.place.data_directory):
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def public_folder() -> Iterator[Path]:
    """A folder that the servers' user can enter, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="recovery-plans-test-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def local_postgres(folder: Path, major: int = 16) -> LocalPostgres:
    """With the packaged programs, run by the lab's user."""
    user = system_user()
    return LocalPostgres(PostgresBinaries({major: postgres_binaries(major, user, folder)}), run_as=user)


@contextlib.asynccontextmanager
async def running_source(
    folder: Path,
    *,
    major: int = 16,
    tablespace: bool = False,
    postgres: LocalPostgres | None = None,
    schema: str = SCHEMA,
) -> AsyncIterator[Server]:
    """A primary with the sample database; ``postgres``: of other programs than the packaged ones."""
    postgres = postgres or local_postgres(folder, major)
    place = PostgresPlace("127.0.0.1", free_port(), folder / "source")
    user = postgres.host.user_for(place)
    place.data_directory.mkdir(mode=0o700)
    give_to(place.data_directory, user)
    await postgres.host.initialise(major, place.data_directory, run_as=user)
    with (place.data_directory / "postgresql.conf").open("a") as settings:
        settings.write(
            f"listen_addresses = '127.0.0.1'\nport = {place.port}\nunix_socket_directories = ''\nfsync = off\n"
            "dynamic_shared_memory_type = mmap\nmax_connections = 57\nwork_mem = '7MB'\nshared_preload_libraries = ''\n"
            "default_text_search_config = 'pg_catalog.german'\nautovacuum_naptime = '2min'\n"
        )
    server = Server(postgres, place, folder)
    await postgres.host.start(place)
    try:
        await server.execute("CREATE ROLE clerk LOGIN PASSWORD 'secret;''--'; CREATE ROLE auditor", "postgres")
        await server.execute(f"CREATE DATABASE {DATABASE} OWNER clerk", "postgres")
        await server.execute(schema)
        await server.execute(f"ALTER DATABASE {DATABASE} SET search_path = public, pg_temp; GRANT clerk TO auditor")
        if tablespace:
            space = folder / "space"
            space.mkdir(mode=0o700)
            give_to(space, user)
            await server.execute(f"CREATE TABLESPACE fast LOCATION '{space}'")
            await server.execute(
                "CREATE TABLE in_space (id int) TABLESPACE fast; INSERT INTO in_space SELECT generate_series(1, 500)"
            )
        yield server
    finally:
        await stop_server(place.data_directory, gentle=False)


@dataclass
class Writer:
    """A small workload of inserts, updates and deletes; keeps what was acknowledged, and when."""

    server: Server
    acknowledged: dict[int, datetime] = field(default_factory=dict)
    _task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._write())
        while len(self.acknowledged) < 5:
            await asyncio.sleep(0.005)
        return self

    async def _write(self) -> None:
        choice = random.Random(5)
        connection = await self.server.connect()
        try:
            while True:
                async with connection.transaction():
                    number = await connection.fetchval("SELECT nextval('events_id')")
                    await connection.execute("INSERT INTO events VALUES ($1, repeat('x', 200))", number)
                    order = choice.randrange(1, 20000)
                    await connection.execute("UPDATE orders SET total = total + 1 WHERE id = $1", order)
                    await connection.execute("DELETE FROM orders WHERE id = $1", choice.randrange(1, 20000))
                self.acknowledged[number] = datetime.now(UTC)
                await asyncio.sleep(0.001)
        finally:
            connection.terminate()

    async def __aexit__(self, *reason: object) -> None:
        assert self._task is not None
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            await self._task


class MemoryPoint:
    """``PointReader`` over bytes in memory. ``failure`` is raised in the middle of the largest artefact."""

    def __init__(self, manifest: Manifest, content: dict[str, bytes], failure: Exception | None = None) -> None:
        self.manifest = manifest
        self.content = content
        self.failure = failure
        self.bases: Sequence[MemoryPoint] = ()
        self.waiting: asyncio.Event | None = None  # set when half of an artefact was given and the stream then stands

    async def stream(self, artefact: str, progress: Progress | None = None) -> AsyncIterator[bytes]:
        body = self.content[artefact]
        largest = max(self.content, key=lambda name: len(self.content[name]))
        for offset in range(0, len(body), 1 << 18):
            if artefact == largest and offset >= len(body) // 2:
                if self.failure is not None:
                    raise self.failure
                if self.waiting is not None:
                    self.waiting.set()
                    await asyncio.Event().wait()
            yield body[offset : offset + (1 << 18)]

    def changed(self, **source: object) -> MemoryPoint:
        """The same bytes under a manifest that says something else of its source."""
        changed = self.manifest.postgres.model_copy(update=source)
        return MemoryPoint(self.manifest.model_copy(update={"source": changed}), self.content)


async def take(source: AbstractAsyncContextManager[BackupSource], point_id: str = "point-1") -> MemoryPoint:
    """A whole backup into memory."""
    content: dict[str, bytes] = {}
    async with source as backup:
        async for artefact in backup.artefacts():
            content[artefact.name] = b"".join([chunk async for chunk in artefact.chunks()])
        found = await backup.finish()
        assert isinstance(found, PostgresSource)
        kind = backup.kind
    return MemoryPoint(manifest_of(found, kind, content, point_id), content)


def manifest_of(source: PostgresSource, kind: BackupKind, content: dict[str, bytes], point_id: str) -> Manifest:
    """A manifest with one object per artefact."""
    now = datetime.now(UTC)
    artefacts = [
        Artefact(name=name, objects=[StoredObject(key=name, size=len(body), sha256="", plain_size=len(body))])
        for name, body in content.items()
    ]
    return Manifest(
        point_id=point_id, group="shop", kind=kind, started_at=now, finished_at=now, source=source,
        source_region="region-a", artefacts=artefacts, recipients=[], run_id="run-1",
    )  # fmt: skip


async def eventually(condition: Any, seconds: float = 30.0) -> Any:
    """Waits until the awaited condition is true, and returns it."""
    async with asyncio.timeout(seconds):
        while not (found := await condition()):
            await asyncio.sleep(0.02)
    return found
