"""Patroni as the peer of ``bench.failover``: two nodes and an etcd on this machine, lost as a region is lost.

Patroni runs from a virtual environment of its own (``requirements/bench.txt``), etcd from Debian's ``etcd-server``.
Each node has a loopback address of its own, as a region of the lab has.
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
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import psutil
from ruamel.yaml import YAML

from lab import packages
from lab.addresses import random_network
from lab.processes import die_with

NODES = ("node1", "node2")
PASSWORD = "patroni-bench"
READY = 60.0  # seconds


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
    """Two Patroni nodes and one etcd."""

    folder: Path
    timing: Timing
    patroni: Path  # the program
    network: str = field(default_factory=random_network)
    port: int = field(default_factory=lambda: random.randrange(10_000, 20_000))
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    user: str | None = field(default_factory=packages.system_user)

    def host(self, name: str) -> str:
        return f"{self.network}.{(*NODES, 'etcd').index(name) + 1}"

    # Life.

    async def start(self) -> None:
        """Returns when one node leads and the other streams."""
        binaries = await asyncio.to_thread(packages.postgres_binaries, 16, self.user, self.folder)
        clients, peers = (f"http://{self.host('etcd')}:{self.port + number}" for number in (1, 2))
        data = self._own_folder("etcd") / "data"
        self._spawn(
            "etcd",
            [
                *("etcd", "--name", "bench", "--data-dir", str(data), "--log-level", "error"),
                *("--listen-client-urls", clients, "--advertise-client-urls", clients),
                *("--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers),
                *("--initial-cluster", f"bench={peers}"),
            ],
        )
        for node in NODES:
            self._spawn(node, [str(self.patroni), str(self._settings(node, binaries))])
            await self._until_leading() if node == NODES[0] else await self._until_streaming()

    def _own_folder(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        if self.user:
            shutil.chown(folder, self.user)
        return folder

    def _settings(self, node: str, binaries: Path) -> Path:
        folder = self._own_folder(node)
        rest = f"{self.host(node)}:{self.port + 3}"
        document: dict[str, Any] = {
            "scope": "bench",
            "name": node,
            "restapi": {"listen": rest, "connect_address": rest},
            "etcd3": {"host": f"{self.host('etcd')}:{self.port + 1}"},
            "bootstrap": {
                "dcs": {
                    "ttl": self.timing.ttl,
                    "loop_wait": self.timing.loop_wait,
                    "retry_timeout": self.timing.retry_timeout,
                    "postgresql": {"use_pg_rewind": True, "use_slots": True},
                },
                "initdb": [{"encoding": "UTF8"}, {"locale": "C"}, "data-checksums"],
                "pg_hba": ["host replication all 127.0.0.0/8 scram-sha-256", "host all all 127.0.0.0/8 scram-sha-256"],
            },
            "postgresql": {
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
            },
        }
        path = folder / "patroni.yaml"
        with path.open("w") as stream:
            YAML().dump(document, stream)
        if self.user:
            shutil.chown(path, self.user)
        path.chmod(0o600)
        return path

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

    async def _until_leading(self) -> None:
        async def leading() -> bool:
            return bool(await self.value(NODES[0], "SELECT NOT pg_is_in_recovery()"))

        await _until(leading, self)
        connection = await asyncpg.connect(**self.login(NODES[0]), timeout=5)
        try:
            await connection.execute("CREATE TABLE IF NOT EXISTS beats (at timestamptz)")
        finally:
            await connection.close()

    async def _until_streaming(self) -> None:
        async def streaming() -> bool:
            query = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"
            return bool(await self.value(NODES[0], query))

        await _until(streaming, self)

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

    # The loss of a node, and the first write elsewhere.

    def lose(self, node: str, how: str) -> None:
        """``killed``: SIGKILL of everything. ``silent``: no answer and no refusal, as when packets are lost."""
        number = signal.SIGKILL if how == "killed" else signal.SIGSTOP
        root = psutil.Process(self.processes[node].pid)
        for process in (root, *root.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    async def failover_seconds(self, how: str) -> float:
        """From the loss of the leader to the first write that the other node acknowledged."""
        lost = time.monotonic()
        self.lose(NODES[0], how)
        while True:
            written = await self.value(NODES[1], "INSERT INTO beats VALUES (now()) RETURNING 1")
            if written:
                return time.monotonic() - lost
            if time.monotonic() - lost > 4 * self.timing.ttl:
                raise TimeoutError(f"no write after {4 * self.timing.ttl} s: see {self.folder}")
            await asyncio.sleep(0.05)

    async def stop(self) -> None:
        for process in self.processes.values():
            root = psutil.Process(process.pid)
            for each in (*root.children(recursive=True), root):
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()
            await asyncio.to_thread(process.wait)


async def _until(condition: Any, cluster: Cluster) -> None:
    deadline = time.monotonic() + READY
    while not await condition():
        ended = [name for name, process in cluster.processes.items() if process.poll() is not None]
        if ended or time.monotonic() > deadline:
            raise RuntimeError(f"Patroni did not get ready ({', '.join(ended) or 'too slow'}): see {cluster.folder}")
        await asyncio.sleep(0.1)


def _public_folder() -> Path:
    """A temporary folder that PostgreSQL's user can pass through."""
    folder = Path(tempfile.mkdtemp(prefix="patroni-bench-"))
    folder.chmod(0o711)
    return folder


@contextlib.asynccontextmanager
async def cluster(timing: Timing, patroni: Path) -> AsyncIterator[Cluster]:
    """A running cluster in a folder of its own, gone afterwards."""
    folder = await asyncio.to_thread(_public_folder)
    made = Cluster(folder, timing, patroni)
    try:
        await made.start()
        yield made
    finally:
        await made.stop()
        await asyncio.to_thread(shutil.rmtree, folder, True)
