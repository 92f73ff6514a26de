"""Who an upstream is, asked over the replication protocol: system identifier, timeline, history, marks of its forks.

Source of the protocol: the PostgreSQL manual, "Streaming Replication Protocol": IDENTIFY_SYSTEM, TIMELINE_HISTORY,
START_REPLICATION (its messages ``w``: start, end and time in 8 bytes each, then WAL), CREATE_REPLICATION_SLOT.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import pq
from psycopg.conninfo import make_conninfo

from recovery.adapters.postgres.connection import quoted
from recovery.adapters.postgres.wal import build_history, mark_at, parse_history
from recovery.domain.timelines import History, lsn_order
from recovery.errors import Refused, Unreachable
from recovery.ports.postgres import PostgresLogin

_MARK_SECONDS = 1.0
_WAL_BYTES = 16 << 10  # more than a page and a record
_DATA_HEADER = 25
_DUPLICATE = "42710"
_DENIED = ("28000", "28P01", "42501")


@dataclass(frozen=True)
class Identity:
    """What a server says of itself to a standby."""

    history: History
    position: str  # flushed (primary), or received (standby)


async def identify_upstream(
    login: PostgresLogin,
    *,
    passfile: str | None = None,
    marks_of: Collection[int] = (),
    segment_bytes: int = 16 << 20,
    slot: str | None = None,
    timeout: float = 5.0,
) -> Identity:
    """The upstream's history, with marks of the timelines in ``marks_of`` whose first WAL it still has.

    ``slot``: a physical slot that is made there where it is missing.

    Raises:
        Unreachable: it does not answer within ``timeout`` seconds.
        Refused: it does not let the user replicate.
    """

    def ask() -> Identity:
        with _session(login, passfile, timeout) as session:
            identity = session.identify()
            if slot is not None:
                session.ensure_slot(slot)
        for number in sorted(set(marks_of) & {each.number for each in identity.history.timelines[1:]}):
            with _session(login, passfile, timeout) as session:
                identity = _with_mark(identity, number, session.mark(identity.history, number, segment_bytes))
        return identity

    try:
        async with asyncio.timeout(timeout + 2):
            return await asyncio.to_thread(ask)
    except TimeoutError:
        raise Unreachable(f"PostgreSQL at {login.address} did not say who it is within {timeout:g} s") from None


def _with_mark(identity: Identity, number: int, mark: str | None) -> Identity:
    timelines = [
        each.model_copy(update={"mark": mark}) if each.number == number else each for each in identity.history.timelines
    ]
    return Identity(identity.history.model_copy(update={"timelines": timelines}), identity.position)


@contextlib.contextmanager
def _session(login: PostgresLogin, passfile: str | None, timeout: float) -> Iterator[_Session]:
    settings: dict[str, Any] = {
        "host": login.host,
        "port": login.port,
        "user": login.user,
        "replication": "true",
        "application_name": "recovery-plans",
        "sslmode": login.sslmode,
        "connect_timeout": max(2, round(timeout)),
    }
    if login.password:
        settings["password"] = login.password
    if passfile:
        settings["passfile"] = passfile
    if login.sslrootcert:
        settings["sslrootcert"] = login.sslrootcert
    try:
        connection = psycopg.Connection.connect(make_conninfo(**settings), autocommit=True)
    except psycopg.OperationalError as error:
        words = " ".join(str(error).split())
        if "no pg_hba.conf entry" in words or "authentication failed" in words or "permission denied" in words:
            raise Refused(
                f"PostgreSQL at {login.address} refused user {login.user} a replication connection: {words}. Give it "
                "the REPLICATION attribute, its password, and a line for the database 'replication' in pg_hba.conf."
            ) from error
        raise Unreachable(f"PostgreSQL at {login.address} did not answer: {words}") from error
    try:
        yield _Session(connection.pgconn, login, time.monotonic() + timeout)
    finally:
        connection.close()


class _Session:
    def __init__(self, connection: pq.abc.PGconn, login: PostgresLogin, deadline: float) -> None:
        self._connection = connection
        self._login = login
        self._deadline = deadline
        connection.nonblocking = 1

    def identify(self) -> Identity:
        row = self._ask("IDENTIFY_SYSTEM")
        identifier, timeline, position = row[0], int(row[1]), row[2]
        forks = parse_history(self._ask(f"TIMELINE_HISTORY {timeline}")[1]) if timeline > 1 else []
        return Identity(build_history(identifier, forks, timeline, {}), position)

    def ensure_slot(self, name: str) -> None:
        try:
            self._ask(f"CREATE_REPLICATION_SLOT {quoted(name)} PHYSICAL RESERVE_WAL")
        except _ServerError as error:
            if error.state != _DUPLICATE:
                raise Refused(f"replication slot {name} could not be made at {self._login.address}: {error}") from error

    def mark(self, history: History, number: int, segment_bytes: int) -> str | None:
        """The mark of a timeline's first record; None where its WAL is not there any more, or not yet."""
        names = [each.number for each in history.timelines]
        begin = history.timelines[names.index(number) - 1].left_at
        assert begin is not None
        start = lsn_order(begin)
        try:
            self._send(f"START_REPLICATION PHYSICAL {begin} TIMELINE {number}")
            if self._result().status != pq.ExecStatus.COPY_BOTH:
                return None
        except _ServerError:
            return None
        content = bytearray()

        def read(position: int, count: int) -> bytes:
            return bytes(content[position - start : position - start + count])

        deadline = min(self._deadline, time.monotonic() + _MARK_SECONDS)
        while len(content) < _WAL_BYTES and time.monotonic() < deadline:
            size, data = self._connection.get_copy_data(1)
            if size == 0:
                self._wait(deadline)
            elif size < 0:
                break
            elif bytes(data[:1]) == b"w":
                content += bytes(data[_DATA_HEADER:])
                found = mark_at(read, start, segment_bytes)
                if found is not None:
                    return found
        return None

    def _ask(self, command: str) -> list[str]:
        self._send(command)
        result = self._result()
        if result.status != pq.ExecStatus.TUPLES_OK:
            raise Unreachable(f"PostgreSQL at {self._login.address} did not answer {command}")
        row = [result.get_value(0, column) or b"" for column in range(result.nfields)]
        while self._next() is not None:
            pass
        return [value.decode() for value in row]

    def _send(self, command: str) -> None:
        self._connection.send_query(command.encode())
        while self._connection.flush():
            self._wait(self._deadline, writing=True)

    def _result(self) -> pq.abc.PGresult:
        result = self._next()
        if result is None:
            raise Unreachable(f"PostgreSQL at {self._login.address} ended the session")
        if result.status == pq.ExecStatus.FATAL_ERROR:
            message = result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b"the session ended"
            state = (result.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode()
            while self._next() is not None:
                pass
            words = message.decode(errors="replace")
            if state in _DENIED:
                raise Refused(f"PostgreSQL at {self._login.address} refused: {words}")
            raise _ServerError(words, state)
        return result

    def _next(self) -> pq.abc.PGresult | None:
        while self._connection.is_busy():
            if not self._wait(self._deadline):
                raise Unreachable(f"PostgreSQL at {self._login.address} did not answer in time")
        return self._connection.get_result()

    def _wait(self, deadline: float, *, writing: bool = False) -> bool:
        poll = select.poll()
        poll.register(self._connection.socket, select.POLLOUT if writing else select.POLLIN)
        left = max(0.0, deadline - time.monotonic())
        if not poll.poll(left * 1000):
            return False
        if not writing:
            try:
                self._connection.consume_input()
            except psycopg.OperationalError as error:
                raise Unreachable(f"PostgreSQL at {self._login.address} went away: {error}") from error
        return True


class _ServerError(Unreachable):
    def __init__(self, words: str, state: str) -> None:
        super().__init__(words)
        self.state = state
