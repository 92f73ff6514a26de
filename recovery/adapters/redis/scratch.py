"""A throw-away Redis: loaded with one dump, configured on its standard input, gone when we are.

It listens on a private socket only, or, where another server is to replicate from it, at a port with a password of its
own. It writes nothing but the dump that it was given.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from recovery.adapters.postgres.folder import no_space
from recovery.adapters.process import Child, clean_environment, closing
from recovery.adapters.redis.connection import LOST, RedisLogin, RedisServer, ServerSaid, connected
from recovery.adapters.redis.programs import RedisProgram, check_judged
from recovery.adapters.redis.rdb import DumpCheck, DumpHead
from recovery.adapters.scratch_folder import remove_tree, scratch_folder
from recovery.backup.bounded import opened, through
from recovery.errors import Corrupt, NoSpace, RestoreFailed
from recovery.ports.postgres import Progress
from recovery.ports.redis import DUMP_NAME, StoredDump

READY_POLL = 0.02
LONGEST_SOCKET = 100  # of 107
PORT_ATTEMPTS = 5


@dataclass(frozen=True)
class ServerTls:
    """Files with which the scratch server serves TLS; ``ca``: whose certificates a replica must show."""

    certificate: Path
    key: Path
    ca: Path


@dataclass(frozen=True)
class Listening:
    """How others reach the scratch server: it binds ``bind``, and they connect to ``host``. ``port`` 0: a free one."""

    host: str = "127.0.0.1"
    bind: str = "127.0.0.1"
    port: int = 0
    tls: ServerTls | None = None


class ScratchSpace:
    """A folder with one dump in it. ``path`` is there once ``write`` was through."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / DUMP_NAME
        self.bytes = 0

    async def write(
        self, dump: StoredDump, acceptable: Callable[[DumpHead], None], progress: Progress | None = None
    ) -> DumpHead:
        """``acceptable`` sees the dump's beginning, and raises Refused before the rest is read.

        Raises Corrupt: it is no whole dump; NoSpace; what ``acceptable`` raises.
        """
        check, expected = DumpCheck(), dump.source.rdb_bytes if dump.source else 0
        head: DumpHead | None = None
        try:
            with no_space(self.folder):
                await asyncio.to_thread(self._check_space, expected)
                async with closing(dump.chunks) as chunks:
                    with await asyncio.to_thread(self.path.open, "wb") as file:
                        async for chunk in chunks:
                            check.feed(chunk)
                            if head is None and (head := check.head()) is not None:
                                acceptable(head)
                            await asyncio.to_thread(file.write, chunk)
                            if progress is not None:
                                progress(check.bytes, expected)
            head = check.finish()
        except Corrupt as error:
            raise Corrupt(f"The dump is damaged: {error}.") from error
        acceptable(head)
        self.bytes = check.bytes
        return head

    def _check_space(self, needed: int) -> None:
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise NoSpace(f"The dump needs {needed} bytes, and {self.folder} has {free}: name another scratch folder.")


@contextlib.asynccontextmanager
async def scratch_space(parent: Path) -> AsyncIterator[ScratchSpace]:
    """Makes a folder, and removes it on exit. What a killed worker left is removed first. Raises NoSpace."""
    async with contextlib.AsyncExitStack() as stack:
        with no_space(parent):
            folder = await stack.enter_async_context(scratch_folder(parent))
        yield ScratchSpace(folder)


@dataclass(frozen=True)
class ScratchServer:
    """``own``: how we ask it, and who may do everything; ``port``: where others reach it, 0 where nobody does."""

    own: RedisServer
    port: int = 0


@contextlib.asynccontextmanager
async def running(
    space: ScratchSpace,
    program: RedisProgram,
    *,
    load_seconds: float,
    keep_expired: bool = False,
    listening: Listening | None = None,
    lines: Sequence[str] = (),
) -> AsyncIterator[ScratchServer]:
    """The server, once it has loaded the dump.

    Args:
        keep_expired: it counts as a replica (of nowhere), which deletes nothing by itself.
        listening: where others log in, once they have a user there. Without, there is only the socket.
        lines: of its configuration, at the end (``loadmodule ...``).

    Raises:
        RestoreFailed: it does not load it, or not within ``load_seconds``; with the end of its log.
        Unreachable: this machine ended it, or has too little memory for it.
    """
    sockets = await opened(lambda: _socket_folder(space.folder), remove_tree)
    try:
        async with contextlib.AsyncExitStack() as stack:
            for attempt in range(PORT_ATTEMPTS):
                port = await asyncio.to_thread(_free_port, listening) if listening else 0
                admin = secrets.token_urlsafe(32)
                text = _configuration(space, sockets, admin, keep_expired, listening, port, lines)
                server = RedisServer(str(sockets / "s"), 0, RedisLogin(password=admin))
                started = contextlib.AsyncExitStack()
                try:
                    async with started:
                        log = space.folder / f"log-{attempt}"
                        child = await started.enter_async_context(_started(program, text, log))
                        await _loaded(server, child, log, load_seconds)
                        stack.push_async_exit(started.pop_all())
                        break
                except _PortTaken as error:
                    if attempt == PORT_ATTEMPTS - 1 or (listening and listening.port):
                        raise RestoreFailed(f"The scratch server's port {port} is taken: {error}") from error
            yield ScratchServer(server, port)
    finally:
        await through(remove_tree, sockets)


