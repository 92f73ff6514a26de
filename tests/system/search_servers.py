"""Real OpenSearch and Elasticsearch servers for a test: official archives, one small node each, loopback only."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from lab.packages import system_user
from lab.processes import die_with
from lab.search import Node, give, java_home
from recovery.domain.search import SearchProduct
from tests.ports import free_port

READY_SECONDS = 150.0


@contextlib.contextmanager
def servers_home() -> Iterator[Path]:
    """A folder for the servers' user, who need not be able to enter ours."""
    folder = Path(tempfile.mkdtemp(prefix="recovery-plans-search-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass
class OwnSearch:
    """One node that is a cluster by itself; ``repository`` is the folder that it may write snapshots to."""

    product: SearchProduct
    folder: Path
    name: str
    repository: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    node: Node = field(init=False)

    def __post_init__(self) -> None:
        self.node = Node(self.product, self.folder, self.name, "127.0.0.1", self.port, free_port(), self.repository)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def begin(self) -> None:
        """Starts the process; ``ready`` waits for it."""
        assert java_home() is not None, "make test-system needs the Debian package openjdk-17-jre-headless"
        self.node.prepare()
        with (self.folder / "output").open("ab") as output:
            self.process = subprocess.Popen(
                self.node.command,
                cwd=self.folder,
                env={**os.environ, **self.node.environment()},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                user=system_user(),
                start_new_session=True,
                preexec_fn=die_with(os.getpid()),
            )

    async def ready(self) -> None:
        until = time.monotonic() + READY_SECONDS
        async with httpx.AsyncClient(trust_env=False, timeout=2) as client:
            while True:
                with contextlib.suppress(httpx.HTTPError):
                    if (await client.get(f"{self.address}/_cluster/health")).status_code == 200:
                        return
                assert self.process is not None
                gone = self.process.poll() is not None
                assert not gone and time.monotonic() < until, self._last_words()
                await asyncio.sleep(0.2)

    def _last_words(self) -> str:
        return (self.folder / "output").read_text(errors="replace")[-4000:]

    def end(self) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)
            self.process = None

    async def ask(self, method: str, path: str, body: Any = None, *, expect: int | None = 200) -> Any:
        """As the application or an administrator speaks to it, past what is tested."""
        async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
            if isinstance(body, str):
                headers = {"content-type": "application/x-ndjson"}
                answer = await client.request(method, self.address + path, content=body, headers=headers)
            else:
                answer = await client.request(method, self.address + path, json=body)
            assert expect in (None, answer.status_code), answer.text
            return answer.json()


@contextlib.asynccontextmanager
async def two_clusters(product: SearchProduct) -> AsyncIterator[tuple[OwnSearch, OwnSearch]]:
    """Two clusters that share a repository's folder, started at the same time."""
    with servers_home() as home:
        repository = home / "repository"
        repository.mkdir()
        give([repository])
        east, west = (OwnSearch(product, home / name, name, repository) for name in ("east", "west"))
        try:
            for server in (east, west):
                server.folder.mkdir()
                server.begin()
            await asyncio.gather(east.ready(), west.ready())
            yield east, west
        finally:
            for server in (east, west):
                server.end()
