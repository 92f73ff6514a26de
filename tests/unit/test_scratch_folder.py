"""Scratch folders: locked while their worker lives, swept when it is gone; one that cannot be made leaves none."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import threading
import time
from pathlib import Path

import pytest

from recovery.adapters import scratch_folder as scratch_folder_module
from recovery.adapters.postgres import scratch
from recovery.adapters.scratch_folder import locked_folder, scratch_folder, sweep
from recovery.errors import Refused


async def test_a_folder_goes_with_its_block_and_only_its_own(tmp_path: Path) -> None:
    async with scratch_folder(tmp_path) as one, scratch_folder(tmp_path) as other:
        assert one != other
        assert await sweep(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("at", ["locked_folder", "discard"])
async def test_who_is_cancelled_again_and_again_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """Neither while it is made nor while it is removed: the next attempt would find it locked, or lose its own."""
    begun, ended = threading.Event(), threading.Event()
    work = getattr(scratch_folder_module, at)

    def late(*arguments: object) -> object:
        begun.set()
        time.sleep(0.1)  # several cancellations fall into it
        try:
            return work(*arguments)
        finally:
            ended.set()

    monkeypatch.setattr(scratch_folder_module, at, late)

    async def use() -> None:
        async with scratch_folder(tmp_path):
            pass

    task = asyncio.create_task(use())
    assert await asyncio.to_thread(begun.wait, 10)
    while not task.done():
        task.cancel()
        await asyncio.sleep(0.01)
    assert task.cancelled()
    assert ended.is_set()
    assert list(tmp_path.iterdir()) == []


async def test_what_a_lost_worker_left_is_swept(tmp_path: Path) -> None:
    folder, lock = locked_folder(tmp_path)
    os.close(lock)  # as the kernel does when the worker ends
    async with scratch_folder(tmp_path) as own:
        assert list(tmp_path.iterdir()) == [own]
    assert not folder.exists()


def test_one_that_cannot_be_prepared_keeps_neither_folder_nor_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(folder: Path, user: str | None) -> None:
        raise PermissionError(13, "the server's user cannot enter it")

    monkeypatch.setattr(scratch, "_check_reachable", unreachable)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    with pytest.raises(Refused, match="cannot be written to"):
        scratch._make(tmp_path, None)
    assert list(tmp_path.iterdir()) == []
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENOSPC, errno.ENOLCK])
def test_a_lock_that_cannot_be_made_is_no_rivals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    tried = 0

    def refuse(*arguments: object) -> int:
        nonlocal tried
        tried += 1
        assert tried < 5, "it tries for ever"
        raise OSError(code, os.strerror(code))

    if code == errno.ENOLCK:
        monkeypatch.setattr(fcntl, "flock", refuse)
    else:
        monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(OSError, match=os.strerror(code)):
        locked_folder(tmp_path)
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []


async def test_a_folder_that_is_another_users_is_left_to_him(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, lock = locked_folder(tmp_path)
    os.close(lock)

    def denied(*arguments: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(fcntl, "flock", denied)
    assert await sweep(tmp_path) == []
    assert folder.exists()
