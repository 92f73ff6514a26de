"""A primary and its streaming standbys under test, each with what its guard would drive it by."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import asyncpg

from recovery.adapters.postgres import LocalPostgres
from recovery.adapters.postgres.demotion import kill_tree
from recovery.adapters.postgres.folder import give_to
from recovery.adapters.postgres.guarded import GuardedPostgres
from recovery.adapters.postgres.host import server_processes
from recovery.adapters.process import clean_environment, run
from recovery.ports.guard import Upstream
from recovery.ports.postgres import PostgresPlace
from recovery.ports.standby import Streaming
from tests.integration.postgres_servers import Server, eventually, local_postgres
from tests.ports import free_port

SETTINGS = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
dynamic_shared_memory_type = mmap
shared_buffers = 16MB
wal_keep_size = 64MB
fsync = off
max_wal_size = 256MB
wal_retrieve_retry_interval = 200ms
log_line_prefix = '%m [%p] '
"""
REPLICATOR = Streaming("", 0, "replicator", sslmode="disable")


@dataclass
class Node(Server):
    """One server; ``guarded`` is what its guard would hold."""

    name: str = ""
    guarded: GuardedPostgres = field(init=False)
    streaming: Streaming = REPLICATOR

    def __post_init__(self) -> None:
        self.guarded = self.another_guard()

    def another_guard(self, **options: object) -> GuardedPostgres:
        """One that knows nothing of what the first saw."""
        wanted = {"binaries": self.postgres.host.binaries, "replication": self.streaming} | options
        return GuardedPostgres(self.place, self.login, **wanted)  # type: ignore[arg-type]

    @property
    def data(self) -> Path:
        return self.place.data_directory

    @property
    def upstream(self) -> Upstream:
        return Upstream(self.name, self.place.host, self.place.port)

    @property
    def user(self) -> str | None:
        return self.postgres.host.user_for(self.place)

    async def lsn(self) -> str:
        return str(await self.value("SELECT pg_current_wal_lsn()::text"))

    async def accepts_writes(self) -> bool:
        try:
            return not await self.value("SELECT pg_is_in_recovery()")
        except (OSError, asyncpg.PostgresError):
            return False

    def processes(self) -> list[int]:
        return server_processes(self.data)

    def control_mtime(self) -> int:
        return (self.data / "global/pg_control").stat().st_mtime_ns


@contextlib.asynccontextmanager
async def cluster(
    folder: Path,
    *names: str,
    major: int = 16,
    settings: str = "",
    checksums: bool = True,
    postgres: LocalPostgres | None = None,
) -> AsyncIterator[list[Node]]:
    """The first is made primary for epoch 1 by its guard; the others stream from it. Slots are not used.

    ``postgres``: other programs than the packaged ones.
    """
    postgres = postgres or local_postgres(folder, major)
    nodes = [_node(postgres, folder, name) for name in names]
    try:
        await _make_first(nodes[0], major, settings, checksums)
        for node in nodes[1:]:
            await clone(node, nodes[0])
            await node.guarded.follow(nodes[0].upstream)
        yield nodes
    finally:
        for node in nodes:
            if node.data.exists():
                await asyncio.to_thread(kill_tree, node.data, 5.0)


def _node(postgres: LocalPostgres, folder: Path, name: str) -> Node:
    place = PostgresPlace("127.0.0.1", free_port(), folder / name)
    return Node(postgres, place, folder, "postgres", name)


async def _make_first(node: Node, major: int, settings: str, checksums: bool) -> None:
    give_to(node.folder, node.user)
    template = await _template(node, major, checksums)
    await run(["cp", "-a", template, node.data], environment=clean_environment())
    _configure(node, SETTINGS + settings)
    await node.guarded.promote(1)
    await node.execute("CREATE ROLE replicator LOGIN REPLICATION; CREATE TABLE marks (id int PRIMARY KEY, note text)")


_TEMPLATES: dict[tuple[int, bool], tempfile.TemporaryDirectory[str]] = {}


async def _template(node: Node, major: int, checksums: bool) -> Path:
    """What initdb makes, made once for all tests of this process."""
    key = (major, checksums)
    if key not in _TEMPLATES:
        home = tempfile.TemporaryDirectory(prefix="recovery-plans-initdb-")
        data = Path(home.name) / "data"
        data.mkdir(mode=0o700)
        for path in (Path(home.name), data):
            give_to(path, node.user)
        await node.postgres.host.initialise(major, data, run_as=node.user)
        if not checksums:
            tool = await node.postgres.host.binaries.tool(major, "pg_checksums")
            await run([tool, "--disable", "-D", data], run_as=node.user, environment=clean_environment())
        _TEMPLATES[key] = home
    return Path(_TEMPLATES[key].name) / "data"


def _configure(node: Node, text: str) -> None:
    with (node.data / "postgresql.conf").open("a") as file:
        file.write(f"{text}\nport = {node.place.port}\n")


async def clone(node: Node, source: Node) -> None:
    """A copy of a primary with an address of its own, as a standby that follows nobody yet."""
    tool = await node.postgres.host.binaries.tool(await source.guarded.server.major(), "pg_basebackup")
    done = await run(
        [
            tool,
            "-h",
            source.place.host,
            "-p",
            str(source.place.port),
            "-U",
            "replicator",
            "-D",
            node.data,
            "-c",
            "fast",
        ],
        run_as=node.user,
        environment=clean_environment(),
    )
    assert done.code == 0, done.stderr
    _configure(node, "")
    await node.guarded.secure()


async def busy(node: Node) -> asyncio.Task[None]:
    """A backend that computes and listens to nobody, already at work."""
    connection = await node.connect()
    pid = await connection.fetchval("SELECT pg_backend_pid()")

    async def compute() -> None:
        with contextlib.suppress(OSError, asyncpg.PostgresError):
            await connection.execute("SELECT sum(sqrt(i)) FROM generate_series(1, 1000000000) i")

    task = asyncio.create_task(compute())
    await eventually(lambda: node.value("SELECT state = 'active' FROM pg_stat_activity WHERE pid = $1", pid))
    return task


async def replayed(standby: Node, primary: Node) -> None:
    """Waits until the standby has what the primary wrote so far."""
    lsn = await primary.lsn()
    await eventually(lambda: standby.value("SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn", lsn))


@dataclass
class Load:
    """Writes numbered rows one after the other and keeps those that were acknowledged."""

    node: Node
    acknowledged: list[int] = field(default_factory=list)
    _task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._write())
        while len(self.acknowledged) < 5:
            await asyncio.sleep(0.005)
        return self

    async def _write(self) -> None:
        connection = await self.node.connect()
        first = await connection.fetchval("SELECT coalesce(max(id), 0) + 1 FROM marks")
        number = first
        try:
            while True:
                await connection.execute("INSERT INTO marks VALUES ($1, 'load')", number)
                self.acknowledged.append(number)
                number += 1
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
            return
        finally:
            connection.terminate()

    async def __aexit__(self, *reason: object) -> None:
        assert self._task is not None
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task


def stop(pids: list[int], number: int) -> None:
    """Sends a signal to processes that may be gone."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
