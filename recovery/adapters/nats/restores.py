"""Restores of recovery points of streams into a JetStream account that this worker reaches.

A restored stream is there for clients at once: JetStream has no way to keep them out. It carries the restore's mark
until ``open_writes``, so that until then everything can be taken back, and a repeated restore starts over.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from recovery.adapters.key_ring import KeyRing
from recovery.adapters.nats.archive import ArchiveHead
from recovery.adapters.nats.points import Streams
from recovery.adapters.nats.stream_state import check_server
from recovery.adapters.nats.validation import stored_of
from recovery.adapters.point_checks import check_point
from recovery.backup.bounded import for_each
from recovery.backup.catalogue import Catalogue
from recovery.backup.progress import noting
from recovery.backup.reader import open_point
from recovery.domain.group import GroupSnapshot
from recovery.domain.jetstream import StreamPart
from recovery.domain.plan import RestoredServer
from recovery.domain.recovery_point import BackupKind, CheckResult, Manifest, RecoveryPoint
from recovery.domain.words import size
from recovery.errors import NotFound, NotOurs, RecoveryError, Refused
from recovery.ports.jetstream import AccountSeen, JetStreamRecovery, StreamRestoreOptions, archive_name
from recovery.ports.recovery_points import Progress, RestoreOrder

AT_ONCE = 2
"""Streams that are restored at the same time; each holds some objects of the point in memory."""

_ANY_LEVEL = 1 << 30


@dataclass
class StreamRestores:
    """``recovery.ports.recovery_points.Restores``."""

    catalogue: Callable[[GroupSnapshot], Catalogue]
    keys: KeyRing
    streams: Streams

    async def verify_infrastructure(self, order: RestoreOrder) -> list[CheckResult]:
        """See the port."""
        point = await self._point(order)
        parts = _chosen(order, point.manifest)
        stores = self.catalogue(order.group).stores_of(point)
        checks = [*await check_point(point, self.keys, stores), _check_name(order, parts)]
        try:
            seen = await (await self._recovery(order)).look()
        except RecoveryError as error:
            return [*checks, CheckResult(name="target server", passed=False, detail=str(error))]
        return [
            *checks,
            CheckResult(name="target server", passed=True, detail=f"{seen.address} is NATS {seen.version}"),
            _check_version(parts, seen),
            _check_replicas(order, parts, seen),
            _check_room(parts, seen),
            _check_free(order, parts, seen),
        ]

    async def restore(self, order: RestoreOrder, progress: Progress) -> RestoredServer:
        """See the port. Streams that an earlier attempt restored, whole or in part, are deleted and restored again."""
        point = await self._point(order)
        manifest = point.manifest
        parts = _chosen(order, manifest)
        recovery = await self._recovery(order)
        reader = open_point(self.catalogue(order.group).stores_of(point), manifest, self.keys.opening())
        options = StreamRestoreOptions(
            restore_id=order.restore_id,
            replace=order.replace,
            stream=order.target_stream,
            replicas=order.replicas,
            keep_mark=True,
        )
        sent: dict[str, int] = {}
        total = sum(part.archive_bytes for part in parts)

        async def restore(part: StreamPart) -> int:
            def tell(done: int, expected: int) -> None:
                sent[part.stream] = done
                noting(progress, f"restoring {part.stream}")(sum(sent.values()), total)

            stored = await stored_of(reader, part)
            done = await recovery.restore(stored, reader.stream(archive_name(part.stream)), options, tell)
            return done.archive_bytes

        restored = sum(await for_each(parts, restore, AT_ONCE))
        seen = await recovery.look()
        return RestoredServer(
            region=order.region,
            host=seen.host,
            port=seen.port,
            database="",
            streams=[part.stream for part in parts],
            restore_id=options.mark,
            kind=BackupKind.STREAMS,
            point_id=order.point_id,
            restored_bytes=restored,
            last_commit_at=manifest.jetstream.held_until,
        )

    async def remove(self, order: RestoreOrder) -> bool:
        """See the port. Only what carries this restore's mark: a stream that was replaced does not come back.

        The account says itself what that is: the restore may have failed because no location answers.
        """
        recovery = await self._recovery(order)
        removed = False
        for stream, found in (await recovery.look()).streams.items():
            if found.restore_id != order.restore_id:
                continue
            try:
                removed |= await recovery.remove_restored(stream, order.restore_id)
            except NotOurs:
                continue  # somebody else's stands in its place
        return removed

    async def verify(self, group: GroupSnapshot, restored: RestoredServer) -> list[CheckResult]:
        """See the port."""
        point = await self.catalogue(group).point(group.name, restored.point_id)
        recovery = await self.streams(group.name, restored.region)
        checks = []
        for stream in restored.streams:
            part = point.manifest.jetstream.part(stream)
            differences = await recovery.differences(part)
            kept = f"{part.at_least} to {part.messages}" if part.at_least < part.messages else str(part.messages)
            whole = f"{kept} messages up to sequence {part.last_seq}, and {len(part.consumers)} durable consumers"
            checks.append(
                CheckResult(name=f"stream {stream}", passed=not differences, detail="; ".join(differences) or whole)
            )
        return checks

    async def open_writes(self, group: GroupSnapshot, restored: RestoredServer) -> None:
        """See the port. From here on the streams are like any others, and this restore removes them no more."""
        recovery = await self.streams(group.name, restored.region)
        for stream in restored.streams:
            await recovery.complete(stream, restored.restore_id)

    async def accepts_writes(self, group: GroupSnapshot, restored: RestoredServer) -> bool:
        """See the port."""
        seen = await (await self.streams(group.name, restored.region)).look()
        return all(name in seen.streams and seen.streams[name].restore_id is None for name in restored.streams)

    async def write_probe(self, group: GroupSnapshot, restored: RestoredServer, run_id: str) -> datetime:
        """Raises Refused: a message that nobody expects would go to the streams' consumers."""
        raise Refused(
            f"nothing is published to restored streams ({', '.join(restored.streams)}) to see whether it works"
        )

    # Parts of the above.

    async def _point(self, order: RestoreOrder) -> RecoveryPoint:
        return await self.catalogue(order.group).point(order.group.name, order.point_id)

    async def _recovery(self, order: RestoreOrder) -> JetStreamRecovery:
        return await self.streams(order.group.name, order.region)


