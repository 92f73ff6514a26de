"""The network between the lab's regions: what a cut link keeps, and what it forgets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from lab.proxy import Network, Route
from lab.state import Link


@dataclass
class Far:
    """The server at the link's far end."""

    connections: int = 0
    heard: bytearray = field(default_factory=bytearray)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while data := await reader.read(1024):
            self.heard += data
        writer.close()
        self.ended.set()


@dataclass
class Rig:
    network: Network
    far: Far
    carried: list[asyncio.Task[None]]
    port: int

    @property
    def route(self) -> Route:
        return self.network.routes[0]

    def cut(self, *, back_only: bool = False) -> None:
        if back_only:
            self.network.break_it(set(), {("region-b", "region-a")}, [])
        else:
            self.network.break_it({frozenset({"region-a", "region-b"})}, set(), [])

    def heal(self) -> None:
        self.network.break_it(set(), set(), [])

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)


@asynccontextmanager
async def linked() -> AsyncIterator[Rig]:
    far, carried = Far(), []
    server = await asyncio.start_server(far.talk, "127.0.0.1", 0)
    link = Link(
        vantage="region-a",
        place="region-b",
        service="postgres",
        host="127.0.0.1",
        port=0,
        target_host="127.0.0.1",
        target_port=server.sockets[0].getsockname()[1],
    )
    network = Network([link])

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        carried.append(asyncio.ensure_future(network.routes[0].carry(reader, writer)))

    proxy = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield Rig(network, far, carried, proxy.sockets[0].getsockname()[1])
    finally:
        for listening in (proxy, server):
            listening.close()
        for task in carried:
            task.cancel()
        await asyncio.gather(*carried, return_exceptions=True)


async def until(rig: Rig, count: int) -> None:
    async with asyncio.timeout(10):
        while len(rig.carried) < count:
            await asyncio.sleep(0.005)
        await asyncio.wait(rig.carried)


async def test_what_gave_up_on_a_cut_link_is_forgotten_and_nothing_of_it_arrives() -> None:
    async with linked() as rig:
        rig.cut()
        for _ in range(40):
            _, writer = await rig.connect()
            writer.write(b"INSERT")
            writer.close()
        await until(rig, 40)  # no descriptor is kept for any of them
        rig.heal()
        _, writer = await rig.connect()
        writer.write(b"late")
        writer.close()
        async with asyncio.timeout(10):
            await rig.far.ended.wait()
        assert (rig.far.connections, bytes(rig.far.heard)) == (1, b"late")


async def test_who_waits_for_a_cut_link_is_heard_when_it_heals_in_order() -> None:
    async with linked() as rig:
        rig.cut(back_only=True)
        _, writer = await rig.connect()
        writer.write(b"one ")
        await writer.drain()
        rig.cut()  # cut further, then one way only again: still no handshake
        rig.cut(back_only=True)
        assert rig.far.connections == 0
        rig.heal()
        writer.write(b"two")
        writer.close()
        async with asyncio.timeout(10):
            await rig.far.ended.wait()
        assert bytes(rig.far.heard) == b"one two"


async def test_an_open_connection_keeps_what_was_sent_while_the_link_was_cut() -> None:
    async with linked() as rig:
        _, writer = await rig.connect()
        writer.write(b"before ")
        async with asyncio.timeout(10):
            while bytes(rig.far.heard) != b"before ":
                await asyncio.sleep(0.005)
        rig.cut()
        writer.write(b"meanwhile")
        writer.close()
        assert bytes(rig.far.heard) == b"before "
        rig.heal()
        async with asyncio.timeout(10):
            await rig.far.ended.wait()
        assert bytes(rig.far.heard) == b"before meanwhile"
