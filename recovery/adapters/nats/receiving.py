"""One snapshot of one stream as the server sends it: chunks in order, acknowledged, up to a status.

Protocol (nats-server, ``jsStreamSnapshotRequest`` and ``streamSnapshot`` of ``server/jetstream_api.go``): a request to
``$JS.API.STREAM.SNAPSHOT.<stream>`` names a subject, to which full chunks come with a reply subject that ends in
``<length>.<index>``, the index from 1, then perhaps a shorter chunk without one, then an empty message, with the header
``Status`` 204 for success. The server keeps a window of chunks in flight, and gives up when nothing was acknowledged
for 5 s (2 s before 2.11), or when nobody listens any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from recovery.adapters.nats.connection import LOST, api
from recovery.errors import RecoveryError, SourceFailed, Unreachable

STATUS_SINCE = (2, 10, 20)
"""From this version on every snapshot of at least one full chunk ends with a status."""


@dataclass(frozen=True)
class SnapshotLimits:
    """Limits of one snapshot in memory and time.

    A reader that waits for its locations holds the server up. So that the server does not give up, one chunk more is
    taken every ``drip_seconds``, until ``buffer_bytes`` are held: with the defaults a reader may rest for two minutes.
    """

    chunk_bytes: int = 128 << 10
    window_bytes: int = 4 << 20
    buffer_bytes: int = 16 << 20
    drip_seconds: float = 1.0
    reply_seconds: float = 60.0  # until the server begins
    idle_seconds: float = 30.0  # without a chunk


class ChunkReceiver:
    """One snapshot. ``version`` is the server's."""

    def __init__(self, client: Client, stream: str, version: tuple[int, ...], limits: SnapshotLimits) -> None:
        self._client = client
        self._stream = stream
        self._version = version
        self._limits = limits
        self._size = min(limits.chunk_bytes, client.max_payload or limits.chunk_bytes)
        self._held: deque[tuple[bytes, str]] = deque()
        self._held_bytes = 0
        self._ahead = 0  # so many of the held ones were acknowledged already
        self._full = 0  # full chunks that came
        self._short = False  # the last, shorter chunk came
        self._acknowledged_at = time.monotonic()
        self._ended = False
        self._failure: RecoveryError | None = None
        self._news = asyncio.Event()
        self._subscription: Subscription | None = None

    async def begin(self) -> dict[str, Any]:
        """The server's answer, with ``config`` and ``state`` of the stream.

        Raises ApiError, and what a connection raises.
        """
        inbox = self._client.new_inbox()
        # The window bounds what is in flight; servers without one are bounded by our own limit in `_take`.
        self._subscription = await self._client.subscribe(inbox, cb=self._came, pending_bytes_limit=128 << 20)
        await self._client.flush(timeout=int(self._limits.reply_seconds) or 1)
        request = {"deliver_subject": inbox, "chunk_size": self._size, "window_size": self._limits.window_bytes}
        return await api(self._client, f"STREAM.SNAPSHOT.{self._stream}", request, self._limits.reply_seconds)

    def lost(self, error: Exception) -> None:
        """What nats-py says of the connection: a message that it dropped is missed."""
        self._fail(Unreachable(f"the connection to stream {self._stream} failed: {error!r}"))

    async def _came(self, message: Msg) -> None:
        if self._failure is not None or self._ended:
            return
        try:
            self._take(message)
        except RecoveryError as error:
            self._fail(error)
        self._news.set()

    def _take(self, message: Msg) -> None:
        if not message.data:
            self._check_status(message.headers or {})
            self._ended = True
            return
        if self._short:
            raise self._incomplete("a chunk came after the one that should have been the last")
        if message.reply:
            self._check_place(message)
        elif len(message.data) >= self._size:
            raise self._incomplete("a full chunk came without its place")
        else:
            self._short = True
        self._held.append((message.data, message.reply))
        self._held_bytes += len(message.data)
        if self._held_bytes > self._limits.buffer_bytes:
            raise Unreachable(
                f"The backup of stream {self._stream} was read too slowly: {self._held_bytes >> 20} MiB wait, and the"
                " server does not wait longer. Look at the locations' speed, or back up fewer streams at once."
            )

    def _check_place(self, message: Msg) -> None:
        length, index = message.reply.split(".")[-2:]
        self._full += 1
        if index != str(self._full):
            raise self._incomplete(f"chunk {index} came where chunk {self._full} was expected")
        if length != str(len(message.data)):
            raise self._incomplete(f"chunk {index} has {len(message.data)} of {length} bytes")

    def _check_status(self, headers: dict[str, str]) -> None:
        status = headers.get("Status", "")
        if status.startswith("204"):
            return
        if status:
            words = f"{status} {headers.get('Description', '')}".strip()
            if status.startswith("408"):
                raise Unreachable(f"NATS ended the snapshot of stream {self._stream}: {words}.")
            raise SourceFailed(f"NATS could not complete the snapshot of stream {self._stream}: {words}.")
        if self._full and self._version >= STATUS_SINCE:
            raise self._incomplete("it ended without a status")

    def _incomplete(self, words: str) -> SourceFailed:
        return SourceFailed(f"The snapshot of stream {self._stream} is incomplete: {words}. It was given up.")

    def _fail(self, error: RecoveryError) -> None:
        if self._failure is None and not self._ended:
            self._failure = error
        self._news.set()

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """All bytes of the archive; the end says that the server completed it.

        Raises:
            SourceFailed: the server gave up, or a chunk is missing or has another length.
            Unreachable: the server is gone or silent, or this was read too slowly.
        """
        dripping = asyncio.create_task(self._drip())
        try:
            while True:
                if self._failure is not None:
                    raise self._failure
                if self._held:
                    yield await self._next()
                elif self._ended:
                    return
                else:
                    await self._wait()
        finally:
            dripping.cancel()
            await asyncio.wait({dripping})

    async def _next(self) -> bytes:
        data, reply = self._held.popleft()
        self._held_bytes -= len(data)
        if self._ahead:
            self._ahead -= 1
        else:
            await self._acknowledge(reply)
        return data

    async def _acknowledge(self, reply: str) -> None:
        self._acknowledged_at = time.monotonic()
        if reply:
            try:
                await self._client.publish(reply)
            except LOST as error:
                raise Unreachable(f"NATS was lost during the snapshot of stream {self._stream}: {error!r}") from error

    async def _wait(self) -> None:
        """For the next message; whether the connection still stands is looked at each second."""
        until = time.monotonic() + self._limits.idle_seconds
        self._news.clear()
        while not self._news.is_set():
            if not self._client.is_connected:
                raise Unreachable(f"NATS was lost during the snapshot of stream {self._stream}.")
            if time.monotonic() > until:
                seconds = self._limits.idle_seconds
                raise Unreachable(f"NATS sent nothing of stream {self._stream} for {seconds:g} s.")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(1.0, self._limits.idle_seconds)):
                    await self._news.wait()

    async def _drip(self) -> None:
        """Keeps the server's patience while the reader rests."""
        while True:
            await asyncio.sleep(self._limits.drip_seconds / 2)
            rested = time.monotonic() - self._acknowledged_at
            if rested >= self._limits.drip_seconds and self._ahead < len(self._held):
                reply = self._held[self._ahead][1]
                self._ahead += 1
                try:
                    await self._acknowledge(reply)
                except Unreachable as error:
                    self._fail(error)
                    return

    async def end(self) -> None:
        """Nobody listens any more: a server that is still sending ends its snapshot."""
        if self._subscription is not None:
            subscription, self._subscription = self._subscription, None
            with contextlib.suppress(*LOST):
                await subscription.unsubscribe()
                await self._client.flush(timeout=1)
