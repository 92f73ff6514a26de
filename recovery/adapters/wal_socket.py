"""The local socket at which a worker takes WAL files and gives them back: see ``recovery.wal_client``."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections import OrderedDict
from collections.abc import Collection, Sequence
from pathlib import Path

import structlog

from recovery.adapters.wal_archives import PostgresWalArchives
from recovery.adapters.wal_listing import listed
from recovery.backup.wal.handing import WalIntake
from recovery.backup.wal.reader import LineageReader, fetch_from_any, readers_of
from recovery.domain.group import GroupSnapshot
from recovery.domain.wal_archive import LARGEST_SEGMENT, segment_file, segment_range, tips
from recovery.errors import BadInput, NotFound, RecoveryError, Refused

LISTED_SECONDS = 5.0  # an archive that somebody recovers from is listed again after so long
AHEAD = 2  # segments that are fetched before they are asked for
FETCHED = 4  # files that are kept for whoever asks next
REQUEST_SECONDS = 60.0  # for a client to say what it wants
REFUSED_SECONDS = 5.0  # for one that may not, to end its sentence
BUFFER_BYTES = 64 << 10  # of each connection, beside the file of a request
LINE_BYTES = 1024
AT_ONCE = 4  # requests, each with one segment in memory

log = structlog.get_logger("recovery.wal")


class WalOutlet:
    """Gives files of a group's newest lineage to a server that recovers by its own ``restore_command``."""

    def __init__(self, archives: PostgresWalArchives, group: GroupSnapshot) -> None:
        self._archives, self._group = archives, group
        self._readers: list[LineageReader] = []
        self._listed_at = 0.0
        self._fetching: OrderedDict[str, asyncio.Task[bytes]] = OrderedDict()

    async def fetch(self, name: str) -> bytes:
        """The file, filled with zeros where its timeline's archive ends in it; the next ones are fetched meanwhile.

        Raises:
            NotFound: it is not archived. Refused: more than one lineage, or server, could be meant.
            Corrupt, WrongKey, Unreachable, BadInput: a recovery must not go on.
        """
        readers = await self._current()
        size = readers[0].segment_bytes
        task = self._begin(readers, name)
        found = segment_range(name, size)
        if found is not None:
            for number in range(1, AHEAD + 1):
                self._begin(readers, segment_file(found[0], found[1].start + number * size, size))
        try:
            return await asyncio.shield(task)
        finally:
            self._fetching.pop(name, None)  # asked for again, it may have grown

    async def close(self) -> None:
        tasks = list(self._fetching.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, readers: Sequence[LineageReader], name: str) -> asyncio.Task[bytes]:
        if name not in self._fetching:
            task = asyncio.create_task(fetch_from_any(readers, name))
            task.add_done_callback(lambda done: None if done.cancelled() else done.exception())
            self._fetching[name] = task
            while len(self._fetching) > FETCHED:
                self._fetching.popitem(last=False)[1].cancel()
        return self._fetching[name]

    async def _current(self) -> list[LineageReader]:
        now = asyncio.get_running_loop().time()
        if self._readers and now < self._listed_at + LISTED_SECONDS:
            return self._readers
        servers = await self._archives.servers(self._group)
        if len(servers) != 1:
            known = ", ".join(servers) or "none"
            raise Refused(
                f"the archive of {self._group.name} has WAL of other than one server ({known}): use drctl restore"
            )
        found = await listed(await self._archives.archives(self._group, servers[0], opened=True))
        branches = {each.branch for _, timelines in found for each in timelines}
        newest = tips(sorted(branches, key=lambda branch: (branch.timeline, branch.folder)))
        if len(newest) != 1:
            known = ", ".join(str(each.timeline) for each in newest) or "none"
            raise Refused(
                f"the archive of {self._group.name} has other than one newest timeline ({known}): use drctl restore"
            )
        self._readers, self._listed_at = await asyncio.to_thread(readers_of, found, newest[0]), now
        return self._readers


class WalSocket:
    """Serves one group at a Unix socket, to processes of these users and of its own.

    Raises:
        BadInput: the socket cannot be made.
    """

    def __init__(self, path: Path, intake: WalIntake, outlet: WalOutlet, users: Collection[int] = ()) -> None:
        self._path, self._intake, self._outlet = path, intake, outlet
        self._users = {0, os.geteuid(), *users}
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        try:
            await asyncio.to_thread(self._path.unlink, True)
            self._server = await asyncio.start_unix_server(self._serve, self._path, limit=BUFFER_BYTES)
            await asyncio.to_thread(self._path.chmod, 0o666)  # who may ask is looked at by user, not by mode
        except OSError as error:
            raise BadInput(f"the socket {self._path} of the WAL archive cannot be made: {error}") from error

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            with contextlib.suppress(FileNotFoundError):
                await asyncio.to_thread(self._path.unlink)
        await self._outlet.close()
        await self._intake.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if self._user_of(writer) in self._users:
                async with asyncio.timeout(REQUEST_SECONDS):
                    words = await _question(reader)
                async with self._turns:
                    answer = await self._answer(reader, words)
            else:
                await _read_away(reader)
                answer = b"error this user may not use the WAL archive\n"
            writer.write(answer)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError, TimeoutError, ValueError) as error:
            log.warning("a client of the WAL archive went away", why=str(error))
        finally:
            writer.close()

    @staticmethod
    def _user_of(writer: asyncio.StreamWriter) -> int:
        peer: socket.socket = writer.get_extra_info("socket")
        _, user, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
        return int(user)

    async def _answer(self, reader: asyncio.StreamReader, words: Sequence[str]) -> bytes:
        body, size = b"", _pushed(words)
        if size is not None:
            if size > LARGEST_SEGMENT:
                return b"error that is larger than any segment of WAL\n"
            async with asyncio.timeout(REQUEST_SECONDS):
                body = await reader.readexactly(size)
        elif len(words) != 2 or words[0] != "fetch":
            return b"error expected push NAME SIZE or fetch NAME\n"
        name = words[1]
        try:
            if words[0] == "push":
                await self._intake.push(name, body)
                return b"ok\n"
            found = await self._outlet.fetch(name)
            return b"ok %d\n" % len(found) + found
        except RecoveryError as error:
            if isinstance(error, NotFound) and words[0] == "fetch":
                return b"none\n"
            log.warning("a WAL file was not handed over", action=words[0], file=name, why=str(error))
            return f"error {' '.join(str(error).split())}\n".encode()


async def _question(reader: asyncio.StreamReader) -> list[str]:
    return (await reader.readline())[:LINE_BYTES].decode(errors="replace").split()


def _pushed(words: Sequence[str]) -> int | None:
    """How many bytes a push announces; None of another question."""
    return int(words[2]) if len(words) == 3 and words[0] == "push" and words[2].isdigit() else None


async def _read_away(reader: asyncio.StreamReader) -> None:
    """Reads a question and keeps nothing: who is refused while still sending does not hear why."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(REFUSED_SECONDS):
            left = _pushed(await _question(reader)) or 0
            while left > 0:
                block = await reader.read(min(left, BUFFER_BYTES))
                left = left - len(block) if block else 0
