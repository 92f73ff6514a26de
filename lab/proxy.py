"""The network between the lab's regions: one small TCP proxy per link, which can go deaf or slow without closing.

    python -m lab.proxy <links.json>

A cut link keeps every connection open and delivers nothing, either way, like a network that drops packets; what was
sent meanwhile arrives after healing, as TCP would retransmit it. A new connection to a cut link is accepted (the kernel
does that) and stays silent; when its client gives it up before the healing, it never was, and nothing of it arrives. A
link may be cut one way only: open connections still deliver the other way, and new ones stay silent, because their
handshake needs both. What a slow link carries arrives late, in its order.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

from pydantic import TypeAdapter

from lab import channel
from lab.errors import LabError
from lab.state import PROXY_SOCKET, Delay, Link

_CHUNK = 256 * 1024
_UNDER_WAY = 32  # chunks that one direction of a connection holds back at most
_CONNECT_TIMEOUT = 10.0
_DATAGRAM_SERVICE = "dns"
_DATAGRAMS = 200  # of one link at once


def _open() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


@dataclass
class Route:
    """One link: whether it is open to the place and back from it, and how late it delivers."""

    link: Link
    there: asyncio.Event = field(default_factory=_open)
    back: asyncio.Event = field(default_factory=_open)
    delay: float = 0.0

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection to its end."""
        early = await self._handshake(reader)
        if early is None:
            writer.transport.abort()
            return
        try:
            await asyncio.sleep(self.delay)
            async with asyncio.timeout(_CONNECT_TIMEOUT):
                far_reader, far_writer = await asyncio.open_connection(self.link.target_host, self.link.target_port)
        except (OSError, TimeoutError):
            writer.transport.abort()  # the far side refused: so does this one
            return
        try:
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(reader, far_writer, self.there, early))
                pumps.create_task(self._pump(far_reader, writer, self.back))
        except* OSError:
            pass  # one side broke off; the other learns of it below
        finally:
            writer.transport.abort()
            far_writer.transport.abort()

    async def _handshake(self, reader: asyncio.StreamReader) -> Sequence[bytes] | None:
        """Waits until the link is open both ways. What the client said by then; None when it gave up before."""
        early: list[bytes] = []
        while not (self.there.is_set() and self.back.is_set()):
            opened = asyncio.ensure_future(_both(self.there, self.back))
            heard = asyncio.ensure_future(_hear(reader, early))
            try:
                await asyncio.wait({opened, heard}, return_when=asyncio.FIRST_COMPLETED)
                if heard.done():
                    return None
            finally:
                for task in (opened, heard):
                    task.cancel()
                await asyncio.wait({opened, heard})
        return early

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        gate: asyncio.Event,
        early: Sequence[bytes] = (),
    ) -> None:
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_UNDER_WAY)
        loop = asyncio.get_running_loop()

        async def deliver() -> None:
            while True:
                due, data = await under_way.get()
                if (left := due - loop.time()) > 0:
                    await asyncio.sleep(left)
                await gate.wait()
                if not data:
                    break
                writer.write(data)
                await writer.drain()
            if writer.can_write_eof():
                writer.write_eof()

        async with asyncio.TaskGroup() as both:
            both.create_task(deliver())
            for data in early:
                await under_way.put((loop.time() + self.delay, data))
            data = b"more"
            while data:
                data = await reader.read(_CHUNK)
                await under_way.put((loop.time() + self.delay, data))


async def _both(there: asyncio.Event, back: asyncio.Event) -> None:
    await there.wait()
    await back.wait()


async def _hear(reader: asyncio.StreamReader, early: list[bytes]) -> None:
    """Ends when the client does. Of one that says much the rest waits in its own socket."""
    with contextlib.suppress(ConnectionError):  # it broke off, which is an end, too
        while data := await reader.read(_CHUNK):
            early.append(data)
            if len(early) == _UNDER_WAY:
                await asyncio.Event().wait()


