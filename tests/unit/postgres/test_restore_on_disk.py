"""A restored server starts when all of it is proven and on the disk, and never before."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from recovery.adapters.postgres import folder, restore
from recovery.adapters.postgres.combining import CHAIN
from recovery.adapters.postgres.folder import ClaimedFolder, FileSystems, is_being_restored
from recovery.adapters.postgres.restore import PhysicalRestore
from recovery.adapters.postgres.unpacking import Unpacking
from recovery.adapters.process import Finished
from recovery.errors import RestoreFailed
from recovery.ports.postgres import PointReader, PostgresPlace, RestoreOptions
from tests.unit.postgres.test_restore_refusals import OID, Host, manifest
from tests.unit.postgres.test_unpacking import CLUSTER, archive

PATIENCE = 60.0  # seconds: a busy disk synchronises slowly


class Disks:
    """In the place of ``FileSystems``: says what happened, and when a sync ended."""

    def __init__(self, happened: list[str], failure: Exception | None = None) -> None:
        self.happened = happened
        self.failure = failure
        self.folders: list[Path] = []
        self.synced = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def __call__(self, folders: Iterable[Path]) -> Disks:
        self.folders = list(folders)
        self.happened.append("opened")
        return self

    def sync(self) -> None:
        self.happened.append("synced")
        self._loop.call_soon_threadsafe(self.synced.set)
        if self.failure is not None:
            raise self.failure

    def close(self) -> None:
        self.happened.append("closed")


def durable(target: Path, monkeypatch: pytest.MonkeyPatch, disks: Disks, early: bool = True) -> PhysicalRestore:
    """A restore of nothing that begins to write to the disk before all is unpacked."""

    async def unpack(self: PhysicalRestore) -> None:
        disks.happened.append("unpacking")
        if early:
            await asyncio.wait_for(disks.synced.wait(), 10)
        disks.happened.append("unpacked")

    async def start(self: PhysicalRestore) -> None:
        disks.happened.append("started")

    async def nothing(self: PhysicalRestore) -> None:
        """Checked by others."""

    monkeypatch.setattr(PhysicalRestore, "unpack", unpack)
    monkeypatch.setattr(PhysicalRestore, "verify_files", nothing)
    monkeypatch.setattr(PhysicalRestore, "configure", nothing)
    monkeypatch.setattr(PhysicalRestore, "_start", start)
    monkeypatch.setattr(restore, "FileSystems", disks)
    reader = cast(PointReader, SimpleNamespace(manifest=manifest(), bases=()))
    return PhysicalRestore(Host(), reader, PostgresPlace("127.0.0.1", 1, target), RestoreOptions("r1"))


async def test_the_server_starts_after_a_sync_that_began_when_all_was_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disks = Disks([])
    await durable(tmp_path / "data", monkeypatch, disks).run()
    happened = disks.happened
    assert happened[0] == "opened", "before anything is written: failures since then are told"
    assert "synced" in happened[: happened.index("unpacked")], "while other files are unpacked"
    assert happened[-4:] == ["unpacked", "synced", "closed", "started"]
    assert disks.folders == [tmp_path / "data", tmp_path / "data.tablespaces" / OID]


async def test_files_that_cannot_be_written_to_the_disk_are_removed_and_never_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disks = Disks([], RestoreFailed("Input/output error"))
    with pytest.raises(RestoreFailed, match="Input/output error"):
        await durable(tmp_path / "data", monkeypatch, disks).run()
    assert "started" not in disks.happened
    assert disks.happened[-1] == "closed"
    assert not (tmp_path / "data").exists()


def endless(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Unpacking that never ends by itself. Returns what happens to it."""
    happened: list[str] = []

    async def unpack(self: PhysicalRestore) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            happened.append("ended")

    monkeypatch.setattr(PhysicalRestore, "unpack", unpack)
    return happened


async def test_files_that_cannot_be_written_end_the_restore_while_others_are_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disks = Disks([], RestoreFailed("Input/output error"))
    run = durable(tmp_path / "data", monkeypatch, disks)
    unpacking = endless(monkeypatch)
    with pytest.raises(RestoreFailed, match="Input/output error"):
        await asyncio.wait_for(run.run(), 5)
    assert unpacking == ["ended"]


async def test_an_ended_restore_does_not_wait_for_a_disk_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, answers, used = threading.Event(), threading.Event(), []

    def syncfs(descriptor: int) -> int:
        used.append(descriptor)
        asked.set()
        answers.wait(2 * PATIENCE)
        os.fstat(descriptor)  # still open
        return 0

    run = durable(tmp_path / "data", monkeypatch, Disks([]))
    endless(monkeypatch)
    disks: list[FileSystems] = []

    def opened(folders: Iterable[Path]) -> FileSystems:
        disks.append(FileSystems(folders))
        return disks[0]

    monkeypatch.setattr(folder, "_LIBC", SimpleNamespace(syncfs=syncfs))
    monkeypatch.setattr(restore, "FileSystems", opened)
    restoring = asyncio.create_task(run.run())
    try:
        assert await asyncio.to_thread(asked.wait, PATIENCE)
        restoring.cancel()
        ended, _ = await asyncio.wait({restoring}, timeout=2)
        assert ended, "the disk still hangs"
        assert restoring.cancelled()
        assert not is_being_restored(tmp_path / "data")
    finally:
        answers.set()
    assert await asyncio.to_thread(_closed, disks[0]), "by the sync, when it ended"


