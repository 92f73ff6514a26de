"""Throw-away servers: they listen on a private socket only, die with us, and leave nothing."""

from __future__ import annotations

import asyncio
import contextlib
import pwd
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from recovery.adapters.postgres.folder import give_to, no_space
from recovery.adapters.postgres.host import LocalPostgresHost, stop_server, tail, wait_until_ready
from recovery.adapters.process import Child, clean_environment
from recovery.adapters.scratch_folder import discard, locked_folder, sweep
from recovery.backup.bounded import opened, to_the_end
from recovery.errors import RestoreFailed
from recovery.ports.postgres import PostgresLogin, PostgresPlace

PORT = 5432  # only a part of the socket's name
LONGEST_SOCKET_FOLDER = 90

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
    space, lock = await opened(lambda: _make(parent, user), lambda made: _remove(*made))
    try:
        yield space
    finally:
        await to_the_end(_discard(space, lock))


def _make(parent: Path, user: str | None) -> tuple[ScratchSpace, int]:
    with no_space(parent):
        folder, lock = locked_folder(parent)
        try:
            return _prepared(folder, user), lock
        except BaseException:
            discard(folder, lock)  # else nobody sweeps it while we live
            raise


def _prepared(folder: Path, user: str | None) -> ScratchSpace:
    """Raises OSError."""
    _check_reachable(folder, user)
    sockets = folder / "s"
    if len(str(sockets)) > LONGEST_SOCKET_FOLDER:
        sockets = Path(tempfile.mkdtemp(prefix="recovery-plans-"))
    else:
        sockets.mkdir(mode=0o700)
    space = ScratchSpace(folder, sockets, user)
    for path in (folder, sockets):
        give_to(path, user)
    space.write_access()
    return space


def _check_reachable(folder: Path, user: str | None) -> None:
    """The server's user must be able to enter every folder above: as root we would not notice."""
    if user is None:
        return
    entry = pwd.getpwnam(user)
    for above in folder.parents:
        state = above.stat()
        allowed = state.st_mode & 0o001 or (state.st_uid == entry.pw_uid and state.st_mode & 0o100)
        if not allowed and not (state.st_gid == entry.pw_gid and state.st_mode & 0o010):
            raise PermissionError(13, f"user {user} cannot enter {above}: allow it (chmod o+x) or name another folder")


async def _discard(space: ScratchSpace, lock: int) -> None:
    await stop_server(space.data, gentle=False)
    await asyncio.to_thread(_remove, space, lock)


def _remove(space: ScratchSpace, lock: int) -> None:
    shutil.rmtree(space.sockets, ignore_errors=True)
    discard(space.folder, lock)


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
                await to_the_end(stop_server(space.data, gentle=False))
