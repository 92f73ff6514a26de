"""A client that writes all the time, with a new connection for each try: when was which write acknowledged where?"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import asyncpg
import dns.asyncresolver
import dns.exception

PAUSE = 0.02  # seconds between two tries
PATIENCE = 0.5  # seconds for each: name, connection, write

Login = Callable[[], Awaitable[dict[str, Any]]]
"""Where to write now: arguments of asyncpg.connect."""


@dataclass
class Acknowledged:
    """A write that the server at ``host`` acknowledged; ``at`` by the monotonic clock."""

    at: float
    host: str


@dataclass
class Client:
    """Writes into ``beats`` until it is stopped."""

    login: Login
    writes: list[Acknowledged] = field(default_factory=list)
    _task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Client:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *error: object) -> None:
        assert self._task is not None
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def first_away_from(self, host: str, since: float, patience: float) -> Acknowledged:
        """The first write after ``since`` that another server than ``host`` acknowledged. Raises TimeoutError."""
        async with asyncio.timeout(patience):
            while True:
                for write in reversed(self.writes):
                    if write.at < since:
                        break
                    if write.host != host:
                        return next(w for w in self.writes if w.at >= since and w.host != host)
                await asyncio.sleep(PAUSE)

    def longest_pause(self, since: float) -> float:
        """Seconds between two acknowledged writes in a row, at most, from ``since`` on."""
        times = [write.at for write in self.writes if write.at >= since]
        return max((later - earlier for earlier, later in pairwise(times)), default=0.0)

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(
                OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, dns.exception.DNSException
            ):
                async with asyncio.timeout(PATIENCE):
                    await self._write()
            await asyncio.sleep(PAUSE)

    async def _write(self) -> None:
        login = await self.login()
        connection = await asyncpg.connect(**login, timeout=PATIENCE, ssl=False)
        try:
            await connection.execute("INSERT INTO beats VALUES (now())")
            self.writes.append(Acknowledged(time.monotonic(), str(login["host"])))
        finally:
            connection.terminate()


def by_name(server: tuple[str, int], name: str, **login: Any) -> Login:
    """Resolves the name anew for every connection, at the authoritative server."""
    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.nameservers, resolver.port, resolver.lifetime = [server[0]], server[1], PATIENCE

    async def resolve() -> dict[str, Any]:
        answer = await resolver.resolve(name, "A")
        return {"host": str(answer[0]), **login}

    return resolve
