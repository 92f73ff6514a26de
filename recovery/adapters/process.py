"""Child processes: streamed, bounded, and gone when we are."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pwd
import shutil
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from recovery.backup.bounded import to_the_end
from recovery.errors import NotFound
from recovery.ports.postgres import PostgresLogin

READ_BYTES = 1 << 20
STDERR_BYTES = 64 << 10


@dataclass(frozen=True)
class Finished:
    """How a child ended: exit code (negative: the signal), and what it wrote, the last 64 KiB of each."""

    code: int
    stdout: str
    stderr: str


def clean_environment(login: PostgresLogin | None = None) -> dict[str, str]:
    """Ours without any PG* variable, in English, with the connection's TLS settings."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    environment |= {"LC_ALL": "C", "LANGUAGE": "C", "PGCONNECT_TIMEOUT": "10", "PGAPPNAME": "recovery-plans"}
    if login is not None:
        environment["PGSSLMODE"] = login.sslmode
        if login.sslrootcert:
            environment["PGSSLROOTCERT"] = login.sslrootcert
    return environment


@contextlib.contextmanager
def password_file(login: PostgresLogin) -> Iterator[tuple[dict[str, str], tuple[int, ...]]]:
    """Yields (environment, file descriptors) that give a child the password.

    It stands in an anonymous memory file that only the child can open through its own descriptor: it appears in no
    argument list and in no environment, and nothing is left on a disk if we are killed.
    """
    if not login.password:
        yield {}, ()
        return
    descriptor = os.memfd_create("passfile")
    try:
        os.fchmod(descriptor, 0o600)
        escaped = login.password.replace("\\", "\\\\").replace(":", "\\:")
        os.write(descriptor, f"*:*:*:*:{escaped}\n".encode())
        yield {"PGPASSFILE": f"/proc/self/fd/{descriptor}"}, (descriptor,)
    finally:
        os.close(descriptor)


def server_user() -> str | None:
    """Whom PostgreSQL runs as when we are root: ``postgres`` where it exists, else ``nobody``. None when we are not."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    raise RuntimeError("this machine has neither a user postgres nor a user nobody")


def user_id(name: str) -> int:
    """Raises NotFound: this machine has no such user."""
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        raise NotFound(f"this machine has no user {name!r}: create it or name another") from None


@contextlib.asynccontextmanager
async def closing(stream: AsyncIterator[bytes]) -> AsyncIterator[AsyncIterator[bytes]]:
    """Closes the stream at once when its consumer stops early; otherwise that waits for the garbage collector."""
    try:
        yield stream
    finally:
        if isinstance(stream, AsyncGenerator):
            await stream.aclose()


class Child:
    """A child process in a session of its own. Leaving the context ends it and everything that it started.

    It dies with us, too: the kernel sends it ``death_signal`` when our process ends, however that happens.
    """

    def __init__(
        self,
        arguments: Sequence[str | Path],
        *,
        run_as: str | None = None,
        environment: Mapping[str, str] | None = None,
        descriptors: Sequence[int] = (),
        stdin: bool = False,
        stdout: int | IO[bytes] | None = asyncio.subprocess.PIPE,
        stderr: int | IO[bytes] | None = asyncio.subprocess.PIPE,
        directory: Path | None = None,
        death_signal: str = "KILL",
    ) -> None:
        prefix = ["setpriv", "--pdeathsig", death_signal, "--"] if shutil.which("setpriv") else []
        self._arguments = [*prefix, *(str(argument) for argument in arguments)]
        self._options: dict[str, Any] = {
            "env": dict(environment or clean_environment()),
            "pass_fds": tuple(descriptors),
            "stdin": asyncio.subprocess.PIPE if stdin else asyncio.subprocess.DEVNULL,
            "stdout": stdout,
            "stderr": stderr,
            "cwd": directory or "/",
            "start_new_session": True,
            "limit": READ_BYTES,
        }
        if run_as is not None and os.geteuid() == 0:
            entry = pwd.getpwnam(run_as)
            self._options |= {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": [], "umask": 0o077}
            self._options["env"] |= {"HOME": "/", "USER": run_as, "LOGNAME": run_as}
        self._stderr = bytearray()
        self._reading: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(*self._arguments, **self._options)
        if self._process.stderr is not None:
            self._reading = asyncio.create_task(self._collect(self._process.stderr))
        return self

    async def _collect(self, stream: asyncio.StreamReader) -> None:
        while data := await stream.read(READ_BYTES):
            self._stderr += data
            del self._stderr[:-STDERR_BYTES]

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def stderr(self) -> str:
        """What it complained about so far: the last 64 KiB."""
        return self._stderr.decode(errors="replace").strip()

    @property
    def code(self) -> int | None:
        """None while it runs."""
        return self._process.returncode

    async def chunks(self) -> AsyncIterator[bytes]:
        """Its standard output to the end."""
        assert self._process.stdout is not None
        while data := await self._process.stdout.read(READ_BYTES):
            yield data

    async def feed(self, data: AsyncIterator[bytes]) -> bool:
        """Writes everything to its standard input and closes it; False when the child stopped reading early."""
        stdin = self._process.stdin
        assert stdin is not None
        pipe = stdin.transport.get_extra_info("pipe")
        with contextlib.suppress(OSError):  # a larger pipe is only faster
            fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, 1 << 20)
        try:
            async with closing(data):
                async for chunk in data:
                    stdin.write(chunk)
                    await stdin.drain()
            stdin.close()
            await stdin.wait_closed()
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    async def wait(self) -> int:
        """Its exit code, once it ended and everything that it wrote to standard error was read."""
        code = await self._process.wait()
        if self._reading is not None:
            await self._reading
        return code

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
                await to_the_end(self._process.wait())  # else what follows, a removal say, runs beside it
        finally:
            if self._reading is not None:
                self._reading.cancel()
            if self._process.stdin is not None:
                self._process.stdin.close()


async def run(
    arguments: Sequence[str | Path],
    *,
    run_as: str | None = None,
    environment: Mapping[str, str] | None = None,
    timeout: float = 60.0,
) -> Finished:
    """Runs a child to its end; it is killed after ``timeout`` seconds (TimeoutError) or on cancellation."""
    async with Child(arguments, run_as=run_as, environment=environment) as child, asyncio.timeout(timeout):
        output = bytearray()
        async for chunk in child.chunks():
            output += chunk
            del output[:-STDERR_BYTES]
        code = await child.wait()
        return Finished(code, output.decode(errors="replace"), child.stderr)
