"""A connection that gives contents as they are, and passes large ones on without holding them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

from recovery.adapters.redis.connection import Connection, RedisServer, ServerSaid, encoded, log_in, opened

READ_AHEAD = 1 << 20
PIECE_BYTES = 256 << 10


class BytesConnection(Connection):
    """As its base, with ``bytes`` where that has texts of bulk replies. INFO is for the base."""

    def _content(self, data: bytes) -> Any:
        return data

    async def send(self, commands: Sequence[Sequence[str | int | bytes]]) -> None:
        """Their replies are read one by one, in this order."""
        await self.write(b"".join(encoded(words) for words in commands))

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def reply(self) -> Any:
        """The next; an error reply is returned."""
        return await self._reply()

    async def content_size(self) -> int | None:
        """Of the next reply, whose ``pieces`` follow; None: it is nil. Raises ServerSaid, and what reading raises."""
        line = await self._reader.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionResetError("the server closed the connection")
        if line[:1] == b"-":
            raise ServerSaid(line[1:-2].decode(errors="replace"))
        if line[:1] != b"$":
            raise ValueError(f"a reply {line[:20]!r} where a content was asked for")
        size = int(line[1:])
        return None if size < 0 else size

    async def pieces(self, size: int) -> AsyncGenerator[bytes, None]:
        """The content of ``size`` bytes; to be read to its end."""
        if size <= PIECE_BYTES:
            yield (await self._reader.readexactly(size + 2))[:-2]
            return
        left = size
        while left:
            data = await self._reader.read(min(left, PIECE_BYTES))
            if not data:
                raise ConnectionResetError("the server closed the connection")
            left -= len(data)
            yield data
        await self._reader.readexactly(2)


@contextlib.asynccontextmanager
async def bytes_connected(server: RedisServer, seconds: float) -> AsyncIterator[BytesConnection]:
    """Connected and logged in within ``seconds``. Raises OSError, TimeoutError, ServerSaid, ValueError."""
    async with asyncio.timeout(seconds):
        connection = BytesConnection(*await opened(server, READ_AHEAD))
    try:
        async with asyncio.timeout(seconds):
            await log_in(connection, server.login)
        yield connection
    finally:
        connection.abort()
