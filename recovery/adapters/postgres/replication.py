"""A base backup over PostgreSQL's streaming replication protocol.

Source of the protocol: the PostgreSQL manual, "Streaming Replication Protocol", command BASE_BACKUP, in its form since
version 15: two result sets (start position; tablespaces), one COPY OUT whose messages begin with a type byte
(``n`` new archive, ``m`` manifest, ``d`` data, ``p`` progress), and a result set with the stop position.
"""

from __future__ import annotations

import asyncio
import re
import select
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import psycopg
from psycopg import pq
from psycopg.conninfo import make_conninfo

from recovery.adapters.postgres.connection import CONNECT_SECONDS
from recovery.errors import DamagedPages, RecoveryError, Refused, SourceFailed, Unreachable
from recovery.ports.postgres import Checkpoint, PostgresLogin

OLDEST_MAJOR = 15
BATCH_BYTES = 1 << 20
STALL_SECONDS = 120.0
CHECKPOINT_SECONDS = 3600.0  # a spread checkpoint takes most of checkpoint_timeout, and nothing is sent meanwhile

_SLICE_MILLISECONDS = 200
_LINGER_MILLISECONDS = 20  # a fuller buffer is worth so much waiting
_WARNINGS_KEPT = 20
_T = TypeVar("_T")
_Rows = list[list[str | None]]


@dataclass(frozen=True)
class ArchiveStart:
    """A new tar begins: ``base.tar``, or ``<oid>.tar`` of the tablespace in the source's folder ``location``."""

    name: str
    location: str


@dataclass(frozen=True)
class ManifestStart:
    """The backup manifest begins."""


@dataclass(frozen=True)
class BackupEnd:
    """Everything was sent, and the server says that the backup is good."""

    stop_lsn: str
    timeline: int


Event = ArchiveStart | ManifestStart | BackupEnd | bytes


@dataclass
class BackupHeader:
    """What the server says before the first byte."""

    start_lsn: str
    timeline: int
    expected_bytes: int
    tablespaces: dict[str, str] = field(default_factory=dict)  # oid -> folder at the source


class _Stopped(Exception):
    """The session is being closed while its thread waits."""


