"""A WAL archive of a real server: its receivers are killed, and recoveries find exactly what was archived."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from recovery.adapters.folder import FolderStore
from recovery.adapters.postgres.folder import give_to
from recovery.adapters.postgres.host import stop_server
from recovery.adapters.postgres.wal_slot import follow_archive
from recovery.adapters.postgres.wal_stream import BATCH_BYTES, BUFFER_BYTES, WalStream
from recovery.adapters.process import Child
from recovery.backup.sealing import AgeKey, Opener, Sealer, generate_age_key
from recovery.backup.signing import Signer, Verifier, generate_signing_key
from recovery.backup.wal.handing import WalIntake
from recovery.backup.wal.reader import LineageReader, WalArchive
from recovery.backup.wal.writer import ArchiveKeys
from recovery.domain.timelines import lsn_order
from recovery.domain.wal_archive import Branch, segment_file
from recovery.errors import NotFound, NotOurs, Refused, Unreachable
from recovery.ports.postgres import PostgresPlace
from recovery.ports.wal import WalBytes
from tests.integration.ledger import SCHEMA, Ledger, writing
from tests.integration.postgres_servers import MemoryPoint, Server, eventually, public_folder, running_source, take
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("wal_process.py")
FLUSH_SECONDS = 0.3


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


@pytest.fixture
async def newest_server(folder: Path) -> AsyncIterator[Server]:
    async with running_source(folder, schema=SCHEMA, major=18) as found:
        yield found


SECRET = generate_signing_key().secret


@pytest.fixture
def archive(folder: Path) -> Archive:
    return Archive(folder, generate_age_key(), Signer(SECRET), [folder / "near", folder / "far"])


async def recovered(server: Server, point: MemoryPoint, reader: LineageReader, until: int) -> list[int]:
    """The ids in a copy that was recovered from the archive up to ``until``."""
    folder = server.folder / f"copy-{free_port()}"
    wal = server.folder / f"{folder.name}-wal"
    wal.mkdir(mode=0o755)
    start = lsn_order(point.manifest.postgres.start_lsn or "")
    size = reader.segment_bytes
    numbers = [stretch.branch.timeline for stretch in reader.branch.stretches()]
    names = [segment_file(number, at, size) for number in numbers for at in range(start - start % size, until, size)]
    for name in [*names, *(f"{number:08X}.history" for number in numbers)]:
        with contextlib.suppress(NotFound):
            (wal / name).write_bytes(await reader.fetch(name, until=until))
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
        return [row["id"] for row in rows]
    finally:
        await stop_server(folder, gentle=False)


async def test_killed_receivers_leave_no_gap_and_recoveries_find_exactly_what_was_archived(
    server: Server, archive: Archive
) -> None:
    choice = random.Random()
    identifier = await server.value("SELECT system_identifier::text FROM pg_control_system()")
    ledger = Ledger(server.connect)
    told: list[int] = []
    receiver = await Receiver.start(archive, SECRET, server)
    try:
        async with writing(ledger):
            await receiver.next_state()
            point = await take(server.postgres.physical_source(server.login, "base"))
            for _ in range(3):
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
    async with Opener([archive.age.secret], threads=1) as opener:
        for path in archive.folders:
            status = await archive.reader(identifier, opener, path).status()
            assert [(each.timeline, each.gaps, len(each.ranges)) for each in status] == [(1, [], 1)]
            assert lsn_order(status[0].last_contiguous or "") >= max(told)
        reader = await archive.reader(identifier, opener).lineage(Branch(1))
        stop = lsn_order(point.manifest.postgres.stop_lsn or "")
        for position in {max(told), choice.choice([each for each in told if each > stop])}:
            ledger.expect(await recovered(server, point, reader, position), position)


async def test_wal_that_was_removed_unarchived_is_told_as_a_gap_and_the_archive_goes_on(
    server: Server, archive: Archive
) -> None:
    """The slot was dropped while nobody archived: a server agrees to stream what it has no more, and fails then."""
    identifier = await server.value("SELECT system_identifier::text FROM pg_control_system()")
    ledger = Ledger(server.connect)
    receiver = await Receiver.start(archive, SECRET, server)
    try:
        async with writing(ledger):
            await receiver.next_state()
        await receiver.until(lsn_order(await server.value("SELECT pg_current_wal_flush_lsn()::text")))
        last = (await receiver.kill())[-1]
        await server.execute("SELECT pg_drop_replication_slot('wal_archive')")
        for statement in ("ALTER SYSTEM SET wal_keep_size = 0", "SELECT pg_reload_conf()"):
            await server.execute(statement)
        for statement in ["SELECT pg_switch_wal()", "CHECKPOINT"] * 2:
            await server.execute("INSERT INTO commits SELECT -1 - count(*), 'unarchived' FROM commits")
            await server.execute(statement)
        receiver = await Receiver.start(archive, SECRET, server)
        state = await receiver.until(lsn_order(await server.value("SELECT pg_current_wal_flush_lsn()::text")))
        assert state["gap"] is not None and state["gap"].startswith(f"{last['archived']} to ")
    finally:
        await receiver.kill()
    async with Opener([archive.age.secret], threads=1) as opener:
        (status,) = await archive.reader(identifier, opener).status()
        assert [begin for begin, _ in status.gaps] == [last["archived"]] == [status.last_contiguous]


async def test_after_a_promotion_another_receiver_takes_over_across_the_fork(
    newest_server: Server, archive: Archive
) -> None:
    server = newest_server
    identifier = await server.value("SELECT system_identifier::text FROM pg_control_system()")
    ledger = Ledger(server.connect)
    receiver = await Receiver.start(archive, SECRET, server, flush=3600)
    other: Receiver | None = None
    try:
        async with writing(ledger):
            await receiver.next_state()
            point = await take(server.postgres.physical_source(server.login, "base"))
            server.kill()
        states = await receiver.rest()  # its last bytes were not archived: the new primary must have them
        assert states[-1]["error"] == "Unreachable"
        (server.place.data_directory / "standby.signal").touch()
        give_to(server.place.data_directory / "standby.signal", server.postgres.host.user_for(server.place))
        await server.postgres.host.start(server.place)
        await server.execute("SELECT pg_promote(true, 30)", "postgres")
        async with writing(ledger):
            receiver = await Receiver.start(archive, SECRET, server)
            while (await receiver.next_state())["timeline"] != 2:
                pass
            began = asyncio.get_running_loop().time()
            other = await Receiver.start(archive, SECRET, server)
            await other.next_state()
            assert asyncio.get_running_loop().time() - began < 15, "a takeover does not wait for the holder"
            assert (await receiver.rest())[-1]["error"] == "Unreachable", "the holder was ended"
            await asyncio.sleep(0.5)
        last = lsn_order(await server.value("SELECT pg_current_wal_insert_lsn()::text"))
        state = await other.until(ledger.commits[-1][2])
        assert state["timeline"] == 2 and state["gap"] is None
        retained = await server.value(
            "SELECT restart_lsn::text FROM pg_replication_slots WHERE slot_name = 'wal_archive'"
        )
        assert lsn_order(retained) <= lsn_order(state["archived"]), "the server keeps what is not archived"
    finally:
        for each in filter(None, [receiver, other]):
            await each.kill()
    async with Opener([archive.age.secret], threads=1) as opener:
        found = await archive.reader(identifier, opener).timelines()
        assert [each.branch.timeline for each in found] == [1, 2]
        reader = await archive.reader(identifier, opener).lineage(found[1].branch)
        position = lsn_order(state["archived"])
        assert reader.reachable_from(lsn_order(point.manifest.postgres.start_lsn or "")) >= position
        assert position <= last
        ledger.expect(await recovered(server, point, reader, position), position)


async def test_the_server_keeps_what_is_not_acknowledged_and_memory_is_bounded(server: Server) -> None:
    stream = WalStream(server.login, "held")
    try:
        found = await stream.identify()
        begin = await stream.take_slot()
        begin -= begin % found.segment_bytes
        await stream.start(found.timeline, begin)
        await server.execute("INSERT INTO commits SELECT i, repeat(md5(i::text), 200) FROM generate_series(1, 6000) i")
        end = lsn_order(await server.value("SELECT pg_current_wal_flush_lsn()::text"))
        assert end - begin > 2 * BUFFER_BYTES

        async def full() -> bool:
            return stream._buffered >= BUFFER_BYTES

        await eventually(full)
        restart = "SELECT restart_lsn::text FROM pg_replication_slots WHERE slot_name = 'held' AND active"
        position, largest = begin, 0
        while position < end:
            largest = max(largest, stream._buffered)
            for event in await stream.receive(1.0):
                if isinstance(event, WalBytes):
                    assert event.start == position
                    position += len(event.body)
        assert largest < BUFFER_BYTES + 2 * BATCH_BYTES
        written = "SELECT max(write_lsn)::text FROM pg_stat_replication WHERE application_name = 'recovery-plans'"

        async def reported() -> bool:
            return lsn_order(await server.value(written) or "0/0") >= position

        await eventually(reported)
        assert lsn_order(await server.value(restart)) <= begin + found.segment_bytes, "nothing was acknowledged yet"
        stream.acknowledge(position)

        async def moved() -> bool:
            return lsn_order(await server.value(restart)) >= position

        await eventually(moved)
        server.kill()
        with pytest.raises(Unreachable, match="ended the WAL stream"):
            while True:
                await stream.receive(1.0)
    finally:
        await stream.close()


async def test_files_that_the_server_hands_over_are_those_that_were_streamed(server: Server, archive: Archive) -> None:
    """Both ways into one archive: what archive_command would hand over is accepted as equal, and comes back."""
    identifier = await server.value("SELECT system_identifier::text FROM pg_control_system()")
    receiver = await Receiver.start(archive, SECRET, server)
    try:
        await receiver.next_state()
        await server.execute("INSERT INTO commits SELECT i, repeat(md5(i::text), 200) FROM generate_series(1, 100) i")
        await server.execute("SELECT pg_switch_wal()")
        await server.execute("INSERT INTO commits VALUES (1000, 'in the next segment')")
        state = await receiver.until(lsn_order(await server.value("SELECT pg_current_wal_flush_lsn()::text")))
    finally:
        await receiver.kill()
    size = 16 << 20
    name = segment_file(1, lsn_order(state["archived"]) - size, size)
    body = (server.place.data_directory / "pg_wal" / name).read_bytes()

    async def source() -> WalStream:
        return WalStream(server.login, "wal_archive")

    stores = [FolderStore(path.name, path) for path in archive.folders]
    async with Sealer([archive.age.public], threads=1) as sealer, Opener([archive.age.secret], threads=1) as opener:
        keys = ArchiveKeys("shop", "by-file", 0, sealer, archive.signer, Verifier([archive.signer.public_key]))
        intake = WalIntake(keys, stores, source)
        try:
            await intake.push(name, body)
            with pytest.raises(NotOurs, match="holds other WAL"):
                await intake.push(name, body[:-8] + b"otherwal")
        finally:
            await intake.close()
        reader = await archive.reader(identifier, opener).lineage(Branch(1))
        assert await reader.fetch(name) == body


async def test_a_slot_that_nobody_streams_from_follows_the_archive(server: Server) -> None:
    first = await follow_archive(server.login, "waiting", "0/0")
    await server.execute("INSERT INTO commits SELECT i, repeat(md5(i::text), 200) FROM generate_series(1, 100) i")
    now = await server.value("SELECT pg_current_wal_flush_lsn()::text")
    assert await follow_archive(server.login, "waiting", first) == first
    assert await follow_archive(server.login, "waiting", now) == now
    assert await follow_archive(server.login, "waiting", first) == now, "what was archived stays archived"
    beyond = lsn_order(await follow_archive(server.login, "waiting", "FFFF/0"))
    assert beyond <= lsn_order(await server.value("SELECT pg_current_wal_insert_lsn()::text"))
    stream = WalStream(server.login, "waiting")
    try:
        found = await stream.identify()
        await stream.start(found.timeline, await stream.take_slot())
        with pytest.raises(Refused, match="in use"):
            await follow_archive(server.login, "waiting", now)
    finally:
        await stream.close()
