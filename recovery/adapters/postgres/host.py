"""PostgreSQL servers on this machine: start, stop, and what is left of them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import signal
from pathlib import Path

from recovery.adapters.postgres.binaries import PostgresBinaries
from recovery.adapters.process import clean_environment, run, server_user
from recovery.errors import NoSpace, NotFound, Refused, RestoreFailed
from recovery.ports.postgres import PostgresPlace

INCOMPLETE = "recovery-plans.incomplete"
LOG = "recovery-plans.log"

_POLL_SECONDS = 0.05
_READY_SECONDS = 0.02  # between two looks at a server that starts
_LOG_LINES = 12
_APPEAR_SECONDS = 15.0  # for a new server to write its pid file, on a busy machine


class LocalPostgresHost:
    """``PostgresHost`` with the binaries of this machine. As root it runs servers as ``run_as``, never as root."""

    def __init__(self, binaries: PostgresBinaries | None = None, *, run_as: str | None = None) -> None:
        self.binaries = binaries or PostgresBinaries()
        self._run_as = run_as

    def user_for(self, place: PostgresPlace) -> str | None:
        """The operating-system user of the server; None: our own.

        Raises:
            NotFound: there is no such user.
        """
        name = place.run_as or self._run_as or server_user()
        if name is None or os.geteuid() != 0:
            return None
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            raise NotFound(
                f"this machine has no user {name!r} to run PostgreSQL as: create it or name another"
            ) from None

    async def majors(self) -> dict[int, str]:
        return await self.binaries.versions()

    async def extensions(self, major: int) -> set[str] | None:
        return await self.binaries.extensions(major)

    async def free_bytes(self, path: Path) -> int:
        """Of the file system that ``path`` is on or will be on, for an unprivileged user."""
        return await asyncio.to_thread(_free_bytes, path)

    async def is_empty(self, place: PostgresPlace) -> bool:
        if await asyncio.to_thread(has_entries, place.data_directory):
            return False
        return not await is_listening(place.host, place.port)

    async def is_running(self, place: PostgresPlace) -> bool:
        return await asyncio.to_thread(postmaster_of, place.data_directory) is not None

    async def initialise(
        self, major: int, directory: Path, *, superuser: str = "postgres", run_as: str | None = None
    ) -> None:
        """``initdb`` for a scratch server: no synchronisation, page checksums, UTF-8, locale C.

        Raises:
            RestoreFailed: with initdb's own words.
        """
        tool = await self.binaries.tool(major, "initdb")
        arguments: list[str | Path] = [
            tool,
            "-D",
            directory,
            "-U",
            superuser,
            "-E",
            "UTF8",
            "--locale=C",
            "--auth=trust",
            "-N",
            "-k",
        ]
        done = await run(arguments, run_as=run_as, environment=clean_environment(), timeout=120)
        if done.code != 0:
            raise RestoreFailed(f"initdb failed: {done.stderr or done.stdout}")

    async def start(self, place: PostgresPlace, *, timeout: float = 60.0) -> None:
        folder = place.data_directory
        if await asyncio.to_thread((folder / INCOMPLETE).exists):
            raise Refused(
                f"{folder} holds an interrupted restore and must not be started: remove it, or restore again with the "
                "same plan."
            )
        if await self.is_running(place):
            await wait_until_ready(folder, timeout=timeout)
            return
        await self.launch(place, timeout=timeout)

    async def launch(self, place: PostgresPlace, *, timeout: float) -> None:
        """``start`` without its refusal: for the restore itself, whose folder is still marked as incomplete."""
        folder = place.data_directory
        major = await asyncio.to_thread(read_major, folder)
        tool = await self.binaries.tool(major, "pg_ctl")
        user = self.user_for(place)
        log = folder / LOG
        offset = await asyncio.to_thread(_size, log)
        await _forget_dead_postmaster(folder)
        arguments: list[str | Path] = [tool, "-D", folder, "-l", log, "-W", "-s", "start"]
        done = await run(arguments, run_as=user, environment=clean_environment(), timeout=60)
        if done.code != 0:
            raise RestoreFailed(
                f"PostgreSQL in {folder} did not start: {done.stderr or done.stdout or await tail(log)}"
            )
        await wait_until_ready(folder, timeout=timeout, log_offset=offset)

    async def forget_dead_postmaster(self, place: PostgresPlace) -> None:
        """Waits until a killed postmaster is reaped, which a start would take for a running one."""
        await _forget_dead_postmaster(place.data_directory)

    async def reload(self, place: PostgresPlace) -> None:
        """Has the server read its configuration files again; does nothing when none runs."""
        pid = await asyncio.to_thread(postmaster_of, place.data_directory)
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGHUP)

    async def stop(self, place: PostgresPlace, *, patience: float = 10.0) -> None:
        await stop_server(place.data_directory, patience=patience)


async def stop_server(folder: Path, *, patience: float = 10.0, gentle: bool = True) -> None:
    """SIGINT (fast; only when ``gentle``) and SIGQUIT (immediate) to the postmaster, then SIGKILL to every process.

    Immediate comes before SIGKILL because a killed postmaster leaves its shared memory behind.
    """
    for number in (signal.SIGINT, signal.SIGQUIT) if gentle else (signal.SIGQUIT,):
        pid = await asyncio.to_thread(postmaster_of, folder)
        if pid is None:
            break
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        if await _gone(folder, patience):
            return
    deadline = asyncio.get_running_loop().time() + 5
    # A killed postmaster can leave a busy backend behind: all that work in this directory must be gone.
    while found := await asyncio.to_thread(server_processes, folder):
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if asyncio.get_running_loop().time() > deadline:
            raise RestoreFailed(
                f"processes {found} of the PostgreSQL in {folder} cannot be killed: is its disk hanging?"
            )
        await asyncio.sleep(_POLL_SECONDS)


async def _forget_dead_postmaster(folder: Path) -> None:
    """Waits until a killed postmaster is reaped. PostgreSQL takes one that nobody reaps for a running one, for ever."""
    deadline = asyncio.get_running_loop().time() + 5
    while await asyncio.to_thread(_postmaster_is_dying, folder):
        if asyncio.get_running_loop().time() > deadline:
            await asyncio.to_thread((folder / "postmaster.pid").unlink, True)
        await asyncio.sleep(_POLL_SECONDS)


async def _gone(folder: Path, seconds: float) -> bool:
    deadline = asyncio.get_running_loop().time() + seconds
    while await asyncio.to_thread(server_processes, folder):
        if asyncio.get_running_loop().time() > deadline:
            return False
        await asyncio.sleep(_POLL_SECONDS)
    return True


async def wait_until_ready(folder: Path, *, timeout: float, log_offset: int = 0, log: Path | None = None) -> None:
    """Returns when the postmaster says so in its pid file.

    Raises:
        RestoreFailed: it ended, or took longer; with the last lines of its log.
        NoSpace: it ended because its disk is full.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    log = log or folder / LOG
    seen = False
    started = loop.time()
    while True:
        status, alive = await asyncio.to_thread(_status, folder)
        if alive and status == "ready":
            return
        seen = seen or alive
        words = "" if alive else await tail(log, log_offset)
        if not alive and (seen or "FATAL:" in words or loop.time() > started + _APPEAR_SECONDS):
            kind = NoSpace if "No space left on device" in words else RestoreFailed
            raise kind(f"PostgreSQL in {folder} did not start. The end of its log: {words or '(empty)'}")
        if loop.time() > deadline:
            words = await tail(log, log_offset)
            raise RestoreFailed(
                f"PostgreSQL in {folder} was not ready after {timeout:.0f} s. The end of its log: {words}"
            )
        await asyncio.sleep(_READY_SECONDS)


