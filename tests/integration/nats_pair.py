"""Two guarded NATS servers, the second with mirrors of the first one's streams."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recovery.adapters.nats.connection import LOST, connected
from recovery.adapters.nats.guarded import GuardedStreams
from recovery.ports.guard import Upstream
from tests.integration.nats_servers import OwnNats, own_nats, publish
from tests.integration.put_aside import RECIPIENTS

STREAMS = ("events", "audit")


@dataclass
class Pair:
    """``a`` is the owner of epoch 1 with sources; ``b`` mirrors it."""

    a: OwnNats
    b: OwnNats
    guard_a: GuardedStreams
    guard_b: GuardedStreams

    def upstream(self, which: OwnNats) -> Upstream:
        return Upstream(which.domain, "127.0.0.1", which.port)

    async def caught_up(self) -> None:
        position = (await self.guard_a.observe()).position
        assert position is not None
        await self.guard_b.wait_for(position, 10)
        await self.guard_b.tend(self.upstream(self.a))


def guard_of(server: OwnNats, other: OwnNats | None = None, streams: tuple[str, ...] = STREAMS) -> GuardedStreams:
    peers = {other.domain: Upstream(other.domain, "127.0.0.1", other.port)} if other else {}
    state = server.folder / "state"
    return GuardedStreams(
        server.server,
        streams,
        fence_file=server.fence_file,
        state_folder=state,
        recipients=RECIPIENTS,
        peers=peers,
    )


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < end, f"not true within {seconds} s"
        await asyncio.sleep(0.02)


async def add_stream(server: OwnNats, name: str, **settings: Any) -> None:
    config = {"name": name, "subjects": [f"{name}.>"], "storage": "file", "num_replicas": 1, "retention": "limits"}
    await server.ask(f"STREAM.CREATE.{name}", config | settings)


@contextlib.asynccontextmanager
async def a_pair(folder: Path, streams: tuple[str, ...] = STREAMS, **settings: Any) -> AsyncIterator[Pair]:
    a = OwnNats(folder / "a", "east")
    b = OwnNats(folder / "b", "west", hub=a)
    with own_nats(a, b):
        await a.start()
        await b.start()
        pair = Pair(a, b, guard_of(a, b, streams), guard_of(b, a, streams))
        for name in streams:
            await add_stream(a, name, **(settings.get(name) or {}))
        await pair.guard_a.promote(1)
        await pair.guard_b.tend(pair.upstream(a))
        yield pair


@contextlib.asynccontextmanager
async def a_pair_with_events(folder: Path) -> AsyncIterator[Pair]:
    """A hundred messages in ``events``, and the mirror has them."""
    async with a_pair(folder) as made:
        async with connected(made.a.application) as client:
            for number in range(100):
                assert await publish(client, "events.order", f"event {number}") == number + 1
        await made.caught_up()
        yield made


async def accepts_writes(server: OwnNats, subject: str = "events.probe") -> bool:
    try:
        async with asyncio.timeout(2), connected(server.application) as client:
            await client.jetstream().publish(subject, b"?", timeout=0.3)
            return True
    except LOST:
        return False
