"""An old primary becomes a standby again: followed as it is, rewound, or cloned, and never started half done.

All work on data happens in folders beside the data directory, where nobody starts a server:

    <data>.recovery-plans-rejoin   the old directory while it is rewound
    <data>.recovery-plans-clone    the new directory while it is copied
    <data>.recovery-plans-old      the replaced directory until the new one streams
    <data>.recovery-plans-config   its configuration files, which a rewind overwrites with the source's
    <data>.recovery-plans-rejoin.json   whose work it is, and how far it came

So a data directory that is there is whole. A rewind that was interrupted is not repeated (PostgreSQL's manual: such a
directory is likely beyond recovery); it is replaced by a clone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import asyncpg

from recovery.adapters.postgres import rejoin_folders as folders
from recovery.adapters.postgres import standby_files as files
from recovery.adapters.postgres.connection import connected
from recovery.adapters.postgres.demotion import kill_tree
from recovery.adapters.postgres.following import (
    NotStreaming,
    Source,
    follow,
    prepare,
    settings_of,
    source_of,
    wait_until_it_streams,
)
from recovery.adapters.postgres.host import INCOMPLETE
from recovery.adapters.postgres.local_server import LocalServer
from recovery.adapters.postgres.upstream import identify_upstream
from recovery.adapters.postgres.wal import Control
from recovery.adapters.process import Child, clean_environment, password_file
from recovery.backup.bounded import through
from recovery.domain.timelines import History
from recovery.errors import NoSpace, Refused, RestoreFailed, Unreachable
from recovery.ports.postgres import PostgresLogin, Progress
from recovery.ports.standby import Rejoined, RejoinOptions

_PROGRESS = re.compile(r"(\d+)/(\d+) kB")
_STREAM_SECONDS = 60.0


async def rejoin(
    server: LocalServer, upstream: PostgresLogin, options: RejoinOptions, progress: Progress | None = None
) -> Rejoined:
    """See ``PostgresStandbys.rejoin``.

    Raises:
        Refused: it accepts writes; or its data are of another cluster and ``method`` does not allow to clone it.
        NoSpace: a clone needs room for a second copy.
        RestoreFailed: pg_basebackup failed; in its own words.
        Contended: another process is at work on it.
    """
    began = time.monotonic()
    async with folders.claimed(server.folder):
        work = await asyncio.to_thread(folders.read_work, server.folder)
        done = await asyncio.to_thread(folders.read_done, server.folder)
        if work is None and done is not None and done.effect_id == options.effect_id:
            streaming, position = await _streams(server, options)
            return Rejoined(done.method, time.monotonic() - began, streaming, position, already=True)
        return await _Rejoin(server, upstream, options, progress, began).run(work)


class _Rejoin:
    def __init__(
        self,
        server: LocalServer,
        upstream: PostgresLogin,
        options: RejoinOptions,
        progress: Progress | None,
        began: float,
    ) -> None:
        self._server = server
        self._folder = server.folder
        self._upstream = upstream
        self._options = options
        self._progress = progress
        self._began = began
        self._notes: list[str] = []
        self._wal_is_gone = ""

    async def run(self, work: folders.Work | None) -> Rejoined:
        if work is not None and work.phase == "rewinding" and await through(folders.not_begun, self._folder):
            work = None
        if work is None:
            why = await self._why_not_follow()
            if why is None:
                return await self._finish("follow", "")
            why_not = await self._why_not_rewind()
            if why_not is None and await self._rewind():
                return await self._finish("rewind", "")
            why_not = why_not or "; ".join(self._notes)
        elif work.phase == "rewound":
            await self._swap_rewound()
            return await self._finish("rewind", "")
        else:
            why_not = work.why_not_rewind or "an earlier rewind was interrupted"
            self._notes.append(f"went on where an attempt ended while {work.phase}")
        if self._options.method == "rewind":
            raise Refused(f"{self._folder} cannot be rewound: {why_not}. Allow a clone, or make it by hand.")
        if work is None or work.phase != "cloned":
            await self._clone(why_not)
        await self._swap_clone(why_not)
        return await self._finish("clone", why_not)

    # As it is.

    async def _why_not_follow(self) -> str | None:
        """None: it follows. A standby that diverged is ended; what accepts writes is refused."""
        folder = self._folder
        if not await asyncio.to_thread((folder / "PG_VERSION").exists):
            return f"{folder} holds no PostgreSQL"
        incomplete = await asyncio.to_thread(files.why_incomplete, folder)
        if incomplete is not None:
            return incomplete
        if await self._server.runs() and not (await self._server.ask("say whether it accepts writes")).in_recovery:
            raise Refused(f"PostgreSQL in {folder} accepts writes: it must be demoted before it can rejoin")
        if self._options.method == "clone":
            await self._end()
            return "a clone was asked for"
        try:
            await self._follow()
        except NotStreaming as error:
            self._wal_is_gone = str(error)
        except Refused as error:
            why = str(error)
        else:
            return None
        await self._end()
        return self._wal_is_gone or why

    async def _follow(self) -> None:
        streaming = self._options.streaming
        await through(files.write_signal, self._folder)
        if not self._options.start and not await self._server.runs():
            await prepare(self._server, streaming.host, streaming.port, streaming)
            return
        await follow(self._server, streaming.host, streaming.port, streaming, start_seconds=self._options.start_timeout)

    async def _end(self) -> None:
        if not await asyncio.to_thread(self._folder.exists):
            return
        left = await through(kill_tree, self._folder, 5.0)
        if left:
            raise Unreachable(f"processes {left} of the PostgreSQL in {self._folder} do not die: is its disk hanging?")

    # Rewind.

    async def _why_not_rewind(self) -> str | None:
        folder = self._folder
        if self._options.method == "clone":
            return "a clone was asked for"
        if self._wal_is_gone:
            return self._wal_is_gone
        if not await asyncio.to_thread((folder / "PG_VERSION").exists):
            return "there is nothing to rewind"
        if await asyncio.to_thread((folder / INCOMPLETE).exists):
            return "an earlier restore or rewind of it was interrupted"
        if not await asyncio.to_thread((folder / "postgresql.conf").exists):
            return "its configuration is outside the data directory, where pg_rewind does not find it"
        if await asyncio.to_thread(os.path.ismount, folder):
            return "it is a mount point and cannot be put aside while it is rewound"
        control = await self._server.control()
        if not control.checksums and not control.wal_log_hints:
            return "it has neither data checksums nor wal_log_hints, which pg_rewind needs"
        return await self._why_histories_forbid(control)

    async def _why_histories_forbid(self, control: Control) -> str | None:
        """pg_rewind compares timeline numbers: where these deceive, it would do nothing, or the wrong thing."""
        try:
            mine = await self._server.stopped_history(control)
        except Refused as error:
            return str(error)
        marked = {each.number for each in mine.timelines if each.mark}
        source = await self._source()
        theirs = (
            await identify_upstream(
                source.login, passfile=source.passfile, marks_of=marked, segment_bytes=control.segment_bytes
            )
        ).history
        fork = mine.fork_from(theirs)
        if fork is None:
            return f"their histories have nothing in common ({mine}; {theirs})"
        if mine.timeline == theirs.timeline or fork != _unmarked(mine).fork_from(_unmarked(theirs)):
            return f"timelines of the same number are not the same ({mine}; {theirs})"
        return None

    async def _rewind(self) -> bool:
        """False when pg_rewind failed: its notes say why, and the directory is to be cloned."""
        folder, aside = self._folder, files.work_folder(self._folder)
        user = self._server.user
        major = await self._server.major()
        tool = await self._server.host.binaries.tool(major, "pg_rewind")
        with contextlib.suppress(Unreachable, Refused, asyncpg.PostgresError):
            async with connected(self._upstream, "make a checkpoint") as connection:
                await connection.execute("CHECKPOINT")  # so that its control file names the new timeline
        replication = await self._source()
        await identify_upstream(replication.login, passfile=replication.passfile, slot=replication.slot)
        await self._server.host.forget_dead_postmaster(self._server.place)
        await through(folders.begin_rewind, folder, aside, self._options.effect_id)
        login = self._upstream
        source = (
            f"host={login.host} port={login.port} user={login.user} dbname={login.database} sslmode={login.sslmode}"
        )
        code, words = await self._run([tool, "-D", aside, "--source-server", source, "--progress"], user, login)
        if code != 0:
            self._notes.append(f"pg_rewind failed: {words}")
            await through(
                folders.write_work,
                folder,
                folders.Work(self._options.effect_id, "cloning", f"pg_rewind failed: {words}"),
            )
            return False
        settings = settings_of(replication)
        await through(folders.complete, folder, aside, settings, self._options.effect_id, "rewind")
        await through(folders.write_work, folder, folders.Work(self._options.effect_id, "rewound"))
        await self._swap_rewound()
        return True

    async def _swap_rewound(self) -> None:
        aside = files.work_folder(self._folder)
        if await asyncio.to_thread(aside.exists):
            await through(folders.rename, aside, self._folder)

    # Clone.

    async def _clone(self, why_not: str) -> None:
        folder, new = self._folder, folders.beside(self._folder, "clone")
        old = await asyncio.to_thread(folders.whatever_is_there, folder)
        await through(folders.keep_configuration, folder, old)
        await through(folders.write_work, folder, folders.Work(self._options.effect_id, "cloning", why_not))
        await through(folders.remove_tree, new)
        source = await self._source()
        await identify_upstream(source.login, passfile=source.passfile, slot=source.slot)
        tablespaces = await self._check_room(folder)
        major = await _major_of(self._upstream)
        await through(folders.make_folder, new, self._server.user)
        tool = await self._server.host.binaries.tool(major, "pg_basebackup")
        login = source.login
        arguments: list[str | Path] = [
            tool, "-D", new, "-h", login.host, "-p", str(login.port), "-U", login.user, "-w",
            "-X", "stream", "-c", "fast", "-P",
        ]  # fmt: skip
        for location in tablespaces:
            moved = f"{location}.recovery-plans-{self._options.effect_id[-8:]}"
            arguments += ["-T", f"{location}={moved}"]
            self._notes.append(f"the tablespace of {location} is in {moved} now")
        passfile = {"PGPASSFILE": source.passfile} if source.passfile else {}
        code, words = await self._run(arguments, self._server.user, login, passfile)
        if code != 0:
            await through(folders.remove_tree, new)
            raise RestoreFailed(f"pg_basebackup from {login.address} failed: {words}")
        settings = settings_of(source)
        await through(folders.complete, folder, new, settings, self._options.effect_id, "clone")
        await through(folders.write_work, folder, folders.Work(self._options.effect_id, "cloned", why_not))

    async def _check_room(self, folder: Path) -> list[str]:
        """Folders of the upstream's tablespaces. Raises NoSpace."""
        async with connected(self._upstream, "tell its size") as connection:
            wanted = await connection.fetchval("SELECT sum(pg_database_size(oid))::int8 FROM pg_database")
            rows = await connection.fetch(
                "SELECT pg_tablespace_location(oid) AS place FROM pg_tablespace WHERE pg_tablespace_location(oid) <> ''"
            )
        free = await self._server.host.free_bytes(folder.parent)
        if free < wanted:
            raise NoSpace(
                f"a clone beside {folder} needs {wanted} bytes and {free} are free: the old data are kept until the "
                "new ones stream. Free some space there."
            )
        return [row["place"] for row in rows]

    async def _swap_clone(self, why_not: str) -> None:
        folder, new, old = self._folder, folders.beside(self._folder, "clone"), folders.beside(self._folder, "old")
        if await asyncio.to_thread(new.exists):
            await self._end()
            await through(folders.swap, folder, new, old)

    # Together.

    async def _source(self) -> Source:
        streaming = self._options.streaming
        return await source_of(self._server, streaming, streaming.host, streaming.port, "", "")

    async def _finish(self, method: Literal["follow", "rewind", "clone"], why_not: str) -> Rejoined:
        await through(folders.write_done, self._folder, self._options.effect_id, method)
        streaming, position = await _streams(self._server, self._options)
        kept = await through(folders.tidy, self._folder, keep=self._options.keep_old, streams=streaming)
        if kept is not None:
            self._notes.append(f"the replaced data are kept in {kept}")
        return Rejoined(
            method=method,
            seconds=time.monotonic() - self._began,
            streaming=streaming,
            position=position,
            why_not_rewind=why_not,
            notes=self._notes,
        )

    async def _run(
        self,
        arguments: Sequence[str | Path],
        user: str | None,
        login: PostgresLogin,
        extra: dict[str, str] | None = None,
    ) -> tuple[int, str]:
        """Exit code and last words. Nothing is left running when we are cancelled."""
        with password_file(login) as (secret, descriptors):
            for descriptor in descriptors:
                files.give_descriptor(descriptor, user)
            environment = {**clean_environment(login), **secret, **(extra or {})}
            async with Child(arguments, run_as=user, environment=environment, descriptors=descriptors) as child:
                telling = asyncio.create_task(self._tell(child))
                try:
                    async for _ in child.chunks():
                        pass
                    code = await child.wait()
                finally:
                    telling.cancel()
                lines = [line for line in re.split(r"[\r\n]+", child.stderr) if not _PROGRESS.search(line)]
                return code, " ".join(" ".join(lines[-6:]).split())

    async def _tell(self, child: Child) -> None:
        while True:
            await asyncio.sleep(1)
            found = _PROGRESS.findall(child.stderr)
            if found and self._progress is not None:
                self._progress(int(found[-1][0]) * 1024, int(found[-1][1]) * 1024)


async def _major_of(login: PostgresLogin) -> int:
    async with connected(login, "tell its version") as connection:
        return int(await connection.fetchval("SELECT current_setting('server_version_num')::int / 10000"))


async def _streams(server: LocalServer, options: RejoinOptions) -> tuple[bool, str | None]:
    """Starts it where that is wanted, and waits until it streams."""
    if not options.start:
        return False, None
    if not await server.runs():
        await through(files.write_signal, server.folder)
        await server.launch(options.start_timeout)
    streaming = options.streaming
    state = await wait_until_it_streams(server, streaming.host, streaming.port, _STREAM_SECONDS)
    return True, state.position


def _unmarked(history: History) -> History:
    timelines = [each.model_copy(update={"mark": None}) for each in history.timelines]
    return history.model_copy(update={"timelines": timelines})
