"""Restores: what is asked for is checked, begun under a mark, watched, compared, and given its aliases.

The mark is an index setting that allocation reads and that excludes no node: ``index.routing.allocation.exclude`` of an
attribute that none has. It comes into being with the index, in the same change of the cluster's state, so whatever an
interrupted attempt left behind is known by it, on both products. A completed restore's mark says so and stays: an
attempt whose end nobody heard of is known by it when it is repeated, and what applications wrote since is kept.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from recovery.adapters.search.connection import SearchConnection, ServerSaid, batches, judged, quoted
from recovery.adapters.search.contents import Names, contents, names, with_setting
from recovery.adapters.search.repositories import check_registered, verify
from recovery.adapters.search.snapshots import complete_to_restore, find
from recovery.adapters.search.watching import await_status, health
from recovery.domain.search import (
    SearchIndex,
    SearchProduct,
    SearchServer,
    SearchSnapshot,
    SearchSource,
    alias_actions,
    chosen,
    number,
    renamed,
    restore_refusal,
)
from recovery.errors import BadInput, NoSpace, NotFound, NotOurs, Refused, RestoreFailed
from recovery.ports.search import RestoredIndices, SearchProgress, SearchRestoreOptions

MARK = "index.routing.allocation.exclude.recovery_restore"
BACKING = ".ds-"
NAMED = 10  # names that an error lists
DELETE_SECONDS = 120.0
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
        self._parts = {part.index: part for part in source.indices}

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
            moved, staying = await self._move_aliases() if options.aliases else ({}, [])
        except RestoreFailed as error:
            await remove_marked(self._connection, options.restore_id)
            raise RestoreFailed(f"{error} What was restored was deleted again.") from error
        await mark_completed(self._connection, options.restore_id, self._choice.targets)
        return RestoredIndices(
            indices=self._choice.indices,
            data_streams=self._choice.data_streams,
            docs=docs,
            status=status,
            moved=moved,
            replaced=replaced,
            notes=notes + staying,
        )

    async def _completed(self) -> RestoredIndices | None:
        """What an earlier attempt completed, whose answer was lost. It is in use: nothing is compared, or deleted."""
        targets, restore_id = self._choice.targets, self._options.restore_id
        carrying = await _carrying(self._connection, restore_id)
        if set(carrying) != set(targets) or not any(carrying.values()):
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
        carrying = await _carrying(self._connection, restore_id)
        if not carrying:
            return False
        if set(carrying) == set(self._choice.targets):
            return True
        if any(carrying.values()):
            raise Refused(
                f"Restore {restore_id} was completed at {self._connection.name} before, and {_some(carrying)} is what"
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
        await _delete(self._connection, found, in_the_way)
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

    def _in_the_way(self, found: Names) -> list[str]:
        """Indices and data streams that have to go, none of which without leave."""
        targets = {*self._choice.targets, *self._choice.data_streams.values()}
        set_again = set(self._aliases()) if self._options.aliases else set()
        existing = {**dict.fromkeys(found.data_streams, "a data stream"), **found.indices}
        taken = sorted(name for name in targets | set_again if name in existing)
        inside = {index for name in taken for index in found.data_streams.get(name, ())}
        taken = [name for name in taken if name not in inside]
        as_alias = sorted(targets & found.aliases.keys())
        where = self._connection.name
        if as_alias:
            raise Refused(
                f"{where} has aliases of names that indices would get: {_some(as_alias)}. Rename or remove them."
            )
        internal = [name for name in taken if name.startswith(".")]
        if internal:
            raise Refused(
                f"{where} has {_some(internal)} already, and internal indices are never replaced: leave them out."
            )
        if taken and not self._options.replace:
            listed = _some([f"{name} ({existing[name]})" for name in taken])
            raise Refused(
                f"{where} has {listed} already. Say --replace to delete what is in the way, or restore it renamed."
            )
        return taken

    def _aliases(self) -> dict[str, set[str]]:
        """Alias -> the source's indices that had it, chosen or not."""
        found: dict[str, set[str]] = {}
        for part in self._source.indices:
            for alias in part.aliases:
                found.setdefault(alias, set()).add(part.index)
        return {alias: holders for alias, holders in found.items() if holders & self._choice.indices.keys()}

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
        carrying = await _carrying(self._connection, self._options.restore_id)
        if unexpected := set(carrying) - set(self._choice.targets):
            raise RestoreFailed(f"The cluster restored under other names than expected: {_some(unexpected)}.")
        found = await contents(self._connection, self._choice.targets)
        differences: list[str] = []
        docs, unknown, written = 0, [], []
        for name, target in sorted(self._choice.indices.items()):
            part: SearchIndex = self._parts[name]
            if not part.positions:
                unknown.append(target)
            if target in found:
                docs += found[target].docs
                differences += part.differences(found[target].docs, found[target].positions)
                if part.is_passed_by(found[target].positions):
                    written.append(target)
            elif part.positions:
                differences.append(f"{target} is closed")
        if differences:
            raise RestoreFailed(f"What was restored differs from its snapshot: {'; '.join(differences[:NAMED])}.")
        notes = [f"not compared, for they were closed or new when taken: {_some(unknown)}"] if unknown else []
        return docs, notes + ([f"written to already: {_some(written)}"] if written else [])

    async def _move_aliases(self) -> tuple[dict[str, list[str]], list[str]]:
        """In one request: nobody ever sees an alias without an index, or with the old and the new one.

        Where all indices that had an alias at the source are restored, it then points to these and nothing else. Where
        only some are, it leaves only the indices that they stand in for.
        """
        holders = (await names(self._connection)).aliases
        leave: dict[str, list[str]] = {}
        notes = []
        targets = set(self._choice.targets)
        for alias, had in self._aliases().items():
            others = [index for index in holders.get(alias, ()) if index not in targets]
            going = others if had <= self._choice.indices.keys() else [i for i in others if i in self._choice.indices]
            leave[alias] = going
            if staying := sorted(set(others) - set(going)):
                notes.append(f"alias {alias} stays on {_some(staying)} too")
        wanted = {name: self._parts[name].aliases for name in self._choice.indices}
        actions = alias_actions(self._choice.indices, wanted, leave)
        if actions:
            try:
                await self._connection.ask("POST", "/_aliases", {"actions": actions})
            except ServerSaid as error:
                what = (
                    f"The indices of {self._source.snapshot} are restored at {self._connection.name}, their aliases not"
                )
                raise judged(error, what, RestoreFailed) from error
        return {alias: sorted(indices) for alias, indices in leave.items() if indices}, notes


