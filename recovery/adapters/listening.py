"""The process behind a local port, and its end: the last resort of a fence, for servers that do not answer."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from recovery.errors import Unreachable
from recovery.guard.companion import listeners


@dataclass
class Listener:
    """A server that listens at ``host``:``port`` of this machine and whose process has one of ``names``.

    ``names`` are compared with ``/proc/<pid>/comm``: nothing else is ever killed, whatever took the port. Looking
    through all processes takes a tenth of a second and more on a busy host, so those that were found once are
    remembered, with the time of their start.
    """

    host: str
    port: int
    names: frozenset[str]
    _seen: dict[int, str] = field(default_factory=dict, init=False, repr=False)

    async def pids(self) -> list[int]:
        """Its processes on this machine; none where it runs elsewhere, or in another process namespace."""
        return await asyncio.to_thread(self._found)

    async def kill(self, seconds: float) -> list[int]:
        """SIGKILL, and waits for the end of each: the kernel closes all connections before that. Returns the pids.

        Raises:
            Unreachable: a process still runs after ``seconds`` (an uninterruptible wait), or may not be killed by us.
        """
        return await asyncio.to_thread(self._kill, time.monotonic() + seconds)

    def _found(self) -> list[int]:
        found = [pid for pid in listeners(self.host, self.port) if _name(pid) in self.names]
        self._seen = {pid: _started(pid) for pid in found}
        return found

    def _remembered(self) -> list[int]:
        return [pid for pid, start in self._seen.items() if start and start == _started(pid)]

    def _kill(self, until: float) -> list[int]:
        killed: list[int] = []
        while found := (self._remembered() or self._found()):
            self._seen = {}
            for pid in found:
                if not _kill_one(pid, self.names, until):
                    raise Unreachable(
                        f"Process {pid}, which listens at {self.host}:{self.port}, did not end on SIGKILL in time:"
                        " its disk may hang. Switch its host off."
                    )
                killed.append(pid)
            if self._refuses():  # quicker than reading all sockets of a busy host again
                break
        return killed

    def _refuses(self) -> bool:
        try:
            socket.create_connection((self.host, self.port), 0.05).close()
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
        return False


class Processes:
    """The very processes that had these numbers when this was made: a signal reaches them or nobody.

    Between a look and an act any time may pass, and a number may be another process's by then. Close it; a context.
    """

    def __init__(self, pids: Collection[int]) -> None:
        self._descriptors: list[int] = []
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                self._descriptors.append(os.pidfd_open(pid))

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()

    def close(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.pop())

    def signal(self, number: signal.Signals) -> int:
        """How many it reached. Raises PermissionError."""
        reached = 0
        for descriptor in self._descriptors:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, number)
                reached += 1
        return reached


def _name(pid: int) -> str | None:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return None


def _kill_one(pid: int, names: Collection[str], until: float) -> bool:
    """Whether it has ended. The descriptor keeps the signal from a process that got the same number meanwhile."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        if _name(pid) not in names:
            return True
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(max(0.0, until - time.monotonic()) * 1000))
    except PermissionError as error:
        raise Unreachable(
            f"Process {pid} ({'/'.join(sorted(names))}) may not be killed by this user: run the guard as root, or as"
            " the server's user."
        ) from error
    finally:
        os.close(descriptor)


def _started(pid: int) -> str:
    """When it started, in ticks since the boot; empty where there is none, or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


async def accepts(host: str, port: int, seconds: float) -> bool:
    """Whether anything takes a connection there; a listener that is frozen does, too."""
    try:
        async with asyncio.timeout(seconds):
            _, writer = await asyncio.open_connection(host, port)
    except TimeoutError:
        return True  # no refusal: a full queue of connections, or a network that drops
    except OSError:
        return False
    writer.transport.abort()
    return True


def write_durably(path: Path, text: str, mode: int = 0o600) -> None:
    """Replaces a small file as a whole, on disk before this returns. Blocking.

    An existing file keeps its owner and mode: a server that runs as another user goes on reading it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    target = Path(os.path.realpath(path))  # a link stays one
    scratch = target.with_name(f".{target.name}.{os.getpid()}-{threading.get_ident()}.new")
    descriptor = os.open(scratch, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        with contextlib.suppress(FileNotFoundError):
            before = target.stat()
            os.fchmod(descriptor, before.st_mode & 0o777)
            if os.geteuid() == 0:
                os.fchown(descriptor, before.st_uid, before.st_gid)
        os.write(descriptor, text.encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    scratch.replace(target)
    folder = os.open(target.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
