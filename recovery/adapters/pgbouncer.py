"""PgBouncer over its admin console: PAUSE, RELOAD, RECONNECT, KILL, RESUME, and what SHOW tells.

The console knows the simple query protocol only: hence psycopg's ``pq`` layer, which sends just the query. asyncpg,
which speaks the extended protocol alone, is thrown out. A cursor of psycopg's would do, but waits five seconds for the
server's consent before it gives a query up.

Source: PgBouncer's manual ("Admin console"); tried with 1.18.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import psycopg
from psycopg import pq

from recovery.domain.addresses import address_of
from recovery.domain.group import GroupSnapshot
from recovery.errors import BadInput, NotFound, RecoveryError, Refused, Unreachable

CONSOLE = "pgbouncer"
ANSWER_SECONDS = 3.0
LOOK_EVERY = 0.2
Connection = psycopg.AsyncConnection[tuple[Any, ...]]
_INTEGERS = (20, 21, 23)  # int8, int2, int4
_NOT_PAUSED = "is not paused"
_NO_DATABASE = "no such database"


@dataclass(frozen=True)
class PgBouncerAt:
    """One pooler. ``databases`` are those of the group, by their names in PgBouncer."""

    host: str
    port: int
    user: str
    databases: tuple[str, ...]
    password: str | None = field(default=None, repr=False)
    sslmode: str = "prefer"
    ssl_root_certificate: str | None = None

    @property
    def address(self) -> str:
        return address_of(self.host, self.port)


@dataclass(frozen=True)
class Pool:
    """Clients and server connections of one database and user."""

    database: str
    user: str
    clients: int
    waiting: int
    servers: int  # in use or idle
    waited: float  # seconds, of the client that waits longest


@dataclass(frozen=True)
class PooledDatabase:
    name: str
    host: str | None
    port: int
    paused: bool
    disabled: bool


@dataclass(frozen=True)
class ResolvedHost:
    """What PgBouncer remembers of a name: it asks again when ``ttl`` (seconds) is over."""

    name: str
    ttl: int
    addresses: tuple[str, ...]


class PgBouncer:
    """One PgBouncer's console; each call logs in anew, so that a restarted one is met as it is.

    All methods raise Unreachable (no answer), Refused (user or password; the user is no admin) and NotFound (it has no
    such database).
    """

    def __init__(self, at: PgBouncerAt, *, answer_seconds: float = ANSWER_SECONDS) -> None:
        self.at = at
        self._answer = answer_seconds

    async def pause(self, database: str, within: float) -> None:
        """Waits until all its transactions (in session pooling: sessions) have ended; new queries wait.

        Raises:
            Unreachable: they did not end within so many seconds. It is resumed then.
        """
        try:
            await self._run(f"PAUSE {_quoted(database)}", within)
        except TimeoutError:
            waiting = [pool for pool in await self.pools() if pool.database == database]
            await self.resume(database)
            busy = sum(pool.servers for pool in waiting)
            raise Unreachable(
                f"PgBouncer at {self.at.address}: transactions of {database} did not end within {within:g} s "
                f"({busy} server connections are in use); it is resumed"
            ) from None

    async def resume(self, database: str) -> None:
        """Lets clients on. One that is not paused is content."""
        try:
            await self._command(f"RESUME {_quoted(database)}")
        except BadInput as error:
            if _NOT_PAUSED not in str(error):
                raise

    async def kill(self, database: str) -> None:
        """Drops all connections of clients and servers at once; the database is paused from then on."""
        await self._command(f"KILL {_quoted(database)}")

    async def reconnect(self, database: str) -> None:
        """Has each server connection closed when its transaction (or session) ends, and made anew."""
        await self._command(f"RECONNECT {_quoted(database)}")

    async def reload(self) -> None:
        """Reads its files again. Takes effect within a second: a changed host ends the old server connections."""
        await self._command("RELOAD")

    async def pools(self) -> list[Pool]:
        return [
            Pool(
                database=row["database"],
                user=row["user"],
                clients=row["cl_active"] + row["cl_waiting"],
                waiting=row["cl_waiting"],
                servers=row["sv_active"] + row["sv_idle"] + row["sv_used"],
                waited=row["maxwait"] + row.get("maxwait_us", 0) / 1e6,
            )
            for row in await self._rows("SHOW POOLS")
        ]

    async def databases(self) -> list[PooledDatabase]:
        return [
            PooledDatabase(row["name"], row["host"], row["port"], bool(row["paused"]), bool(row["disabled"]))
            for row in await self._rows("SHOW DATABASES")
        ]

    async def servers(self, database: str) -> set[tuple[str, int]]:
        """Address and port of the servers that it is connected to."""
        rows = await self._rows("SHOW SERVERS")
        return {(row["addr"], row["port"]) for row in rows if row["database"] == database}

    async def resolved(self) -> list[ResolvedHost]:
        rows = await self._rows("SHOW DNS_HOSTS")
        return [
            ResolvedHost(row["hostname"], row["ttl"], tuple(str(row["addrs"] or "").replace(":0", "").split(",")))
            for row in rows
        ]

    async def _rows(self, command: str) -> list[dict[str, Any]]:
        return await self._command(command)

    async def _command(self, command: str) -> list[dict[str, Any]]:
        try:
            return await self._run(command, self._answer)
        except TimeoutError:
            raise Unreachable(
                f"PgBouncer at {self.at.address} did not answer {command} in {self._answer:g} s"
            ) from None

    async def _run(self, command: str, seconds: float) -> list[dict[str, Any]]:
        """Raises TimeoutError when the console takes the command and does not end it in time."""
        async with self._session() as session:
            try:
                async with asyncio.timeout(seconds):
                    return _rows(await _exchanged(session.pgconn, command))
            except psycopg.Error as error:
                raise self._explained(command, error) from None

    @contextlib.asynccontextmanager
    async def _session(self) -> AsyncIterator[Connection]:
        at = self.at
        try:
            async with asyncio.timeout(self._answer):
                session: Connection = await psycopg.AsyncConnection.connect(
                    host=at.host,
                    port=at.port,
                    user=at.user,
                    password=at.password or "",
                    dbname=CONSOLE,
                    sslmode=at.sslmode,
                    sslrootcert=at.ssl_root_certificate or "",
                    gssencmode="disable",
                    autocommit=True,
                )
        except TimeoutError:
            raise Unreachable(f"PgBouncer at {at.address} did not let us in within {self._answer:g} s") from None
        except psycopg.Error as error:
            raise self._not_let_in(error) from None
        try:
            yield session
        finally:
            # Not awaited politely: a PAUSE that is still waiting ends with its console's connection.
            session.pgconn.finish()

    def _not_let_in(self, error: psycopg.Error) -> RecoveryError:
        words = _words(error)
        lowered = words.lower()
        if any(mark in lowered for mark in ("password", "auth", "not allowed", "no such user", "certificate", "ssl")):
            return Refused(
                f"PgBouncer at {self.at.address} did not let {self.at.user} in: {words}. The user must stand in its "
                "admin_users, and the password in its auth_file"
            )
        return Unreachable(f"PgBouncer at {self.at.address} was not reached: {words}")

    def _explained(self, command: str, error: psycopg.Error) -> RecoveryError:
        words = _words(error)
        if isinstance(error, psycopg.OperationalError):
            return Unreachable(f"PgBouncer at {self.at.address} broke off at {command}: {words}")
        if _NO_DATABASE in words:
            return NotFound(f"PgBouncer at {self.at.address} has {words}: compare with the group's routing.pgbouncer")
        if "admin access needed" in words:
            return Refused(f"{self.at.user} may only look at PgBouncer at {self.at.address}: add it to admin_users")
        return BadInput(f"PgBouncer at {self.at.address} refused {command}: {words}")


class PgBouncerRouting:
    """``recovery.ports.routing.ClientRouting``.

    Args:
        poolers: the poolers of a group, with their passwords.
        make: what speaks to one of them.
    """

    def __init__(
        self,
        poolers: Callable[[str], Awaitable[list[PgBouncerAt]]],
        make: Callable[[PgBouncerAt], PgBouncer] = PgBouncer,
        look_every: float = LOOK_EVERY,
    ) -> None:
        self._poolers = poolers
        self._make = make
        self._look_every = look_every

    async def hold(self, group: GroupSnapshot, within: timedelta) -> list[str]:
        """See the port."""
        poolers = await self._of(group)

        async def pause(pooler: PgBouncer) -> None:
            await asyncio.gather(*(pooler.pause(name, within.total_seconds()) for name in pooler.at.databases))

        found = await asyncio.gather(*(pause(pooler) for pooler in poolers), return_exceptions=True)
        if failed := [error for error in found if isinstance(error, BaseException)]:
            try:
                await self.release(group)
            except RecoveryError as error:
                failed[0].add_note(f"nor could the poolers be released: {error}")
            raise failed[0]
        return []

    async def move(self, group: GroupSnapshot, *, held: bool, within: timedelta) -> list[str]:
        """See the port."""
        poolers = await self._of(group)
        found = await asyncio.gather(
            *(self._move(pooler, held=held, seconds=within.total_seconds()) for pooler in poolers),
            return_exceptions=True,
        )
        return _judged(poolers, found, "still leads clients to the old database")

    async def release(self, group: GroupSnapshot) -> list[str]:
        """See the port."""
        poolers = await self._of(group)

        async def resume(pooler: PgBouncer) -> list[str]:
            for name in pooler.at.databases:
                await pooler.resume(name)
            return []

        found = await asyncio.gather(*(resume(pooler) for pooler in poolers), return_exceptions=True)
        return _judged(poolers, found, "may still hold clients back")

    async def _of(self, group: GroupSnapshot) -> list[PgBouncer]:
        return [self._make(at) for at in await self._poolers(group.name)]

    async def _move(self, pooler: PgBouncer, *, held: bool, seconds: float) -> list[str]:
        """While all is paused nothing looks names up: so what is remembered of them runs out, or has been renewed."""
        before = {host.name: host for host in await pooler.resolved()}
        for name in pooler.at.databases:
            await (pooler.pause(name, 1.0) if held else pooler.kill(name))
        await pooler.reload()
        notes = await self._until_forgotten(pooler, before, seconds)
        for name in pooler.at.databases:
            await pooler.resume(name)
        return notes

    async def _until_forgotten(self, pooler: PgBouncer, before: dict[str, ResolvedHost], seconds: float) -> list[str]:
        """Until the names of the group's databases would be asked for again: their remembered addresses are old."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        names = {db.host for db in await pooler.databases() if db.name in pooler.at.databases and db.host}
        while True:
            now = {host.name: host for host in await pooler.resolved()}
            remembered = [
                name
                for name in sorted(names & before.keys() & now.keys())
                if now[name].ttl > 0 and now[name].addresses == before[name].addresses
            ]
            if not remembered:
                return []
            if loop.time() > deadline:
                return [
                    f"PgBouncer at {pooler.at.address} remembers {', '.join(remembered)} for "
                    f"{max(now[name].ttl for name in remembered)} s more: set its dns_max_ttl lower"
                ]
            await asyncio.sleep(self._look_every)


