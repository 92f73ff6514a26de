"""A WAL archive of a real server: its receivers are killed, and recoveries find exactly what was archived."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from recovery.adapters.folder import FolderStore
from recovery.adapters.postgres.folder import give_to
from recovery.adapters.postgres.host import stop_server
from recovery.adapters.postgres.process import Child
from recovery.backup.sealing import AgeKey, Opener, generate_age_key
from recovery.backup.signing import Signer, Verifier, generate_signing_key
from recovery.backup.wal.reader import LineageReader, WalArchive
from recovery.domain.timelines import lsn_order, lsn_text
from recovery.domain.wal_archive import Branch, segment_file
from recovery.ports.postgres import PostgresPlace
from tests.integration.postgres_servers import MemoryPoint, Server, public_folder, running_source, take
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("wal_process.py")
FLUSH_SECONDS = 0.3
SCHEMA = "CREATE TABLE commits (id bigint PRIMARY KEY, filler text)"


@dataclass
class Ledger:
    """What one writer committed, in order: id, with the server's insert positions before and after the commit."""

    server: Server
    commits: list[tuple[int, int, int]] = field(default_factory=list)

    async def write(self, pause: float = 0.0005) -> None:
        connection = await self.server.connect()
        try:
            position = "SELECT pg_current_wal_insert_lsn()::text"
            before = lsn_order(await connection.fetchval(position))
            while True:
                number = len(self.commits) + 1
                await connection.execute("INSERT INTO commits VALUES ($1, repeat('x', 2000))", number)
                after = lsn_order(await connection.fetchval(position))
                self.commits.append((number, before, after))
                before = after
                await asyncio.sleep(pause)
        finally:
            connection.terminate()

    def bounds(self, position: int) -> tuple[int, int]:
        """The last commit that is surely before ``position``, and the last that may be."""
        sure = max((number for number, _, after in self.commits if after <= position), default=0)
        possible = max((number for number, before, _ in self.commits if before < position), default=0)
        return sure, possible


@contextlib.asynccontextmanager
async def writing(ledger: Ledger) -> AsyncIterator[None]:
    task = asyncio.create_task(ledger.write())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            await task


@dataclass
class Archive:
    """The locations of one archive, its keys, and processes that write it."""

    folder: Path
    age: AgeKey
    signer: Signer
    folders: list[Path]

    def reader(self, identifier: str, opener: Opener, folder: Path | None = None) -> WalArchive:
        path = folder or self.folders[0]
        return WalArchive(FolderStore(path.name, path), "shop", identifier, Verifier([self.signer.public_key]), opener)