def _chosen(order: RestoreOrder, manifest: Manifest) -> list[StreamPart]:
    """Raises NotFound with the point's streams."""
    parts = manifest.jetstream.streams
    known = [part.stream for part in parts]
    for name in order.streams:
        if name not in known:
            raise NotFound(f"recovery point {order.point_id} has no stream {name!r}: it has {', '.join(known)}")
    return [part for part in parts if not order.streams or part.stream in order.streams]


def _check_name(order: RestoreOrder, parts: list[StreamPart]) -> CheckResult:
    renamed = [part.stream for part in parts if order.target_stream not in (None, part.stream)]
    return CheckResult(
        name="names",
        passed=not renamed,
        detail=f"stream {renamed[0]} cannot be restored as {order.target_stream}: JetStream keeps the name with the"
        " data. Restore it under its own name into another server or account, and source it from there"
        if renamed
        else f"{', '.join(part.stream for part in parts)} keep their names",
    )


def _check_version(parts: list[StreamPart], seen: AccountSeen) -> CheckResult:
    for part in parts:
        head = ArchiveHead(part.archive_format, None)
        try:
            check_server({"name": part.stream}, head, part.server_version, seen.version, _ANY_LEVEL)
        except Refused as error:
            return CheckResult(name="server version", passed=False, detail=str(error))
    return CheckResult(name="server version", passed=True, detail=f"NATS {seen.version} reads all archives")


def _check_replicas(order: RestoreOrder, parts: list[StreamPart], seen: AccountSeen) -> CheckResult:
    several = [part.stream for part in parts if (order.replicas or part.replicas) > 1]
    if several and not seen.clustered:
        detail = f"{', '.join(several)} with several, and {seen.address} is a single server: say --replicas 1"
        return CheckResult(name="replicas", passed=False, detail=detail)
    wanted = "as many as at the source" if order.replicas is None else f"{order.replicas}, as asked for"
    return CheckResult(name="replicas", passed=True, detail=wanted)


def _check_room(parts: list[StreamPart], seen: AccountSeen) -> CheckResult:
    needed = sum(part.bytes for part in parts)
    free = "the account is not limited" if seen.room is None else f"{size(seen.room)} free in the account"
    enough = seen.room is None or seen.room >= needed
    return CheckResult(name="room", passed=enough, detail=f"{size(needed)} needed, {free}")


def _check_free(order: RestoreOrder, parts: list[StreamPart], seen: AccountSeen) -> CheckResult:
    there = {
        part.stream: seen.streams[part.stream]
        for part in parts
        if part.stream in seen.streams and seen.streams[part.stream].restore_id != order.restore_id
    }
    words = ", ".join(f"{name} ({found.messages} messages up to {found.last_seq})" for name, found in there.items())
    if not there:
        detail = "no stream of these names is there"
    elif order.replace:
        detail = f"to be deleted and replaced: {words}"
    else:
        detail = f"{seen.address} has {words} already: say --replace to delete it and restore the point in its place"
    return CheckResult(name="empty target", passed=not there or order.replace, detail=detail)
