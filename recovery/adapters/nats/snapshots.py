"""Backup of JetStream streams through the snapshot API, as artefacts that the ``nats`` command reads.

Each stream gives ``<stream>/stream.tar.s2``, the server's own bytes, and ``<stream>/backup.json``, its configuration
and state: the files of ``nats account backup`` (jsm.go, ``snapshots.go``). A snapshot counts only when its chunks came
in order and whole, its status was success, its archive ends as one ends, and its state fits the stream's before and
after it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Protocol, Self

from nats.aio.client import Client

from recovery.adapters.nats.archive import ArchiveCheck
from recovery.adapters.nats.connection import LOST, NOT_FOUND, ApiError, NatsServer, api, connected, stream_info
from recovery.adapters.nats.consumers import Position, positions
from recovery.adapters.nats.receiving import ChunkReceiver, SnapshotLimits
from recovery.adapters.nats.stream_state import check_snapshot_state, positions_between, surely_kept, version_of
from recovery.backup.bounded import to_the_end
from recovery.domain.jetstream import JetStreamSource, StreamPart
from recovery.domain.recovery_point import BackupKind
from recovery.errors import Corrupt, NotFound, SourceFailed, Unreachable
from recovery.ports.jetstream import archive_name, description_name

AT_ONCE = 4  # streams; each holds at most SnapshotLimits.buffer_bytes
TEMPORARY = frozenset({10008, 10009})
"""Error codes of JetStream: the cluster has no leader now, or another one."""

_NO_SNAPSHOTS = 10064  # "no impl": memory streams before 2.15


class Connect(Protocol):
    def __call__(
        self, server: NatsServer, on_error: Callable[[Exception], None] = ...
    ) -> AbstractAsyncContextManager[Client]: ...


@contextlib.asynccontextmanager
async def translated(server: NatsServer, purpose: str) -> AsyncIterator[None]:
    """JetStream's and nats-py's errors become Unreachable, NotFound and SourceFailed."""
    try:
        yield
    except ApiError as error:
        if error.code in NOT_FOUND:
            raise NotFound(f"NATS {server} was asked to {purpose}: {error}.") from error
        if error.code in TEMPORARY:
            raise Unreachable(f"NATS {server} cannot {purpose} now: {error}.") from error
        hint = " Memory streams can be backed up from NATS 2.15 on." if error.code == _NO_SNAPSHOTS else ""
        raise SourceFailed(f"NATS {server} refused to {purpose}: {error}.{hint}") from error
    except LOST as error:
        raise Unreachable(f"NATS {server} could not be asked to {purpose}: {error!r}.") from error


@dataclass(frozen=True)
class _Taken:
    answer: dict[str, Any]
    part: StreamPart


class _Archive:
    """The server's snapshot begins when it is read, and ends with it."""

    def __init__(self, source: SnapshotSource, stream: str) -> None:
        self.name = archive_name(stream)
        self._source = source
        self._stream = stream

    async def chunks(self) -> AsyncIterator[bytes]:
        async with contextlib.aclosing(self._source.snapshot(self._stream)) as chunks:
            async for chunk in chunks:
                yield chunk


class _Description:
    def __init__(self, source: SnapshotSource, stream: str) -> None:
        self.name = description_name(stream)
        self._source = source
        self._stream = stream

    async def chunks(self) -> AsyncIterator[bytes]:
        yield description(await self._source.answer(self._stream))


def description(answer: dict[str, Any]) -> bytes:
    """The text of ``backup.json``."""
    return json.dumps({"config": answer["config"], "state": answer["state"]}, indent=2).encode()


