"""A TCP proxy in front of each server, one for each onlooker, which a test can make silent or slow."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field


@dataclass
class Way:
    """From one onlooker to one server. ``is_open`` cleared: connections are taken, and nothing arrives any more."""

    host: str
    port: int
    is_open: asyncio.Event = field(default_factory=asyncio.Event)
    delay: float = 0.0  # seconds by which every answer is late
    address: str = ""
    _server: asyncio.Server | None = None
    _carried: set[asyncio.Task[None]] = field(default_factory=set)

    async def listen(self) -> Way:
        self.is_open.set()
        self._server = await asyncio.start_server(self._take, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    def cut(self) -> None:
        self.is_open.clear()

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._carried):
            task.cancel()
        await asyncio.gather(*self._carried, return_exceptions=True)

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._carried.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await self._carry(reader, writer)
        finally:
            self._carried.discard(task)
            writer.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self.is_open.wait()
        far_reader, far_writer = await asyncio.open_connection(self.host, self.port)
        try:
            pumps = {
                asyncio.ensure_future(self._pump(reader, far_writer, late=False)),
                asyncio.ensure_future(self._pump(far_reader, writer, late=True)),
            }
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        finally:
            far_writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, late: bool) -> None:
        while data := await reader.read(65_536):
            if late and self.delay:
                await asyncio.sleep(self.delay)
            await self.is_open.wait()
            writer.write(data)
            await writer.drain()
