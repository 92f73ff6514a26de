"""A server's WAL in memory: written to, promoted, and forgotten by a test. The contract suite holds it true."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from datetime import UTC, datetime

from recovery.errors import NotFound, RecoveryError, SourceFailed, Unreachable
from recovery.ports.wal import WalBytes, WalEnd, WalEvent, WalIdle, WalServer

SEGMENT = 1 << 20
FIRST = 3 * SEGMENT
MOMENT = datetime(2026, 1, 1, tzinfo=UTC)


class FakeServer:
    """WAL from ``first`` on, on one timeline after the other. ``removed``: it has nothing before this position."""

    def __init__(self, identifier: str = "7000", seed: int = 1) -> None:
        self.identifier = identifier
        self.timeline = 1
        self.forks: list[tuple[int, int]] = []
        self.first = FIRST
        self.wal = bytearray()
        self.removed = FIRST
        self.restart = FIRST
        self.acknowledged: list[int] = []
        self.holder: FakeWal | None = None
        self._choice = random.Random(seed)
        self.changed = asyncio.Event()

    @property
    def position(self) -> int:
        return self.first + len(self.wal)

    def write(self, count: int) -> int:
        """Random WAL, half of it compressible. Returns the new position."""
        self.wal += self._choice.randbytes(count // 2) + bytes(count - count // 2)
        self.changed.set()
        return self.position

    def promote(self, timeline: int, at: int | None = None) -> None:
        """Goes on with another timeline, from ``at`` on: what the old one had after that is lost."""
        at = self.position if at is None else at
        del self.wal[at - self.first :]
        self.forks.append((self.timeline, at))
        self.timeline = timeline

    def slice(self, start: int, end: int) -> bytes:
        return bytes(self.wal[start - self.first : end - self.first])


class FakeWal:
    """``WalSource`` of one session. ``failure`` ends it; ``batch`` is how much comes at once."""

    def __init__(self, server: FakeServer, *, batch: int = 300_000) -> None:
        self._server = server
        self._batch = batch
        self._timeline = 0
        self._position = 0
        self.failure: RecoveryError | None = None
        self.closed = False
        self.urgent = False
        self.started: list[tuple[int, int]] = []

    async def identify(self) -> WalServer:
        server = self._server
        return WalServer(server.identifier, server.timeline, server.position, SEGMENT)

    async def history(self, timeline: int) -> str:
        numbers = [number for number, _ in self._server.forks] + [self._server.timeline]
        if timeline not in numbers[1:]:
            raise SourceFailed(f"no {timeline:08X}.history")
        forks = self._server.forks[: numbers.index(timeline)]
        return "".join(f"{number}\t0/{left:X}\tpromoted\n" for number, left in forks)

    async def take_slot(self) -> int:
        if (former := self._server.holder) is not None and former is not self:
            former.failure = Unreachable("terminating connection due to administrator command")
            self._server.changed.set()
        self._server.holder = self
        return self._server.restart

    async def start(self, timeline: int, position: int) -> None:
        if position < self._server.removed:
            raise NotFound("requested WAL segment has already been removed")
        self._timeline, self._position = timeline, position
        self.started.append((timeline, position))

    async def receive(self, seconds: float) -> Sequence[WalEvent]:
        server = self._server
        if self.failure is not None:
            raise self.failure
        end = dict(server.forks).get(self._timeline, server.position)
        if self._position < end:
            await asyncio.sleep(0)
            start, self._position = self._position, min(self._position + self._batch, end)
            return [WalBytes(start, server.slice(start, self._position), MOMENT, server.position)]
        if self._timeline != server.timeline:
            numbers = [number for number, _ in server.forks] + [server.timeline]
            return [WalEnd(numbers[numbers.index(self._timeline) + 1], end)]
        server.changed.clear()
        try:
            async with asyncio.timeout(min(seconds, 0.05)):
                await server.changed.wait()
        except TimeoutError:
            return [WalIdle(self._position, MOMENT, self.urgent)]
        return []

    def acknowledge(self, position: int) -> None:
        self._server.acknowledged.append(position)
        self._server.restart = max(self._server.restart, position)

    async def close(self) -> None:
        self.closed = True
        if self._server.holder is self:
            self._server.holder = None
