"""Real OpenSearch and Elasticsearch servers for a test: official archives, one node each, small heaps, loopback only.

The archives are the products' own `integ-test-zip` distributions from Maven Central (complete servers, without plugins
and without a Java of their own); `tests/system/get_search_servers` fetches and unpacks them.
"""

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
from recovery.domain.search import SearchProduct
from tests.ports import free_port

HEAP = "320m"
READY_SECONDS = 150.0


def servers_folder() -> Path:
    """Where the archives are unpacked."""
    return Path(os.environ.get("RECOVERY_SEARCH_SERVERS", "/var/cache/recovery-plans/search"))


def installed() -> dict[SearchProduct, Path]:
    """The unpacked server of each product that is there."""
    found = {product: sorted(servers_folder().glob(f"{product}-*/bin/{product}")) for product in SearchProduct}
    return {product: programs[-1].parent.parent for product, programs in found.items() if programs}


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
    program: Path
    folder: Path
    name: str
    repository: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def begin(self) -> None:
        """Starts the process; ``ready`` waits for it."""
        config = self.folder / "config"
        if not config.exists():
            shutil.copytree(self.program / "config", config)
            (config / f"{self.product}.yml").write_text(self._settings())
            # A heap this small has its own collector, and no log of it in the program's folder.
            java = config / "jvm.options"
            kept = [line for line in java.read_text().splitlines() if "GC" not in line and "-Xlog" not in line]
            java.write_text("\n".join([*kept, ""]))
            for made in ("data", "logs", "tmp"):
                (self.folder / made).mkdir()
            _give(self.folder)
        prefix = "ES" if self.product is SearchProduct.ELASTICSEARCH else "OPENSEARCH"
        environment = {
            **os.environ,
            f"{prefix}_PATH_CONF": str(config),
            f"{prefix}_JAVA_OPTS": f"-Xms{HEAP} -Xmx{HEAP} -XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
            f"{prefix}_TMPDIR": str(self.folder / "tmp"),
            f"{prefix}_JAVA_HOME": _java_home(),
            "HOME": str(self.folder),
        }
        with (self.folder / "output").open("ab") as output:
            self.process = subprocess.Popen(
                [str(self.program / "bin" / self.product)],
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                user=system_user(),
                start_new_session=True,
                preexec_fn=die_with(os.getpid()),
            )

    def _settings(self) -> str:
        settings = {
            "cluster.name": self.name,
            "node.name": f"{self.name}-1",
            "network.host": "127.0.0.1",
            "http.port": self.port,
            "transport.port": free_port(),
            "discovery.type": "single-node",
            "path.data": self.folder / "data",
            "path.logs": self.folder / "logs",
            "path.repo": self.repository,
        }
        if self.product is SearchProduct.ELASTICSEARCH:
            settings |= {"xpack.security.enabled": "false"}
        return "".join(f"{name}: {value}\n" for name, value in settings.items())

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


def _java_home() -> str:
    java = shutil.which("java")
    assert java is not None, "make test-system needs the Debian package openjdk-17-jre-headless"
    return str(Path(java).resolve().parent.parent)


def _give(folder: Path) -> None:
    """The servers refuse to run as root."""
    user = system_user()
    if user is not None:
        for path in (folder, *folder.rglob("*")):
            shutil.chown(path, user)


@contextlib.asynccontextmanager
async def two_clusters(product: SearchProduct, program: Path) -> AsyncIterator[tuple[OwnSearch, OwnSearch]]:
    """Two clusters that share a repository's folder, started at the same time."""
    with servers_home() as home:
        repository = home / "repository"
        repository.mkdir()
        _give(repository)
        east, west = (OwnSearch(product, program, home / name, name, repository) for name in ("east", "west"))
        try:
            for server in (east, west):
                server.folder.mkdir()
                server.begin()
            await asyncio.gather(east.ready(), west.ready())
            yield east, west
        finally:
            for server in (east, west):
                server.end()
