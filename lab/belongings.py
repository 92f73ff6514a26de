"""Which processes belong to a server: its tree, what its dead parent left, and what runs on its data.

Inside a region one may be hit without the other: the guard, its companion, and the PostgreSQL that the guard started
are one tree for the kernel, and three servers for the lab.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from lab.processes import family, postmaster_pid, tree
from lab.state import ATTENDANTS, COMPANION, GUARD, MARK, Server

_COMPANION = b"/companion.py"


def processes_of(server: Server, root: int | None, postgres_data: Path | None) -> list[int]:
    """Return the living processes of `server`, parents first.

    `root`: the process that the lab started for it. `postgres_data`: where its region's PostgreSQL runs.
    """
    children = family()
    roots = [root] if root is not None else []
    if server.service == "postgres" and server.data_directory is not None:
        roots += _running_on(server.data_directory)
    elif server.service == COMPANION:
        return _with(children, companions(server.data_directory))
    elif server.service in ATTENDANTS:
        roots += [pid for pid in marked(server) if pid not in roots]
    found = _with(children, roots)
    if server.service != GUARD:
        return found
    others = _with(children, companions(server.data_directory))
    if postgres_data is not None:
        others += _with(children, _running_on(postgres_data))
    return [pid for pid in found if pid not in others]


def mark_of(server: Server) -> str:
    """What tells a server's processes from those of every other lab on this machine: servers are named alike in all."""
    return str(server.log_file)


def marked(server: Server) -> list[int]:
    """Return every process that has a server's mark in its environment, which children inherit."""
    return _having("environ", [f"{MARK}={mark_of(server)}".encode()])


def companions(state_folder: Path | None) -> list[int]:
    """Return the companions of the guard that keeps its state in this folder. They have no environment to mark."""
    if state_folder is None:
        return []
    found = _having("cmdline", [os.fsencode(state_folder)])
    return [pid for pid in found if any(word.endswith(_COMPANION) for word in _words(pid, "cmdline"))]


def _having(what: str, words: list[bytes]) -> list[int]:
    pids = [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]  # noqa: PTH208 - called often
    return [pid for pid in pids if all(word in _words(pid, what) for word in words)]


def _words(pid: int, what: str) -> list[bytes]:
    with contextlib.suppress(OSError):  # it ended, or it is somebody else's
        return Path(f"/proc/{pid}/{what}").read_bytes().split(b"\0")
    return []


def _running_on(data_directory: Path) -> list[int]:
    running = postmaster_pid(data_directory)
    return [] if running is None else [running]


def _with(children: dict[int, list[int]], roots: list[int]) -> list[int]:
    found: dict[int, None] = {}
    for root in roots:
        found.update(dict.fromkeys(tree(root, children)))
    return list(found)
