"""A few child processes that seal or open chunks, driven by one thread each.

The pool is small and of our own because the standard one pickles every chunk, imports the caller's main module into
each child, and gives no way to end a child that hangs. Here a child is started by the thread that talks to it, so that
``PR_SET_PDEATHSIG`` (which watches the *thread* that forked) means what it says; the closed pipe is the second way in
which a child learns that its parent is gone.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

from recovery.backup.sealing_process import LENGTH, read_frame
from recovery.errors import Unreachable

PROGRAM = Path(__file__).with_name("sealing_process.py")
PIPE_BYTES = 1 << 20
F_SETPIPE_SZ = 1031


class _Child:
    """One process and the pipes to it. Used by one thread; ``kill`` may be called by any."""

    def __init__(self, keys: bytes) -> None:
        # -P: the program's own folder must not shadow modules of the same names.
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(PROGRAM)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=-1
        )
        self._stdin: IO[bytes] = self._process.stdin  # type: ignore[assignment]
        self._stdout: IO[bytes] = self._process.stdout  # type: ignore[assignment]
        for pipe in (self._stdin, self._stdout):
            _widen(pipe)
        self._send(keys)
        self._stdin.flush()

    @property
    def pid(self) -> int:
        return self._process.pid

    def _send(self, body: bytes) -> None:
        self._stdin.write(LENGTH.pack(len(body)))
        self._stdin.write(body)

    def ask(self, header: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
        """Raises Unreachable when the process is gone."""
        try:
            self._send(json.dumps(header).encode())
            self._send(body)
            self._stdin.flush()
            answer = read_frame(self._stdout)  # type: ignore[arg-type]
            result = read_frame(self._stdout) if answer is not None else None  # type: ignore[arg-type]
        except (OSError, ValueError) as error:  # ValueError: the pipe was closed by close()
            raise Unreachable(f"a sealing process ended unexpectedly ({self._ending()})") from error
        if answer is None or result is None:
            raise Unreachable(f"a sealing process ended unexpectedly ({self._ending()})")
        return json.loads(answer), result

    def _ending(self) -> str:
        try:
            code = self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            return "its pipe is closed"
        return f"killed by signal {-code}, perhaps for lack of memory" if code < 0 else f"exit code {code}"

    def kill(self) -> None:
        self._process.kill()

    def reap(self) -> None:
        """Ends the process and waits for it: no zombie is left."""
        self._process.kill()
        for pipe in (self._stdin, self._stdout):
            try:
                pipe.close()
            except (OSError, ValueError):  # unsent bytes cannot be flushed to a dead process
                continue
        self._process.wait()


def _widen(pipe: IO[bytes]) -> None:
    """Fewer switches between the two processes; where the user's share of pipe memory is used up it stays as it is."""
    try:
        fcntl.fcntl(pipe.fileno(), F_SETPIPE_SZ, PIPE_BYTES)
    except PermissionError:
        return


class ProcessPool:
    """``processes`` children that all know the same keys.

    Args:
        keys: ``{"recipients": [...]}`` to seal or ``{"identities": [...]}`` to open; sent through a pipe.
        processes: how many chunks are worked on at once.
        timeout: seconds after which a chunk's process counts as hung; it is killed and replaced.
    """

    def __init__(self, keys: dict[str, list[str]], *, processes: int, timeout: float) -> None:
        self._keys = json.dumps(keys).encode()
        self._timeout = timeout
        self._threads = ThreadPoolExecutor(processes, thread_name_prefix="sealing")
        self._local = threading.local()
        self._children: set[_Child] = set()
        self._lock = threading.Lock()
        self._closed = False

    @property
    def pids(self) -> list[int]:
        with self._lock:
            return [child.pid for child in self._children]

    async def ask(self, header: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
        """One chunk through any free process.

        Raises:
            Unreachable: the process died or hung; the next chunk gets a new one.
        """
        future = asyncio.get_running_loop().run_in_executor(self._threads, self._ask, header, body)
        return await future

    def _ask(self, header: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
        child = self._mine()
        hung = threading.Timer(self._timeout, child.kill)
        hung.daemon = True
        hung.start()
        try:
            return child.ask(header, body)
        except Unreachable:
            self._discard(child)
            raise
        finally:
            hung.cancel()

    def _mine(self) -> _Child:
        child: _Child | None = getattr(self._local, "child", None)
        if child is None:
            child = _Child(self._keys)
            with self._lock:
                self._children.add(child)
                closed = self._closed
            self._local.child = child
            if closed:
                self._discard(child)
                raise Unreachable("the sealing processes were closed")
        return child

    def _discard(self, child: _Child) -> None:
        self._local.child = None
        with self._lock:
            self._children.discard(child)
        child.reap()

    async def close(self) -> None:
        """Ends all processes at once; a chunk in work fails with Unreachable."""
        self._closed = True
        with self._lock:
            children = list(self._children)
        for child in children:
            child.kill()
        await asyncio.to_thread(self._finish, children)

    def _finish(self, children: list[_Child]) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)
        for child in children:
            child.reap()
        with self._lock:
            self._children.clear()
