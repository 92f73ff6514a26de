"""A dump into a running server key by key: DUMP from a scratch server that loaded it, RESTORE into the target.

For managed services, which let nobody replicate. Expiries are absolute (``RESTORE ... ABSTTL``): a key lives not a
moment longer than at the source. Values pass through in pieces, so that the largest one takes no memory here.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from recovery.adapters.redis.bytes_connection import PIECE_BYTES, BytesConnection
from recovery.adapters.redis.connection import ServerSaid, encoded
from recovery.adapters.redis.key_mark import KeyMarks, is_mark, key_marks, mark_key, restored_key, watched_marks
from recovery.adapters.redis.server_info import ServerInfo, server_info
from recovery.adapters.redis.target import Target
from recovery.errors import RestoreFailed
from recovery.ports.postgres import Progress

SCAN_COUNT = 500
GROUP_BYTES = 8 << 20  # of values that the scratch server gets ready at once
UNANSWERED = 2000  # RESTOREs on the way
LARGEST_VALUE = 512 << 20  # proto-max-bulk-len, as it is unless configured

_NO_EXPIRY = -1
_GONE = -2


@dataclass
class _Copied:
    lasting: int = 0
    expiring: int = 0


@dataclass(frozen=True)
class _Key:
    name: bytes
    expires_at: int  # milliseconds since 1970, 0: never
    size: int  # in the scratch server's memory, roughly what its DUMP takes


class KeyCopy:
    """One copy of everything. ``source``: the scratch server, which deletes nothing; ``sink``: the target; ``size``:
    bytes of the dump, of which progress counts its part of the keys."""

    def __init__(
        self,
        target: Target,
        source: BytesConnection,
        sink: BytesConnection,
        restore_mark: str,
        silence: float,
        size: int = 0,
        progress: Progress | None = None,
    ) -> None:
        self._target = target
        self._source = source
        self._sink = sink
        self._restore_mark = restore_mark
        self._silence = silence
        self._bytes = size
        self._done = 0
        self._progress = progress
        self._unanswered: deque[bytes] = deque()
        self._absolute: bool | None = None  # whether the scratch server has PEXPIRETIME (7.0)

    async def run(
        self,
        keys: dict[int, int],
        standing: KeyMarks,
        *,
        function_payload: bytes | None,
        start_empty: bool,
        had_functions: bool,
    ) -> dict[int, int]:
        """Keys of each database at the target, without the mark, which stands there afterwards.

        Args:
            keys: of the scratch server.
            standing: what the target's marks were when it was found free.
            function_payload: of FUNCTION DUMP; None: the dump has none.
            start_empty: what the target holds is deleted first, functions where it ``had_functions``.

        Raises:
            RestoreFailed: the target refused something, or holds something else in the end.
            Contended: its marks are others by now. Nothing was changed.
            What the connections raise.
        """
        await self._check_databases(keys)
        await self._begin(standing, start_empty)
        if function_payload is not None:
            await self._restored(("FUNCTION", "RESTORE", function_payload, "FLUSH"), "functions")
        elif had_functions:
            await self._restored(("FUNCTION", "FLUSH"), "to delete its functions")
        copied: dict[int, _Copied] = {}
        for number in sorted(keys):
            copied[number] = _Copied()
            async for done in self._database(number, copied[number]):
                self._done += done
                if self._progress is not None:
                    self._progress(self._done * self._bytes // max(1, sum(keys.values())), self._bytes)
        return await self._compared(copied)

    async def _check_databases(self, keys: dict[int, int]) -> None:
        """Before anything is deleted."""
        for number in sorted(keys):
            async with asyncio.timeout(self._silence):
                try:
                    await self._sink.run("SELECT", number)
                except ServerSaid as error:
                    raise RestoreFailed(
                        f"Redis {self._target.server} has no database {number}, in which the dump has"
                        f" {keys[number]} keys ({error}): raise its setting databases."
                    ) from error
                await self._source.run("SELECT", number)

    async def _begin(self, standing: KeyMarks, start_empty: bool) -> None:
        """This attempt may have been held up since the target was looked at: its marks decide in the same moment."""
        async with self._target.asked("say which keys it takes") as connection:
            mark = await mark_key(connection)
        if mark is None:
            raise RestoreFailed(
                f"Redis {self._target.server} is of a cluster and has no slots: name one that has keys."
            )
        async with asyncio.timeout(self._silence):
            await self._sink.run("SELECT", 0)
            found = await watched_marks(self._sink, mark)
            if (found.mark, found.completed_by) != (standing.mark, standing.completed_by):
                raise self._target.taken_meanwhile()
            await self._sink.run("MULTI")
            if start_empty:
                await self._sink.run("FLUSHALL")
            await self._sink.run("DEL", restored_key(mark))  # an earlier restore's
            await self._sink.run("SET", mark, self._restore_mark)
            replies = await self._sink.run("EXEC")
        if replies is None:
            raise self._target.taken_meanwhile()
        for reply in replies:
            if isinstance(reply, ServerSaid):
                raise self._refused("to begin", reply)

    async def _database(self, number: int, copied: _Copied) -> AsyncIterator[int]:
        """How many keys each step went through."""
        async with asyncio.timeout(self._silence):
            await self._source.run("SELECT", number)
            await self._sink.run("SELECT", number)
        cursor = b"0"
        while True:
            async with asyncio.timeout(self._silence):
                cursor, names = await self._source.run("SCAN", cursor, "COUNT", SCAN_COUNT)
                found = await self._looked_at([name for name in names if number or not is_mark(name)])
            await self._demand_mark()
            for group in _groups(found):
                await self._group(group, copied)
            yield len(names)
            if cursor == b"0":
                await self._answered(0)
                return

    async def _demand_mark(self) -> None:
        """A successor of this attempt, which was taken for dead, may have opened the server for its clients already.

        Raises RestoreFailed: the server is not at this attempt any more.
        """
        async with self._target.asked("say whose restore it is at") as connection:
            if (await key_marks(connection)).mark != self._restore_mark:
                raise RestoreFailed(
                    f"Redis {self._target.server} is not at this attempt any more: another one restores into it, or"
                    " has done so. Nothing further was written."
                )

    async def _looked_at(self, names: Sequence[bytes]) -> list[_Key]:
        """Expiry and size of those that are still there."""
        expiries = await self._expiries(names)
        sizes = await self._source.pipeline([("MEMORY", "USAGE", name) for name in names])
        return [
            _Key(name, max(0, expires_at), size if isinstance(size, int) else 0)
            for name, expires_at, size in zip(names, expiries, sizes, strict=True)
            if expires_at != _GONE
        ]

    async def _expiries(self, names: Sequence[bytes]) -> list[int]:
        if self._absolute is not False:
            found = await self._source.pipeline([("PEXPIRETIME", name) for name in names])
            if not any(isinstance(each, ServerSaid) for each in found):
                self._absolute = True
                return found
            self._absolute = False
        return await self._expiries_before_7(names)

    async def _expiries_before_7(self, names: Sequence[bytes]) -> list[int]:
        """Of a PTTL between two looks at the clock in the same millisecond the sum is exact; others are asked again."""
        found: dict[bytes, int] = {}
        while missing := [name for name in names if name not in found]:
            commands: list[tuple[str | bytes, ...]] = [("TIME",)]
            for name in missing:
                commands += [("PTTL", name), ("TIME",)]
            replies = await self._source.pipeline(commands)
            for at, name in enumerate(missing):
                before, ttl, after = replies[2 * at : 2 * at + 3]
                if ttl < 0:
                    found[name] = int(ttl)
                elif _milliseconds(before) == _milliseconds(after):
                    found[name] = _milliseconds(before) + int(ttl)
        return [found[name] for name in names]

    async def _group(self, group: Sequence[_Key], copied: _Copied) -> None:
        """One DUMP for each, and their RESTOREs together, but for large values, which pass through."""
        async with self._progressing() as going_on:
            await self._source.send([("DUMP", key.name) for key in group])
            held = bytearray()
            for key in group:
                size = await self._source.content_size()
                if size is None:  # it expired meanwhile
                    continue
                if size > LARGEST_VALUE:
                    raise RestoreFailed(f"Key {_shown(key.name)} takes {size} bytes, more than RESTORE can carry.")
                held += b"*6\r\n" + encoded(("RESTORE", key.name, key.expires_at))[4:] + b"$%d\r\n" % size
                async for piece in self._source.pieces(size):
                    held += piece
                    if len(held) >= PIECE_BYTES:
                        await self._sink.write(bytes(held))
                        held.clear()
                        going_on()
                held += b"\r\n$7\r\nREPLACE\r\n$6\r\nABSTTL\r\n"
                self._unanswered.append(key.name)
                if key.expires_at:
                    copied.expiring += 1
                else:
                    copied.lasting += 1
            await self._sink.write(bytes(held))
        await self._answered(UNANSWERED)

    async def _answered(self, at_most: int) -> None:
        """Reads answers until no more than ``at_most`` are missing."""
        async with self._progressing() as going_on:
            while len(self._unanswered) > at_most:
                answer = await self._sink.reply()
                name = self._unanswered.popleft()
                if isinstance(answer, ServerSaid):
                    raise self._refused(_shown(name), answer)
                going_on()

    @contextlib.asynccontextmanager
    async def _progressing(self) -> AsyncIterator[Callable[[], None]]:
        """Raises TimeoutError when nothing went on for ``silence`` seconds."""
        now = asyncio.get_running_loop().time
        async with asyncio.timeout(self._silence) as limit:
            yield lambda: limit.reschedule(now() + self._silence)

    async def _restored(self, words: Sequence[str | int | bytes], what: str) -> None:
        async with asyncio.timeout(self._silence):
            try:
                await self._sink.run(*words)
            except ServerSaid as error:
                raise self._refused(what, error) from error

    def _refused(self, what: str, error: ServerSaid) -> RestoreFailed:
        hint = ""
        if error.code in ("MOVED", "CROSSSLOT", "CLUSTERDOWN"):
            hint = " It is one shard of a cluster: restore each shard's point into its own."
        elif error.code == "OOM":
            hint = " Raise its maxmemory."
        return RestoreFailed(f"Redis {self._target.server} refused {what}: {error}.{hint}")

    async def _compared(self, copied: dict[int, _Copied]) -> dict[int, int]:
        async with self._target.asked("count its keys") as connection:
            found: ServerInfo = await server_info(connection)
        keys = dict(found.keys)
        keys[0] = keys.get(0, 0) - 1  # the mark
        for number in {*keys, *copied}:
            each, there = copied.get(number, _Copied()), keys.get(number, 0)
            if not each.lasting <= there <= each.lasting + each.expiring:
                evicted = f" It has evicted {found.evicted} keys: its maxmemory is too small." if found.evicted else ""
                raise RestoreFailed(
                    f"Redis {self._target.server} has {there} keys in database {number}, and {each.lasting} to"
                    f" {each.lasting + each.expiring} were restored: does somebody write to it?{evicted}"
                )
        return {number: there for number, there in sorted(keys.items()) if there}


def _groups(keys: Sequence[_Key]) -> list[list[_Key]]:
    groups: list[list[_Key]] = []
    size = GROUP_BYTES
    for key in keys:
        if size + key.size > GROUP_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(key)
        size += key.size
    return groups


def _milliseconds(time: Sequence[bytes]) -> int:
    return int(time[0]) * 1000 + int(time[1]) // 1000


def _shown(name: bytes) -> str:
    return repr(name[:80].decode(errors="replace"))
