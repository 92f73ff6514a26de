"""Ending, stopping and finding process trees on Linux, and what they leave behind in the kernel and in /tmp."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_IPC_RMID = 0
_STILL_SECONDS = 0.5  # one that waits for a disk may take longer: it is not waited for


def become_subreaper() -> None:
    """Make orphaned descendants children of this process instead of init's (prctl(2))."""
    if _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def die_with(parent: int, with_signal: int = signal.SIGKILL) -> Callable[[], None]:
    """Return a `preexec_fn` that makes the child receive `with_signal` when process `parent` dies."""
    number = int(with_signal)

    def before_exec() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
        if os.getppid() != parent:  # it died between fork and prctl
            os._exit(1)

    return before_exec


def family() -> dict[int, list[int]]:
    """Return {parent: children} of every process, from one look at /proc (psutil looks once per question)."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):  # noqa: PTH208 - called often, and only names are needed
        if entry.isdigit():
            with contextlib.suppress(OSError):
                # proc(5): pid (name) state ppid ...; the name may hold spaces and parentheses
                status = Path(f"/proc/{entry}/stat").read_bytes().rpartition(b")")[2].split()
                children.setdefault(int(status[1]), []).append(int(entry))
    return children


def tree(root: int, children: dict[int, list[int]]) -> list[int]:
    """Return `root` and all of its descendants, parents first."""
    found = [root]
    for pid in found:
        found.extend(child for child in children.get(pid, ()) if child not in found)
    return found


def trees(roots: Iterable[int]) -> list[psutil.Process]:
    """Return the living processes `roots` and all of their descendants, roots first."""
    children = family()
    found: dict[int, psutil.Process] = {}
    for root in roots:
        for pid in tree(root, children):
            if pid not in found:
                with contextlib.suppress(psutil.NoSuchProcess):
                    found[pid] = psutil.Process(pid)
    return list(found.values())


Finder = Callable[[], Iterable[int]]
"""Returns the pids that are meant, as they are now, parents first."""


def stop_all(find: Finder) -> list[psutil.Process]:
    """SIGSTOP everything that `find` finds until it finds nothing new: no process is left that could still fork."""
    stopped: dict[int, psutil.Process] = {}
    while True:
        new = [pid for pid in find() if pid not in stopped]
        if not new:
            return list(stopped.values())
        for pid in new:
            with contextlib.suppress(psutil.NoSuchProcess):
                stopped[pid] = psutil.Process(pid)
                stopped[pid].suspend()
        _wait_until_still([stopped[pid] for pid in new if pid in stopped])


def _wait_until_still(processes: list[psutil.Process]) -> None:
    """A process that waits for its turn stops only when it gets it; one that is in the kernel ends its call first."""
    until = time.monotonic() + _STILL_SECONDS
    while time.monotonic() < until:
        processes = [process for process in processes if not _is_still(process)]
        if not processes:
            return
        time.sleep(0.002)


def _is_still(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP, psutil.STATUS_ZOMBIE)
    return True


def resume_all(find: Finder) -> None:
    """SIGCONT everything that is found, children first, so that a parent finds its children answering."""
    for pid in reversed(list(find())):
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(pid).resume()


def kill_all(find: Finder) -> list[psutil.Process]:
    """SIGKILL everything that is found, all at once, as a power cut would; returns what was killed (reap it)."""
    doomed = stop_all(find)
    for process in doomed:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    return doomed


def kill_trees(roots: Iterable[int]) -> list[psutil.Process]:
    """SIGKILL whole trees at once; returns what was killed (reap it yourself)."""
    known = list(roots)
    return kill_all(lambda: [process.pid for process in trees(known)])


def is_gone(process: psutil.Process) -> bool:
    """Whether `process` no longer runs (a zombie that waits for its parent counts as gone)."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def kill_descendants(deadline_seconds: float = 10.0) -> None:
    """SIGKILL and reap every descendant of this process; needs `become_subreaper` to catch orphans."""
    deadline = time.monotonic() + deadline_seconds
    while True:
        kill_trees(family().get(os.getpid(), []))
        try:
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        except ChildProcessError:
            return
        if time.monotonic() > deadline:
            return
        time.sleep(0.005)


def postmaster_pid(data_directory: Path) -> int | None:
    """Return the pid of the server that runs on `data_directory`, whoever started it; None when there is none.

    The pid file outlives a killed server, so the process is checked to be that of a server in this folder.
    """
    try:
        pid = int((data_directory / "postmaster.pid").read_text().split("\n")[0])
        process = psutil.Process(pid)
        if process.name() != "postgres" or process.status() == psutil.STATUS_ZOMBIE:
            return None
        in_command_line = str(data_directory) in " ".join(process.cmdline())
    except (OSError, ValueError, psutil.NoSuchProcess):
        return None
    if in_command_line:
        return pid
    try:
        return pid if Path(process.cwd()) == data_directory.resolve() else None
    except psutil.Error:
        return None


def folders_with(name: str, top: Path) -> list[Path]:
    """Return every folder from `top` down that has a file called `name`; what vanishes meanwhile is no error."""
    return [Path(folder) for folder, _, files in os.walk(top) if name in files]


def drop_shared_memory(data_directory: Path) -> None:
    """Remove the System V segment that a killed PostgreSQL left (line 7 of postmaster.pid: key and id)."""
    try:
        lines = (data_directory / "postmaster.pid").read_text().split("\n")
        segment = int(lines[6].split()[1])
    except (OSError, ValueError, IndexError):
        return
    _LIBC.shmctl(segment, _IPC_RMID, None)


def remove_lab(folder: Path) -> None:
    """Remove what a lab left in `folder` once its processes are dead: shared memory, sockets in /tmp, the files.

    SeaweedFS puts its gRPC sockets into /tmp by port, whatever TMPDIR says.
    """
    made, outer, ports = True, [], []
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # a kill can leave half a file
        state = json.loads((folder / "lab.json").read_text())
        made, ports = state["folder_made"], state["reserved_ports"]
        outer = [Path(path) for path in state["outer_folders"]]
    for place in (folder, *outer):
        for data_directory in folders_with("postmaster.pid", place):
            drop_shared_memory(data_directory)
    for port in ports:
        for socket_file in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
            with contextlib.suppress(OSError):
                socket_file.unlink()
    for path in outer:
        shutil.rmtree(path, ignore_errors=True)
    if made:
        shutil.rmtree(folder, ignore_errors=True)
        return
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
