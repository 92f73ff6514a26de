"""WAL over PostgreSQL's streaming replication protocol, with the flush position held until somebody acknowledges it.

Source of the protocol: the PostgreSQL manual, "Streaming Replication Protocol", command START_REPLICATION: a COPY BOTH
whose messages begin with a type byte. From the server ``w`` (WAL: start, end of the server's WAL, its clock, bytes) and
``k`` (keepalive: what it has sent, its clock, whether it wants an answer), to the server ``r`` (status: written,
flushed and applied positions, our clock, whether we want an answer). All integers are big-endian; clocks are
microseconds since 2000-01-01 UTC.

``pg_receivewal`` is not used: it reports what it has written to a local disk, and the server removes WAL on that word.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import select
import struct
import threading
import time
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import psycopg
from psycopg import pq

from recovery.adapters.postgres.connection import connected
from recovery.adapters.postgres.replication import ReplicationSession
from recovery.domain.timelines import lsn_order, lsn_text
from recovery.errors import BadInput, NotFound, Refused, SourceFailed, Unreachable
from recovery.ports.postgres import PostgresLogin
from recovery.ports.wal import WalBytes, WalEnd, WalEvent, WalIdle, WalServer

BUFFER_BYTES = 16 << 20
BATCH_BYTES = 1 << 20
STATUS_SECONDS = 1.0
SILENCE_SECONDS = 15.0
HOLDER_SECONDS = 10.0

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_WAL = struct.Struct(">cQQQ")
_KEEPALIVE = struct.Struct(">cQQ?")
_STATUS = struct.Struct(">cQQQQ?")
_REPLAYS_NOTHING = 0  # so that nobody takes this session for a standby
_SLICE_MILLISECONDS = 100
_SLOT_NAME = re.compile(r"[a-z0-9_]{1,63}")
_SIZE = re.compile(r"(\d+)(MB|GB|kB|B)?")
_UNITS = {"MB": 1 << 20, "GB": 1 << 30, "kB": 1 << 10, "B": 1}

_END_HOLDER = """
SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1 AND active_pid IS NOT NULL
"""
_SLOT = """
SELECT slot_type, temporary, restart_lsn::text AS restart, wal_status FROM pg_replication_slots WHERE slot_name = $1
"""


class WalStream(ReplicationSession):
    """``recovery.ports.wal.WalSource`` of one server.

    A thread of its own reads the stream and answers the server, also while nobody calls ``receive``. It waits for the
    socket without the interpreter lock and holds ``BUFFER_BYTES`` at most: what is not received stays at the server.

    Args:
        login: a role with REPLICATION, which may end its own sessions (any role may) and see ``pg_replication_slots``.
        slot: name of a physical slot; it is made when it is missing, and nobody else may use it.
        silence_seconds: without any word from the server for so long, it counts as gone.

    Raises:
        BadInput: a name that no slot may have.
    """

    purpose = "WAL stream"

    def __init__(self, login: PostgresLogin, slot: str, *, silence_seconds: float = SILENCE_SECONDS) -> None:
        super().__init__(login, stall_seconds=silence_seconds)
        if not _SLOT_NAME.fullmatch(slot):
            raise BadInput(f"{slot!r} is no name of a slot: expected lower-case letters, digits and underscores")
        self._slot = slot
        self._lock = threading.Lock()
        self._events: deque[WalEvent] = deque()
        self._buffered = 0
        self._position = 0  # the server's, when it said who it is
        self._received = 0
        self._acknowledged = 0
        self._reported = 0
        self._first: tuple[int, memoryview] | None = None  # what `start` has read of the stream
        self._news = asyncio.Event()
        self._pump: asyncio.Future[None] | None = None

    async def identify(self) -> WalServer:
        await self.open()
        identity = (await self.query("IDENTIFY_SYSTEM"))[0]
        size = (await self.query("SHOW wal_segment_size"))[0][0] or ""
        self._position = lsn_order(str(identity[2]))
        return WalServer(
            system_identifier=str(identity[0]),
            timeline=int(identity[1] or 0),
            position=self._position,
            segment_bytes=_bytes_of(size),
        )

    async def history(self, timeline: int) -> str:
        rows = await self.query(f"TIMELINE_HISTORY {int(timeline)}")
        return rows[0][1] or ""

    async def take_slot(self) -> int:
        async with connected(self._login, f"take the slot {self._slot}") as connection:
            row = await connection.fetchrow(_SLOT, self._slot)
            if row is not None and (row["slot_type"] != "physical" or row["temporary"]):
                raise Refused(
                    f"the slot {self._slot} at {self._login.address} is not a lasting physical one: it is somebody "
                    "else's. Name another slot for the WAL archive."
                )
            if row is not None and (row["restart"] is None or row["wal_status"] == "lost"):
                # The server gave it up (max_slot_wal_keep_size), and nothing streams from such a slot any more.
                await connection.execute("SELECT pg_drop_replication_slot($1)", self._slot)
                row = None
            if row is None:
                await connection.execute("SELECT pg_create_physical_replication_slot($1, true)", self._slot)
            deadline = time.monotonic() + HOLDER_SECONDS
            while await connection.fetchval(_END_HOLDER, self._slot) is not None:
                if time.monotonic() > deadline:
                    raise Unreachable(
                        f"the session that holds the slot {self._slot} at {self._login.address} does not end"
                    )
                await asyncio.sleep(0.05)
            row = await connection.fetchrow(_SLOT, self._slot)
        if row is None or row["restart"] is None:
            raise Unreachable(f"the slot {self._slot} at {self._login.address} reserves no WAL")
        return lsn_order(row["restart"])

    async def start(self, timeline: int, position: int) -> None:
        command = f"START_REPLICATION SLOT {self._slot} PHYSICAL {lsn_text(position)} TIMELINE {int(timeline)}"
        await self._in_thread(lambda: self._start(command, position))
        self._received = position
        self._acknowledged = self._reported = 0  # zero: no news, the slot stays where it is
        self._news.clear()
        loop = asyncio.get_running_loop()
        self._pump = loop.run_in_executor(self._thread, self._read_wal, loop)
        self._pump.add_done_callback(self._pump_ended)

    def _pump_ended(self, pump: asyncio.Future[None]) -> None:
        if not pump.cancelled():
            pump.exception()  # `receive` raises it; after `close` nobody wants to know
        self._news.set()

    async def receive(self, seconds: float) -> Sequence[WalEvent]:
        if self._pump is None:
            raise RuntimeError("receive() before start()")
        if not self._events:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._news.wait()
        with self._lock:
            events = list(self._events)
            self._events.clear()
            self._buffered = 0
            self._news.clear()
        if not events and self._pump.done():
            self._pump.result()
        return events

    def acknowledge(self, position: int) -> None:
        self._acknowledged = max(self._acknowledged, position)

    # What follows runs in the session's thread.

    def _failed(self, words: str) -> Unreachable | SourceFailed:
        said = "; ".join(part for part in [" ".join(words.split()), *self._warnings] if part)
        where = f"PostgreSQL at {self._login.address}"
        if re.search(r'could not open file "pg_wal/\S+\.history"', said):
            return SourceFailed(f"{where} does not have it: {said}")
        return Unreachable(f"{where} ended the {self.purpose}: {said}")

    def _start(self, command: str, position: int) -> None:
        self._send(command)
        while self._pgconn.is_busy():
            self._wait_readable()
        result = self._pgconn.get_result()
        if result is None or result.status != pq.ExecStatus.COPY_BOTH:
            raise self._not_started(result)
        # The server agrees first, and finds out that it has the WAL no more when it reads it.
        self._first = self._first_wal() if position < self._position else None

    def _first_wal(self) -> tuple[int, memoryview]:
        """The first message with WAL, or the end of the stream."""
        while True:
            length, message = super()._copy_data()
            if length == 0:
                self._wait_readable()
            elif length < 0:
                result = self._pgconn.get_result()
                if result is None or result.status != pq.ExecStatus.COPY_IN:
                    raise self._not_started(result)
                return length, message
            elif bytes(message[:1]) == b"w":
                return length, message

    def _copy_data(self) -> tuple[int, memoryview]:
        first, self._first = self._first, None
        return super()._copy_data() if first is None else first

    def _not_started(self, result: pq.abc.PGresult | None) -> NotFound | Unreachable | SourceFailed:
        words = "" if result is None else " ".join(result.get_error_message().split())
        while self._pgconn.get_result() is not None:
            continue
        where = f"PostgreSQL at {self._login.address}"
        if "has already been removed" in words:
            return NotFound(f"{where} has removed that WAL: {words}")
        if "is active for PID" in words or "starting up" in words or "shutting down" in words:
            return Unreachable(f"{where} does not stream yet: {words}")
        return SourceFailed(f"{where} does not stream: {words}")

    def _read_wal(self, loop: asyncio.AbstractEventLoop) -> None:
        heard = time.monotonic()
        status_due = 0.0
        while not self._stopping.is_set():
            now = time.monotonic()
            if now >= status_due or self._acknowledged > self._reported:
                self._send_status()
                status_due = now + STATUS_SECONDS
            if self._buffered >= BUFFER_BYTES:
                time.sleep(_SLICE_MILLISECONDS / 1000)  # the server keeps the rest, and still hears from us
                heard = time.monotonic()
                continue
            batch, ended = self._take_messages()
            if batch:
                heard = now
                self._hand_over(batch, loop)
            if ended:
                return
            if not batch and not self._readable() and time.monotonic() > heard + self._stall_seconds:
                raise Unreachable(
                    f"PostgreSQL at {self._login.address} said nothing for {self._stall_seconds:.0f} s: "
                    "the server or the network between us stands still."
                )

    def _readable(self) -> bool:
        poll = select.poll()
        poll.register(self._pgconn.socket, select.POLLIN)
        if not poll.poll(_SLICE_MILLISECONDS):
            return False
        try:
            self._pgconn.consume_input()
        except psycopg.OperationalError as error:
            raise self._failed(str(error)) from error
        return True

    def _take_messages(self) -> tuple[list[WalEvent], bool]:
        """What has arrived, WAL joined to batches of about 1 MiB, and whether the stream has ended."""
        events: list[WalEvent] = []
        bodies: list[memoryview] = []
        start, last = 0, (0, 0)
        size = 0

        def join() -> None:
            if bodies:
                events.append(WalBytes(start, b"".join(bodies), _moment(last[1]), last[0]))
                bodies.clear()

        while size < BATCH_BYTES:
            length, message = self._copy_data()
            if length <= 0:
                join()
                if length < 0:
                    events.append(self._stream_end())
                return events, length < 0
            kind = bytes(message[:1])
            if kind == b"w":
                _, begin, server_end, clock = _WAL.unpack_from(message)
                if not bodies:
                    start = begin
                body = memoryview(message)[_WAL.size :]
                bodies.append(body)
                last = (server_end, clock)
                size += len(body)
                self._received = begin + len(body)
            elif kind == b"k":
                join()
                _, sent, clock, urgent = _KEEPALIVE.unpack_from(message)
                events.append(WalIdle(sent, _moment(clock), urgent))
            else:
                raise SourceFailed(f"PostgreSQL at {self._login.address} sent an unknown message {kind!r}.")
        join()
        return events, False

    def _hand_over(self, batch: list[WalEvent], loop: asyncio.AbstractEventLoop) -> None:
        with self._lock:
            self._events.extend(batch)
            self._buffered += sum(len(event.body) for event in batch if isinstance(event, WalBytes))
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(self._news.set)

    def _send_status(self) -> None:
        """Asks for an answer each time: it says up to where, and at what time, the server has sent everything."""
        safe = self._acknowledged
        clock = int((datetime.now(UTC) - _EPOCH) / timedelta(microseconds=1))
        message = _STATUS.pack(b"r", self._received, safe, _REPLAYS_NOTHING, clock, True)
        try:
            self._pgconn.put_copy_data(message)
            self._pgconn.flush()
        except psycopg.OperationalError as error:
            raise self._failed(str(error)) from error
        self._reported = safe

    def _stream_end(self) -> WalEnd:
        """The timeline was left, or the server shuts down. Raises what the server said where it failed."""
        self._result()
        try:
            self._pgconn.put_copy_end()
            while self._pgconn.flush():
                time.sleep(0.01)
        except psycopg.OperationalError as error:
            raise self._failed(str(error)) from error
        found: WalEnd | None = None
        while (result := self._result()) is not None:
            if result.status == pq.ExecStatus.TUPLES_OK and result.ntuples == 1:
                number, left = result.get_value(0, 0) or b"", result.get_value(0, 1) or b""
                found = WalEnd(int(number), lsn_order(left.decode()))
        if found is None:
            raise self._failed("it shut down, or its role changed")
        return found


def _moment(clock: int) -> datetime:
    return _EPOCH + timedelta(microseconds=clock)


def _bytes_of(text: str) -> int:
    found = _SIZE.fullmatch(text)
    if found is None:
        raise SourceFailed(f"the server's wal_segment_size {text!r} is no size")
    return int(found[1]) * _UNITS[found[2] or "B"]
