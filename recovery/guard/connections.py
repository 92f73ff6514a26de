"""Connections to the guard's address, each bounded: whoever has no token must not keep others out by being slow.

A guard that runs out of file descriptors loses its way to the witness, and with it the lease: so strangers get few of
them, and not for long.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import structlog
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

log = structlog.get_logger("recovery.guard")

HEADERS = 5.0
"""Seconds from a connection, or from the first byte of a request, to the end of its headers."""
HANDSHAKE = 5.0
"""Seconds for TLS."""
HEADER_BYTES = 16 * 1024
CONNECTIONS = 512
FROM_ONE_HOST = 128


class Doors:
    """Who is connected now."""

    def __init__(self, most: int = CONNECTIONS, from_one_host: int = FROM_ONE_HOST) -> None:
        self._most = most
        self._from_one_host = from_one_host
        self._there: Counter[str] = Counter()
        self._said = False

    def enter(self, host: str) -> bool:
        """False: there are too many already."""
        if self._there.total() >= self._most or self._there[host] >= self._from_one_host:
            if not self._said:
                log.warning("connections are refused: there are too many", host=host, of=self._there[host])
            self._said = True
            return False
        self._there[host] += 1
        return True

    def leave(self, host: str) -> None:
        self._there[host] -= 1
        if self._there[host] <= 0:
            del self._there[host]
        self._said = self._said and self._there.total() > self._most // 2


class Bounded(H11Protocol):
    """HTTP/1.1 as uvicorn speaks it, with a limit for the time that a request's headers take."""

    doors: Doors

    def __init__(self, *about: Any, **more: Any) -> None:
        super().__init__(*about, **more)
        self._host: str | None = None
        self._waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        host = self.client[0] if self.client else ""
        if not self.doors.enter(host):
            transport.abort()
            return
        self._host = host
        self._waiting = self.loop.call_later(HEADERS, transport.abort)

    def data_received(self, data: bytes) -> None:
        before = self.cycle
        if self._waiting is None and (before is None or before.response_complete):
            self._waiting = self.loop.call_later(HEADERS, self.transport.abort)
        super().data_received(data)
        if self.cycle is not before:
            self._stop_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        if self._host is not None:
            self.doors.leave(self._host)
            self._host = None
        super().connection_lost(exc)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None


def bounded(doors: Doors) -> type[Bounded]:
    """The protocol of one address."""
    return type("BoundedHere", (Bounded,), {"doors": doors})


class BoundedServer(uvicorn.Server):
    """Takes what ``uvicorn.Server`` takes; a TLS handshake takes no longer than ``HANDSHAKE``."""

    async def startup(self, sockets: list[Any] | None = None) -> None:
        await self.lifespan.startup()
        loop, config = asyncio.get_running_loop(), self.config

        def protocol() -> asyncio.Protocol:
            made: asyncio.Protocol = config.http_protocol_class(  # type: ignore[call-arg]
                config=config, server_state=self.server_state, app_state=self.lifespan.state
            )
            return made

        self.servers = [
            await loop.create_server(
                protocol,
                sock=one,
                ssl=config.ssl,
                backlog=config.backlog,
                ssl_handshake_timeout=HANDSHAKE if config.ssl else None,
            )
            for one in sockets or []
        ]
        self.started = True
