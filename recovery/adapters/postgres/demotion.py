"""Ending every process of a PostgreSQL at once, whatever state it is in, and confirming it by looking."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from recovery.adapters.postgres.host import postmaster_of, server_processes
from recovery.adapters.postgres.standby_files import owner_of

_POLL_SECONDS = 0.005


def kill_tree(folder: Path, seconds: float) -> list[int]:
    """SIGKILL to the postmaster, then to all that works in the directory, until nothing is left. Blocking.

    A stopped (SIGSTOP) process dies of it, too. A postmaster that ends leaves busy backends behind, so each is killed.
    Returns the processes that are left after ``seconds``: those that wait for a disk without answering signals.

    Raises:
        Refused: we are not allowed to see the directory's processes, so that nothing could be confirmed.
    """
    owner_of(folder)
    deadline = time.monotonic() + seconds
    killed = set()
    first = postmaster_of(folder)
    if first is not None:
        _kill(first)
        killed.add(first)
    while found := server_processes(folder):
        for pid in found:
            _kill(pid)
        killed.update(found)
        if time.monotonic() > deadline:
            return found
        time.sleep(_POLL_SECONDS)
    _forget(folder, killed)
    return []


def _forget(folder: Path, killed: set[int]) -> None:
    """Removes the pid file of a postmaster that we killed: until somebody reaps it, a start would take it for alive."""
    path = folder / "postmaster.pid"
    with contextlib.suppress(OSError, ValueError, IndexError):
        if int(path.read_text().splitlines()[0]) in killed:
            path.unlink()


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def walsenders(folder: Path) -> dict[int, str]:
    """Sessions that send WAL: process -> title, which ends with the position that was sent."""
    found = {}
    for pid in server_processes(folder):
        with contextlib.suppress(OSError):
            title = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            if "walsender" in title:
                found[pid] = title
    return found
