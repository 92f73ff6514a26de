"""What a recovery point of Elasticsearch or OpenSearch came from, and what a restored index is held against."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Literal

from pydantic import Field

from recovery.domain.base import Asked, Model, Recorded


class SearchProduct(StrEnum):
    ELASTICSEARCH = "elasticsearch"
    OPENSEARCH = "opensearch"

    @property
    def proper_name(self) -> str:
        return "OpenSearch" if self is SearchProduct.OPENSEARCH else "Elasticsearch"


class SearchServer(Recorded):
    """A cluster as it names itself. ``version`` is the server's number, e.g. ``2.19.1``."""

    product: SearchProduct
    version: str
    cluster: str
    cluster_uuid: str

    @property
    def title(self) -> str:
        return f"{self.product.proper_name} {self.version}"


class SnapshotState(StrEnum):
    IN_PROGRESS = "IN_PROGRESS"
    SUCCESS = "SUCCESS"
    PARTIAL = "PARTIAL"
    FAILED = "FAILED"
    INCOMPATIBLE = "INCOMPATIBLE"


class ShardFailure(Recorded):
    index: str
    shard: int
    reason: str

    def __str__(self) -> str:
        return f"{self.index}[{self.shard}]: {self.reason}"


class SnapshotMark(Recorded):
    """What a snapshot of ours carries in its metadata, so that nobody takes it for another's.

    ``patterns`` is :func:`patterns_digest` of what was asked for: the patterns themselves may be longer than the
    metadata may be.
    """

    point: str
    product: SearchProduct
    cluster: str  # UUID of the cluster that wrote it
    patterns: str


class SearchSnapshot(Recorded):
    """A snapshot as its repository lists it."""

    name: str
    uuid: str
    state: SnapshotState
    version: str | None = None  # of the server that wrote it; newer ones name a range, "8.17.0-8.17.3"
    indices: list[str] = Field(default_factory=list)
    data_streams: list[str] = Field(default_factory=list)
    global_state: bool = False
    started_at: datetime
    finished_at: datetime | None = None
    shards: int = 0
    failures: list[ShardFailure] = Field(default_factory=list)
    mark: SnapshotMark | None = None  # None: not ours


class ShardPosition(Recorded):
    """Between which sequence numbers a shard of a snapshot ends.

    ``at_least``: the global checkpoint before the snapshot began, so everything up to it is in the snapshot.
    ``at_most``: the highest number that was given out when the snapshot had ended.
    """

    at_least: int
    at_most: int


class SearchIndex(Recorded):
    """One index of a snapshot.

    ``docs`` is what a search of its primaries saw once the snapshot had ended. ``positions`` are by shard; they are
    empty for an index that was closed, or was made anew meanwhile.
    """

    index: str
    uuid: str
    shards: int
    docs: int
    positions: list[ShardPosition] = Field(default_factory=list)
    aliases: dict[str, dict[str, Any]] = Field(default_factory=dict)  # as GET /_alias shows them

    @property
    def rested(self) -> bool:
        """Nothing was written while its snapshot was taken, so the document count is exact."""
        return bool(self.positions) and all(position.at_least == position.at_most for position in self.positions)

    @property
    def is_comparable(self) -> bool:
        """Whether an emptied copy would be noticed: of a closed index, of one that was made while its snapshot was
        taken, and where an earlier attempt had begun that, nothing is known."""
        return any(position.at_least >= 0 or position.at_most < 0 for position in self.positions)

    def differences(self, docs: int, positions: Sequence[int]) -> list[str]:
        """What a restored copy with so many documents, whose shards end at ``positions``, lacks."""
        if not self.positions:
            return []
        if len(positions) != len(self.positions):
            return [f"{self.index} has {len(positions)} started shards instead of {len(self.positions)}"]
        found = [
            f"{self.index}[{shard}] ends at sequence number {position} and the snapshot at {expected.at_least} or later"
            for shard, (position, expected) in enumerate(zip(positions, self.positions, strict=True))
            if position < expected.at_least
        ]
        if not found and self.rested and not self.is_passed_by(positions) and docs != self.docs:
            found.append(f"{self.index} has {docs} documents instead of {self.docs}")
        return found

    def is_passed_by(self, positions: Sequence[int]) -> bool:
        """The copy is beyond what the snapshot can hold: somebody writes to it already."""
        return any(position > known.at_most for position, known in zip(positions, self.positions, strict=False))


