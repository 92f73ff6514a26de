"""How far indices are: their health, what was copied, and why a shard serves not."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from recovery.adapters.search.connection import SearchConnection, ServerSaid, batches
from recovery.errors import RestoreFailed, Unreachable
from recovery.ports.search import SearchAdvance, SearchProgress, SearchStatus

ORDER = ("red", "yellow", "green")
REQUEST_TIMEOUT = 408
LONGEST_REASON = 300  # characters
EXPLAINED = 3  # shards whose state is asked for and named
RESTORE_DECIDER = "restore_in_progress"
_HEALTH = "status,active_primary_shards,indices.*.number_of_shards"
_RECOVERY = "*.shards.type,*.shards.primary,*.shards.index.size.total_in_bytes,*.shards.index.size.recovered_in_bytes"


@dataclass(frozen=True)
class Health:
    """Of some indices together. ``missing``: one of them does not exist.

    An index whose restore has only begun is called yellow, though none of its primaries serves: they are counted.
    """

    status: str
    primaries: int
    serving: int  # of the primaries
    missing: bool

    def reaches(self, wanted: SearchStatus) -> bool:
        return not self.missing and self.serving == self.primaries and ORDER.index(self.status) >= ORDER.index(wanted)


async def health(connection: SearchConnection, indices: Collection[str]) -> Health:
    """``indices`` empty: the whole cluster."""
    status, primaries, serving, missing = "green", 0, 0, False
    for part in batches(indices) if indices else ("",):
        path = f"/_cluster/health/{part}".rstrip("/")
        # The shortest wait: an index that does not exist would be waited for.
        try:
            found = await connection.ask("GET", path, timeout="0s", level="indices", filter_path=_HEALTH)
        except ServerSaid as error:
            if error.status != REQUEST_TIMEOUT:
                raise
            missing = True
            continue
        status = min(status, str(found["status"]), key=ORDER.index)
        primaries += sum(int(index["number_of_shards"]) for index in found.get("indices", {}).values())
        serving += int(found["active_primary_shards"])
    return Health(status, primaries, serving, missing)


@dataclass(frozen=True)
class Unplaced:
    """A shard that no node serves. ``failed``: its restore. ``unwanted``: no node can take it as things are."""

    name: str
    failed: bool
    unwanted: bool
    words: str

    def __str__(self) -> str:
        return f"{self.name}: {self.words}"


async def await_status(
    connection: SearchConnection,
    wanted: SearchStatus,
    indices: Collection[str],
    within_seconds: float,
    *,
    restoring: bool = False,
    progress: SearchProgress | None = None,
) -> str:
    """Waits until the indices have at least this status; ``restoring``: they come from a snapshot.

    Raises:
        RestoreFailed: of a restore, once a shard is known not to come.
        Unreachable: not in time.
    """
    clock = asyncio.get_running_loop().time
    until = clock() + within_seconds
    wanted_at = clock()  # when some node wanted each shard
    while True:
        found = await health(connection, indices)
        if progress is not None:
            progress(await _advance(connection, indices, found))
        if found.reaches(wanted):
            return found.status
        late = clock() > until
        if restoring and found.missing:
            raise RestoreFailed(f"An index that {connection.name} restores was deleted meanwhile.")
        unplaced = await _unplaced(connection, indices) if late or restoring else []
        if restoring:
            if not any(shard.unwanted for shard in unplaced):
                wanted_at = clock()
            _check_restore(unplaced, clock() - wanted_at > connection.limits.unplaced_seconds)
        if late:
            words = f": {'; '.join(map(str, unplaced))}" if unplaced else ""
            raise Unreachable(
                f"{connection.name} is {found.status} with {found.serving} of {found.primaries} primaries,"
                f" and not {wanted} within {within_seconds:g} s{words}."
            )
        await asyncio.sleep(connection.limits.poll_seconds)


def _check_restore(unplaced: Sequence[Unplaced], too_long: bool) -> None:
    """Raises RestoreFailed where a restore cannot end by itself."""
    hopeless = [shard for shard in unplaced if shard.failed or (shard.unwanted and too_long)]
    if hopeless:
        raise RestoreFailed(f"Shards could not be restored: {'; '.join(map(str, hopeless))}.")


async def _unplaced(connection: SearchConnection, indices: Collection[str]) -> list[Unplaced]:
    """The first few, primaries before replicas, each with the cluster's reason."""
    explained = [await _explain(connection, shard) for shard in (await _unassigned(connection, indices))[:EXPLAINED]]
    return [shard for shard in explained if shard is not None]


async def _unassigned(connection: SearchConnection, indices: Collection[str]) -> list[dict[str, Any]]:
    """Primaries first."""
    found: list[dict[str, Any]] = []
    for part in batches(indices) if indices else ("",):
        path = f"/_cat/shards/{part}".rstrip("/")
        listed = await connection.found("GET", path, format="json", h="index,shard,prirep,state") or []
        found += [shard for shard in listed if shard["state"] == "UNASSIGNED"]
    return sorted(found, key=lambda shard: (shard["prirep"], shard["index"], int(shard["shard"])))


async def _explain(connection: SearchConnection, shard: dict[str, Any]) -> Unplaced | None:
    """None where it has found its place meanwhile."""
    primary = shard["prirep"] == "p"
    asked = {"index": shard["index"], "shard": int(shard["shard"]), "primary": primary}
    try:
        found = await connection.ask("POST", "/_cluster/allocation/explain", asked)
    except ServerSaid:
        return None
    if found.get("current_state") != "unassigned":
        return None
    deciders = [
        decider
        for node in found.get("node_allocation_decisions", ())
        for decider in node.get("deciders", ())
        if decider.get("decision") == "NO"
    ]
    failure = next((each for each in deciders if each.get("decider") == RESTORE_DECIDER), None)
    said = str(
        (failure or (deciders or [{}])[0]).get("explanation") or found.get("allocate_explanation") or "unassigned"
    )
    details = _innermost(str(found.get("unassigned_info", {}).get("details", "")))
    return Unplaced(
        name=f"{shard['index']}[{shard['shard']}]",
        failed=failure is not None,
        unwanted=primary and found.get("can_allocate") in ("no", "no_valid_shard_copy"),
        words=f"{_shortened(said)}: {details}" if details else _shortened(said),
    )


def _innermost(details: str) -> str:
    """The last cause of a failure that is told with all of them, by one product as a stack trace."""
    for before in ("Caused by: ", "nested: "):
        details = details.rpartition(before)[2]
    return _shortened(details.partition("\n")[0].strip("[]; "))


def _shortened(words: str) -> str:
    """Without the node's own account of it, which comes after the first cause."""
    text = " ".join(words.partition(" because of [")[0].split())
    return text[:LONGEST_REASON]


async def _advance(connection: SearchConnection, indices: Collection[str], found: Health) -> SearchAdvance:
    done, expected = 0, 0
    for part in batches(indices):
        answer = await connection.found("GET", f"/{part}/_recovery", filter_path=_RECOVERY) or {}
        for index in answer.values():
            for shard in index["shards"]:
                if shard["primary"] and shard["type"] == "SNAPSHOT":
                    size = shard.get("index", {}).get("size", {})
                    done += int(size.get("recovered_in_bytes", 0))
                    expected += int(size.get("total_in_bytes", 0))
    return SearchAdvance(found.serving, found.primaries, done, expected)
