"""Throw-away servers: they listen on a private socket only, die with us, and leave nothing."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pwd
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from recovery.adapters.postgres.folder import give_to, no_space
from recovery.adapters.postgres.host import LocalPostgresHost, stop_server, tail, wait_until_ready
from recovery.adapters.process import Child, clean_environment
from recovery.errors import RestoreFailed
from recovery.ports.postgres import PostgresLogin, PostgresPlace

PORT = 5432  # only a part of the socket's name
LONGEST_SOCKET_FOLDER = 90

PREFIX = "scratch-"
_LOCK = "lock"

# Nothing in a scratch server is worth keeping, and nothing in it may act on the outside world.
SCRATCH_SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "autovacuum": "off",
    "max_logical_replication_workers": "0",  # a restored subscription would take its publisher's changes away
    "primary_conninfo": "",
    "shared_buffers": "128MB",
    "archive_mode": "off",
    "statement_timeout": "0",
    "log_min_messages": "warning",
    "dynamic_shared_memory_type": "mmap",  # of a killed server nothing stays in /dev/shm
}
# Libraries whose background workers act on their own.
ACTING_LIBRARIES = {"pg_cron", "pg_partman_bgw", "pglogical", "pg_net", "pgagent", "bdr", "spock", "pgactive"}


class ScratchSpace:
    """A folder of one validation: ``data`` and what else it needs."""

    def __init__(self, folder: Path, sockets: Path, user: str | None) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.sockets = sockets
        self.user = user

    def login(self, superuser: str, database: str = "postgres") -> PostgresLogin:
        return PostgresLogin(str(self.sockets), PORT, superuser, database, sslmode="disable")

    def settings(self) -> dict[str, str]:
        """What makes a restored server a scratch server of this folder."""
        return {
            **SCRATCH_SETTINGS,
            "listen_addresses": "",
            "port": str(PORT),
            "unix_socket_directories": str(self.sockets),
            "unix_socket_permissions": "0700",
            "hba_file": str(self.folder / "pg_hba.conf"),
            "ident_file": str(self.folder / "pg_ident.conf"),
            "ssl": "off",
        }

    def write_access(self) -> None:
        """Everybody who can enter the folder (the server's user, and root) is let in."""
        for name, text in (("pg_hba.conf", "local all all trust\n"), ("pg_ident.conf", "")):
            (self.folder / name).write_text(text)
            give_to(self.folder / name, self.user)


@contextlib.asynccontextmanager
async def scratch_space(host: LocalPostgresHost, parent: Path) -> AsyncIterator[ScratchSpace]:
    """Makes the folder, and removes it and the server in it on exit. What a killed worker left is removed first.

    Raises:
        NoSpace, Refused: the folder cannot be made.
    """
    user = host.user_for(PostgresPlace("", PORT, parent))
    await sweep(parent)
    space, lock = await asyncio.to_thread(_make, parent, user)
    try:
        yield space
    finally:
        await asyncio.shield(_discard(space, lock))


async def sweep(parent: Path) -> list[Path]:
    """Removes scratch folders of any store (and their servers) whose worker is gone."""
    removed = []
    for folder in await asyncio.to_thread(lambda: sorted(parent.glob(f"{PREFIX}*"))):
        lock = await asyncio.to_thread(try_lock, folder)
        if lock is not None:
            await stop_server(folder / "data", gentle=False)
            await asyncio.to_thread(shutil.rmtree, folder, True)
            os.close(lock)
            removed.append(folder)
    return removed


def _make(parent: Path, user: str | None) -> tuple[ScratchSpace, int]:
    with no_space(parent):
        parent.mkdir(parents=True, exist_ok=True)
        lock = None
        while lock is None:  # another validation's sweep may take a new folder for a forgotten one
            folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent)).resolve()
            lock = try_lock(folder, os.O_CREAT)
        sockets = folder / "s"
        if len(str(sockets)) > LONGEST_SOCKET_FOLDER:
            sockets = Path(tempfile.mkdtemp(prefix="recovery-plans-"))
        else:
            sockets.mkdir(mode=0o700)
        space = ScratchSpace(folder, sockets, user)
        for path in (folder, sockets):
            give_to(path, user)
        space.write_access()
        _check_reachable(folder, user)
    return space, lock


def _check_reachable(folder: Path, user: str | None) -> None:
    """The server's user must be able to enter every folder above: as root we would not notice."""
    if user is None:
        return
    entry = pwd.getpwnam(user)
    for above in folder.parents:
        state = above.stat()
        allowed = state.st_mode & 0o001 or (state.st_uid == entry.pw_uid and state.st_mode & 0o100)
        if not allowed and not (state.st_gid == entry.pw_gid and state.st_mode & 0o010):
            shutil.rmtree(folder)
            raise PermissionError(13, f"user {user} cannot enter {above}: allow it (chmod o+x) or name another folder")


def try_lock(folder: Path, flags: int = 0) -> int | None:
    """Descriptor of the lock of a scratch folder, held as long as its worker lives; None where somebody holds it."""
    try:
        descriptor = os.open(folder / _LOCK, flags | os.O_RDWR, 0o600)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


async def _discard(space: ScratchSpace, lock: int) -> None:
    await stop_server(space.data, gentle=False)
    await asyncio.to_thread(shutil.rmtree, space.folder, True)
    await asyncio.to_thread(shutil.rmtree, space.sockets, True)
    os.close(lock)


@contextlib.asynccontextmanager
async def running_server(
    host: LocalPostgresHost, space: ScratchSpace, major: int, *, timeout: float
) -> AsyncIterator[None]:
    """The server in ``space.data`` as our own child, which the kernel ends with us.

    Raises:
        RestoreFailed: it does not start; with the end of its log.
    """
    tool = await host.binaries.tool(major, "postgres")
    log = space.folder / "log"
    with await asyncio.to_thread(log.open, "ab") as output:
        await asyncio.to_thread(give_to, log, space.user)
        child = Child(
            [tool, "-D", space.data],
            run_as=space.user,
            environment=clean_environment(),
            stdout=output,
            stderr=output,
            death_signal="QUIT",
        )
        async with child:
            waiting = asyncio.create_task(wait_until_ready(space.data, timeout=timeout, log=log))
            ending = asyncio.create_task(child.wait())
            try:
                await asyncio.wait([waiting, ending], return_when=asyncio.FIRST_COMPLETED)
                if ending.done() and not waiting.done():
                    raise RestoreFailed(f"PostgreSQL ended while it started. The end of its log: {await tail(log)}")
                await waiting
                yield
            finally:
                waiting.cancel()
                ending.cancel()
                await asyncio.shield(stop_server(space.data, gentle=False))
