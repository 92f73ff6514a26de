"""Snapshots of a cluster: begun once, watched, listed, deleted."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from recovery.adapters.search.connection import SearchConnection, ServerSaid, judged, quoted
from recovery.adapters.search.contents import IndexContent, alias_definitions, contents, names, refresh, taken
from recovery.adapters.search.marks import copies_excluded
from recovery.adapters.search.repositories import check_registered, definition
from recovery.domain.search import (
    SearchServer,
    SearchSnapshot,
    SearchSource,
    ShardFailure,
    SnapshotMark,
    SnapshotState,
    patterns_digest,
    snapshot_name,
)
from recovery.errors import BadInput, Corrupt, NotFound, NotOurs, Refused, SourceFailed, Unreachable
from recovery.ports.search import SearchAdvance, SearchProgress, SnapshotRequest

METADATA = "recovery"
STATUS_SECONDS = 120.0  # of an ended snapshot the server reads a file for each shard
NAMED = 10  # failed shards that an error names
_STATUS = "snapshots.shards_stats,snapshots.stats"


async def take(
    connection: SearchConnection, request: SnapshotRequest, progress: SearchProgress | None = None
) -> SearchSource:
    server = await connection.server()
    if not request.patterns:
        raise BadInput("A snapshot needs at least one index pattern.")
    await check_registered(connection, request.repository, to_write=True)
    return await _Taking(connection, server, request).run(progress)


@dataclass
class _Taking:
    """One attempt."""

    connection: SearchConnection
    server: SearchServer
    request: SnapshotRequest

    async def run(self, progress: SearchProgress | None) -> SearchSource:
        request, connection = self.request, self.connection
        before: dict[str, IndexContent] | None = None
        aliases = await alias_definitions(connection)
        found = await self._own()
        if found is None:
            await self._check_writer()
            before = await contents(connection)
            await self._begin()
        ended = await self._ended(progress)
        if not ended.indices:
            await delete(connection, request.repository, request.point, connection.limits.request_seconds)
            raise BadInput(f"No index of {connection.name} is chosen by {', '.join(request.patterns)}.")
        await refresh(connection, ended.indices)
        after = await contents(connection, ended.indices)
        status = await self._status(STATUS_SECONDS)
        kind, settings = await definition(connection, request.repository)
        streams = (await names(connection)).data_streams
        notes = (
            [] if before is not None else ["begun by an earlier attempt: what its shards hold at least is not known"]
        )
        return SearchSource(
            server=self.server,
            repository=request.repository,
            repository_type=kind,
            repository_settings=settings,
            snapshot=ended.name,
            snapshot_uuid=ended.uuid,
            patterns=list(request.patterns),
            global_state=ended.global_state,
            indices=taken(ended.indices, before, after, aliases),
            data_streams={
                name: [index for index in streams.get(name, []) if index in ended.indices]
                for name in ended.data_streams
            },
            shards=ended.shards,
            bytes=_bytes(status, "total"),
            new_bytes=_bytes(status, "incremental"),
            began_at=ended.started_at,
            finished_at=ended.finished_at or ended.started_at,
            notes=notes,
        )

    @property
    def _name(self) -> str:
        return snapshot_name(self.request.point)

    async def _own(self) -> SearchSnapshot | None:
        found = await find(self.connection, self.request.repository, self._name)
        if found is not None:
            check_ours(found, self.request.repository, self.request.point)
        return found

    async def _check_writer(self) -> None:
        """Two clusters that write to one repository damage it: the newest snapshot of ours says who writes."""
        request = self.request
        others = [
            name for name in await _names(self.connection, request.repository) if name.startswith(snapshot_name(""))
        ]
        newest = await find(self.connection, request.repository, max(others)) if others else None
        mark = newest.mark if newest else None
        if newest is None or mark is None or mark.cluster == self.server.cluster_uuid or request.take_over:
            return
        raise Refused(
            f"Another cluster ({mark.cluster}) writes to repository {request.repository}: snapshot {newest.name} is its"
            f" own, and two would damage it. Register it as read-only at {self.connection.name}, give this cluster one"
            " of its own, or say take over once the other one does not write any more."
        )

    async def _begin(self) -> None:
        request, server = self.request, self.server
        mark = SnapshotMark(
            point=request.point,
            product=server.product,
            cluster=server.cluster_uuid,
            patterns=patterns_digest(request.patterns),
        )
        body = {
            "indices": await copies_excluded(self.connection, request.patterns),
            "ignore_unavailable": False,
            "partial": False,
            "include_global_state": request.global_state,
            "metadata": {METADATA: mark.model_dump(mode="json")},
        }
        try:
            await self.connection.ask("PUT", self._path, body, wait_for_completion=False)
        except ServerSaid as error:
            # Another attempt of ours may have been faster.
            if await self._own() is None:
                raise judged(error, f"Snapshot {self._name} in {request.repository} was not begun") from error

    async def _ended(self, progress: SearchProgress | None) -> SearchSnapshot:
        request, connection = self.request, self.connection
        until = asyncio.get_running_loop().time() + request.within_seconds
        while True:
            found = await self._own()
            if found is None:
                raise SourceFailed(f"Snapshot {self._name} in {request.repository} was deleted while it was taken.")
            if found.state is not SnapshotState.IN_PROGRESS:
                return _complete(found, request.repository)
            if progress is not None:
                progress(_advance(await self._status()))
            if asyncio.get_running_loop().time() > until:
                raise Unreachable(
                    f"Snapshot {self._name} in {request.repository} did not end within {request.within_seconds:g} s;"
                    " it goes on."
                )
            await asyncio.sleep(connection.limits.poll_seconds)

    async def _status(self, seconds: float | None = None) -> Mapping[str, Any]:
        return await _status(self.connection, self._path, seconds)

    @property
    def _path(self) -> str:
        return _path(self.request.repository, self._name)


async def find(connection: SearchConnection, repository: str, name: str) -> SearchSnapshot | None:
    """Raises NotFound where there is no such repository."""
    found = await _listed(connection, repository, quoted(name))
    return found[0] if found else None


async def inspect(connection: SearchConnection, source: SearchSource, repository: str) -> str:
    await check_registered(connection, repository, to_write=False)
    found = await find(connection, repository, source.snapshot)
    try:
        complete_to_restore(found, repository, source)
    except (NotFound, Refused) as error:
        raise Corrupt(str(error)) from error
    try:
        status = await _status(connection, _path(repository, source.snapshot), STATUS_SECONDS)
    except ServerSaid as error:
        raise judged(error, f"The shards of snapshot {source.snapshot} in {repository} cannot be read") from error
    shards = status.get("shards_stats", {})
    there = int(shards.get("done", 0)), int(shards.get("failed", 0)), _bytes(status, "total")
    if there != (source.shards, 0, source.bytes):
        raise Corrupt(
            f"Snapshot {source.snapshot} in {repository} has {there[0]} whole shards of {source.shards},"
            f" {there[1]} failed ones, and files of {there[2]} bytes instead of {source.bytes}."
        )
    return f"{there[0]} shards with files of {there[2]} bytes, all listed as they were taken"


async def everything(connection: SearchConnection, repository: str) -> list[SearchSnapshot]:
    """Newest first."""
    found = await _listed(connection, repository, "_all", seconds=STATUS_SECONDS)
    return sorted(found or [], key=lambda snapshot: (snapshot.started_at, snapshot.name), reverse=True)


async def delete(connection: SearchConnection, repository: str, point: str, within_seconds: float) -> bool:
    name = snapshot_name(point)
    found = await find(connection, repository, name)
    if found is None:
        return False
    check_ours(found, repository, point)
    try:
        return await connection.found("DELETE", _path(repository, name), seconds=within_seconds) is not None
    except ServerSaid as error:
        raise judged(error, f"Snapshot {name} in {repository} was not deleted") from error


def check_ours(snapshot: SearchSnapshot, repository: str, point: str) -> None:
    """Raises NotOurs."""
    if snapshot.mark is None or snapshot.mark.point != point:
        whose = f"belongs to point {snapshot.mark.point}" if snapshot.mark else "was made by others"
        raise NotOurs(f"Snapshot {snapshot.name} in {repository} {whose} and was not touched.")


async def _names(connection: SearchConnection, repository: str) -> list[str]:
    answer = await connection.ask(
        "GET", f"/_snapshot/{quoted(repository)}/_all", verbose=False, filter_path="snapshots.snapshot"
    )
    return [str(each["snapshot"]) for each in answer.get("snapshots", ())]


async def _listed(
    connection: SearchConnection, repository: str, which: str, seconds: float | None = None
) -> list[SearchSnapshot] | None:
    """None where there is no such snapshot."""
    try:
        answer = await connection.ask("GET", f"/_snapshot/{quoted(repository)}/{which}", seconds=seconds)
    except ServerSaid as error:
        if error.kind == "snapshot_missing_exception":
            return None
        raise judged(error, f"Repository {repository} of {connection.name} cannot be listed") from error
    return [_read(each) for each in answer["snapshots"]]


def _read(found: Mapping[str, Any]) -> SearchSnapshot:
    return SearchSnapshot(
        name=found["snapshot"],
        uuid=found["uuid"],
        state=SnapshotState(found["state"]),
        version=found.get("version"),
        indices=found.get("indices", []),
        data_streams=found.get("data_streams", []),
        global_state=bool(found.get("include_global_state")),
        started_at=_at(found.get("start_time_in_millis")) or datetime.fromtimestamp(0, UTC),
        finished_at=_at(found.get("end_time_in_millis")),
        shards=int(found.get("shards", {}).get("total", 0)),
        failures=[
            ShardFailure(index=each["index"], shard=int(each["shard_id"]), reason=str(each.get("reason", "")))
            for each in found.get("failures", ())
        ],
        mark=_mark(found.get("metadata")),
    )


def _mark(metadata: object) -> SnapshotMark | None:
    try:
        return SnapshotMark.model_validate(metadata[METADATA]) if isinstance(metadata, dict) else None
    except (KeyError, ValidationError):
        return None  # somebody else's metadata


def _at(millis: int | None) -> datetime | None:
    return datetime.fromtimestamp(millis / 1000, UTC) if millis else None


def _complete(snapshot: SearchSnapshot, repository: str) -> SearchSnapshot:
    if snapshot.state is SnapshotState.SUCCESS and not snapshot.failures:
        return snapshot
    named = "; ".join(str(failure) for failure in snapshot.failures[:NAMED]) or "no shard is named"
    more = f"; and {len(snapshot.failures) - NAMED} more" if len(snapshot.failures) > NAMED else ""
    raise SourceFailed(
        f"Snapshot {snapshot.name} in {repository} ended {snapshot.state}: {len(snapshot.failures)} of"
        f" {snapshot.shards} shards failed: {named}{more}."
    )


def complete_to_restore(snapshot: SearchSnapshot | None, repository: str, source: SearchSource) -> SearchSnapshot:
    """Raises NotFound, or Refused for one that is another one or not whole."""
    if snapshot is None:
        raise NotFound(f"Repository {repository} holds no snapshot {source.snapshot}.")
    if snapshot.uuid != source.snapshot_uuid:
        raise Refused(
            f"Snapshot {snapshot.name} in {repository} is another one ({snapshot.uuid}) than the point's"
            f" ({source.snapshot_uuid})."
        )
    try:
        return _complete(snapshot, repository)
    except SourceFailed as error:
        raise Refused(str(error)) from error


def _path(repository: str, name: str) -> str:
    return f"/_snapshot/{quoted(repository)}/{quoted(name)}"


async def _status(connection: SearchConnection, path: str, seconds: float | None = None) -> Mapping[str, Any]:
    answer = await connection.found("GET", f"{path}/_status", seconds=seconds, filter_path=_STATUS)
    found: list[Mapping[str, Any]] = (answer or {}).get("snapshots", [])
    return found[0] if found else {}


def _advance(status: Mapping[str, Any]) -> SearchAdvance:
    shards = status.get("shards_stats", {})
    stats = status.get("stats", {})
    # Files that an earlier snapshot has written are not written again.
    done = int(stats.get("processed", {}).get("size_in_bytes", 0))
    return SearchAdvance(int(shards.get("done", 0)), int(shards.get("total", 0)), done, _bytes(status, "incremental"))


def _bytes(status: Mapping[str, Any], which: str) -> int:
    return int(status.get("stats", {}).get(which, {}).get("size_in_bytes", 0))
