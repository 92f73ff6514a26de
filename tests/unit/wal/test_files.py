"""WAL by files: archive_command and restore_command, with the very client that PostgreSQL would run."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest

import recovery.wal_client
from recovery.adapters.key_ring import KeyRing
from recovery.adapters.logins import Logins
from recovery.adapters.wal_archives import PostgresWalArchives
from recovery.adapters.wal_socket import AT_ONCE, WalOutlet, WalSocket
from recovery.backup.sealing import Opener, Sealer
from recovery.backup.wal.handing import WalIntake
from recovery.backup.wal.location import StorePatience
from recovery.backup.wal.writer import ArchiveKeys
from recovery.domain.wal_archive import history_file, segment_file
from tests.fakes.object_store import FaultyStore, MemoryStore
from tests.fakes.points import signer, verifier
from tests.fakes.wal import FIRST, SEGMENT, FakeServer, FakeWal
from tests.unit.wal.test_recoveries import GROUP

CLIENT = Path(str(recovery.wal_client.__file__))


class Rig:
    def __init__(self, sealer: Sealer, opener: Opener, folder: Path, stores: list[MemoryStore]) -> None:
        self.server, self.stores, self.folder = FakeServer(), stores, folder
        self.socket = folder / "wal.sock"
        keys = KeyRing(sealer, verifier(), signer(), opener)
        self.archives = PostgresWalArchives(lambda group: stores, keys, cast(Logins, None))
        self.intake = WalIntake(
            ArchiveKeys("shop", "archive_command", 0, sealer, signer(), verifier()), stores, self.source,
            patience=StorePatience(1.0, 1.0),
        )  # fmt: skip

    async def source(self) -> FakeWal:
        return FakeWal(self.server)

    def segment(self, number: int, timeline: int = 1, identifier: int = 7000) -> tuple[str, bytes]:
        """As the server writes one: with a first page that says whose it is."""
        start = FIRST + number * SEGMENT
        while self.server.position < start + SEGMENT:
            self.server.write(SEGMENT)
        header = struct.pack("<HHIQIxxxxQII", 0xD113, 2, timeline, start, 0, identifier, SEGMENT, 8192)
        self.server.wal[start - FIRST : start - FIRST + len(header)] = header
        return segment_file(timeline, start, SEGMENT), self.server.slice(start, start + SEGMENT)

    async def run(self, action: str, *arguments: str) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-S", str(CLIENT), action, str(self.socket), *arguments, stderr=subprocess.PIPE
        )
        async with asyncio.timeout(20):
            _, said = await process.communicate()
        return process.returncode or 0, said.decode()

    async def push(self, name: str, body: bytes) -> tuple[int, str]:
        (self.folder / name).write_bytes(body)
        return await self.run("push", str(self.folder / name), name)

    async def fetch(self, name: str) -> tuple[int, bytes]:
        target = self.folder / "RECOVERYXLOG"
        code, _ = await self.run("fetch", name, str(target))
        return code, target.read_bytes() if code == 0 else b""


@contextlib.asynccontextmanager
async def serving(rig: Rig, users: list[int] | None = None) -> AsyncIterator[None]:
    served = WalSocket(rig.socket, rig.intake, WalOutlet(rig.archives, GROUP), users or [])
    await served.open()
    try:
        yield
    finally:
        await served.close()
    assert not rig.socket.exists()


@pytest.fixture
def rig(sealer: Sealer, opener: Opener, tmp_path: Path) -> Rig:
    return Rig(sealer, opener, tmp_path, [MemoryStore("a"), MemoryStore("b")])


async def test_files_are_archived_and_come_back(rig: Rig) -> None:
    async with serving(rig):
        files = [rig.segment(number) for number in range(3)]
        for name, body in files:
            assert await rig.push(name, body) == (0, "")
        assert await rig.push(*files[0]) == (0, ""), "an equal file is accepted"
        for name, body in files:
            assert await rig.fetch(name) == (0, body)
        assert (await rig.fetch(segment_file(1, FIRST + 3 * SEGMENT, SEGMENT)))[0] == 1
        assert (await rig.fetch(history_file(2)))[0] == 1
        assert (await rig.fetch("nonsense"))[0] == 126
    assert all(len([key for key in store.objects if "/pieces/" in key]) == 3 for store in rig.stores)


async def test_a_new_timeline_is_known_by_its_history(rig: Rig) -> None:
    async with serving(rig):
        name, body = rig.segment(0)
        assert (await rig.push(name, body))[0] == 0
        rig.server.promote(2)
        history = f"1\t0/{rig.server.position:X}\tpromoted\n".encode()
        assert (await rig.push(f"{name}.partial", body))[0] == 0
        assert (await rig.push(history_file(2), history))[0] == 0
        name, body = rig.segment(1, timeline=2)
        assert (await rig.push(name, body))[0] == 0
        assert await rig.fetch(history_file(2)) == (0, history)
        assert await rig.fetch(name) == (0, body)


async def test_what_must_not_be_archived_is_refused(rig: Rig) -> None:
    async with serving(rig):
        name, body = rig.segment(0)
        assert (await rig.push(name, body))[0] == 0
        code, said = await rig.push(name, body[:-8] + b"otherwal")
        assert code == 1 and "holds other WAL" in said, "nothing is overwritten"
        other, wal = rig.segment(1, identifier=8000)
        code, said = await rig.push(other, wal)
        assert code == 1 and "a copy must not archive into its source's archive" in said
        code, said = await rig.push(segment_file(1, FIRST + 5 * SEGMENT, SEGMENT), body)
        assert code == 1 and "is not what its name says" in said
        code, said = await rig.push(name, body[: SEGMENT // 2])
        assert code == 1 and "is not what its name says" in said


async def test_a_server_that_was_made_anew_has_an_archive_of_its_own(rig: Rig) -> None:
    async with serving(rig):
        assert (await rig.push(*rig.segment(0)))[0] == 0
        old = rig.segment(1)
        rig.server = FakeServer("8000", seed=2)
        assert await rig.push(*rig.segment(0, identifier=8000)) == (0, "")
        code, said = await rig.push(*old)
        assert code == 1 and "is of the PostgreSQL 7000, and the group's is 8000" in said
    folders = {key.split("/")[2] for store in rig.stores for key in store.objects if "/pieces/" in key}
    assert folders == {"7000", "8000"}


async def test_a_location_that_is_down_is_no_success(sealer: Sealer, opener: Opener, tmp_path: Path) -> None:
    broken = FaultyStore("far", hang=lambda number, key: "/pieces/" in key)
    rig = Rig(sealer, opener, tmp_path, [MemoryStore("a"), broken])
    async with serving(rig):
        code, said = await rig.push(*rig.segment(0))
    assert code == 1 and "far did not answer" in said


async def test_without_a_worker_the_server_keeps_its_wal_and_a_recovery_stops(rig: Rig) -> None:
    name, body = rig.segment(0)
    code, said = await rig.push(name, body)
    assert code == 1 and "wal.sock" in said
    assert (await rig.fetch(name))[0] == 126


async def test_another_user_is_sent_away(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WalSocket, "_user_of", staticmethod(lambda writer: 4711))
    async with serving(rig):
        code, said = await rig.push(*rig.segment(0))
    assert code == 1 and "this user may not use the WAL archive" in said


async def test_who_may_not_use_it_fills_no_memory(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WalSocket, "_user_of", staticmethod(lambda writer: 4711))
    size, block = 48 << 20, bytes(1 << 20)
    async with serving(rig):
        reader, writer = await asyncio.open_unix_connection(rig.socket)
        tracemalloc.start()
        try:
            writer.write(b"push %s %d\n" % (segment_file(1, FIRST, SEGMENT).encode(), size))
            for _ in range(size // len(block)):
                writer.write(block)
                await writer.drain()
            async with asyncio.timeout(10):
                assert b"may not use" in await reader.readline()
            assert tracemalloc.get_traced_memory()[1] < 8 << 20, "nothing of it is kept"
        finally:
            tracemalloc.stop()
            writer.close()


@pytest.mark.parametrize("user", [4711, os.geteuid()], ids=["refused", "allowed"])
async def test_who_says_nothing_takes_no_turn(rig: Rig, monkeypatch: pytest.MonkeyPatch, user: int) -> None:
    asking = iter([user] * AT_ONCE)
    monkeypatch.setattr(WalSocket, "_user_of", staticmethod(lambda writer: next(asking, os.geteuid())))
    async with serving(rig):
        silent = [await asyncio.open_unix_connection(rig.socket) for _ in range(AT_ONCE)]
        try:
            async with asyncio.timeout(4):
                assert (await rig.push(*rig.segment(0)))[0] == 0
                assert (await rig.fetch(rig.segment(0)[0]))[0] == 0
        finally:
            for _, writer in silent:
                writer.close()


def test_the_client_starts_hardly_slower_than_the_bare_interpreter(tmp_path: Path) -> None:
    """It runs once for each segment. Both are started in turn; the quickest of each is compared."""

    def seconds(*arguments: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)  # os.times counts in hundredths of a second
        subprocess.run([sys.executable, "-I", "-S", *arguments], stderr=subprocess.DEVNULL, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)

    nowhere = str(tmp_path / "no.sock")
    tries = [(seconds("-c", "pass"), seconds(str(CLIENT), "fetch", nowhere, "x", "y")) for _ in range(7)]
    bare, client = (min(each) for each in zip(*tries, strict=True))
    assert client <= 1.5 * bare + 0.01, f"{client:.3f} s instead of {bare:.3f} s"
