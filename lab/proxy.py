"""The network between the lab's regions: one small TCP proxy per link, which can go deaf without closing.

    python -m lab.proxy <links.json>

A cut link keeps every connection open and delivers nothing, either way, like a network that drops packets; what was
sent meanwhile arrives after healing, as TCP would retransmit it. A new connection to a cut link is accepted (the kernel
does that) and stays silent.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from lab import channel
from lab.errors import LabError
from lab.state import PROXY_SOCKET, Link

_CHUNK = 256 * 1024
_CONNECT_TIMEOUT = 10.0


@dataclass
class Route:
    """One link and whether it is open."""

    link: Link
    open: asyncio.Event = field(default_factory=asyncio.Event)

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection to its end."""
        await self.open.wait()
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT):
                far_reader, far_writer = await asyncio.open_connection(self.link.target_host, self.link.target_port)
        except (OSError, TimeoutError):
            writer.transport.abort()  # the far side refused: so does this one
            return
        try:
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(reader, far_writer))
                pumps.create_task(self._pump(far_reader, writer))
        except* OSError:
            pass  # one side broke off; the other learns of it below
        finally:
            writer.transport.abort()
            far_writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_CHUNK):
            await self.open.wait()
            writer.write(data)
            await writer.drain()
        await self.open.wait()
        if writer.can_write_eof():
            writer.write_eof()


class Network:
    """All links; `cut` holds the pairs of places that cannot hear each other."""

    def __init__(self, links: list[Link]) -> None:
        self.routes = [Route(link) for link in links]
        self.cut([])

    def cut(self, pairs: list[frozenset[str]]) -> None:
        for route in self.routes:
            if {route.link.vantage, route.link.place} in pairs:
                route.open.clear()
            else:
                route.open.set()

    async def handle(self, request: dict[str, Any]) -> dict[str, Any]:
        if "cut" not in request:
            raise LabError("The proxy knows only the request 'cut'.")
        self.cut([frozenset(pair) for pair in request["cut"]])
        return {}


async def run(file: Path) -> None:
    """Serve every link of `file`, a JSON list of links, until the process is ended."""
    links = TypeAdapter(list[Link]).validate_json(await asyncio.to_thread(file.read_bytes))
    network = Network(links)
    listening = [await asyncio.start_server(x.carry, x.link.host, x.link.port, limit=_CHUNK) for x in network.routes]
    control = await channel.serve(file.parent, PROXY_SOCKET, network.handle)
    await asyncio.gather(*(server.serve_forever() for server in (*listening, control)))


if __name__ == "__main__":
    asyncio.run(run(Path(sys.argv[1])))
