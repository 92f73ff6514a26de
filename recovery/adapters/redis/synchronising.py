"""A full synchronisation as a replica asks for it, of which only the dump is taken.

Protocol (``syncCommand`` and ``rdbSaveToSlavesSockets`` of Redis's ``src/replication.c``): ``REPLCONF capa eof`` says
that we can read a dump of unknown length; ``REPLCONF rdb-only 1`` (6.2) that we want nothing after it, and no buffer;
``PSYNC ? -1`` is answered with ``+FULLRESYNC <replication id> <offset>``. While the server prepares the dump it sends
bare newlines. Then comes ``$<length>``, or from a diskless server ``$EOF:<mark of 40 bytes>``, and the bytes; the mark
comes once more behind them.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from typing import Any, Literal

from recovery.adapters.redis.connection import LOST, PASSING, Connection, RedisServer, ServerSaid, log_in, opened
from recovery.errors import Refused, SourceFailed, Unreachable

ANSWER_SECONDS = 10.0
PREPARE_SECONDS = 3600.0  # from the request to the dump's first byte
SILENCE_SECONDS = 60.0
"""A server sends newlines once a second while it prepares, and data afterwards. Its own limit is repl-timeout, 60 s."""

READ_BYTES = 1 << 20
MARK_BYTES = 40

_TEMPORARY = (*PASSING, "NOMASTERLINK", "TRYAGAIN")
_FORBIDDEN = ("NOPERM", "NOAUTH", "WRONGPASS", "DENIED")

Form = Literal["length", "mark"]


class Synchronisation:
    """One dump on its way from one server. Closing the connection ends it there."""

    def __init__(
        self,
        server: RedisServer,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        silence: float,
        prepare: float = PREPARE_SECONDS,
    ) -> None:
        self._server = server
        self._reader, self._writer = reader, writer
        self._connection = Connection(reader, writer)
        self._silence = silence
        self._prepare = prepare
        self._asked_at = 0.0
        self._slowest_reader = 0.0  # seconds between two of our reads: a server drops one who takes too long
        self.replid = ""
        self.offset = 0
        self.form: Form = "length"

    async def begin(self) -> None:
        """Returns once the dump's moment is settled: ``replid`` and ``offset``.

        Raises:
            Refused, SourceFailed: the server's words.
            Unreachable: it cannot now, fell silent or is gone.
        """
        async with asyncio.timeout(ANSWER_SECONDS):
            await log_in(self._connection, self._server.login)
            await self._connection.pipeline([("REPLCONF", "capa", "eof")])
            await self._connection.pipeline([("REPLCONF", "rdb-only", 1)])  # an error before 6.2: it is only dearer
            self._writer.write(b"*3\r\n$5\r\nPSYNC\r\n$1\r\n?\r\n$2\r\n-1\r\n")
            await self._writer.drain()
        self._asked_at = time.monotonic()
        line = await self._line()
        found = re.fullmatch(rb"\+FULLRESYNC (\w+) (\d+)", line)
        if line.startswith(b"-"):
            raise ServerSaid(line[1:].decode(errors="replace"))
        if found is None:
            raise SourceFailed(
                f"Redis {self._server} answered the request for a full synchronisation with {line[:80]!r}."
            )
        self.replid, self.offset = found[1].decode(), int(found[2])

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The dump's bytes, nothing else. Raises what ``begin`` raises."""
        line = await self._line()
        if line.startswith(b"-"):
            raise ServerSaid(line[1:].decode(errors="replace"))
        if mark := re.fullmatch(rb"\$EOF:(.{%d})" % MARK_BYTES, line, re.DOTALL):
            self.form = "mark"
            parts = self._until_mark(mark[1])
        elif length := re.fullmatch(rb"\$(\d+)", line):
            parts = self._of_length(int(length[1]))
        else:
            raise SourceFailed(f"Redis {self._server} announced its dump with {line[:80]!r}.")
        async with contextlib.aclosing(parts):
            async for part in parts:
                handed = time.monotonic()
                yield part
                self._slowest_reader = max(self._slowest_reader, time.monotonic() - handed)

    async def _of_length(self, length: int) -> AsyncGenerator[bytes, None]:
        left = length
        while left:
            data = await self._read(min(left, READ_BYTES), f"{length - left} of {length} bytes")
            left -= len(data)
            yield data

    async def _until_mark(self, mark: bytes) -> AsyncGenerator[bytes, None]:
        """A mark may lie across two reads: so many bytes are always kept back."""
        held, seen = b"", 0
        while True:
            data = await self._read(READ_BYTES, f"{seen} bytes, without the mark of its end")
            held += data
            seen += len(data)
            end = held.find(mark)
            if end >= 0:
                if end:
                    yield held[:end]
                return
            if len(held) > MARK_BYTES:
                yield held[:-MARK_BYTES]
                held = held[-MARK_BYTES:]

    async def _line(self) -> bytes:
        """The next that is not empty. A server may send empty ones for as long as it prepares."""
        while True:
            line = await self._heard(self._reader.readline(), "nothing that a dump begins with")
            if not line.endswith(b"\n"):
                raise self._closed("before the dump")
            if line := line.rstrip(b"\r\n"):
                return line
            if time.monotonic() - self._asked_at > self._prepare:
                raise Unreachable(f"Redis {self._server} was not ready to send its dump after {self._prepare:g} s.")

    async def _read(self, most: int, so_far: str) -> bytes:
        data = await self._heard(self._reader.read(most), so_far)
        if not data:
            raise self._closed(f"after {so_far}")
        return data

    async def _heard(self, reading: Coroutine[Any, Any, bytes], so_far: str) -> bytes:
        try:
            async with asyncio.timeout(self._silence):
                return await reading
        except TimeoutError as error:
            raise Unreachable(
                f"Redis {self._server} fell silent for {self._silence:g} s while it sent its dump (it had sent"
                f" {so_far})."
            ) from error

    def _closed(self, when: str) -> Unreachable:
        slow = self._slowest_reader
        why = f" Its reader stood still for {slow:.0f} s: see repl-timeout there." if slow > self._silence / 4 else ""
        return Unreachable(f"Redis {self._server} closed the connection {when}: the dump is cut short.{why}")


@contextlib.asynccontextmanager
async def synchronising(
    server: RedisServer, silence: float = SILENCE_SECONDS, prepare: float = PREPARE_SECONDS
) -> AsyncIterator[Synchronisation]:
    """Connected, not begun. What the server and the connection say inside becomes this library's errors."""
    purpose = "send a full synchronisation"
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            reader, writer = await opened(server, READ_BYTES)
        yield Synchronisation(server, reader, writer, silence, prepare)
    except ServerSaid as error:
        if error.code in _TEMPORARY:
            raise Unreachable(f"Redis {server} cannot {purpose} now: {error}.") from error
        if error.code in _FORBIDDEN:
            raise Refused(f"Redis {server} refused to {purpose}: {error}.") from error
        hint = " Managed services may not let anybody replicate." if "unknown command" in str(error) else ""
        raise SourceFailed(f"Redis {server} refused to {purpose}: {error}.{hint}") from error
    except TimeoutError as error:
        raise Unreachable(f"Redis {server} did not answer within {ANSWER_SECONDS:g} s, asked to {purpose}.") from error
    except LOST as error:
        raise Unreachable(
            f"Redis {server} was lost, asked to {purpose}: {str(error) or type(error).__name__}."
        ) from error
    finally:
        if writer is not None:
            writer.transport.abort()