class SearchSource(Recorded):
    """The cluster and the snapshot that a recovery point names; the bytes are in the cluster's own repository.

    Shards are each consistent in themselves and not with one another: between ``began_at`` and ``finished_at`` (the
    cluster's clock) lies what the snapshot shows.
    """

    server: SearchServer
    repository: str
    repository_type: str = ""  # and its settings, as the cluster has it registered: by them others find it
    repository_settings: dict[str, str] = Field(default_factory=dict)
    snapshot: str
    snapshot_uuid: str
    patterns: list[str]
    global_state: bool
    indices: list[SearchIndex]
    data_streams: dict[str, list[str]] = Field(default_factory=dict)  # and which of the indices are theirs
    shards: int
    bytes: int  # of all files that the snapshot needs, whichever snapshot wrote them
    new_bytes: int  # of those that it wrote itself
    began_at: datetime
    finished_at: datetime
    notes: list[str] = Field(default_factory=list)

    @property
    def identity(self) -> str:
        """What retention and order keep apart: a cluster that was lost and made anew, empty, never pushes out what was
        saved before, and neither does another choice of indices."""
        return f"{self.server.cluster_uuid}/{patterns_digest(self.patterns)}"

    @property
    def position(self) -> tuple[int, int] | None:
        """Milliseconds of the cluster's own clock at which the snapshot began."""
        return (0, int(self.began_at.astimezone(UTC).timestamp() * 1000))

    @property
    def window(self) -> tuple[datetime, datetime] | None:
        return self.began_at, self.finished_at

    @property
    def docs(self) -> int:
        return sum(part.docs for part in self.indices)

    def not_comparable(self, indices: Collection[str]) -> list[str]:
        """Those of ``indices`` of which nothing is known that a copy could be held against."""
        return [part.index for part in self.indices if part.index in indices and not part.is_comparable]


_SECRET = ("access_key", "secret_key", "session_token", "password", "sas_token", "credentials")


def names_a_secret(setting: str) -> bool:
    """Whether a repository's setting of this name would show a secret to everybody who may read the settings."""
    return any(word in setting.lower() for word in _SECRET)


class SearchStorage(Model):
    """Where each region's cluster keeps its snapshots. Only one cluster may write to a repository, so each has a folder
    of its own in ``place`` (a bucket, or a folder of the nodes), called as its region."""

    type: Literal["s3", "fs"]
    place: str
    base_path: str = ""  # in a bucket
    client: str = "default"  # whose credentials the nodes' keystores hold
    settings: dict[str, str] = Field(default_factory=dict)


class SearchRule(Model):
    """What is taken of a group's search engine. ``storage`` None: somebody else registers the repository."""

    repository: str = "recovery"
    indices: list[str] = Field(default_factory=lambda: ["*"])
    global_state: bool = False
    storage: SearchStorage | None = None
    derived: bool = False  # it can be made anew from the other stores: a group may move without it


class SearchChoice(Asked):
    """What is restored of a search engine's point, and how: see ``recovery.ports.search.SearchRestoreOptions``."""

    indices: tuple[str, ...] = ("*",)
    rename_pattern: str | None = None
    rename_replacement: str | None = None
    aliases: bool = True
    global_state: bool = False
    repository: str | None = None


class RestoredSearch(Model):
    """What a restore made: name at the source -> name here. ``moves_aliases``: once it is opened."""

    indices: dict[str, str]
    data_streams: dict[str, str] = Field(default_factory=dict)
    moves_aliases: bool = True


def snapshot_name(point: str) -> str:
    """What the snapshot of a recovery point is called: in the order of the points' ids, which begin with a time."""
    return f"recovery-{point.lower()}"


def patterns_digest(patterns: Sequence[str]) -> str:
    """Equal for the same index patterns in any order of the inclusions; the order of exclusions counts."""
    excluded = [pattern for pattern in patterns if pattern.startswith("-")]
    included = sorted({pattern for pattern in patterns if not pattern.startswith("-")})
    return hashlib.sha256("\n".join([*included, *excluded]).encode()).hexdigest()[:16]