def test_a_disk_that_hangs_holds_up_nothing_else_in_the_process_nor_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, answers, happened = threading.Event(), threading.Event(), []

    def syncfs(descriptor: int) -> int:
        asked.set()
        answers.wait(2 * PATIENCE)
        return 0

    async def process() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        run = durable(tmp_path / "data", monkeypatch, Disks([]))
        endless(monkeypatch)
        monkeypatch.setattr(folder, "_LIBC", SimpleNamespace(syncfs=syncfs))
        monkeypatch.setattr(restore, "FileSystems", FileSystems)
        restoring = asyncio.create_task(run.run())
        while not asked.is_set():
            await asyncio.sleep(0.01)
        happened.append("asked")
        await asyncio.wait_for(asyncio.to_thread(happened.append, "something else"), 1)
        restoring.cancel()
        await asyncio.wait({restoring}, timeout=2)
        happened.append("cancelled" if restoring.cancelled() else "still there")

    ending = threading.Thread(target=asyncio.run, args=(process(),), daemon=True)
    ending.start()
    try:
        ending.join(10)
        assert happened == ["asked", "something else", "cancelled"]
        assert not ending.is_alive(), "asyncio.run waits for the disk"
    finally:
        answers.set()


def _closed(disks: FileSystems) -> bool:
    while True:
        with disks._lock:  # a sync ends and closes at once
            if not disks._syncing:
                return not disks._open
        time.sleep(0.01)


async def test_the_folder_is_given_up_when_the_last_chunk_is_written_however_often_a_restore_is_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An abort is followed by the worker's stop. What a thread still writes must not appear in a folder of others."""
    real, begun, go_on = os.write, threading.Event(), threading.Event()
    target, unpack = tmp_path / "data", PhysicalRestore.unpack

    def write(descriptor: int, data: bytes) -> int:
        begun.set()
        assert go_on.wait(2 * PATIENCE)
        return real(descriptor, data)

    async def stream(artefact: str) -> AsyncIterator[bytes]:
        yield archive(CLUSTER)

    target.mkdir()
    opened: list[FileSystems] = []

    async def is_empty(self: Host, place: PostgresPlace) -> bool:
        return True

    def open_disks(folders: Iterable[Path]) -> FileSystems:
        opened.append(FileSystems(folders))
        return opened[0]

    run = durable(target, monkeypatch, Disks([]))
    run._reader = cast(PointReader, SimpleNamespace(manifest=manifest(), bases=(), stream=stream))
    monkeypatch.setattr(Host, "is_empty", is_empty)
    monkeypatch.setattr(PhysicalRestore, "unpack", unpack)
    monkeypatch.setattr(folder, "_LIBC", SimpleNamespace(syncfs=lambda descriptor: 0))
    monkeypatch.setattr(restore, "FileSystems", open_disks)
    restoring = asyncio.create_task(run.run())
    try:
        with monkeypatch.context() as held:
            held.setattr("recovery.adapters.postgres.unpacking.os.write", write)
            assert await asyncio.to_thread(begun.wait, PATIENCE)
            for _ in range(3):
                restoring.cancel()
                ended, _ = await asyncio.wait({restoring}, timeout=0.05)
                assert not ended, "a thread writes there"
                assert is_being_restored(target)
            go_on.set()
            await asyncio.wait({restoring}, timeout=PATIENCE)
    finally:
        go_on.set()
    assert restoring.cancelled()
    assert list(target.iterdir()) == []
    assert not is_being_restored(target)
    assert await asyncio.to_thread(_closed, opened[0])


def chained(target: Path, monkeypatch: pytest.MonkeyPatch) -> PhysicalRestore:
    """A restore of one incremental point, which ends when its files are in their places."""

    async def stream(artefact: str) -> AsyncIterator[bytes]:
        yield archive(CLUSTER) if artefact == "base.tar" else b"{}"

    async def combine(binaries: object, major: int, folder: Path, members: list[Path], user: str | None) -> None:
        for name in ("base", "global", "pg_wal"):
            (folder / CHAIN / "whole" / name).mkdir(parents=True)
            (folder / CHAIN / "whole" / name / "file").touch()

    monkeypatch.setattr(restore, "combine", combine)
    base = SimpleNamespace(manifest=manifest(), stream=stream)
    reader = cast(PointReader, SimpleNamespace(manifest=manifest(), bases=[base], stream=stream))
    options = RestoreOptions("r1", start=False)
    return PhysicalRestore(Host(), reader, PostgresPlace("127.0.0.1", 1, target), options)