class Receiver:
    """One archiving process; ``states`` are those that it told."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.states: list[dict[str, Any]] = []

    @classmethod
    async def start(cls, archive: Archive, secret: str, server: Server, *, flush: float = FLUSH_SECONDS) -> Receiver:
        settings = {
            "signing_key": secret, "recipient": archive.age.public, "port": server.place.port,
            "folders": [str(path) for path in archive.folders], "flush": flush,
        }  # fmt: skip
        path = archive.folder / "receiver.json"
        path.write_text(json.dumps(settings))
        command = [sys.executable, str(PROGRAM), str(path)]
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, env={"PYTHONPATH": str(ROOT)}
        )
        return cls(process)

    async def next_state(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        async with asyncio.timeout(30):
            line = await self._process.stdout.readline()
        assert line, "the receiver ended"
        self.states.append(json.loads(line))
        return self.states[-1]

    async def until(self, position: int) -> dict[str, Any]:
        """Waits until this position is archived."""
        while True:
            state = await self.next_state()
            assert "error" not in state, state
            if lsn_order(state["archived"]) >= position:
                return state

    async def rest(self) -> list[dict[str, Any]]:
        """What a killed or ended one had still told."""
        assert self._process.stdout is not None
        async with asyncio.timeout(30):
            lines = (await self._process.stdout.read()).splitlines(keepends=True)
        self.states += [json.loads(line) for line in lines if line.endswith(b"\n")]
        await self._process.wait()
        return self.states

    async def kill(self) -> list[dict[str, Any]]:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)
        return await self.rest()


@pytest.fixture
def folder() -> Iterator[Path]:
    with public_folder() as path:
        yield path


@pytest.fixture
async def server(folder: Path) -> AsyncIterator[Server]:
    async with running_source(folder, schema=SCHEMA) as found:
        yield found


SECRET = generate_signing_key().secret


@pytest.fixture
def archive(folder: Path) -> Archive:
    return Archive(folder, generate_age_key(), Signer(SECRET), [folder / "near", folder / "far"])


async def recovered(server: Server, point: MemoryPoint, reader: LineageReader, until: int) -> tuple[list[int], str]:
    """The ids in a copy that was recovered from the archive up to ``until``, and its last replayed position."""
    folder = server.folder / f"copy-{free_port()}"
    wal = server.folder / f"{folder.name}-wal"
    wal.mkdir(mode=0o755)
    start = lsn_order(point.manifest.source.start_lsn or "")
    size = reader.segment_bytes
    for position in range(start - start % size, until, size):
        name = segment_file(reader.branch.stretch_at(position).branch.timeline, position, size)
        (wal / name).write_bytes(await reader.fetch(name, until=until))
    if reader.branch.forks:
        name = f"{reader.branch.timeline:08X}.history"
        (wal / name).write_bytes(await reader.fetch(name))
    place = PostgresPlace("127.0.0.1", free_port(), folder)
    user = server.postgres.host.user_for(place)
    folder.mkdir(mode=0o700)
    give_to(folder, user)
    tar = ["tar", "--extract", "--file=-", f"--directory={folder}", "--no-same-owner"]
    async with Child(tar, run_as=user, stdin=True, stdout=asyncio.subprocess.DEVNULL) as child:
        assert await child.feed(point.stream("base.tar"))
        assert await child.wait() == 0
    for file in (folder / "pg_wal").glob("0*"):
        file.unlink()  # all WAL is to come from the archive
    with (folder / "postgresql.conf").open("a") as settings:
        settings.write(
            f"port = {place.port}\nrestore_command = 'cp {wal}/%f %p'\narchive_mode = off\nhot_standby = on\n"
            f"recovery_target_timeline = '{reader.branch.timeline}'\n"
        )
    (folder / "standby.signal").touch()
    give_to(folder / "standby.signal", user)
    copy = Server(server.postgres, place, server.folder)
    await server.postgres.host.start(place)
    try:
        await copy.execute("SELECT pg_promote(true, 30)")
        connection = await copy.connect()
        try:
            rows = await connection.fetch("SELECT id FROM commits ORDER BY id")
        finally:
            await connection.close()
        control = await copy.value("SELECT max(left_at) FROM (SELECT pg_last_wal_replay_lsn()::text AS left_at) p")
        return [row["id"] for row in rows], str(control)
    finally:
        await stop_server(folder, gentle=False)


async def test_killed_receivers_leave_no_gap_and_recoveries_find_exactly_what_was_archived(
    server: Server, archive: Archive
) -> None:
    choice = random.Random()
    identifier = await server.value("SELECT system_identifier::text FROM pg_control_system()")
    ledger = Ledger(server)
    told: list[int] = []
    receiver = await Receiver.start(archive, SECRET, server)
    try:
        async with writing(ledger):
            await receiver.next_state()
            point = await take(server.postgres.physical_source(server.login, "base"))
            for _ in range(4):
                await receiver.next_state()
                await asyncio.sleep(choice.uniform(0, 1.5))
                told += [lsn_order(state["archived"]) for state in await receiver.kill()]
                receiver = await Receiver.start(archive, SECRET, server)
            await server.execute("SELECT pg_switch_wal()")
            await receiver.until(max(told) + 1)
            server.kill()  # the source's host is lost, and then the archiver's
        told += [lsn_order(state["archived"]) for state in await receiver.kill() if "archived" in state]
    finally:
        await receiver.kill()
    async with Opener([archive.age.secret], processes=1) as opener:
        for path in archive.folders:
            status = await archive.reader(identifier, opener, path).status()
            assert [(each.timeline, each.gaps, len(each.ranges)) for each in status] == [(1, [], 1)]
            assert lsn_order(status[0].last_contiguous or "") >= max(told)
        reader = await archive.reader(identifier, opener).lineage(Branch(1))
        stop = lsn_order(point.manifest.source.stop_lsn or "")
        for position in {max(told), choice.choice([each for each in told if each > stop])}:
            ids, _ = await recovered(server, point, reader, position)
            sure, possible = ledger.bounds(position)
            assert ids == list(range(1, len(ids) + 1)), "exactly the commits up to a position, none left out"
            assert sure <= len(ids) <= possible, f"{lsn_text(position)}: {sure} <= {len(ids)} <= {possible}"