def chosen(patterns: Sequence[str], names: Iterable[str]) -> list[str]:
    """The names that the patterns choose, as a server reads them: ``*`` is any text, ``-`` before a pattern excludes.

    Names that begin with a dot are internal ones: only a pattern that begins with a dot chooses them.

    Raises:
        ValueError: a pattern without ``*`` names nothing that is there.
    """
    known = list(names)
    found: dict[str, None] = {}
    for pattern in patterns:
        text = pattern.removeprefix("-")
        rule = re.compile(re.escape(text).replace(r"\*", ".*"))
        matches = [
            name for name in known if rule.fullmatch(name) and (text.startswith(".") or not name.startswith("."))
        ]
        if not matches and "*" not in text and pattern == text:
            raise ValueError(f"it holds no {text}; it holds {', '.join(sorted(known)) or 'nothing'}")
        for name in matches:
            if pattern == text:
                found[name] = None
            else:
                found.pop(name, None)
    return sorted(found)


def renamed(names: Iterable[str], pattern: str | None, replacement: str | None) -> dict[str, str]:
    """Name at the source -> name to be restored as. The pattern and ``$1`` are those of the server (Java's).

    Raises:
        ValueError: the pattern cannot be read, a name is none that an index may have, or two would get the same one.
    """
    if pattern is None or replacement is None:
        if pattern != replacement:
            raise ValueError("a rename pattern and its replacement go together")
        return {name: name for name in names}
    try:
        template = re.sub(r"\$(\d)", r"\\g<\1>", replacement.replace("\\", r"\\"))
        targets = {name: re.sub(pattern, template, name) for name in names}
    except (re.error, IndexError) as error:
        raise ValueError(f"the rename pattern {pattern!r} with {replacement!r} cannot be used: {error}") from error
    by_target: dict[str, str] = {}
    for name, target in targets.items():
        if not _may_be_an_index(target):
            raise ValueError(f"{name} would be restored as {target!r}, and no index may be called so")
        if target in by_target:
            raise ValueError(f"{by_target[target]} and {name} would both be restored as {target}")
        by_target[target] = name
    return targets


def _may_be_an_index(name: str) -> bool:
    bad = set('\\/*?"<>| ,#:')
    return (
        bool(name) and name == name.lower() and name[0] not in "-_+" and name not in (".", "..") and not bad & set(name)
    )


def restore_refusal(product: SearchProduct, version: str, target: SearchServer) -> str | None:
    """Why a server cannot read a snapshot that ``product`` wrote in ``version``; None where it can.

    Sources: "Snapshot and restore: version compatibility" in Elasticsearch's guide; OpenSearch's migration guide
    (Elasticsearch up to 7.10.2 can be restored into 1.x, and what 7.x wrote into 2.x).
    """
    wrote, reads = number(version), number(target.version)
    words = f"{product.proper_name} {version} wrote it and {target.title} cannot read it"
    if product is not target.product:
        if product is SearchProduct.OPENSEARCH:
            return f"{words}: Elasticsearch reads no snapshot of OpenSearch"
        if wrote > (7, 10, 2) or reads[0] > 2 or reads[0] - wrote[0] > -5:
            return f"{words}: OpenSearch 1.x reads those of Elasticsearch 6.0 to 7.10.2, 2.x those of 7.0 to 7.10.2"
        return None
    if wrote > reads:
        return f"{words}: a snapshot is never restored into an older version"
    if reads[0] - wrote[0] > 1:
        return f"{words}: only snapshots of the same and of the preceding major version are read"
    return None


def number(version: str) -> tuple[int, int, int]:
    """``2.19.1-SNAPSHOT`` -> (2, 19, 1). Raises ValueError."""
    found = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", version)
    if found is None:
        raise ValueError(f"{version!r} is no version number")
    return int(found[1]), int(found[2]), int(found[3] or 0)


def alias_actions(
    restored: Mapping[str, str],
    wanted: Mapping[str, Mapping[str, Mapping[str, Any]]],
    holders: Mapping[str, Collection[str]],
) -> list[dict[str, Any]]:
    """The actions of one atomic ``POST /_aliases`` after which each alias points to restored indices and nothing else.

    Args:
        restored: name at the source -> name restored as.
        wanted: name at the source -> its aliases and their definitions.
        holders: alias -> the indices that have it now.
    """
    aliases = {alias for source in restored for alias in wanted.get(source, {})}
    targets = set(restored.values())
    actions: list[dict[str, Any]] = [
        {"remove": {"index": index, "alias": alias}}
        for alias in sorted(aliases)
        for index in sorted(set(holders.get(alias, ())) - targets)
    ]
    for source, target in sorted(restored.items()):
        for alias, definition in sorted(wanted.get(source, {}).items()):
            actions.append({"add": {"index": target, "alias": alias, **definition}})
    return actions