async def _exchanged(connection: pq.abc.PGconn, command: str) -> pq.abc.PGresult:
    """One simple query; its last result. Cancelled at once, for nothing is asked of the server then."""
    connection.send_query(command.encode())
    while connection.flush():
        await _ready(connection.socket, write=True)
    last: pq.abc.PGresult | None = None
    while True:
        while connection.is_busy():
            await _ready(connection.socket)
            connection.consume_input()
        result = connection.get_result()
        if result is None:
            break
        last = result
    if last is None:
        raise psycopg.OperationalError("it answered nothing")
    if last.status == pq.ExecStatus.FATAL_ERROR:
        lost = connection.status == pq.ConnStatus.BAD
        words = last.get_error_message()
        raise psycopg.OperationalError(words) if lost else psycopg.ProgrammingError(words)
    return last


async def _ready(socket: int, *, write: bool = False) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def note() -> None:
        if not ready.done():
            ready.set_result(None)

    (loop.add_writer if write else loop.add_reader)(socket, note)
    try:
        await ready
    finally:
        (loop.remove_writer if write else loop.remove_reader)(socket)


def _rows(result: pq.abc.PGresult) -> list[dict[str, Any]]:
    """With the numbers as numbers."""
    names = [(result.fname(i) or b"").decode() for i in range(result.nfields)]
    found = []
    for row in range(result.ntuples):
        cells = [_value(result.get_value(row, i), result.ftype(i)) for i in range(len(names))]
        found.append(dict(zip(names, cells, strict=True)))
    return found


def _value(cell: bytes | None, kind: int) -> str | int | None:
    if cell is None:
        return None
    return int(cell) if kind in _INTEGERS else cell.decode()


def _judged(poolers: list[PgBouncer], found: list[list[str] | BaseException], what: str) -> list[str]:
    """Notes of all, and of those that failed; raises where none was reached. Bugs and cancellations go on."""
    notes: list[str] = []
    failed: list[RecoveryError] = []
    for pooler, result in zip(poolers, found, strict=True):
        if isinstance(result, RecoveryError):
            failed.append(result)
            notes.append(f"PgBouncer at {pooler.at.address} {what}: {result}")
        elif isinstance(result, BaseException):
            raise result
        else:
            notes += result
    if poolers and len(failed) == len(poolers):
        raise failed[0]
    return notes


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _words(error: psycopg.Error) -> str:
    return " ".join(str(error).split()) or type(error).__name__