class _PortTaken(Exception):
    """Another process was quicker."""


def _socket_folder(folder: Path) -> Path:
    """Of its own, and short: a socket's path has at most 107 bytes."""
    inner = folder / "s"
    if len(str(inner / "s").encode()) > LONGEST_SOCKET:
        return Path(tempfile.mkdtemp(prefix="recovery-plans-"))
    inner.mkdir(mode=0o700)
    return inner


def _free_port(listening: Listening) -> int:
    if listening.port:
        return listening.port
    with socket.socket(socket.AF_INET6 if ":" in listening.bind else socket.AF_INET) as probe:
        probe.bind((listening.bind, 0))
        return int(probe.getsockname()[1])


def _configuration(
    space: ScratchSpace,
    sockets: Path,
    admin: str,
    keep_expired: bool,
    listening: Listening | None,
    port: int,
    lines: Sequence[str],
) -> str:
    words = [
        f"dir {_quoted(space.folder)}",
        f"dbfilename {DUMP_NAME}",
        f"unixsocket {_quoted(sockets / 's')}",
        "unixsocketperm 700",
        'save ""',
        "appendonly no",
        "stop-writes-on-bgsave-error no",
        "databases 16384",  # as many as the source may have
        "maxmemory 0",
        "repl-diskless-sync yes",
        "repl-diskless-sync-delay 0",
        "client-output-buffer-limit replica 0 0 0",
        "daemonize no",
        f"user default on #{_sha256(admin)} ~* &* +@all",
    ]
    if keep_expired:
        words.append("replicaof 127.0.0.1 1")
    if listening is None:
        words.append("port 0")
    else:
        words.append(f"bind {listening.bind}")
        words.append("port 0" if listening.tls else f"port {port}")
        if listening.tls:
            words += [
                f"tls-port {port}",
                f"tls-cert-file {_quoted(listening.tls.certificate)}",
                f"tls-key-file {_quoted(listening.tls.key)}",
                f"tls-ca-cert-file {_quoted(listening.tls.ca)}",
                "tls-auth-clients optional",
            ]
    return "\n".join([*words, *lines]) + "\n"


def _quoted(value: object) -> str:
    return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _sha256(password: str) -> str:
    return hashlib.sha256(password.encode()).hexdigest()


@contextlib.asynccontextmanager
async def _started(program: RedisProgram, configuration: str, log: Path) -> AsyncIterator[Child]:
    with await asyncio.to_thread(log.open, "ab") as output:
        async with Child(
            [program.path, "-"], environment=clean_environment(), stdin=True, stdout=output, stderr=output
        ) as child:
            await child.feed(_once(configuration.encode()))
            yield child


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def _loaded(server: RedisServer, child: Child, log: Path, seconds: float) -> None:
    """Raises _PortTaken, RestoreFailed, Unreachable."""
    until = time.monotonic() + seconds
    while True:
        try:
            async with asyncio.timeout(5), connected(server) as connection:
                info = await connection.info("persistence")
                if info.get("loading") == "0":
                    return
                said = "it still loads"
        except (*LOST, ServerSaid) as error:
            said = f"{str(error) or type(error).__name__}"
        if child.code is not None:
            text = await asyncio.to_thread(_log_of, log)
            if "Failed listening on port" in text:
                raise _PortTaken(text[-300:])
            check_judged("The scratch server", child.code, text)
            raise RestoreFailed(f"The scratch server did not load the dump. The end of its log: {text[-600:]}")
        if time.monotonic() > until:
            raise RestoreFailed(f"The scratch server did not load the dump within {seconds:g} s: {said}.")
        await asyncio.sleep(READY_POLL)


def _log_of(path: Path) -> str:
    """Without what a server says of its configuration: it names users and hashes."""
    lines = path.read_text(errors="replace").splitlines()
    return "\n".join(line for line in lines if line.strip() and not line.startswith(">>>"))
