"""PgBouncer's admin console on the wire, with the words of version 1.18: simple queries only."""

from __future__ import annotations

import asyncio
import contextlib
import re
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

USER, PASSWORD = "admin", "console-password"
POOLS = "database user cl_active cl_waiting sv_active sv_idle sv_used maxwait maxwait_us"
DATABASES = "name host port database paused disabled"
DNS_HOSTS = "hostname ttl addrs"
SERVERS = "type user database state addr port"
_SSL_REQUEST = 80877103
_INT4, _TEXT = 23, 25


@dataclass
class Database:
    host: str = "db.shop.test"
    paused: bool = False
    busy: int = 0  # server connections within a transaction


@dataclass
class Console:
    databases: dict[str, Database] = field(default_factory=lambda: {"shop": Database()})
    remembered: dict[str, list[tuple[int, str]]] = field(default_factory=dict)  # host -> (ttl, address), one a look
    commands: list[str] = field(default_factory=list)
    silent: bool = False
    port: int = 0
    sessions: int = 0

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.sessions += 1
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            if await self._let_in(reader, writer):
                await self._serve(reader, writer)
        writer.close()

    async def _let_in(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        body = await _startup(reader)
        if struct.unpack("!I", body[:4])[0] == _SSL_REQUEST:
            writer.write(b"N")
            body = await _startup(reader)
        parts = body[4:].split(b"\0")
        settings = dict(zip(parts[::2], parts[1::2], strict=False))
        if settings.get(b"database") != b"pgbouncer":
            writer.write(_error("08P01", "no such database"))
            return False
        writer.write(_packet(b"R", struct.pack("!I", 3)))  # a password in clear text, as with auth_type = plain
        _, body = await _message(reader)
        if (settings[b"user"].decode(), body.rstrip(b"\0").decode()) != (USER, PASSWORD):
            writer.write(_error("28P01", "password authentication failed"))
            return False
        writer.write(_packet(b"R", struct.pack("!I", 0)) + _packet(b"S", b"server_version\x001.18.0/bouncer\0"))
        writer.write(_packet(b"S", b"client_encoding\0UTF8\0") + _packet(b"Z", b"I"))
        return True

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            kind, body = await _message(reader)
            if kind == b"X":
                return
            if kind != b"Q":
                writer.write(_error("08P01", "extended query protocol not supported by admin console"))
                return
            answer = await self._answer(body.rstrip(b"\0").decode())
            writer.write(answer + _packet(b"Z", b"I"))
            await writer.drain()

    async def _answer(self, command: str) -> bytes:
        self.commands.append(command)
        if self.silent:
            await asyncio.Event().wait()
        if command.startswith("SHOW "):
            return self._show(command.removeprefix("SHOW "))
        found = re.fullmatch(r'(PAUSE|RESUME|KILL|RECONNECT) "([^"]+)"|RELOAD', command)
        if found is None:
            return _error("08P01", f"invalid command '{command}', use SHOW HELP;")
        if found[1]:
            database = self.databases.get(found[2])
            if database is None:
                return _error("08P01", f"no such database: {found[2]}")
            if refusal := await self._change(found[1], found[2], database):
                return refusal
        return _packet(b"C", command.split()[0].encode() + b"\0")

    async def _change(self, word: str, name: str, database: Database) -> bytes | None:
        if word == "RESUME":
            if not database.paused:
                return _error("08P01", f"database {name} is not paused")
            database.paused = False
        elif word == "KILL":
            database.paused, database.busy = True, 0
        elif word == "PAUSE":
            database.paused = True
            while database.busy:
                await asyncio.sleep(0.01)
        return None

    def _show(self, what: str) -> bytes:
        match what:
            case "POOLS":
                rows: list[tuple[object, ...]] = [
                    (name, "app", db.busy, 1, db.busy, 0, 0, 2, 500_000) for name, db in self.databases.items()
                ]
                return _table(POOLS, rows)
            case "DATABASES":
                found: list[tuple[object, ...]] = [
                    (name, db.host, 5432, name, int(db.paused), 0) for name, db in self.databases.items()
                ]
                return _table(DATABASES, found)
            case "DNS_HOSTS":
                hosts: list[tuple[object, ...]] = []
                for name, looks in self.remembered.items():
                    ttl, address = looks.pop(0) if len(looks) > 1 else looks[0]
                    hosts.append((name, ttl, f"{address}:0"))
                return _table(DNS_HOSTS, hosts)
            case "SERVERS":
                return _table(SERVERS, [("S", "app", name, "idle", "10.0.0.1", 5432) for name in self.databases])
        return _error("08P01", f"invalid command 'SHOW {what}', use SHOW HELP;")


@asynccontextmanager
async def console() -> AsyncIterator[Console]:
    """Any number of sessions; those that still wait are cut in the end."""
    found = Console()
    talks: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        talks.add(task)
        with contextlib.suppress(asyncio.CancelledError):
            await found.talk(reader, writer)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    found.port = server.sockets[0].getsockname()[1]
    try:
        yield found
    finally:
        server.close()
        for task in talks:
            task.cancel()


async def _startup(reader: asyncio.StreamReader) -> bytes:
    (length,) = struct.unpack("!I", await reader.readexactly(4))
    return await reader.readexactly(length - 4)


async def _message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    kind = await reader.readexactly(1)
    return kind, await _startup(reader)


def _packet(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!I", len(body) + 4) + body


def _error(code: str, words: str) -> bytes:
    return _packet(b"E", f"SERROR\0C{code}\0M{words}\0\0".encode())


def _table(columns: str, rows: list[tuple[object, ...]]) -> bytes:
    names = columns.split()
    kinds = [_INT4 if all(isinstance(row[i], int) for row in rows) and rows else _TEXT for i in range(len(names))]
    head = struct.pack("!H", len(names)) + b"".join(
        name.encode() + b"\0" + struct.pack("!IHIhiH", 0, 0, kind, -1, -1, 0)
        for name, kind in zip(names, kinds, strict=True)
    )
    found = _packet(b"T", head)
    for row in rows:
        cells = b"".join(struct.pack("!I", len(str(cell).encode())) + str(cell).encode() for cell in row)
        found += _packet(b"D", struct.pack("!H", len(row)) + cells)
    return found + _packet(b"C", b"SHOW\0")
