"""One connection to a Redis (RESP2, https://redis.io/docs/latest/develop/reference/protocol-spec/).

A fence needs to know exactly how long each step may take and that nothing is tried again behind its back, which is why
no pool stands between.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from recovery.domain.addresses import address_of
from recovery.errors import Refused, Unreachable

LONGEST_REPLY = 64 << 20  # bytes; what we ask for is far smaller
PASSING = ("LOADING", "BUSY", "MASTERDOWN")
"""Codes of errors that say nothing but that it cannot answer now: it loads, a script runs, its primary is away."""


class ServerSaid(Exception):
    """An error reply, in the server's own words (``LOADING ...``, ``NOPERM ...``)."""

    @property
    def code(self) -> str:
        return str(self).partition(" ")[0]


@dataclass(frozen=True)
class RedisLogin:
    """``user`` None is the default user; ``password`` None sends no AUTH."""

    user: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = None
    server_name: str | None = None  # in the server's certificate, where it differs from the host


@dataclass(frozen=True)
class RedisServer:
    """``host``: a name, an address, or the path of a socket."""

    host: str
    port: int
    login: RedisLogin = RedisLogin()

    def __str__(self) -> str:
        return address_of(self.host, self.port)


class Connection:
    """Commands one after another. A reply that was not awaited to its end makes the connection useless: close it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def run(self, *words: str | int | bytes) -> Any:
        """The reply: text, int, list or None. Raises ServerSaid, OSError (lost), ValueError (no Redis)."""
        (reply,) = await self.pipeline([words])
        if isinstance(reply, ServerSaid):
            raise reply
        return reply

    async def pipeline(self, commands: Sequence[Sequence[str | int | bytes]]) -> list[Any]:
        """All commands in one packet; error replies are returned in their places."""
        self._writer.write(b"".join(encoded(words) for words in commands))
        await self._writer.drain()
        return [await self._reply() for _ in commands]

    async def at_once(self, *commands: Sequence[str | int | bytes]) -> bool:
        """All of them or, where it refuses one, none (MULTI). False: none, since a watched key changed.

        Raises as ``run``.
        """
        replies = await self.pipeline([("MULTI",), *commands, ("EXEC",)])
        for reply in [*replies, *(replies[-1] if isinstance(replies[-1], list) else ())]:
            if isinstance(reply, ServerSaid):
                raise reply
        return replies[-1] is not None

    async def info(self, *sections: str) -> dict[str, str]:
        """Fields of INFO; without sections the default ones. (Several at once only since 7.0: asked one by one.)"""
        replies = await self.pipeline([("INFO", section) for section in sections] or [("INFO",)])
        found: dict[str, str] = {}
        for reply in replies:
            if isinstance(reply, ServerSaid):
                raise reply
            for line in str(reply).splitlines():
                name, colon, value = line.partition(":")
                if colon and not name.startswith("#"):
                    found[name] = value
        return found

    @property
    def local_host(self) -> str | None:
        """The address of this host from which the server was reached; None by way of a socket's path."""
        name = self._writer.get_extra_info("sockname")
        return str(name[0]) if isinstance(name, tuple) else None

    def abort(self) -> None:
        self._writer.transport.abort()

    async def _reply(self) -> Any:
        line = await self._reader.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionResetError("the server closed the connection")
        kind, rest = line[:1], line[1:-2]
        if kind == b"+":
            return rest.decode(errors="replace")
        if kind == b"-":
            return ServerSaid(rest.decode(errors="replace"))
        if kind == b":":
            return int(rest)
        if kind == b"$":
            size = int(rest)
            if size > LONGEST_REPLY:
                raise ValueError(f"a reply of {size} bytes")
            return None if size < 0 else self._content((await self._reader.readexactly(size + 2))[:-2])
        if kind == b"*":
            return None if int(rest) < 0 else [await self._reply() for _ in range(int(rest))]
        raise ValueError("what answers there is no Redis")

    def _content(self, data: bytes) -> Any:
        return data.decode(errors="replace")


def encoded(words: Sequence[str | int | bytes]) -> bytes:
    parts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


async def opened(server: RedisServer, limit: int = 64 << 10) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Not logged in. ``limit``: bytes that are read ahead. Raises OSError."""
    login = server.login
    if server.host.startswith("/"):
        return await asyncio.open_unix_connection(server.host, limit=limit)
    return await asyncio.open_connection(
        server.host,
        server.port,
        limit=limit,
        ssl=login.tls,
        server_hostname=(login.server_name or server.host) if login.tls else None,
    )


async def log_in(connection: Connection, login: RedisLogin) -> None:
    """Raises what the connection raises."""
    if login.password is not None:
        await connection.run("AUTH", *([login.user] if login.user else []), login.password)


@contextlib.asynccontextmanager
async def connected(server: RedisServer) -> AsyncIterator[Connection]:
    """Connected and logged in; bounded by the caller's ``asyncio.timeout``. Raises OSError, ServerSaid, ValueError."""
    connection = Connection(*await opened(server))
    try:
        await log_in(connection, server.login)
        yield connection
    finally:
        connection.abort()


LOST = (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError)
"""What a connection raises when the server is gone, silent, or no Redis."""


@contextlib.asynccontextmanager
async def asking(server: RedisServer, seconds: float, purpose: str) -> AsyncIterator[Connection]:
    """As ``connected``, within ``seconds`` in all, with this library's errors.

    Raises:
        Unreachable: no answer in time, or one that passes (it loads its data, it has too many clients).
        Refused: it answered that this user may not.
    """
    try:
        async with asyncio.timeout(seconds), connected(server) as connection:
            yield connection
    except ServerSaid as error:
        if error.code in PASSING or (error.code == "ERR" and "max number of clients" in str(error)):
            raise Unreachable(f"Redis {server} could not {purpose} now: {error}") from error
        raise Refused(f"Redis {server} refused to {purpose}: {error}") from error
    except TimeoutError as error:
        raise Unreachable(f"Redis {server} did not answer within {seconds:g} s, asked to {purpose}.") from error
    except LOST as error:
        raise Unreachable(f"Redis {server} could not be asked to {purpose}: {error or type(error).__name__}") from error
