"""JetStream's side of recovery points: ``JetStreamRecovery`` of one account."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any

from nats.aio.client import Client

from recovery.adapters.nats.archive import ArchiveCheck, ArchiveHead
from recovery.adapters.nats.connection import LOST, ApiError, NatsServer, api, connected, stream_info
from recovery.adapters.nats.consumers import positions
from recovery.adapters.nats.receiving import SnapshotLimits
from recovery.adapters.nats.restoring import (
    Upload,
    begin,
    closing,
    complete,
    mark_of,
    marked,
    patiently,
    read_ahead,
    refusal,
    remove_marked,
    restored_by,
)
from recovery.adapters.nats.snapshots import (
    AT_ONCE,
    TEMPORARY,
    Connect,
    SnapshotSource,
    stream_list,
    translated,
)
from recovery.adapters.nats.stream_state import check_server, consumer_differences, may_expire, state_differences
from recovery.backup.bounded import to_the_end
from recovery.domain.jetstream import StreamPart
from recovery.domain.restore_marks import restore_of
from recovery.errors import Corrupt, NotOurs, RecoveryError, Refused, RestoreFailed, Unreachable
from recovery.ports.jetstream import AccountSeen, RestoredStream, StoredStream, StreamRestoreOptions, StreamSeen
from recovery.ports.postgres import Progress

CLEANUP_SECONDS = 30.0
CONSUMERS_SECONDS = 15.0  # until a stream or consumer of a cluster has its leader


def stored_stream(description: bytes, part: StreamPart | None = None) -> StoredStream:
    """From the bytes of a ``backup.json``, ours or that of the ``nats`` command. Raises Corrupt."""
    try:
        body = json.loads(description)
        config, state = body["config"], body["state"]
        if not isinstance(config["name"], str):
            raise TypeError("its stream has no name")
        _ = int(state["messages"]), int(state["first_seq"]), int(state["last_seq"])
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt(f"It is no backup.json of a stream, with its config and state: {error!r}.") from error
    return StoredStream(config, state, part)


class JetStreamSnapshots:
    """``JetStreamRecovery`` of the account as whose user ``server`` logs in.

    Args:
        at_once: streams that are backed up at the same time.
    """

    def __init__(
        self,
        server: NatsServer,
        *,
        at_once: int = AT_ONCE,
        limits: SnapshotLimits | None = None,
        connect: Connect = connected,
    ) -> None:
        self._server = server
        self._at_once = at_once
        self._limits = limits
        self._connect = connect

    def source(self, streams: Sequence[str] | None = None) -> SnapshotSource:
        return SnapshotSource(self._server, streams, at_once=self._at_once, limits=self._limits, connect=self._connect)

    async def restore(
        self,
        stored: StoredStream,
        archive: AsyncIterator[bytes],
        options: StreamRestoreOptions,
        progress: Progress | None = None,
    ) -> RestoredStream:
        stream = str(stored.config["name"])
        if options.stream not in (None, stream):
            raise Refused(
                f"The archive is of stream {stream} and cannot be restored as {options.stream}: JetStream stores the"
                f" name with its data. Restore it as {stream} into another account or server, and source it from there."
            )
        async with closing(archive):
            check = ArchiveCheck()
            try:
                first = await read_ahead(archive, check)
            except Corrupt as error:
                raise Corrupt(f"The archive of stream {stream} is damaged: {error}.") from error
            async with self._translated(stream), self._connect(self._server) as client:
                await self._prepare(client, stored, check.head(), options)
                return await _Restore(client, stored, options, check).run(archive, first, progress, self)

    async def _prepare(
        self, client: Client, stored: StoredStream, head: ArchiveHead | None, options: StreamRestoreOptions
    ) -> None:
        """Everything that can be refused is refused before an existing stream is deleted."""
        stream = str(stored.config["name"])
        info = await api(client, "INFO")
        version = str(client._server_info.get("version", ""))
        if head is not None:
            source = stored.part.server_version if stored.part else None
            check_server(stored.config, head, source, version, _api_level(info))
        replicas = options.replicas or int(str(stored.config.get("num_replicas") or 1))
        if replicas > 1 and not client._server_info.get("cluster"):
            raise Refused(
                f"Stream {stream} had {replicas} replicas, and NATS {self._server} is a single server: restore it with"
                " one replica."
            )
        existing = await patiently(lambda: stream_info(client, stream), options.consumers_seconds)
        if existing is None:
            return
        if restored_by(existing) == options.restore_id:
            raise NotOurs(
                f"Stream {stream} was restored by another attempt of this restore, and is its clients' since: it was"
                " not touched."
            )
        if restore_of(mark_of(existing)) != options.restore_id and not options.replace:
            state = existing["state"]
            half = " It was left by another restore that did not end." if mark_of(existing) else ""
            raise Refused(
                f"NATS {self._server} has a stream {stream} already, with {state['messages']} messages up to sequence"
                f" {state['last_seq']}.{half} Say --replace to delete it and restore this point in its place."
            )
        await api(client, f"STREAM.DELETE.{stream}", timeout=10.0)

    async def look(self) -> AccountSeen:
        """See the port."""
        async with translated(self._server, "list its streams"), self._connect(self._server) as client:
            info = await api(client, "INFO")
            return AccountSeen(
                host=self._server.host,
                port=self._server.port,
                version=str(client._server_info.get("version", "")),
                api_level=_api_level(info),
                clustered=bool(client._server_info.get("cluster")),
                streams={str(entry["config"]["name"]): _seen(entry) for entry in await stream_list(client)},
                room=_room(info),
            )

    async def differences(self, part: StreamPart) -> list[str]:
        """See the port."""
        purpose = f"compare stream {part.stream}"
        async with translated(self._server, purpose), self._connect(self._server) as client:
            info = await patiently(lambda: stream_info(client, part.stream), CONSUMERS_SECONDS)
            if info is None:
                return [f"stream {part.stream} is not there"]
            stored = {"messages": part.messages, "first_seq": part.first_seq, "last_seq": part.last_seq}
            state = dict(info["state"])
            written = int(state["last_seq"]) - part.last_seq
            if written > 0:  # by clients, since
                state |= {"last_seq": part.last_seq, "messages": max(0, int(state["messages"]) - written)}
            ages = bool(info["config"].get("max_age") or info["config"].get("allow_msg_ttl"))
            found = state_differences(
                stored, state, at_least=part.at_least, first_after=part.first_seq_after, expiring=ages or written > 0
            )
            standing = {position.name for position in await positions(client, part.stream)}
            return found + [f"consumer {name} is missing" for name in part.consumers if name not in standing]

    async def complete(self, stream: str, mark: str) -> bool:
        """See the port."""
        async with self._translated(stream), self._connect(self._server) as client:
            return await complete(client, stream, mark, CONSUMERS_SECONDS)

    async def remove_restored(self, stream: str, restore_id: str) -> bool:
        async with self._translated(stream), self._connect(self._server) as client:
            return await remove_marked(client, stream, restore_id)

    async def clean_up(self, stream: str, mark: str) -> None:
        """After a failed attempt, bounded; what cannot be removed now is found by its mark at the next attempt. What
        another attempt has made meanwhile is left alone."""
        with contextlib.suppress(RecoveryError, TimeoutError):
            async with asyncio.timeout(CLEANUP_SECONDS):
                await self.remove_restored(stream, mark)

    @contextlib.asynccontextmanager
    async def _translated(self, stream: str) -> AsyncIterator[None]:
        try:
            yield
        except ApiError as error:
            if error.code in TEMPORARY:
                raise Unreachable(f"NATS {self._server} cannot restore stream {stream} now: {error}.") from error
            raise refusal(f"NATS {self._server} refused to restore stream {stream}", error.code, str(error)) from error
        except LOST as error:
            raise Unreachable(f"NATS {self._server} was lost while stream {stream} was restored: {error!r}.") from error


def _api_level(info: dict[str, Any]) -> int:
    return int((info.get("api") or {}).get("level", 0))


def _seen(entry: dict[str, Any]) -> StreamSeen:
    state = entry["state"]
    return StreamSeen(
        int(state["messages"]), int(state["first_seq"]), int(state["last_seq"]), restore_of(mark_of(entry))
    )


def _room(info: dict[str, Any]) -> int | None:
    limit = int((info.get("limits") or {}).get("max_storage", -1))
    return None if limit < 0 else max(0, limit - int(info.get("storage", 0)))


class _Restore:
    """One attempt, once the way is free."""

    def __init__(
        self, client: Client, stored: StoredStream, options: StreamRestoreOptions, check: ArchiveCheck
    ) -> None:
        self._client = client
        self._stored = stored
        self._options = options
        self._check = check
        self._stream = str(stored.config["name"])

    async def run(
        self, archive: AsyncIterator[bytes], first: list[bytes], progress: Progress | None, owner: JetStreamSnapshots
    ) -> RestoredStream:
        options = self._options
        upload: Upload | None = None
        try:
            config = marked(dict(self._stored.config), options.mark)
            if options.replicas is not None:
                config["num_replicas"] = options.replicas
            subject = await begin(self._client, self._stream, config, dict(self._stored.state), options.restore_id)
            upload = Upload(self._client, self._stream, subject)
            try:
                await upload.send_all(archive, self._check, first, progress)
            except Corrupt as error:
                raise Corrupt(f"The archive of stream {self._stream} is damaged: {error}.") from error
            state = await upload.finish(options.finish_seconds)
            consumers, notes = await self._compare(state)
            if not options.keep_mark:
                await complete(self._client, self._stream, options.mark, options.consumers_seconds)
        except BaseException:
            await to_the_end(self._undo(upload, owner))
            raise
        return RestoredStream(
            stream=self._stream,
            messages=int(state["messages"]),
            first_seq=int(state["first_seq"]),
            last_seq=int(state["last_seq"]),
            consumers=consumers,
            archive_bytes=upload.sent,
            notes=notes,
        )

    async def _undo(self, upload: Upload | None, owner: JetStreamSnapshots) -> None:
        if upload is not None:
            await upload.give_up()
        await owner.clean_up(self._stream, self._options.mark)

    async def _compare(self, restored: dict[str, Any]) -> tuple[list[str], list[str]]:
        """Names of the consumers, and notes. Raises RestoreFailed where the stream is not what was stored."""
        state, part = dict(self._stored.state), self._stored.part
        expiring = may_expire(self._stored.config, state, datetime.now(UTC))
        messages = int(restored["messages"])
        differences = state_differences(
            state,
            restored,
            at_least=part.at_least if part else int(str(state["messages"])),
            first_after=part.first_seq_after if part else int(str(state["first_seq"])),
            expiring=expiring,
        )
        names, missing = await self._consumers(part, int(restored["first_seq"]))
        if differences + missing:
            raise RestoreFailed(
                f"Stream {self._stream} was restored and differs from its backup: {'; '.join(differences + missing)}."
                " It was deleted again."
            )
        fewer = int(str(state["messages"])) - messages
        return names, [
            f"{fewer} messages of {self._stream} have expired, or were dropped by its limits"
        ] if fewer else []

    async def _consumers(self, part: StreamPart | None, first: int) -> tuple[list[str], list[str]]:
        """In a cluster each has its own leader, which is elected first."""
        wanted = part.consumers if part else {}
        until = asyncio.get_running_loop().time() + self._options.consumers_seconds
        while True:
            try:
                found = await positions(self._client, self._stream)
                differences = consumer_differences(wanted, found, first)
            except (ApiError, TimeoutError) as error:
                found, differences = [], [f"its consumers cannot be listed: {error}"]
            if not differences or asyncio.get_running_loop().time() > until:
                names = sorted(position.name for position in found if position.config.get("durable_name"))
                return names, differences
            await asyncio.sleep(0.1)
