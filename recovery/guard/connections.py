"""Connections to the guard's address, each bounded: whoever has no token must not keep others out by being slow.

A guard that runs out of file descriptors loses its way to the witness, and with it the lease. So who has not shown the
token yet counts from the moment of the connection, a TLS handshake included: strangers get few descriptors, and not for
long. One more than that ends the oldest of the host that has most of them: a peer, which says who it is at once, comes
in through any crowd.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

import structlog
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

log = structlog.get_logger("recovery.guard")

HEADERS = 5.0
"""Seconds from a connection, or from the first byte of a request, to the end of its headers."""
HANDSHAKE = 5.0
"""Seconds for TLS."""
HEADER_BYTES = 16 * 1024
CONNECTIONS = 512
STRANGERS = 128
"""Of them, connections on which nobody has shown the token."""
AGAIN = 0.1  # seconds until the next connection is taken after one could not be


class Door:
    """One connection from its beginning to its end; ``shut`` ends it now."""

    def __init__(self, doors: Doors, host: str, shut: Callable[[], None]) -> None:
        self._doors = doors
        self.host = host
        self.shut = shut

    def know(self) -> None:
        """Who is there has shown the token."""
        self._doors.know(self)

    def leave(self) -> None:
        """It has ended. Once is enough, and twice does no harm."""
        self._doors.leave(self)


class Doors:
    """Who is connected now."""

    def __init__(self, most: int = CONNECTIONS, strangers: int = STRANGERS) -> None:
        self._most = most
        self._bound = strangers
        self._strangers: dict[str, dict[Door, None]] = {}  # by host, the oldest first
        self._known: set[Door] = set()
        self._said = False

    @property
    def strangers(self) -> int:
        return sum(len(doors) for doors in self._strangers.values())

    def enter(self, host: str, shut: Callable[[], None]) -> Door | None:
        """A stranger's. None: there are too many connections, and all of them are known."""
        strangers = self.strangers
        if strangers >= self._bound or strangers + len(self._known) >= self._most:
            if not strangers:
                return None
            self._turn_out()
        door = Door(self, host, shut)
        self._strangers.setdefault(host, {})[door] = None
        return door

    def know(self, door: Door) -> None:
        if self._forget(door):
            self._known.add(door)

    def leave(self, door: Door) -> None:
        self._known.discard(door)
        self._forget(door)

    def _turn_out(self) -> None:
        host, doors = max(self._strangers.items(), key=lambda each: len(each[1]))
        if not self._said:
            log.warning("connections without a token are ended: there are too many", host=host, of=len(doors))
        self._said = True
        oldest = next(iter(doors))
        self._forget(oldest)
        oldest.shut()

    def _forget(self, door: Door) -> bool:
        """Whether it was a stranger's."""
        doors = self._strangers.get(door.host, {})
        if door not in doors:
            return False
        del doors[door]
        if not doors:
            del self._strangers[door.host]
        self._said = self._said and self.strangers > self._bound // 2
        return True


class Bounded(H11Protocol):
    """HTTP/1.1 as uvicorn speaks it, with a limit for the time that a request's headers take."""

    def __init__(self, config: uvicorn.Config, server_state: ServerState, app_state: dict[str, Any]) -> None:
        super().__init__(config, server_state, app_state)
        self._door: Door = app_state["door"]
        self._waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._door.shut = transport.abort
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
        self._door.leave()
        super().connection_lost(exc)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None


class BoundedServer(uvicorn.Server):
    """Takes connections itself, one at a time, so that each is counted before its TLS handshake, which takes no longer
    than ``HANDSHAKE``. What a request came through is ``request.state.door``."""

    def __init__(self, config: uvicorn.Config, doors: Doors) -> None:
        super().__init__(config)
        self._doors = doors
        self._taking: set[asyncio.Task[None]] = set()
        self._entering: set[asyncio.Task[None]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await self.lifespan.startup()
        self.servers = []
        for one in sockets or []:
            one.listen(self.config.backlog)
            taking = asyncio.create_task(self._take(one))
            taking.add_done_callback(self._ended)
            self._taking.add(taking)
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Raises what ended the taking of connections, where that was a mistake of ours."""
        tasks = [*self._taking, *self._entering]
        for task in tasks:
            task.cancel()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        await super().shutdown(sockets)
        for error in found:
            if isinstance(error, Exception):
                raise error

    def _ended(self, taking: asyncio.Task[None]) -> None:
        self.should_exit = True

    async def _take(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, (host, *_) = await loop.sock_accept(listening)
            except OSError as error:
                log.warning("a connection could not be taken", error=error.strerror)
                await asyncio.sleep(AGAIN)
                continue
            door = self._doors.enter(host, partial(_cut, connection))
            if door is None:
                connection.close()
            else:
                entering = asyncio.create_task(self._let_in(connection, door))
                self._entering.add(entering)
                entering.add_done_callback(self._entering.discard)
            await asyncio.sleep(0)  # a queue of strangers without an end must not keep everything else waiting

    async def _let_in(self, connection: socket.socket, door: Door) -> None:
        def protocol() -> asyncio.Protocol:
            made: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
                config=self.config,
                server_state=self.server_state,
                app_state={**self.lifespan.state, "door": door},
            )
            return made

        secure = self.config.ssl
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                protocol, connection, ssl=secure, ssl_handshake_timeout=HANDSHAKE if secure else None
            )
        except OSError as error:  # no TLS, too slow, or turned out
            log.debug("a connection was not let in", host=door.host, error=str(error))
            door.leave()
        except BaseException:
            door.leave()
            raise


def _cut(connection: socket.socket) -> None:
    """Its transport reads the end, in the middle of a handshake too, and closes it."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
