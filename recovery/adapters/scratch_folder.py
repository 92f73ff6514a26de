"""Folders of validations and of scratch servers: locked as long as their worker lives, and swept when it is gone."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from recovery.backup.bounded import opened, through

PREFIX = "scratch-"
_LOCK = "lock"


@contextlib.asynccontextmanager
async def scratch_folder(parent: Path) -> AsyncIterator[Path]:
    """A folder of its own below ``parent``, removed on exit. What a killed worker left is removed first.

    Raises:
        OSError: it cannot be made.
    """
    await sweep(parent)
    folder, lock = await opened(lambda: locked_folder(parent), lambda made: discard(*made))
    try:
        yield folder
    finally:
        await through(discard, folder, lock)


async def sweep(parent: Path) -> list[Path]:
    """Removes scratch folders of any store (and their servers) whose worker is gone. Another user's are his to sweep.

    Raises:
        OSError: a lock cannot be tried.
    """
    from recovery.adapters.postgres.host import stop_server  # that package makes its scratch folders here

    removed = []
    for folder in await asyncio.to_thread(lambda: sorted(parent.glob(f"{PREFIX}*"))):
        try:
            lock = await asyncio.to_thread(_try_lock, folder)
        except PermissionError:
            continue
        if lock is not None:
            await stop_server(folder / "data", gentle=False)
            await asyncio.to_thread(discard, folder, lock)
            removed.append(folder)
    return removed


def locked_folder(parent: Path) -> tuple[Path, int]:
    """A new folder and the descriptor of its lock, for ``discard``. Blocking.

    Raises:
        OSError: it cannot be made or locked; then it is removed again.
    """
    parent.mkdir(parents=True, exist_ok=True)
    while True:  # another validation's sweep may take a new folder for a forgotten one
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent)).resolve()
        try:
            lock = _try_lock(folder, os.O_CREAT)
        except OSError:
            (folder / _LOCK).unlink(missing_ok=True)  # shutil.rmtree would need a descriptor
            folder.rmdir()
            raise
        if lock is not None:
            return folder, lock


def discard(folder: Path, lock: int) -> None:
    """Blocking."""
    shutil.rmtree(folder, True)
    os.close(lock)


def _try_lock(folder: Path, flags: int = 0) -> int | None:
    """Descriptor of the lock of a scratch folder, held as long as its worker lives; None where somebody holds it, or
    there is none.

    Raises:
        OSError: for another reason, of which the next folder would have as much: no descriptor or no space is left.
    """
    try:
        descriptor = os.open(folder / _LOCK, flags | os.O_RDWR, 0o600)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def remove_tree(folder: Path) -> None:
    """What is left of it is of no use to anybody: an error is none. Blocking."""
    shutil.rmtree(folder, ignore_errors=True)