async def tail(log: Path, offset: int = 0) -> str:
    """The last lines of a server's log, errors first where there are any."""
    return await asyncio.to_thread(_tail, log, offset)


async def is_listening(host: str, port: int) -> bool:
    """Whether something accepts TCP connections there."""
    try:
        async with asyncio.timeout(1):
            _, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


def read_major(folder: Path) -> int:
    """Raises Refused when the folder is no data directory."""
    try:
        return int((folder / "PG_VERSION").read_text().strip())
    except (OSError, ValueError):
        raise Refused(f"{folder} is not a PostgreSQL data directory: it has no PG_VERSION") from None


def postmaster_of(folder: Path) -> int | None:
    """The live postmaster of a data directory. A pid that meanwhile belongs to another program does not count."""
    try:
        pid = int((folder / "postmaster.pid").read_text().splitlines()[0])
    except (OSError, ValueError, IndexError):
        return None
    return pid if _works_in(pid, folder.resolve()) else None


def runs_in(folder: Path) -> bool:
    """Whether any process of it is left. Mostly one look tells; the whole process table is the last resort."""
    return postmaster_of(folder) is not None or bool(server_processes(folder))


def server_processes(folder: Path) -> list[int]:
    """Every live PostgreSQL process of a data directory: they all work in it."""
    candidates = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    resolved = folder.resolve()
    return [pid for pid in candidates if _works_in(pid, resolved)]


def _works_in(pid: int, resolved: Path) -> bool:
    process = Path("/proc") / str(pid)
    try:
        if (process / "cwd").readlink() != resolved:
            return False
        return (process / "comm").read_text().strip().startswith("postgres") and not _is_zombie(process)
    except OSError:
        return False


def _is_zombie(process: Path) -> bool:
    return (process / "stat").read_text().rpartition(")")[2].split()[0] == "Z"


def _postmaster_is_dying(folder: Path) -> bool:
    """Whether the pid still exists, of a process that ended: such a one has no working directory any more."""
    try:
        process = Path("/proc") / (folder / "postmaster.pid").read_text().splitlines()[0].strip()
    except (OSError, IndexError):
        return False
    try:
        (process / "cwd").readlink()
    except FileNotFoundError:
        return process.exists()
    except OSError:
        return False
    return False


def _status(folder: Path) -> tuple[str, bool]:
    try:
        lines = (folder / "postmaster.pid").read_text().splitlines()
    except OSError:
        return "", False
    return (lines[7].strip() if len(lines) > 7 else ""), postmaster_of(folder) is not None


def _free_bytes(path: Path) -> int:
    while not path.exists():
        path = path.parent
    state = os.statvfs(path)
    return state.f_bavail * state.f_frsize


def has_entries(folder: Path) -> bool:
    """Whether anything is there: a file in the folder's place, too."""
    try:
        return any(folder.iterdir())
    except FileNotFoundError:
        return False
    except NotADirectoryError:
        return True


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _tail(log: Path, offset: int) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(offset, _size(log) - (64 << 10)))
            lines = file.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    bad = [line for line in lines if any(mark in line for mark in ("FATAL:", "PANIC:", "ERROR:", "HINT:", "DETAIL:"))]
    return " | ".join((bad or lines)[-_LOG_LINES:])