class SnapshotSource:
    """``StreamsSource`` of chosen streams, or of all in the account."""

    kind = BackupKind.STREAMS

    def __init__(
        self,
        server: NatsServer,
        streams: Sequence[str] | None = None,
        *,
        at_once: int = AT_ONCE,
        limits: SnapshotLimits | None = None,
        connect: Connect = connected,
    ) -> None:
        self.at_once = at_once
        self._server = server
        self._chosen = None if streams is None else list(dict.fromkeys(streams))
        self._limits = limits or SnapshotLimits()
        self._connect = connect
        self._streams: list[str] = []
        self._taken: dict[str, asyncio.Future[_Taken]] = {}
        self._sizes: dict[str, int] = {}
        self._info: dict[str, Any] = {}
        self._version = ""
        self._cluster: str | None = None

    @property
    def expected_bytes(self) -> int:
        return sum(self._sizes.values())

    async def __aenter__(self) -> Self:
        async with translated(self._server, "list its streams"), self._connect(self._server) as client:
            self._version = str(client._server_info.get("version", ""))  # nats-py's own property drops parts of it
            self._cluster = client._server_info.get("cluster") or None
            self._info = await api(client, "INFO")
            streams = await stream_list(client)
            self._sizes = {str(entry["config"]["name"]): int(entry["state"]["bytes"]) for entry in streams}
        self._streams = sorted(self._sizes) if self._chosen is None else self._chosen
        if not self._streams:
            raise NotFound(f"NATS {self._server} has no stream in this account.")
        if missing := [name for name in self._streams if name not in self._sizes]:
            known = ", ".join(sorted(self._sizes)) or "none"
            raise NotFound(f"NATS {self._server} has no stream {missing[0]!r}: it has {known}.")
        self._sizes = {name: self._sizes[name] for name in self._streams}
        self._taken = {name: asyncio.get_running_loop().create_future() for name in self._streams}
        return self

    async def artefacts(self) -> AsyncIterator[_Archive | _Description]:
        for stream in self._streams:
            yield _Archive(self, stream)
        for stream in self._streams:
            yield _Description(self, stream)

    async def answer(self, stream: str) -> dict[str, Any]:
        """Configuration and state of a stream, once its archive was read."""
        return (await self._taken[stream]).answer

    async def snapshot(self, stream: str) -> AsyncGenerator[bytes, None]:
        """The bytes of one archive. Left early, the server's snapshot ends.

        Raises:
            SourceFailed: the snapshot was refused, failed or is incomplete.
            Unreachable: the server is gone or silent, or this was read too slowly.
        """
        receiver: ChunkReceiver | None = None

        def lost(error: Exception) -> None:
            if receiver is not None:
                receiver.lost(error)

        purpose = f"take a snapshot of stream {stream}"
        async with translated(self._server, purpose), self._connect(self._server, lost) as client:
            began_at = datetime.now(UTC)
            before, standing = await _seen(client, stream)
            version = str(before["config"].get("metadata", {}).get("_nats.ver") or self._version)
            receiver = ChunkReceiver(client, stream, version_of(version), self._limits)
            check = ArchiveCheck()
            try:
                answer = await receiver.begin()
                async with contextlib.aclosing(receiver.chunks()) as chunks:
                    async for chunk in chunks:
                        with _whole(stream):
                            check.feed(chunk)
                        yield chunk
            finally:
                await to_the_end(receiver.end())
            taken = await self._conclude(client, stream, version, before, standing, answer, check, began_at)
        self._taken[stream].set_result(taken)

    async def _conclude(
        self,
        client: Client,
        stream: str,
        version: str,
        before: dict[str, Any],
        standing: list[Position],
        answer: dict[str, Any],
        check: ArchiveCheck,
        began_at: datetime,
    ) -> _Taken:
        with _whole(stream):
            head = await asyncio.to_thread(check.finish)  # it unpacks a block of up to 4 MiB
        after, standing_after = await _seen(client, stream)
        check_snapshot_state(stream, before, answer, head, after)
        config, state = answer["config"], answer["state"]
        last = int(state["last_seq"])
        part = StreamPart(
            stream=stream,
            created_at=str(before["created"]),
            storage=str(config.get("storage", "file")),
            replicas=int(config.get("num_replicas") or 1),
            retention=str(config.get("retention", "limits")),
            archive_format=head.format,
            server_version=version,
            messages=int(state["messages"]),
            at_least=surely_kept(state, after["state"]),
            bytes=int(state["bytes"]),
            archive_bytes=check.bytes,
            first_seq=int(state["first_seq"]),
            first_seq_after=int(after["state"]["first_seq"]),
            last_seq=last,
            last_at=state.get("last_ts") if last else None,
            consumers=positions_between(standing, standing_after, last),
            began_at=began_at,
            finished_at=datetime.now(UTC),
        )
        return _Taken(answer, part)

    async def finish(self) -> JetStreamSource:
        """Raises RuntimeError before all archives were read."""
        if unread := [name for name, taken in self._taken.items() if not taken.done()]:
            raise RuntimeError(f"finish() before the archive of {unread[0]} was read")
        parts = [self._taken[name].result().part for name in self._streams]
        return JetStreamSource(
            server_version=self._version,
            api_level=int((self._info.get("api") or {}).get("level", 0)),
            cluster=self._cluster,
            domain=self._info.get("domain") or None,
            streams=parts,
            notes=_notes(parts),
        )

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for taken in self._taken.values():
            taken.cancel()


async def stream_list(client: Client) -> list[dict[str, Any]]:
    """All streams of the account, with ``config`` and ``state``. Raises ApiError, and what a connection raises."""
    found: list[dict[str, Any]] = []
    while True:
        answer = await api(client, "STREAM.LIST", {"offset": len(found)})
        entries = answer.get("streams") or []
        found += entries
        if not entries or len(found) >= int(answer.get("total", 0)):
            return found


async def _seen(client: Client, stream: str) -> tuple[dict[str, Any], list[Position]]:
    info = await stream_info(client, stream)
    if info is None:
        raise SourceFailed(f"Stream {stream} was deleted while it was backed up.")
    return info, await positions(client, stream)


@contextlib.contextmanager
def _whole(stream: str) -> Iterator[None]:
    try:
        yield
    except Corrupt as error:
        raise SourceFailed(f"The archive that NATS sent of stream {stream} is not whole: {error}.") from error


def _notes(parts: Sequence[StreamPart]) -> list[str]:
    notes = []
    for part in parts:
        if part.at_least < part.messages:
            notes.append(
                f"{part.stream} dropped messages by its limits meanwhile: the archive has {part.at_least} to"
                f" {part.messages}"
            )
        if part.storage == "memory":
            notes.append(
                f"{part.stream} is a memory stream: nats commands from before server 2.15 refuse to restore it"
            )
        if part.replicas > 1:
            notes.append(
                f"{part.stream} has {part.replicas} replicas: consumers with messages on the way go back to what they"
                " had acknowledged"
            )
    return notes
