"""What a cluster's indices hold: documents, sequence numbers, aliases, names."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from recovery.adapters.search.connection import SearchConnection, batches
from recovery.domain.search import SearchIndex, ShardPosition

REFRESH_SECONDS = 120.0
_STATS = "indices.*.uuid,indices.*.primaries.docs.count,indices.*.shards.*.seq_no,indices.*.shards.*.routing.primary"


@dataclass(frozen=True)
class ShardNumbers:
    """Sequence numbers of a primary: up to which all copies have everything, and the highest given out."""

    checkpoint: int
    highest: int


@dataclass(frozen=True)
class IndexContent:
    uuid: str
    docs: int
    shards: dict[int, ShardNumbers]

    @property
    def positions(self) -> list[int]:
        return [numbers.highest for _, numbers in sorted(self.shards.items())]


@dataclass(frozen=True)
class Names:
    """Everything of a cluster that has a name. ``indices``: name -> open or closed."""

    indices: dict[str, str] = field(default_factory=dict)
    aliases: dict[str, list[str]] = field(default_factory=dict)  # alias -> its indices
    data_streams: dict[str, list[str]] = field(default_factory=dict)  # data stream -> its backing indices


async def contents(connection: SearchConnection, indices: Collection[str] | None = None) -> dict[str, IndexContent]:
    """Open indices, all of them or these; what is not there is left out."""
    found: dict[str, IndexContent] = {}
    for part in batches(indices) if indices is not None else ("_all",):
        answer = await connection.ask(
            "GET",
            f"/{part}/_stats/docs",
            level="shards",
            filter_path=_STATS,
            expand_wildcards="open,hidden",
            ignore_unavailable=True,
        )
        for name, stats in answer.get("indices", {}).items():
            found[name] = _content(stats)
    return found


def _content(stats: Mapping[str, Any]) -> IndexContent:
    shards = {}
    for number, copies in stats.get("shards", {}).items():
        for copy in copies:
            if copy.get("routing", {}).get("primary") and "seq_no" in copy:
                numbers = copy["seq_no"]
                shards[int(number)] = ShardNumbers(int(numbers["global_checkpoint"]), int(numbers["max_seq_no"]))
    docs = stats.get("primaries", {}).get("docs", {}).get("count", 0)
    return IndexContent(str(stats.get("uuid", "")), int(docs), shards)


async def refresh(connection: SearchConnection, indices: Collection[str]) -> None:
    """Lets searches and counts see everything that was written until now."""
    for part in batches(indices):
        await connection.ask("POST", f"/{part}/_refresh", seconds=REFRESH_SECONDS, ignore_unavailable=True)


async def alias_definitions(connection: SearchConnection) -> dict[str, dict[str, dict[str, Any]]]:
    """Index -> its aliases -> their definitions."""
    answer = await connection.ask("GET", "/_all/_alias", expand_wildcards="all")
    return {index: dict(found.get("aliases", {})) for index, found in answer.items()}


async def names(connection: SearchConnection) -> Names:
    answer = await connection.ask("GET", "/_resolve/index/*", expand_wildcards="all")
    return Names(
        indices={
            each["name"]: "closed" if "closed" in each.get("attributes", ()) else "open" for each in answer["indices"]
        },
        aliases={each["name"]: _listed(each["indices"]) for each in answer.get("aliases", ())},
        data_streams={each["name"]: _listed(each["backing_indices"]) for each in answer.get("data_streams", ())},
    )


async def with_setting(connection: SearchConnection, setting: str) -> dict[str, str]:
    """Indices that have a setting of their own of this name, and its value."""
    answer = await connection.ask("GET", f"/_all/_settings/{setting}", flat_settings=True, expand_wildcards="all")
    return {index: str(found["settings"][setting]) for index, found in answer.items()}


def taken(
    indices: Iterable[str],
    before: Mapping[str, IndexContent] | None,
    after: Mapping[str, IndexContent],
    aliases: Mapping[str, dict[str, dict[str, Any]]],
) -> list[SearchIndex]:
    """What a snapshot of these indices holds; ``before`` None where it was begun by an attempt that is gone."""
    found = []
    for index in sorted(indices):
        then, now = (before or {}).get(index), after.get(index)
        known = now or then or IndexContent("", 0, {})
        same = now is not None and (then is None or then.uuid == now.uuid)
        positions = [
            ShardPosition(at_least=_checkpoint(then, shard), at_most=numbers.highest)
            for shard, numbers in sorted(now.shards.items())
        ] if now is not None and same else []  # fmt: skip
        found.append(
            SearchIndex(
                index=index,
                uuid=known.uuid,
                shards=len(known.shards),
                docs=known.docs,
                positions=positions,
                aliases=aliases.get(index, {}),
            )
        )
    return found


def _checkpoint(content: IndexContent | None, shard: int) -> int:
    """-1, which is that of an empty shard, where nothing is known."""
    return content.shards[shard].checkpoint if content and shard in content.shards else -1


def _listed(value: str | Sequence[str]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)
