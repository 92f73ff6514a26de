"""A JetStream server as nats-py sees it, for the snapshot and restore APIs; what it sends can be made wrong."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import nats.errors
from nats.aio.client import Client

from recovery.adapters.nats.connection import NatsServer

SERVER = NatsServer("127.0.0.1", 4222)
CREATED = "2026-11-22T10:00:00.123456789Z"


def uvarint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def entry(name: str, payload: bytes, sequence: int = 0) -> bytes:
    """One entry of an archive of format 2."""
    sizes = uvarint(2) + uvarint(sequence) + uvarint(0) + uvarint(len(payload))
    return uvarint(len(name)) + sizes + name.encode() + payload


def framed(*blocks: bytes) -> bytes:
    """An S2 stream of plain blocks."""
    frames = (b"\x01" + (len(block) + 4).to_bytes(3, "little") + bytes(4) + block for block in blocks)
    return b"\xff\x06\x00\x00S2sTwO" + b"".join(frames)


def archive(state: dict[str, Any], *, ending: bytes = bytes(5)) -> bytes:
    """Of format 2, with a message of 1000 bytes for each that ``state`` counts."""
    messages = b"".join(entry("events.x", b"m" * 1000, state["first_seq"] + i) for i in range(state["messages"]))
    return framed(b"NATSARC1" + entry("state.json", json.dumps(state).encode()), messages, ending or messages[-5:])


def tar_archive(*, ending: bytes = bytes(1024)) -> bytes:
    """Of format 1."""
    header = (b"meta.inf".ljust(257, b"\0") + b"ustar\0").ljust(512, b"\0")
    return framed(header + b"content".ljust(512, b"\0"), ending)


def state_of(messages: int, first: int = 1) -> dict[str, Any]:
    return {
        "messages": messages, "bytes": messages * 1000, "first_seq": first, "first_ts": CREATED,
        "last_seq": first + messages - 1, "last_ts": CREATED, "consumer_count": 0,
    }  # fmt: skip


def config_of(name: str, **settings: Any) -> dict[str, Any]:
    return {"name": name, "subjects": [f"{name}.>"], "storage": "file", "retention": "limits", "num_replicas": 1,
            "metadata": {"_nats.req.level": "0"}, **settings}  # fmt: skip


def consumer(name: str, handled: int, delivered: int) -> dict[str, Any]:
    return {
        "name": name, "config": {"durable_name": name, "ack_policy": "explicit"},
        "delivered": {"stream_seq": delivered}, "ack_floor": {"stream_seq": handled},
    }  # fmt: skip


@dataclass
class Message:
    data: bytes
    reply: str = ""
    headers: dict[str, str] | None = None


@dataclass
class FakeStream:
    config: dict[str, Any]
    state: dict[str, Any]
    consumers: list[dict[str, Any]] = field(default_factory=list)
    created: str = CREATED


Sent = list[Message]


def cut(stream: str, data: bytes, size: int) -> Sent:
    """What a server sends for an archive: full chunks with their places, the rest without, and a status."""
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    place = f"$JS.SNAPSHOT.ACK.{stream}.id.{size}"
    sent = [Message(piece, f"{place}.{number}" if len(piece) == size else "") for number, piece in enumerate(pieces, 1)]
    return [*sent, Message(b"", headers={"Status": "204"})]


@dataclass
class FakeJetStream:
    """``tamper`` changes the messages of a snapshot before they are sent; ``answers`` overrules whole API answers."""

    streams: dict[str, FakeStream] = field(default_factory=dict)
    version: str = "2.15.1"
    window: int = 4
    tamper: Callable[[Sent], Sent] = lambda sent: sent
    answers: dict[str, Any] = field(default_factory=dict)
    after_snapshot: Callable[[FakeStream], None] = lambda stream: None
    refuse_piece: int | None = None  # the number of the piece of a restore that is answered with an error
    refusal: bytes = b'{"error": {"err_code": 10062, "description": "restore failed: unexpected header"}}'
    silent_after: int | None = None  # after so many pieces nobody answers any more
    refuse_end: bool = False
    restored_state: Callable[[dict[str, Any]], dict[str, Any]] = lambda state: state
    unasked: bool = False  # the server did not wait for acknowledgements
    requests: list[str] = field(default_factory=list)
    pieces: list[bytes] = field(default_factory=list)
    given_up: int = 0
    acknowledged: int = 0
    most_unread: int = 0
    snapshots_ended: int = 0

    # What nats-py's client offers, as far as it is used.
    max_payload = 1 << 20
    is_connected = True

    def __post_init__(self) -> None:
        self._server_info = {"version": self.version}
        self._slots = asyncio.Semaphore(self.window)
        self._callback: Callable[[Any], Awaitable[None]] | None = None
        self._sending: set[asyncio.Task[None]] = set()
        self._restoring: dict[str, Any] = {}

    @contextlib.asynccontextmanager
    async def connect(
        self, server: NatsServer, on_error: Callable[[Exception], None] = lambda error: None
    ) -> AsyncIterator[Client]:
        yield self  # type: ignore[misc]

    @contextlib.asynccontextmanager
    async def connect_apart(
        self, server: NatsServer, on_error: Callable[[Exception], None] = lambda error: None
    ) -> AsyncIterator[Client]:
        """Each connection with a snapshot or restore of its own, on the same streams."""
        yield replace(self)  # type: ignore[misc]

    def new_inbox(self) -> str:
        return "_INBOX.test"

    async def flush(self, timeout: int = 10) -> None:
        await asyncio.sleep(0)

    async def subscribe(self, subject: str, cb: Callable[[Any], Awaitable[None]], **limits: Any) -> FakeJetStream:
        self._callback = cb
        return self

    async def unsubscribe(self) -> None:
        self._callback = None
        for task in self._sending:
            self.snapshots_ended += not task.done()
            task.cancel()

    async def publish(self, subject: str, data: bytes = b"") -> None:
        if subject.startswith("$JS.SNAPSHOT.ACK"):
            self.acknowledged += 1
            self._slots.release()
        else:
            self.given_up += 1

    async def request(self, subject: str, payload: bytes = b"", timeout: float = 1.0) -> Message:
        await asyncio.sleep(0)
        if subject == "restore.here":
            return self._piece(payload)
        name = subject.removeprefix("$JS.API.")
        self.requests.append(name)
        body = json.loads(payload) if payload else {}
        answer = self.answers[name] if name in self.answers else self._answer(name, body)
        return Message(json.dumps(answer).encode())

    def _answer(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        verb, _, stream = name.rpartition(".")
        if name == "INFO":
            return {"api": {"level": 5}}
        if name == "STREAM.LIST":
            entries = [{"config": one.config, "state": one.state} for one in self.streams.values()]
            return {"total": len(entries), "streams": entries}
        if verb == "STREAM.RESTORE":
            if stream in self.streams:
                return {"error": {"err_code": 10130, "description": "stream name already in use, cannot restore"}}
            self._restoring = body
            # As a server that keeps what it has when a restore ends too early.
            self.streams[stream] = FakeStream(body["config"], state_of(0))
            return {"deliver_subject": "restore.here"}
        found = self.streams.get(stream)
        if found is None:
            return {"error": {"err_code": 10059, "description": "stream not found"}}
        if verb == "STREAM.DELETE":
            del self.streams[stream]
        if verb == "STREAM.UPDATE":
            found.config = body
        if verb == "CONSUMER.LIST":
            return {"total": len(found.consumers), "consumers": found.consumers}
        if verb == "STREAM.SNAPSHOT":
            return self._snapshot(found, body)
        return {"config": found.config, "state": found.state, "created": found.created}

    def _snapshot(self, stream: FakeStream, body: dict[str, Any]) -> dict[str, Any]:
        sent = self.tamper(cut(stream.config["name"], archive(stream.state), int(body["chunk_size"])))
        answer = {"config": stream.config, "state": dict(stream.state)}
        self._sending.add(asyncio.create_task(self._send(sent)))
        self.after_snapshot(stream)
        return answer

    async def _send(self, sent: Sent) -> None:
        for number, message in enumerate(sent, 1):
            if message.reply and not self.unasked:
                await self._slots.acquire()
            await asyncio.sleep(0)
            if self._callback is None:
                return
            self.most_unread = max(self.most_unread, number - self.acknowledged)
            await self._callback(message)

    def _piece(self, data: bytes) -> Message:
        stream = self._restoring["config"]["name"]
        if self.silent_after is not None and len(self.pieces) >= self.silent_after:
            raise nats.errors.NoRespondersError
        if data:
            self.pieces.append(data)
            if self.refuse_piece == len(self.pieces):
                return Message(self.refusal)
            return Message(b"")
        if self.refuse_end:
            return Message(b'{"error": {"err_code": 10062, "description": "unexpected EOF"}}')
        state = self.restored_state(dict(self._restoring["state"]))
        self.streams[stream].state = state
        return Message(json.dumps({"config": self._restoring["config"], "state": state}).encode())