class Datagrams(asyncio.DatagramProtocol):
    """The same link for UDP, which DNS speaks: a datagram on a cut link is lost."""

    def __init__(self, route: Route) -> None:
        self.route = route
        self.under_way: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        if len(self.under_way) < _DATAGRAMS:
            task = asyncio.get_running_loop().create_task(self._ask(data, addr))
            self.under_way.add(task)
            task.add_done_callback(self.under_way.discard)

    async def _ask(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        """One question and its answer, from a socket of its own."""
        route, loop = self.route, asyncio.get_running_loop()
        await asyncio.sleep(route.delay)
        if not route.there.is_set():
            return
        answered: asyncio.Future[bytes] = loop.create_future()
        with contextlib.suppress(OSError, TimeoutError):  # lost, as datagrams are
            far, _ = await loop.create_datagram_endpoint(
                lambda: _Answer(answered), remote_addr=(route.link.target_host, route.link.target_port)
            )
            try:
                far.sendto(data)
                answer = await asyncio.wait_for(answered, _CONNECT_TIMEOUT)
            finally:
                far.close()
            await asyncio.sleep(route.delay)
            if route.back.is_set():
                self.transport.sendto(answer, addr)


class _Answer(asyncio.DatagramProtocol):
    def __init__(self, answered: asyncio.Future[bytes]) -> None:
        self.answered = answered

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        if not self.answered.done():
            self.answered.set_result(data)

    def error_received(self, exc: Exception) -> None:
        if not self.answered.done():
            self.answered.set_exception(exc)


class Network:
    """All links, and what is wrong with them now."""

    def __init__(self, links: Sequence[Link]) -> None:
        self.routes = [Route(link) for link in links]

    def break_it(
        self, cut: Collection[frozenset[str]], one_way: Collection[tuple[str, str]], delays: Sequence[Delay]
    ) -> None:
        """``cut``: pairs that hear nothing of each other; ``one_way``: (from, to) that is lost."""
        for route in self.routes:
            ends = route.link.vantage, route.link.place
            deaf = frozenset(ends) in cut
            _set(route.there, not deaf and ends not in one_way)
            _set(route.back, not deaf and (ends[1], ends[0]) not in one_way)
            route.delay = sum(delay.seconds for delay in delays if _concerns(delay, route.link))

    async def handle(self, request: dict[str, Any]) -> dict[str, Any]:
        if "cut" not in request:
            raise LabError("The proxy knows only the request 'cut'.")
        self.break_it(
            {frozenset(pair) for pair in request["cut"]},
            {(sender, receiver) for sender, receiver in request.get("one_way", [])},
            [Delay.model_validate(delay) for delay in request.get("delays", [])],
        )
        return {}


def _set(event: asyncio.Event, to: bool) -> None:
    if to:
        event.set()
    else:
        event.clear()


def _concerns(delay: Delay, link: Link) -> bool:
    """A slow service is slow for whoever asks it; a slow place is slow in what it asks, too."""
    if delay.service is not None:
        return (link.place, link.service) == (delay.place, delay.service)
    return delay.place in (link.place, link.vantage)


def _allow_many_connections() -> None:
    """As many descriptors as the user may have: of 1,024 a cut link full of clients leaves none to heal it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def run(file: Path) -> None:
    """Serve every link of `file`, a JSON list of links, until the process is ended."""
    _allow_many_connections()
    links = TypeAdapter(list[Link]).validate_json(await asyncio.to_thread(file.read_bytes))
    network = Network(links)
    listening = [await asyncio.start_server(x.carry, x.link.host, x.link.port, limit=_CHUNK) for x in network.routes]
    for route in network.routes:
        if route.link.service == _DATAGRAM_SERVICE:
            at = route.link.host, route.link.port
            await asyncio.get_running_loop().create_datagram_endpoint(partial(Datagrams, route), local_addr=at)
    control = await channel.serve(file.parent, PROXY_SOCKET, network.handle)
    await asyncio.gather(*(server.serve_forever() for server in (*listening, control)))


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(run(Path(sys.argv[1])))
