"""Patroni on this machine: real nodes of PostgreSQL 16 and an etcd of their own, each with its own loopback address.

Patroni runs from a virtual environment of its own (``requirements/patroni.sh``), etcd from Debian's ``etcd-server``. It
is no part of ``drctl lab``: the benchmark of failovers and the tests of Patroni's adapter use it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import psutil
from ruamel.yaml import YAML

from lab import packages
from lab.addresses import random_network
from lab.processes import die_with

USER, PASSWORD = "recovery", "patroni-in-the-lab"
"""Who may change things through the REST API; the password is the database's superuser's, too."""
READY = 60.0  # seconds
_LOCAL = "127.0.0.0/8 scram-sha-256"


@dataclass(frozen=True)
class Timing:
    """Patroni's clock, in seconds. It refuses a ttl below 20, and ttl < loop_wait + 2 * retry_timeout."""

    name: str
    ttl: int
    loop_wait: int
    retry_timeout: int


DEFAULT = Timing("Patroni, default", 30, 10, 10)
FASTEST = Timing("Patroni, fastest permitted", 20, 1, 3)


@dataclass
class Cluster:
    """Patroni nodes and one etcd. ``follows``: host and port of the primary whose standby cluster this one is."""

    folder: Path
    timing: Timing
    patroni: Path  # the program
    nodes: tuple[str, ...] = ("node1", "node2")
    follows: tuple[str, int] | None = None
    network: str = field(default_factory=random_network)
    port: int = field(default_factory=lambda: random.randrange(10_000, 20_000))
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    user: str | None = field(default_factory=packages.system_user)

    def host(self, name: str) -> str:
        return f"{self.network}.{(*self.nodes, 'etcd').index(name) + 1}"

    def api(self, node: str) -> str:
        """The address of the node's REST API."""
        return f"http://{self.host(node)}:{self.port + 3}"

    # Life.

    async def start(self) -> None:
        """Returns when the first node leads and the others stream."""
        binaries = await asyncio.to_thread(packages.postgres_binaries, 16, self.user, self.folder)
        clients, peers = (f"http://{self.host('etcd')}:{self.port + number}" for number in (1, 2))
        data = self._own_folder("etcd") / "data"
        self._spawn(
            "etcd",
            [
                *("etcd", "--name", "lab", "--data-dir", str(data), "--log-level", "error"),
                *("--listen-client-urls", clients, "--advertise-client-urls", clients),
                *("--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers),
                *("--initial-cluster", f"lab={peers}"),
            ],
        )
        first, *others = self.nodes
        for node in self.nodes:
            self._write_settings(node, binaries)
        self.start_node(first)
        await self.until(self._leads)
        for number, node in enumerate(others, start=1):
            self.start_node(node)
            await self.until(lambda number=number: self._streaming(number))  # type: ignore[misc]
        await self.until(self._listed)

    def start_node(self, node: str) -> None:
        """Starts the node's Patroni, which starts its PostgreSQL."""
        self._spawn(node, [str(self.patroni), str(self._settings(node))])

    async def until(self, condition: Callable[[], Awaitable[bool]]) -> None:
        """Waits for it. Raises RuntimeError when it takes longer than READY, or a process ended meanwhile."""
        deadline = time.monotonic() + READY
        while not await condition():
            ended = [name for name, process in self.processes.items() if process.poll() is not None]
            if ended or time.monotonic() > deadline:
                raise RuntimeError(f"Patroni did not get ready ({', '.join(ended) or 'too slow'}): see {self.folder}")
            await asyncio.sleep(0.1)

    def lose(self, node: str, how: str) -> None:
        """``killed``: SIGKILL of everything. ``silent``: no answer and no refusal, as when packets are lost."""
        number = signal.SIGKILL if how == "killed" else signal.SIGSTOP
        for process in self._processes(node):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        if how == "killed":
            self.processes.pop(node).wait()

    async def stop(self) -> None:
        for name, process in self.processes.items():
            for each in self._processes(name):
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()
            await asyncio.to_thread(process.wait)

    def _processes(self, name: str) -> list[psutil.Process]:
        """Its own and, of a node, PostgreSQL's, which is no child of Patroni's and outlives it."""
        roots = [psutil.Process(self.processes[name].pid)]
        with contextlib.suppress(OSError, ValueError, IndexError, psutil.NoSuchProcess):
            lines = (self.folder / name / "data" / "postmaster.pid").read_text().splitlines()
            roots.append(psutil.Process(int(lines[0])))
        return [each for root in roots for each in (root, *root.children(recursive=True))]

    # Its databases.

    async def value(self, node: str, query: str) -> Any:
        """The query's value, None where the node does not answer."""
        try:
            connection = await asyncpg.connect(**self.login(node), timeout=1)
        except (OSError, TimeoutError, asyncpg.PostgresError):
            return None
        try:
            return await connection.fetchval(query, timeout=1)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return None
        finally:
            connection.terminate()

    def login(self, node: str) -> dict[str, Any]:
        return {
            "host": self.host(node),
            "port": self.port,
            "user": "postgres",
            "password": PASSWORD,
            "database": "postgres",
            "ssl": False,
        }

    async def _leads(self) -> bool:
        """The first node: as a primary, or as the leader of a standby cluster that streams."""
        if self.follows is None:
            return bool(await self.value(self.nodes[0], "SELECT NOT pg_is_in_recovery()"))
        return bool(await self.value(self.nodes[0], "SELECT count(*) FROM pg_stat_wal_receiver"))

    async def _streaming(self, number: int) -> bool:
        query = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND application_name <> 'backup'"
        found = await self.value(self.nodes[0], query)
        return found is not None and found >= number

    async def _listed(self) -> bool:
        """Every member is told as running: what the DCS has of it is as old as the last round of its loop."""
        async with httpx.AsyncClient(trust_env=False) as client:
            try:
                found = (await client.get(f"{self.api(self.nodes[0])}/cluster", timeout=2)).json()["members"]
            except (httpx.HTTPError, ValueError, KeyError):
                return False
        led = any(member["role"] in ("leader", "standby_leader") for member in found)
        return led and [member["state"] in ("running", "streaming") for member in found] == [True] * len(self.nodes)

    # Processes and their files.

    def _own_folder(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        if self.user:
            shutil.chown(folder, self.user)
        return folder

    def _settings(self, node: str) -> Path:
        return self.folder / node / "patroni.yaml"

    def _write_settings(self, node: str, binaries: Path) -> None:
        folder = self._own_folder(node)
        dcs: dict[str, Any] = {
            "ttl": self.timing.ttl,
            "loop_wait": self.timing.loop_wait,
            "retry_timeout": self.timing.retry_timeout,
            "postgresql": {"use_pg_rewind": True, "use_slots": True},
        }
        if self.follows is not None:
            host, port = self.follows
            dcs["standby_cluster"] = {"host": host, "port": port, "create_replica_methods": ["basebackup"]}
        rest = f"{self.host(node)}:{self.port + 3}"
        document: dict[str, Any] = {
            "scope": "lab",
            "name": node,
            "restapi": {
                "listen": rest,
                "connect_address": rest,
                "authentication": {"username": USER, "password": PASSWORD},
            },
            "etcd3": {"host": f"{self.host('etcd')}:{self.port + 1}"},
            "bootstrap": {
                "dcs": dcs,
                "initdb": [{"encoding": "UTF8"}, {"locale": "C"}, "data-checksums"],
                "pg_hba": [f"host replication all {_LOCAL}", f"host all all {_LOCAL}"],
            },
            "postgresql": self._postgres_settings(node, folder, binaries),
        }
        path = self._settings(node)
        with path.open("w") as stream:
            YAML().dump(document, stream)
        if self.user:
            shutil.chown(path, self.user)
        path.chmod(0o600)

    def _postgres_settings(self, node: str, folder: Path, binaries: Path) -> dict[str, Any]:
        return {
            "listen": f"{self.host(node)}:{self.port}",
            "connect_address": f"{self.host(node)}:{self.port}",
            "data_dir": str(folder / "data"),
            "bin_dir": str(binaries),
            "pgpass": str(folder / "pgpass"),
            "authentication": {
                "superuser": {"username": "postgres", "password": PASSWORD},
                "replication": {"username": "replicator", "password": PASSWORD},
            },
            "parameters": {
                "unix_socket_directories": "",
                "shared_buffers": "64MB",
                "dynamic_shared_memory_type": "mmap",
            },
        }

    def _spawn(self, name: str, arguments: Sequence[str]) -> None:
        identity: dict[str, Any] = {}
        if self.user is not None:
            entry = pwd.getpwnam(self.user)
            identity = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                arguments,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd=self._own_folder(name),
                env={"PATH": os.environ["PATH"], "LC_ALL": "C", "HOME": str(self.folder / name)},
                preexec_fn=die_with(os.getpid()),  # noqa: PLW1509 - no other thread forks meanwhile
                **identity,
            )


def _public_folder() -> Path:
    """A temporary folder that PostgreSQL's user can pass through."""
    folder = Path(tempfile.mkdtemp(prefix="recovery-patroni-"))
    folder.chmod(0o711)
    return folder


@contextlib.asynccontextmanager
async def cluster(
    timing: Timing, patroni: Path, nodes: tuple[str, ...] = ("node1", "node2"), follows: tuple[str, int] | None = None
) -> AsyncIterator[Cluster]:
    """A running cluster in a folder of its own, gone afterwards."""
    folder = await asyncio.to_thread(_public_folder)
    made = Cluster(folder, timing, patroni, nodes, follows)
    try:
        await made.start()
        yield made
    finally:
        await made.stop()
        await asyncio.to_thread(shutil.rmtree, folder, True)
