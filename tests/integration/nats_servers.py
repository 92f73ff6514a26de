"""Two regions' NATS servers for a test: fenced at rest, each with a JetStream domain, joined as leaf nodes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nats.aio.client import Client

from lab.packages import script
from lab.processes import die_with
from recovery.adapters.nats.connection import LOST, NatsLogin, NatsServer, api, connected, stream_info
from recovery.adapters.nats.fence import FENCED
from tests.ports import free_port

PASSWORD = "a-password-of-the-test"
LEAF = 'permissions: {publish: ["$JS.>", "$JSC.>"], subscribe: ["$JS.>", "$JSC.>"]}'


@dataclass
class OwnNats:
    """``hub`` None takes leaf nodes; else this one connects to the hub's."""

    folder: Path
    domain: str
    hub: OwnNats | None = None
    port: int = field(default_factory=free_port)
    leaf_port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def fence_file(self) -> Path:
        return self.folder / "fence.conf"

    @property
    def server(self) -> NatsServer:
        return NatsServer("127.0.0.1", self.port, NatsLogin("recovery", PASSWORD))

    @property
    def application(self) -> NatsServer:
        return NatsServer("127.0.0.1", self.port, NatsLogin("shop", PASSWORD))

    async def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.fence_file.exists():
            self.fence_file.write_text(FENCED)
        if self.hub is None:
            leaf = f"leafnodes {{ listen: 127.0.0.1:{self.leaf_port} }}"
        else:
            address = f"nats://leaf:{PASSWORD}@127.0.0.1:{self.hub.leaf_port}"
            leaf = f'leafnodes {{ reconnect: "200ms", remotes: [{{url: "{address}"}}] }}'
        configuration = self.folder / "nats.conf"
        configuration.write_text(f"""
server_name: {self.domain}
listen: 127.0.0.1:{self.port}
jetstream {{ domain: {self.domain}, store_dir: "{self.folder}/js" }}
authorization {{
  include "fence.conf"
  users: [
    {{user: shop, password: "{PASSWORD}"}}
    {{user: recovery-probe, password: "{PASSWORD}"}}
    {{user: recovery, password: "{PASSWORD}", permissions: {{publish: ">", subscribe: ">"}}}}
    {{user: leaf, password: "{PASSWORD}", {LEAF}}}
  ]
}}
{leaf}
""")
        with (self.folder / "log").open("ab") as output:
            self.process = subprocess.Popen(  # noqa: ASYNC220 - it returns at once
                [str(script("nats-server")), "-c", str(configuration)],
                stdout=output,
                stderr=subprocess.STDOUT,
                preexec_fn=die_with(os.getpid()),
            )
        until = time.monotonic() + 10
        while True:
            try:
                await self.ask("INFO")
                return
            except LOST:
                assert time.monotonic() < until, (self.folder / "log").read_text()
                await asyncio.sleep(0.05)

    def send(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    async def is_alive(self) -> bool:
        """Starts it again where a demotion killed it, as a service manager does: on a busy machine it may be late."""
        if self.process is not None and self.process.poll() is None:
            return True
        await self.start()
        return False

    def end(self) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGKILL)
            self.process.wait(10)
            self.process = None

    async def ask(self, subject: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        async with asyncio.timeout(5):
            while True:
                with contextlib.suppress(ConnectionResetError):  # while it reads its configuration
                    async with connected(self.server) as client:
                        return await api(client, subject, body)

    async def stream(self, name: str) -> dict[str, Any]:
        async with asyncio.timeout(5), connected(self.server) as client:
            found = await stream_info(client, name)
            assert found is not None, name
            return found


async def publish(client: Client, subject: str, body: str, **headers: str) -> int:
    """Returns the acknowledged sequence. Raises what is in LOST where nobody acknowledges."""
    return int((await client.jetstream().publish(subject, body.encode(), headers=headers or None, timeout=1)).seq)


@contextlib.contextmanager
def own_nats(*servers: OwnNats) -> Iterator[None]:
    try:
        yield
    finally:
        for server in servers:
            server.end()
