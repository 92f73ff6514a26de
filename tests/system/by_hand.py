"""What somebody has who restores by hand: a location, a private key, the page beside a set, and standard programs."""

from __future__ import annotations

import asyncio
import contextlib
import pwd
import re
import shutil
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

from recovery.adapters.folder import FolderStore
from recovery.adapters.postgres import LocalPostgres
from recovery.adapters.postgres.folder import give_to
from recovery.adapters.postgres.host import stop_server
from recovery.backup.pipeline import write_point
from recovery.backup.sealing import Sealer
from recovery.backup.sets import page_key, write_set
from recovery.backup.upload import WriteBudget
from recovery.domain.recovery_point import Manifest, RecoveryPoint
from recovery.domain.recovery_set import set_of
from recovery.ports.postgres import BackupSource, PostgresPlace
from tests.fakes.points import AGE, identity, signer
from tests.integration.postgres_servers import Server, public_folder
from tests.ports import free_port

SET = "20261122T101500Z-set-1a2b3c4d"
CHUNK = 2 << 20  # so that an artefact is several objects
DOWNLOAD = 'aws() { cp -rT "$4" "$5"; }\n'
"""The page says it: from a folder, ``cp -rT`` in place of ``aws s3 cp --recursive``."""


@dataclass(frozen=True)
class Page:
    """Its blocks of commands: what every section needs, and those of the one section of a kind."""

    text: str

    def blocks(self, kind: str) -> list[str]:
        first, *sections = re.split(r"^## ", self.text, flags=re.MULTILINE)
        (own,) = [section for section in sections if re.match(rf"[a-z]+, {kind}: ", section)]
        return [block for part in (first, own) for block in re.findall(r"```sh\n(.*?)```", part, re.DOTALL)]


@dataclass
class Hand:
    """``folder`` is one that servers' users can enter; the location is in it."""

    folder: Path

    @property
    def location(self) -> Path:
        return self.folder / "location"

    @property
    def store(self) -> FolderStore:
        return FolderStore("a", self.location)

    async def take(
        self, source: AbstractAsyncContextManager[BackupSource], point_id: str, *, at_once: int = 1
    ) -> RecoveryPoint:
        async with Sealer([AGE.public]) as sealer, source as backup:
            written = await write_point(
                backup, identity=identity(point_id=point_id), stores=[self.store], sealer=sealer, signer=signer(),
                budget=WriteBudget(chunk_bytes=CHUNK), at_once=at_once,
            )  # fmt: skip
        return RecoveryPoint(manifest=written.manifest, locations=["a"], manifest_sha256=written.manifest_sha256)

    async def page(self, points: Sequence[RecoveryPoint], bases: Sequence[Manifest] = ()) -> Page:
        """As it lies beside the set of these points."""
        manifests = [*bases, *(point.manifest for point in points)]
        found = set_of(points, set_id=SET, run_id="by-hand")
        assert await write_set([self.store], found, manifests, signer()) == {}
        return self.found_page()

    def found_page(self, set_id: str = SET) -> Page:
        return Page((self.location / page_key("shop", set_id)).read_text())

    def begin(self, name: str, user: str | None = None) -> Path:
        """An empty folder with the key. What the location has can be read by whoever restores."""
        place = self.folder / name
        place.mkdir()
        (place / "key.txt").write_text(f"{AGE.secret}\n")
        for path in (place, place / "key.txt"):
            give_to(path, user)
        for path in self.location.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        return place

    async def run(
        self, commands: Sequence[str], place: Path, user: str | None = None, *, path: Path | None = None, **more: str
    ) -> tuple[int, str]:
        """In one Bash that ends at the first failure. Returns its exit code and what it said."""
        programs = "/usr/bin:/bin" if path is None else f"{path}:/usr/bin:/bin"
        process = await asyncio.create_subprocess_exec(
            "bash", "-e", "-c", DOWNLOAD + "\n".join(commands), cwd=place, user=user, group=_group(user),
            extra_groups=None if user is None else [], stdin=asyncio.subprocess.DEVNULL,
            env={"PATH": programs, "HOME": str(place), "LOCATION": str(self.location), **more},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        said, _ = await process.communicate()
        return process.returncode or 0, said.decode()

    async def done(
        self, commands: Sequence[str], place: Path, user: str | None = None, *, path: Path | None = None, **more: str
    ) -> str:
        """The same, which must succeed."""
        code, said = await self.run(commands, place, user, path=path, **more)
        assert code == 0, said
        return said


def _group(user: str | None) -> int | None:
    return None if user is None else pwd.getpwnam(user).pw_gid


@dataclass
class PhysicalCopy:
    """What the page's physical section makes of a base backup, as the server's user."""

    hand: Hand
    postgres: LocalPostgres
    binaries: Path
    page: Page
    name: str

    def __post_init__(self) -> None:
        self.place = PostgresPlace("127.0.0.1", free_port(), self.hand.folder / self.name / "data")
        self.user = self.postgres.host.user_for(self.place)
        self.server = Server(self.postgres, self.place, self.hand.folder)

    async def make(self, *, wal: dict[str, str] | None = None, found: str = "") -> tuple[int, str]:
        """``wal``: what is filled in where the page goes on with archived WAL; None: that is left out. ``found``:
        commands that make the backup another one, as it would be found."""
        *opening, with_wal, start = self.page.blocks("physical")
        assert with_wal.startswith("UNTIL=") and start.startswith("pg_ctl ")
        looked_at = f"printf '%s\\n' \"port = {self.place.port}\" fsync=off >> data/postgresql.auto.conf\n"
        for name, value in (wal or {}).items():
            with_wal = re.sub(rf"^{name}= .*$", f"{name}='{value}'", with_wal, count=1, flags=re.MULTILINE)
        commands = [*opening, found, looked_at, *([] if wal is None else [with_wal]), start]
        folder = self.hand.begin(self.name, self.user)
        return await self.hand.run(commands, folder, self.user, path=self.binaries)

    @contextlib.asynccontextmanager
    async def running(self, *, wal: dict[str, str] | None = None, found: str = "") -> AsyncIterator[Server]:
        """The server that the page starts, which takes writes."""
        try:
            code, said = await self.make(wal=wal, found=found)
            log = self.place.data_directory.with_name("server.log")
            assert code == 0, said + (log.read_text() if log.exists() else "")
            async with asyncio.timeout(30):
                while await self.server.value("SELECT pg_is_in_recovery()", database="postgres"):
                    await asyncio.sleep(0.05)
            yield self.server
        finally:
            await self.stop()

    async def stop(self) -> None:
        await stop_server(self.place.data_directory, gentle=False)


@contextlib.contextmanager
def a_hand() -> Iterator[Hand]:
    with public_folder() as folder:
        yield Hand(folder)


def program(name: str) -> str:
    """Where it is. A machine without it is told so."""
    found = shutil.which(name)
    assert found is not None, f"{name} is not on the PATH: tests/system/run says where it comes from"
    return found
