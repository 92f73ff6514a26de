"""WAL for a server that recovers: its ``restore_command`` asks in a folder, and this process answers there.

A shell is all that the server's user needs: no interpreter to reach and none to start for each segment, and what was
fetched ahead is renamed into place within a millisecond or two. ``<folder>/ask/NAME`` is a question; the answer is the
file ``have/NAME``, or ``none/NAME`` where nothing of that name is archived, which PostgreSQL takes for the end of the
WAL. Where the answer must not be taken for that (damage, no location answers, this process is gone) the command ends
with 126: PostgreSQL stops then and does not start (its manual, "restore_command": codes above 125).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import shutil
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog

from recovery.adapters.postgres.folder import give_to, no_space
from recovery.backup.bounded import through, to_the_end
from recovery.domain.wal_archive import segment_file, segment_range
from recovery.errors import NotFound, RecoveryError, Transient
from recovery.ports.postgres import FetchWal

FEED = "recovery-plans.wal"  # in the data directory: answers are renamed from there into pg_wal
AHEAD_BYTES = 64 << 20
PATIENCE_SECONDS = 60.0  # for one file, while no location answers

_LOOK_SECONDS = 0.01
_PAUSE_SECONDS = 1.0
_SCRIPT = """\
# Written by recovery-plans: sh fetch.sh FEED FILE TARGET PID
have="$1/have/$2"
if [ ! -f "$have" ]; then
    : > "$1/ask/$2" || exit 126
    while [ ! -f "$have" ]; do
        [ -f "$1/none/$2" ] && exit 1
        if [ -f "$1/failed" ] || [ ! -d "$1" ] || [ ! -d "/proc/$4" ]; then exit 126; fi
        sleep 0.02 2>/dev/null || sleep 1
    done
fi
mv "$have" "$3" || exit 126
"""

log = structlog.get_logger("recovery.wal")


class WalFeed:
    """Answers one server's ``restore_command`` while the context is open, and fetches ahead of it.

    Args:
        data_directory: of the server; the feed lives in it and is removed with the context.
        user: whose the files must be; None: our own.

    ``failure`` is why the recovery had to be stopped, if it was.
    """

    def __init__(self, data_directory: Path, fetch: FetchWal, segment_bytes: int, user: str | None) -> None:
        self.failure: RecoveryError | None = None
        self._folder = data_directory / FEED
        self._fetch, self._segment_bytes, self._user = fetch, segment_bytes, user
        self._ahead = max(1, AHEAD_BYTES // segment_bytes)
        self._fetching: dict[str, asyncio.Task[None]] = {}
        self._serving: asyncio.Task[None] | None = None

    @property
    def command(self) -> str:
        """The ``restore_command``."""
        words = [str(self._folder / "fetch.sh"), str(self._folder)]
        script, feed = (shlex.quote(word).replace("%", "%%") for word in words)
        return f'sh {script} {feed} "%f" "%p" {os.getpid()}'

    async def __aenter__(self) -> Self:
        await through(self._make)
        self._serving = asyncio.create_task(self._serve())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tasks = [task for task in (self._serving, *self._fetching.values()) if task is not None]
        for task in tasks:
            task.cancel()
        await to_the_end(self._ended(tasks))

    async def _ended(self, tasks: list[asyncio.Task[None]]) -> None:
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.to_thread(shutil.rmtree, self._folder, True)

    def _make(self) -> None:
        with no_space(self._folder):
            shutil.rmtree(self._folder, ignore_errors=True)
            for each in (self._folder, *(self._folder / name for name in ("ask", "have", "none"))):
                each.mkdir(mode=0o700)
                give_to(each, self._user)
            script = self._folder / "fetch.sh"
            script.write_text(_SCRIPT)
            give_to(script, self._user)

    async def _serve(self) -> None:
        while True:
            for name in await asyncio.to_thread(self._asked):
                self._begin(name, asked=True)
            await asyncio.sleep(_LOOK_SECONDS)

    def _asked(self) -> list[str]:
        names = [entry.name for entry in os.scandir(self._folder / "ask")]
        for name in names:
            (self._folder / "ask" / name).unlink()
        return names

    def _begin(self, name: str, *, asked: bool) -> None:
        running = self._fetching.get(name)
        if running is not None and not running.done():
            if asked:  # it is on its way, and nobody would answer a file that is not there
                running.add_done_callback(lambda _: self._begin(name, asked=True))
            return
        self._fetching = {key: task for key, task in self._fetching.items() if not task.done()}
        self._fetching[name] = asyncio.create_task(self._answer(name, asked=asked))

    async def _answer(self, name: str, *, asked: bool) -> None:
        if await asyncio.to_thread((self._folder / "have" / name).exists):
            return
        if asked:
            self._look_ahead(name)
        try:
            body = await self._persist(name)
        except NotFound:
            if asked:
                await through(self._write, "none", name, b"")
        except RecoveryError as error:
            if asked:
                self.failure = error
                await through(self._write, ".", "failed", str(error).encode())
        except OSError as error:
            self.failure = NotFound(f"{name} could not be put into {self._folder}: {error}")
            await through(self._write, ".", "failed", b"")
        else:
            await through(self._write, "have", name, body)

    def _look_ahead(self, name: str) -> None:
        """The segments that come after this one; those of a next timeline are asked for when it is their turn."""
        found = segment_range(name, self._segment_bytes)
        if found is not None:
            timeline, span = found
            for number in range(1, self._ahead + 1):
                position = span.start + number * self._segment_bytes
                following = segment_file(timeline, position, self._segment_bytes)
                if following not in self._fetching:
                    self._begin(following, asked=False)

    async def _persist(self, name: str) -> bytes:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return await self._fetch(name)
            except Transient as error:
                if time.monotonic() > deadline:
                    raise
                log.warning("archived WAL could not be fetched", file=name, why=str(error))
                await asyncio.sleep(_PAUSE_SECONDS)

    def _write(self, kind: str, name: str, body: bytes) -> None:
        """Whole or not at all: the server takes it as soon as its name is there."""
        fresh, target = self._folder / f"{name}.new", self._folder / kind / name
        with contextlib.suppress(FileNotFoundError), fresh.open("wb") as file:  # the feed was closed meanwhile
            file.write(body)
            give_to(fresh, self._user)
            fresh.chmod(0o600)
            fresh.rename(target)