def plain(target: Path, monkeypatch: pytest.MonkeyPatch) -> PhysicalRestore:
    """A durable restore of a full point with a tablespace."""
    unpack = PhysicalRestore.unpack

    async def stream(artefact: str) -> AsyncIterator[bytes]:
        yield archive([*CLUSTER, ("pg_tblspc", None, 0o700)]) if artefact == "base.tar" else b"{}"

    run = durable(target, monkeypatch, Disks([]))
    run._reader = cast(PointReader, SimpleNamespace(manifest=manifest(), bases=(), stream=stream))
    monkeypatch.setattr(PhysicalRestore, "unpack", unpack)
    monkeypatch.setattr(restore, "FileSystems", FileSystems)
    return run


@pytest.mark.parametrize(
    ("restoring", "owner", "name"),
    [
        (chained, Path, "rename"),
        (chained, restore, "make_member"),
        (plain, ClaimedFolder, "claim"),
        (plain, ClaimedFolder, "add_tablespace"),
        (plain, ClaimedFolder, "complete"),
        (plain, restore, "link_tablespaces"),
        (plain, Unpacking, "__init__"),
        (plain, FileSystems, "__init__"),
    ],
)
async def test_what_a_thread_still_makes_is_waited_for_and_given_up_when_a_restore_is_ended(
    restoring: Callable[[Path, pytest.MonkeyPatch], PhysicalRestore],
    owner: object,
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Otherwise it goes on beside the removal: the removal fails, or what comes behind it stays and is nobody's."""
    begun, go_on, target = threading.Event(), threading.Event(), tmp_path / "data"
    real = getattr(owner, name)

    def held(*arguments: object, **options: object) -> object:
        if name != "rename" or "whole" in str(arguments[0]):
            begun.set()
            assert go_on.wait(2 * PATIENCE)
        return real(*arguments, **options)

    task = asyncio.create_task(restoring(target, monkeypatch).run())
    try:
        with monkeypatch.context() as during:
            during.setattr(owner, name, held)
            assert await asyncio.to_thread(begun.wait, PATIENCE)
            for _ in range(2):
                task.cancel()
                ended, _ = await asyncio.wait({task}, timeout=0.05)
                assert not ended, "a thread works there"
            go_on.set()
            await asyncio.wait({task}, timeout=PATIENCE)
    finally:
        go_on.set()
    assert task.cancelled()
    assert list(tmp_path.iterdir()) == []
    assert not [link for link in _open_files() if link.startswith(str(tmp_path))]


def _open_files() -> list[str]:
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(str(descriptor.readlink()))
    return found


async def test_where_syncfs_is_silent_every_file_is_synchronised_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disks = Disks([])
    run = durable(tmp_path / "data", monkeypatch, disks, early=False)
    codes = [0, 1]

    async def initdb(arguments: list[Any], **options: object) -> Finished:
        disks.happened.append(" ".join(map(str, arguments)))
        return Finished(codes.pop(0), "", "could not fsync file")

    async def tool(major: int, name: str) -> Path:
        return Path("/pg") / name

    monkeypatch.setattr(restore, "syncfs_tells_failures", lambda: False)
    monkeypatch.setattr(restore, "run", initdb)
    monkeypatch.setattr(run._host.binaries, "tool", tool)
    await run.run()
    synced = f"/pg/initdb --sync-only -D {tmp_path / 'data'}"
    assert disks.happened == ["opened", "unpacking", "unpacked", synced, "closed", "started"]
    again = durable(tmp_path / "again", monkeypatch, disks, early=False)
    monkeypatch.setattr(again._host.binaries, "tool", tool)
    with pytest.raises(RestoreFailed, match="could not fsync file"):
        await again.run()


@pytest.mark.parametrize(("proven", "bases", "skips"), [(False, 0, 0), (True, 0, 1), (True, 1, 0)])
async def test_only_files_that_a_validation_compared_are_not_read_again(
    proven: bool, bases: int, skips: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A combined chain is: PostgreSQL's tools made it from what was read, and it is no copy of it."""
    calls: list[list[str]] = []

    async def verify(arguments: list[Any], **options: object) -> Finished:
        calls.append([str(part) for part in arguments])
        return Finished(0, "", "")

    async def tool(major: int, name: str) -> Path:
        return Path("/pg") / name

    monkeypatch.setattr(restore, "run", verify)
    reader = cast(
        PointReader, SimpleNamespace(manifest=manifest(), bases=[SimpleNamespace(manifest=manifest())] * bases)
    )
    options = RestoreOptions("r1", proven=proven)
    verifying = PhysicalRestore(Host(), reader, PostgresPlace("127.0.0.1", 1, tmp_path), options)
    monkeypatch.setattr(verifying._host.binaries, "tool", tool)
    await verifying.verify_files()
    assert [call[0] for call in calls] == ["/pg/pg_verifybackup"]
    assert calls[0].count("--skip-checksums") == skips