class ReplicationSession:
    """One walsender session. It lives in a thread of its own, which waits for the socket without the interpreter lock.

    Every method raises ``SourceFailed`` with the server's own words when the server refuses, fails or goes away.
    """

    purpose = "backup"  # completes "ended the ..." and "in mid-..."

    def __init__(self, login: PostgresLogin, *, stall_seconds: float = STALL_SECONDS) -> None:
        self._login = login
        self._stall_seconds = stall_seconds
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="walsender")
        self._stopping = threading.Event()
        self._connection: psycopg.Connection | None = None
        self._warnings: list[str] = []

    async def open(self) -> None:
        """Raises Unreachable, or Refused when the role may not replicate."""
        await self._in_thread(self._connect)

    async def close(self) -> None:
        """Ends the session: the server drops its temporary slot and its backup at once."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        closing = asyncio.get_running_loop().run_in_executor(self._thread, self._disconnect)
        self._thread.shutdown(wait=False)
        await asyncio.shield(closing)

    async def query(self, command: str) -> _Rows:
        """The rows of one replication command."""
        return await self._in_thread(lambda: self._query(command))

    async def upload_manifest(self, manifest: bytes) -> None:
        """UPLOAD_MANIFEST (version 17 and later): PostgreSQL's own of the backup that an incremental one follows."""
        await self._in_thread(lambda: self._upload_manifest(manifest))

    async def start_backup(
        self, label: str, *, checkpoint: Checkpoint = "fast", incremental: bool = False
    ) -> BackupHeader:
        """Sends BASE_BACKUP and returns when the server begins to stream, after its checkpoint.

        ``incremental``: only what changed since the backup whose manifest was uploaded in this session.
        """
        quoted_label = label.replace("'", "''")
        command = (
            f"BASE_BACKUP (LABEL '{quoted_label}', PROGRESS, CHECKPOINT '{checkpoint}', WAL, WAIT false, "
            "TARGET 'client', MANIFEST 'yes', MANIFEST_CHECKSUMS 'CRC32C', VERIFY_CHECKSUMS"
            f"{', INCREMENTAL' if incremental else ''})"
        )
        return await self._in_thread(lambda: self._start_backup(command))

    async def events(self) -> list[Event]:
        """The next events in order; data of up to about 1 MiB is one event. The last one of all is ``BackupEnd``."""
        return await self._in_thread(self._read_events)

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    # What follows runs in the session's thread.

    def _connect(self) -> None:
        login = self._login
        settings: dict[str, Any] = {
            "host": login.host,
            "port": login.port,
            "user": login.user,
            "replication": "true",
            "application_name": "recovery-plans",
            "sslmode": login.sslmode,
            "connect_timeout": int(CONNECT_SECONDS),
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 4,
        }
        if login.password:
            settings["password"] = login.password
        if login.sslrootcert:
            settings["sslrootcert"] = login.sslrootcert
        try:
            self._connection = psycopg.Connection.connect(make_conninfo(**settings), autocommit=True)
        except psycopg.OperationalError as error:
            words = " ".join(str(error).split())
            if re.search(
                r"no pg_hba.conf entry|authentication failed|must be superuser or replication|permission", words
            ):
                raise Refused(
                    f"PostgreSQL at {login.address} refused a replication connection: {words}. Give user {login.user} "
                    "the REPLICATION attribute and a line for the database 'replication' in pg_hba.conf."
                ) from error
            raise Unreachable(f"PostgreSQL at {login.address} did not answer: {words}") from error
        self._pgconn.nonblocking = 1
        self._pgconn.notice_handler = self._keep_warning

    @property
    def _pgconn(self) -> pq.abc.PGconn:
        if self._connection is None:
            raise _Stopped
        return self._connection.pgconn

    def _keep_warning(self, notice: pq.abc.PGresult) -> None:
        message = notice.error_field(pq.DiagnosticField.MESSAGE_PRIMARY)
        if message and len(self._warnings) < _WARNINGS_KEPT:
            self._warnings.append(message.decode(errors="replace"))

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _wait_readable(self, seconds: float | None = None) -> None:
        poll = select.poll()
        poll.register(self._pgconn.socket, select.POLLIN)
        patience = seconds or self._stall_seconds
        deadline = time.monotonic() + patience
        while not poll.poll(_SLICE_MILLISECONDS):
            if self._stopping.is_set():
                raise _Stopped
            if time.monotonic() > deadline:
                raise SourceFailed(
                    f"PostgreSQL at {self._login.address} sent nothing for {patience:.0f} s in mid-{self.purpose}: "
                    "the server or the network between us stands still."
                )
        try:
            self._pgconn.consume_input()
        except psycopg.OperationalError as error:
            raise self._failed(str(error)) from error

    def _more_within(self, milliseconds: int) -> bool:
        poll = select.poll()
        poll.register(self._pgconn.socket, select.POLLIN)
        return bool(poll.poll(milliseconds))

    def _failed(self, words: str) -> RecoveryError:
        said = [" ".join(words.split()), *self._warnings]
        return SourceFailed(
            f"PostgreSQL at {self._login.address} ended the {self.purpose}: {'; '.join(part for part in said if part)}"
        )

    def _send(self, command: str) -> None:
        try:
            self._pgconn.send_query(command.encode())
            while self._pgconn.flush():
                time.sleep(0.01)
        except psycopg.OperationalError as error:
            raise self._failed(str(error)) from error

    def _result(self, seconds: float | None = None) -> pq.abc.PGresult | None:
        while self._pgconn.is_busy():
            self._wait_readable(seconds)
        result = self._pgconn.get_result()
        if result is not None and result.status in (pq.ExecStatus.FATAL_ERROR, pq.ExecStatus.BAD_RESPONSE):
            failed = self._failed(result.get_error_message())
            damaged = result.error_field(pq.DiagnosticField.SQLSTATE) == _DATA_CORRUPTED
            raise DamagedPages(str(failed)) if damaged else failed
        return result

    def _query(self, command: str) -> _Rows:
        self._send(command)
        rows: _Rows = []
        while (result := self._result()) is not None:
            rows += _rows(result)
        return rows

    def _upload_manifest(self, manifest: bytes) -> None:
        self._send("UPLOAD_MANIFEST")
        result = self._result()
        if result is None or result.status != pq.ExecStatus.COPY_IN:
            raise SourceFailed(f"PostgreSQL at {self._login.address} does not take a backup's manifest")
        try:
            for offset in range(0, len(manifest), BATCH_BYTES):
                part = manifest[offset : offset + BATCH_BYTES]
                self._write_until(partial(self._put, part))
            self._write_until(lambda: self._pgconn.put_copy_end() == 1)
            self._write_until(lambda: self._pgconn.flush() == 0)
        except psycopg.OperationalError as error:
            raise self._failed(str(error)) from error
        while self._result() is not None:
            pass

    def _put(self, part: bytes) -> bool:
        return self._pgconn.put_copy_data(part) == 1

    def _write_until(self, done: Callable[[], bool]) -> None:
        """Waits for room in the socket; the server reads as fast as it parses."""
        deadline = time.monotonic() + self._stall_seconds
        while not done():
            if self._stopping.is_set():
                raise _Stopped
            if time.monotonic() > deadline:
                raise SourceFailed(f"PostgreSQL at {self._login.address} took nothing for {self._stall_seconds:.0f} s")
            poll = select.poll()
            poll.register(self._pgconn.socket, select.POLLOUT)
            poll.poll(_SLICE_MILLISECONDS)

    def _start_backup(self, command: str) -> BackupHeader:
        self._send(command)
        sets: list[_Rows] = []
        wait = CHECKPOINT_SECONDS
        while (result := self._result(wait)) is not None and result.status != pq.ExecStatus.COPY_OUT:
            if result.status == pq.ExecStatus.TUPLES_OK:
                sets.append(_rows(result))
        if result is None or len(sets) != 2 or not sets[0]:
            raise SourceFailed(
                f"PostgreSQL at {self._login.address} did not answer BASE_BACKUP as version {OLDEST_MAJOR} "
                "and later do; is a proxy between us?"
            )
        start_lsn, timeline = sets[0][0][:2]
        return BackupHeader(
            start_lsn=str(start_lsn),
            timeline=int(timeline or 0),
            expected_bytes=sum(int(row[2] or 0) for row in sets[1]) * 1024,
            tablespaces={str(row[0]): str(row[1]) for row in sets[1] if row[0]},
        )

    def _read_events(self) -> list[Event]:
        events: list[Event] = []
        pending: list[memoryview | bytes] = []
        size = 0
        while size < BATCH_BYTES:
            if self._stopping.is_set():
                raise _Stopped
            length, message = self._copy_data()
            if length == 0:
                if size and not self._more_within(_LINGER_MILLISECONDS):
                    break
                self._wait_readable()
            elif length < 0:
                _flush(pending, events)
                events.append(self._backup_end())
                return events
            elif message[0] == _DATA:
                pending.append(memoryview(message)[1:])
                size += length - 1
            elif message[0] in (_ARCHIVE, _MANIFEST):
                _flush(pending, events)
                events.append(_start_of(bytes(message)))
                break
            elif message[0] != _PROGRESS:
                raise SourceFailed(
                    f"PostgreSQL at {self._login.address} sent an unknown message {bytes(message[:1])!r}."
                )
        _flush(pending, events)
        return events

    def _copy_data(self) -> tuple[int, memoryview]:
        try:
            return self._pgconn.get_copy_data(1)
        except psycopg.OperationalError as error:
            raise self._failed(str(error)) from error

    def _backup_end(self) -> BackupEnd:
        rows: _Rows = []
        while (result := self._result()) is not None:
            rows += _rows(result)
        if not rows or rows[0][0] is None:
            raise self._failed("the stream ended without a stop position")
        return BackupEnd(stop_lsn=rows[0][0], timeline=int(rows[0][1] or 0))


_DATA_CORRUPTED = b"XX001"  # https://www.postgresql.org/docs/current/errcodes-appendix.html
_DATA, _ARCHIVE, _MANIFEST, _PROGRESS = b"dnmp"


def _rows(result: pq.abc.PGresult) -> _Rows:
    def text(row: int, column: int) -> str | None:
        value = result.get_value(row, column)
        return None if value is None else value.decode()

    return [[text(row, column) for column in range(result.nfields)] for row in range(result.ntuples)]


def _flush(pending: list[memoryview | bytes], events: list[Event]) -> None:
    if pending:
        events.append(b"".join(pending))
        pending.clear()


def _start_of(message: bytes) -> ArchiveStart | ManifestStart:
    if message[0] == _MANIFEST:
        return ManifestStart()
    name, location = message[1:].split(b"\0")[:2]
    return ArchiveStart(name.decode(), location.decode())