async def remove_marked(connection: SearchConnection, restore_id: str) -> list[str]:
    """Deletes what an incomplete restore made; that also ends one that runs. Raises NotOurs once it went live."""
    carrying = await _carrying(connection, restore_id)
    marked = [index for index, completed in carrying.items() if not completed]
    if not marked:
        return []
    if len(marked) < len(carrying):
        raise NotOurs(f"Restore {restore_id} was completed at {connection.name}, and nothing of it is deleted.")
    found = await names(connection)
    live = sorted(alias for alias, indices in found.aliases.items() if set(indices) & set(marked))
    if live:
        raise NotOurs(
            f"Restore {restore_id} was completed at {connection.name}: the aliases {_some(live)} point to its indices"
            " already. Move them before its indices are deleted."
        )
    streams = [name for name, indices in found.data_streams.items() if indices and set(indices) <= set(marked)]
    inside = {index for name in streams for index in found.data_streams[name]}
    gone = sorted([*streams, *(index for index in marked if index not in inside)])
    await _delete(connection, found, gone)
    return gone


async def mark_completed(connection: SearchConnection, restore_id: str, indices: Collection[str]) -> None:
    """A restore is complete as soon as one of its indices says so: they are many requests."""
    for part in batches(indices):
        await connection.ask("PUT", f"/{part}/_settings", {MARK: _completed_mark(restore_id)}, expand_wildcards="all")


async def _carrying(connection: SearchConnection, restore_id: str) -> dict[str, bool]:
    """Indices with a restore's mark, and whether it says that the restore is complete."""
    known = {restore_id: False, _completed_mark(restore_id): True}
    return {index: known[mark] for index, mark in (await with_setting(connection, MARK)).items() if mark in known}


def _completed_mark(restore_id: str) -> str:
    """No id has a colon."""
    return f"{restore_id}:done"


async def _delete(connection: SearchConnection, found: Names, gone: Collection[str]) -> None:
    streams = [name for name in gone if name in found.data_streams]
    indices = [name for name in gone if name not in found.data_streams]
    for part in batches(streams):
        await connection.found("DELETE", f"/_data_stream/{part}", seconds=DELETE_SECONDS)
    for part in batches(indices):
        await connection.found("DELETE", f"/{part}", seconds=DELETE_SECONDS, ignore_unavailable=True)


def _written_by(snapshot: SearchSnapshot, source: SearchSource) -> str:
    """The oldest version with the same format, where the repository names a range of versions."""
    oldest, dash, _ = (snapshot.version or "").partition("-")
    return oldest if dash and oldest.count(".") == 2 else source.server.version


def _some(found: Collection[str]) -> str:
    listed = sorted(found)
    more = f" and {len(listed) - NAMED} more" if len(listed) > NAMED else ""
    return ", ".join(listed[:NAMED]) + more
