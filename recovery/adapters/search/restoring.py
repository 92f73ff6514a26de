"""Restores: what is asked for is checked, begun under a mark, watched, compared, and given its aliases."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from recovery.adapters.point_checks import checked
from recovery.adapters.search.completing import aliases_of, compare, move_aliases
from recovery.adapters.search.connection import SearchConnection, ServerSaid, judged, quoted
from recovery.adapters.search.contents import Names, contents, names
from recovery.adapters.search.marks import MARK, NAMED, carrying, delete_named, mark_completed, remove_marked, some
from recovery.adapters.search.repositories import check_registered, verify
from recovery.adapters.search.snapshots import complete_to_restore, find
from recovery.adapters.search.watching import await_status, health
from recovery.domain.recovery_point import CheckResult
from recovery.domain.search import (
    SearchProduct,
    SearchServer,
    SearchSnapshot,
    SearchSource,
    chosen,
    number,
    renamed,
    restore_refusal,
)
from recovery.errors import BadInput, NoSpace, NotFound, Refused, RestoreFailed
from recovery.ports.search import RestoredIndices, SearchProgress, SearchRestoreOptions

BACKING = ".ds-"
FEATURE_STATES = (
    7,
    12,
    0,
)  # since then Elasticsearch restores its features' indices with the global state, unless told


@dataclass(frozen=True)
class Choice:
    """What is restored: names at the source -> names here. ``indices`` has those of the data streams too."""

    indices: dict[str, str]
    data_streams: dict[str, str] = field(default_factory=dict)

    @property
    def requested(self) -> list[str]:
        """As a restore names them: a data stream brings its indices along."""
        return sorted([*(name for name in self.indices if not name.startswith(BACKING)), *self.data_streams])

    @property
    def targets(self) -> list[str]:
        return sorted(self.indices.values())


def choose(source: SearchSource, options: SearchRestoreOptions) -> Choice:
    """Raises BadInput, NotFound."""
    backing = {index for indices in source.data_streams.values() for index in indices}
    plain = [part.index for part in source.indices if part.index not in backing]
    try:
        wanted = chosen(options.indices, [*plain, *source.data_streams])
    except ValueError as error:
        raise NotFound(f"Snapshot {source.snapshot} cannot be restored so: {error}.") from error
    if not wanted:
        raise BadInput(f"{', '.join(options.indices) or 'Nothing'} chooses no index of snapshot {source.snapshot}.")
    pattern, replacement = options.rename_pattern, options.rename_replacement
    try:
        indices = renamed([name for name in wanted if name not in source.data_streams], pattern, replacement)
        streams = renamed([name for name in wanted if name in source.data_streams], pattern, replacement)
        inner = renamed(
            [index.removeprefix(BACKING) for name in streams for index in source.data_streams[name]],
            pattern,
            replacement,
        )
    except ValueError as error:
        raise BadInput(f"Snapshot {source.snapshot} cannot be restored so: {error}.") from error
    return Choice(indices | {BACKING + name: BACKING + target for name, target in inner.items()}, streams)


class Restore:
    """One attempt at one cluster."""

    def __init__(self, connection: SearchConnection, source: SearchSource, options: SearchRestoreOptions) -> None:
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,200}", options.restore_id):
            raise BadInput("A restore's id is made of letters, digits, dots, hyphens and underscores.")
        self._connection = connection
        self._source = source
        self._options = options
        self._repository = options.repository or source.repository
        self._choice = choose(source, options)

    async def run(self, progress: SearchProgress | None) -> RestoredIndices:
        server = await self._connection.server()
        completed = await self._completed()
        if completed is not None:
            return completed
        await self._check_snapshot(server)
        if await self._goes_on():
            # What an earlier attempt began cannot always end: a cluster that was restarted has forgotten the restore.
            with contextlib.suppress(RestoreFailed):
                return await self._finish([], progress)
        return await self._finish(await self._begin(server), progress)

    async def checks(self) -> list[CheckResult]:
        """What ``run`` would be refused for, as far as it is known before. Changes nothing."""
        server = await self._connection.server()
        made = set(await carrying(self._connection, self._options.restore_id))
        found = await names(self._connection)
        in_the_way: list[str] = []

        async def snapshot() -> str:
            await self._check_snapshot(server)
            return f"{self._source.snapshot} in {self._repository} is whole, and {server.title} reads it"

        async def target() -> str:
            in_the_way.extend(self._in_the_way(found, made))
            return (
                f"to be deleted and replaced: {some(in_the_way)}" if in_the_way else "nothing of these names is there"
            )

        async def room() -> str:
            await self._check_space(found, in_the_way or made)
            return "enough, as far as it is known"

        parts = {"snapshot": snapshot, "empty target": target, "room": room}
        return [await checked(name, part()) for name, part in parts.items()]

    async def _finish(self, replaced: list[str], progress: SearchProgress | None) -> RestoredIndices:
        """Waits, compares and goes live; what failed is deleted again."""
        options = self._options
        try:
            status = await await_status(
                self._connection,
                options.wait_for,
                self._choice.targets,
                options.within_seconds,
                restoring=True,
                progress=progress,
            )
            docs, notes = await self._compared()
            moved: dict[str, list[str]] = {}
            if options.aliases and not options.keep_mark:
                moved, more = await move_aliases(self._connection, self._source, self._choice.indices)
                notes += more
        except RestoreFailed as error:
            await remove_marked(self._connection, options.restore_id)
            raise RestoreFailed(f"{error} What was restored was deleted again.") from error
        if not options.keep_mark:
            await mark_completed(self._connection, options.restore_id, self._choice.targets)
        return RestoredIndices(
            indices=self._choice.indices,
            data_streams=self._choice.data_streams,
            docs=docs,
            status=status,
            moved=moved,
            replaced=replaced,
            notes=notes,
        )

    async def _completed(self) -> RestoredIndices | None:
        """What an earlier attempt completed, whose answer was lost. It is in use: nothing is compared, or deleted."""
        targets, restore_id = self._choice.targets, self._options.restore_id
        found = await carrying(self._connection, restore_id)
        if set(found) != set(targets) or not any(found.values()):
            return None
        await mark_completed(self._connection, restore_id, targets)
        return RestoredIndices(
            indices=self._choice.indices,
            data_streams=self._choice.data_streams,
            docs=sum(content.docs for content in (await contents(self._connection, targets)).values()),
            status=(await health(self._connection, targets)).status,
            notes=["completed by an earlier attempt"],
        )

    async def _check_snapshot(self, server: SearchServer) -> None:
        source = self._source
        if self._options.global_state and not source.global_state:
            raise BadInput(f"Snapshot {source.snapshot} was taken without the cluster's global state.")
        await check_registered(self._connection, self._repository, to_write=False)
        found = await find(self._connection, self._repository, source.snapshot)
        snapshot = complete_to_restore(found, self._repository, source)
        why = restore_refusal(source.server.product, _written_by(snapshot, source), server)
        if why is not None:
            raise Refused(f"Snapshot {source.snapshot} cannot be restored at {self._connection.name}: {why}.")

    async def _goes_on(self) -> bool:
        """Whether an earlier attempt was accepted; one of which something was deleted meanwhile is begun again."""
        restore_id = self._options.restore_id
        found = await carrying(self._connection, restore_id)
        if not found:
            return False
        if set(found) == set(self._choice.targets):
            return True
        if any(found.values()):
            raise Refused(
                f"Restore {restore_id} was completed at {self._connection.name} before, and {some(found)} is what"
                " is left of it: begin another restore."
            )
        await remove_marked(self._connection, restore_id)
        return False

    async def _begin(self, server: SearchServer) -> list[str]:
        """Everything that can be refused is refused before anything is deleted. Returns what was deleted."""
        await verify(self._connection, self._repository)
        found = await names(self._connection)
        if await self._goes_on():  # another attempt was faster, and what is there may be its own
            return []
        in_the_way = self._in_the_way(found)
        await self._check_space(found, in_the_way)
        await delete_named(self._connection, found, in_the_way)
        options = self._options
        settings: dict[str, Any] = {MARK: options.restore_id}
        if options.replicas is not None:
            settings |= {"index.number_of_replicas": options.replicas, "index.auto_expand_replicas": "false"}
        body: dict[str, Any] = {
            "indices": self._choice.requested,
            "ignore_unavailable": False,
            "partial": False,
            "include_aliases": False,
            "include_global_state": options.global_state,
            "index_settings": settings,
            "ignore_index_settings": list(options.ignore_settings),
        }
        if options.rename_pattern is not None:
            body |= {"rename_pattern": options.rename_pattern, "rename_replacement": options.rename_replacement}
        if server.product is SearchProduct.ELASTICSEARCH and number(server.version) >= FEATURE_STATES:
            body |= {"feature_states": ["none"]}
        path = f"/_snapshot/{quoted(self._repository)}/{quoted(self._source.snapshot)}/_restore"
        try:
            await self._connection.ask("POST", path, body, wait_for_completion=False)
        except ServerSaid as error:
            if not await self._goes_on():
                what = f"{self._connection.name} did not begin to restore {self._source.snapshot}"
                raise judged(error, what, RestoreFailed) from error
        return in_the_way

    def _in_the_way(self, found: Names, made: Collection[str] = ()) -> list[str]:
        """Indices and data streams that have to go, none of which without leave; but what this restore ``made``."""
        targets = {*self._choice.targets, *self._choice.data_streams.values()}
        targets -= {
            *made,
            *(name for name, inside in found.data_streams.items() if inside and set(inside) <= set(made)),
        }
        set_again = set(aliases_of(self._source, self._choice.indices)) if self._options.aliases else set()
        existing = {**dict.fromkeys(found.data_streams, "a data stream"), **found.indices}
        taken = sorted(name for name in targets | set_again if name in existing)
        inside = {index for name in taken for index in found.data_streams.get(name, ())}
        taken = [name for name in taken if name not in inside]
        as_alias = sorted(targets & found.aliases.keys())
        where = self._connection.name
        if as_alias:
            raise Refused(
                f"{where} has aliases of names that indices would get: {some(as_alias)}. Rename or remove them."
            )
        internal = [name for name in taken if name.startswith(".")]
        if internal:
            raise Refused(
                f"{where} has {some(internal)} already, and internal indices are never replaced: leave them out."
            )
        if taken and not self._options.replace:
            listed = some([f"{name} ({existing[name]})" for name in taken])
            raise Refused(
                f"{where} has {listed} already. Say --replace to delete what is in the way, or restore it renamed."
            )
        return taken

    async def _check_space(self, found: Names, in_the_way: Collection[str]) -> None:
        """Only for all of a snapshot, whose size is known; what is deleted first may hold as much again."""
        if in_the_way or len(self._choice.indices) < len(self._source.indices):
            return
        answer = await self._connection.ask(
            "GET", "/_nodes/stats/fs", filter_path="nodes.*.fs.total.available_in_bytes,nodes.*.roles"
        )
        free = sum(
            int(node["fs"]["total"]["available_in_bytes"])
            for node in answer["nodes"].values()
            if any(role == "data" or role.startswith("data_") for role in node.get("roles", ["data"]))
        )
        if free < self._source.bytes:
            raise NoSpace(
                f"The data nodes of {self._connection.name} have {free >> 20} MiB free, and the primaries of snapshot"
                f" {self._source.snapshot} alone need {self._source.bytes >> 20} MiB."
            )

    async def _compared(self) -> tuple[int, list[str]]:
        """Documents, and notes. Raises RestoreFailed where an index is not what was taken."""
        made = await carrying(self._connection, self._options.restore_id)
        if unexpected := set(made) - set(self._choice.targets):
            raise RestoreFailed(f"The cluster restored under other names than expected: {some(unexpected)}.")
        found = await compare(self._connection, self._source, self._choice.indices)
        if found.differences:
            raise RestoreFailed(f"What was restored differs from its snapshot: {'; '.join(found.differences[:NAMED])}.")
        return found.docs, found.notes


def _written_by(snapshot: SearchSnapshot, source: SearchSource) -> str:
    """The oldest version with the same format, where the repository names a range of versions."""
    oldest, dash, _ = (snapshot.version or "").partition("-")
    return oldest if dash and oldest.count(".") == 2 else source.server.version
