"""A NATS cluster of three servers with JetStream, for tests."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path

from lab.packages import script
from lab.processes import die_with
from recovery.adapters.nats.connection import LOST, ApiError, NatsServer, api, connected
from tests.ports import free_port

NODES = 3


class NatsCluster:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.servers = [NatsServer("127.0.0.1", free_port()) for _ in range(NODES)]
        self._routes = [free_port() for _ in range(NODES)]
        self._processes: list[subprocess.Popen[bytes]] = []

    def _start_node(self, number: int) -> None:
        folder = self._folder / f"n{number}"
        folder.mkdir(parents=True)
        routes = ", ".join(f"nats://127.0.0.1:{port}" for port in self._routes)
        configuration = folder / "nats.conf"
        configuration.write_text(f"""
server_name: n{number}
listen: 127.0.0.1:{self.servers[number].port}
jetstream {{ store_dir: "{folder}/js" }}
cluster {{ name: three, listen: 127.0.0.1:{self._routes[number]}, routes: [{routes}] }}
""")
        with (folder / "log").open("ab") as output:
            self._processes.append(
                subprocess.Popen(
                    [str(script("nats-server")), "-c", str(configuration)],
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    preexec_fn=die_with(os.getpid()),
                )
            )

    async def start(self, seconds: float = 30.0) -> None:
        for number in range(NODES):
            self._start_node(number)
        until = time.monotonic() + seconds
        while not await self._is_whole():
            assert time.monotonic() < until, "the cluster has no leader"
            await asyncio.sleep(0.1)

    async def _is_whole(self) -> bool:
        """A stream with three replicas can be made: all three take part."""
        try:
            async with connected(self.servers[0]) as client:
                config = {"name": "ready", "subjects": ["ready"], "num_replicas": NODES, "storage": "memory"}
                await api(client, "STREAM.CREATE.ready", config)
                await api(client, "STREAM.DELETE.ready")
        except (*LOST, ApiError):
            return False
        return True

    def end(self) -> None:
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL)
            process.wait(10)


@contextlib.asynccontextmanager
async def a_cluster(folder: Path) -> AsyncIterator[NatsCluster]:
    cluster = NatsCluster(folder)
    try:
        await cluster.start()
        yield cluster
    finally:
        cluster.end()
