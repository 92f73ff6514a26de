"""OpenSearch and Elasticsearch, where their official archives are unpacked on this machine: one small node per cluster.

The archives are the products' own `integ-test-zip` distributions from Maven Central (complete servers, without plugins
and without a Java of their own); `tests/system/get_search_servers` fetches and unpacks them. A lab runs OpenSearch, and
only when it is asked for.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lab.packages import system_user
from lab.servers import Planned, Site
from lab.state import SEARCH, SearchPlace
from lab.supervisor import Launch
from recovery.domain.search import SearchProduct

HEAP = "320m"
_PREFIXES = {SearchProduct.ELASTICSEARCH: "ES", SearchProduct.OPENSEARCH: "OPENSEARCH"}


def servers_folder() -> Path:
    """Where the archives are unpacked."""
    return Path(os.environ.get("RECOVERY_SEARCH_SERVERS", "/var/cache/recovery-plans/search"))


def installed() -> dict[SearchProduct, Path]:
    """The unpacked server of each product that is there."""
    found = {
        product: [
            program
            for program in sorted(servers_folder().glob(f"{product}-*/bin/{product}"))
            if os.access(program, os.X_OK)
        ]
        for product in SearchProduct
    }
    return {product: programs[-1].parent.parent for product, programs in found.items() if programs}


def java_home() -> Path | None:
    java = shutil.which("java")
    return Path(java).resolve().parent.parent if java is not None else None


def lacking() -> str | None:
    """What is not installed here that a lab's OpenSearch needs; None: nothing."""
    if SearchProduct.OPENSEARCH not in installed():
        return "OpenSearch (tests/system/get_search_servers)"
    return "Java (openjdk-17-jre-headless)" if java_home() is None else None


@dataclass(frozen=True)
class Node:
    """One node that is a cluster by itself; ``repository`` is the folder that it may write snapshots to."""

    product: SearchProduct
    folder: Path
    cluster: str
    host: str
    port: int
    transport_port: int
    repository: Path

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def program(self) -> Path:
        return installed()[self.product]

    @property
    def command(self) -> list[str]:
        return [str(self.program / "bin" / self.product)]

    def prepare(self) -> None:
        """Writes what it is started with, unless that was done before."""
        config = self.folder / "config"
        if config.exists():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        shutil.copytree(self.program / "config", config)
        (config / f"{self.product}.yml").write_text(self._settings())
        # A heap this small has its own collector, and no log of it in the program's folder.
        java = config / "jvm.options"
        kept = [line for line in java.read_text().splitlines() if "GC" not in line and "-Xlog" not in line]
        java.write_text("\n".join([*kept, ""]))
        for made in (self.data, self.folder / "logs", self.folder / "tmp"):
            made.mkdir()
        give((self.folder, *self.folder.rglob("*")))

    def environment(self) -> dict[str, str]:
        """Beside the usual variables. Needs Java."""
        prefix = _PREFIXES[self.product]
        return {
            f"{prefix}_PATH_CONF": str(self.folder / "config"),
            f"{prefix}_JAVA_OPTS": f"-Xms{HEAP} -Xmx{HEAP} -XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
            f"{prefix}_TMPDIR": str(self.folder / "tmp"),
            f"{prefix}_JAVA_HOME": str(java_home()),
            "HOME": str(self.folder),
        }

    def _settings(self) -> str:
        settings = {
            "cluster.name": self.cluster,
            "node.name": f"{self.cluster}-1",
            "network.host": self.host,
            "http.port": self.port,
            "transport.port": self.transport_port,
            "discovery.type": "single-node",
            "path.data": self.data,
            "path.logs": self.folder / "logs",
            "path.repo": self.repository,
        }
        if self.product is SearchProduct.ELASTICSEARCH:
            settings |= {"xpack.security.enabled": "false"}
        return "".join(f"{name}: {value}\n" for name, value in settings.items())


def planned(site: Site, place: SearchPlace, folder: Path) -> Planned:
    """A region's OpenSearch; `folder` is where its user can work. The repository's folder outlives every region."""
    node = Node(
        SearchProduct.OPENSEARCH,
        folder,
        site.name,
        site.host,
        site.ports[SEARCH],
        site.ports[f"{SEARCH}-transport"],
        place.repository,
    )
    if not place.repository.exists():
        place.repository.mkdir()
        give([place.repository])
    node.prepare()
    launch = Launch(argv=node.command, env={**site.environment(), **node.environment()}, cwd=folder, user=system_user())
    return Planned(site.server(SEARCH, site.ports[SEARCH], node.data), launch)


def give(paths: Iterable[Path]) -> None:
    """The servers refuse to run as root."""
    user = system_user()
    if user is not None:
        for path in paths:
            shutil.chown(path, user)
