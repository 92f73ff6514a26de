"""What backup and restore need of Elasticsearch and OpenSearch.

A cluster writes snapshots into a repository of its own (a bucket or a shared folder); a recovery point of it holds only
what ``SearchSource`` says, and no bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from recovery.domain.recovery_point import CheckResult
from recovery.domain.search import SearchServer, SearchSnapshot, SearchSource

SearchStatus = Literal["yellow", "green"]
"""Yellow: every primary serves. Green: every replica too."""


@dataclass(frozen=True)
class SearchRepository:
    """Where a cluster keeps its snapshots.

    ``place`` is the bucket (``s3``) or the folder (``fs``, below each node's ``path.repo``). Credentials of a bucket
    are never in here: the nodes keep them in their keystores under the name ``client``. Only one cluster may write to
    a repository; all others register it ``readonly``. ``settings`` are further ones, by the product's own names.
    """

    name: str
    type: Literal["s3", "fs"]
    place: str
    base_path: str = ""
    client: str = "default"
    readonly: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SnapshotRequest:
    """``point`` was minted before the first attempt and names the snapshot: a repeated request finds its own.

    ``patterns`` choose indices, data streams and aliases as the server reads them (``*``; ``-`` before one excludes).
    ``global_state`` takes templates, persistent settings and pipelines along, and with Elasticsearch the state of its
    features. ``take_over``: this cluster goes on in a repository that another cluster wrote to until now.
    """

    repository: str
    point: str
    patterns: Sequence[str] = ("*",)
    global_state: bool = False
    take_over: bool = False
    within_seconds: float = 3600.0


@dataclass(frozen=True)
class SearchRestoreOptions:
    """How a snapshot is put back.

    ``restore_id`` was minted before the first attempt: a repeated restore goes on with the indices that carry it, and
    only these are ever removed. ``indices`` choose among the snapshot's; ``*`` chooses no name that begins with a dot.
    ``rename_pattern`` and ``rename_replacement`` are the server's (a Java expression, ``$1``). ``replace`` deletes what
    is in the way, indices whose names begin with a dot excepted. ``repository`` None: the name at the source.
    ``ignore_settings`` are index settings of the source that do not fit here (``index.routing.allocation.require.*``).
    """

    restore_id: str
    repository: str | None = None
    indices: Sequence[str] = ("*",)
    rename_pattern: str | None = None
    rename_replacement: str | None = None
    replace: bool = False
    aliases: bool = True  # moved to the restored indices in one step, once these are whole
    keep_mark: bool = False  # until ``complete``, which moves the aliases: so that all can still be taken back
    global_state: bool = False
    replicas: int | None = None  # None keeps the number of the source
    ignore_settings: Sequence[str] = ()
    wait_for: SearchStatus = "yellow"
    within_seconds: float = 3600.0


@dataclass(frozen=True)
class SearchAdvance:
    """How far a snapshot or a restore is. Bytes are 0 of 0 until the servers know them."""

    shards: int
    of_shards: int
    bytes: int
    of_bytes: int


SearchProgress = Callable[[SearchAdvance], None]


@dataclass(frozen=True)
class RestoredIndices:
    """``indices`` and ``data_streams``: name at the source -> name here. ``moved``: alias -> indices that had it."""

    indices: dict[str, str]
    data_streams: dict[str, str]
    docs: int
    status: str
    moved: dict[str, list[str]] = field(default_factory=dict)
    replaced: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class SearchRecovery(Protocol):
    """Everything that backup and restore activities do with one cluster.

    Every function raises Unreachable where the cluster does not answer in time or has no master, Refused where it does
    not let us in or is too old, and Contended where something else of it is in the way for a while.
    """

    async def server(self) -> SearchServer:
        """Product, version and identity of the cluster."""
        ...

    async def register(self, repository: SearchRepository, *, replace: bool = False) -> list[str]:
        """Registers the repository, has every node try it, and returns the nodes' names. Repeatable.

        Raises:
            BadInput: the type, a setting or the place cannot be used, or a setting would hold a secret.
            Refused: one of this name has other settings and ``replace`` is not given.
            SourceFailed: a node cannot use it, in its own words.
        """
        ...

    async def verify(self, repository: str) -> list[str]:
        """Has every node that may write try the repository; their names. Raises NotFound, SourceFailed."""
        ...

    async def attach(self, source: SearchSource, name: str) -> str:
        """Under which name this cluster reads the repository of a snapshot: under the snapshot's own where this cluster
        has the same place registered so, else under ``name``, registered as read-only.

        Raises as ``register``; Refused, too, where ``name`` is another place here.
        """
        ...

    async def snapshot(self, request: SnapshotRequest, progress: SearchProgress | None = None) -> SearchSource:
        """Takes a snapshot and waits for it, or for the one that an earlier attempt began.

        When cancelled, or where the cluster is lost, the cluster goes on: ask again, or ``delete_snapshot``.

        Raises:
            BadInput: a pattern cannot be used, or nothing is chosen.
            NotFound: no such repository, or no such index.
            NotOurs: a snapshot of this name was made by others.
            Refused: another cluster writes to this repository, or it is registered as read-only.
            SourceFailed: it ended PARTIAL or FAILED; the shards are named.
            Unreachable: it did not end within ``within_seconds``; it goes on.
        """
        ...

    async def snapshots(self, repository: str) -> list[SearchSnapshot]:
        """All snapshots of a repository, newest first. Raises NotFound, SourceFailed."""
        ...

    async def inspect(self, source: SearchSource, repository: str) -> str:
        """Reads what the repository holds of each shard of a snapshot, and says it in a sentence.

        Raises:
            Corrupt: the snapshot is gone, is another one, is not whole, or needs other files than were taken.
            NotFound: there is no such repository.
        """
        ...

    async def delete_snapshot(self, repository: str, point: str, *, within_seconds: float = 600.0) -> bool:
        """Deletes the snapshot of this point, aborting it where it is still being taken. False: there is none.

        Raises NotOurs where it was made by others.
        """
        ...

    async def check_restore(self, source: SearchSource, options: SearchRestoreOptions) -> list[CheckResult]:
        """What ``restore`` would be refused for, as far as it is known before. Changes nothing.

        Raises BadInput, NotFound where the choice or the renaming cannot be used.
        """
        ...

    async def restore(
        self, source: SearchSource, options: SearchRestoreOptions, progress: SearchProgress | None = None
    ) -> RestoredIndices:
        """Restores indices of a snapshot, compares them with what was taken, and moves their aliases at the end.

        When cancelled, or where the cluster is lost, the cluster goes on: ask again, or ``remove_restored``.

        Raises:
            BadInput: the choice or the renaming cannot be used.
            NotFound: the repository has no such snapshot, or the snapshot no such index.
            Refused: something of that name exists (closed indices too) and may not be replaced; the snapshot is not
                whole or another one than the point's; or the server cannot read it.
            NoSpace: the nodes have less room than the snapshot's files need.
            RestoreFailed: shards could not be restored, or what was restored differs; it was deleted again.
            Unreachable: it did not end within ``within_seconds``; it goes on.
        """
        ...

    async def differences(self, source: SearchSource, restored: Mapping[str, str]) -> list[str]:
        """Sentences on what restored indices (name at the source -> name here) lack; what was written since is none."""
        ...

    async def complete(
        self, source: SearchSource, restored: Mapping[str, str], restore_id: str, *, aliases: bool
    ) -> list[str]:
        """Moves the aliases in one step, and takes the mark away that ``keep_mark`` left. Repeated, it changes nothing.

        Returns notes. Raises RestoreFailed where restored indices are gone, or the aliases cannot be moved.
        """
        ...

    async def unfinished(self) -> dict[str, list[str]]:
        """Ids of restores that are not completed -> their indices."""
        ...

    async def remove_restored(self, restore_id: str) -> list[str]:
        """Undo of a restore that was not completed, also while it runs. Returns what was deleted."""
        ...

    async def wait_for(self, status: SearchStatus, indices: Sequence[str] = (), *, within_seconds: float) -> str:
        """Waits until the indices (or the whole cluster) have at least this status, and returns the status.

        Raises Unreachable with the shards in question and the cluster's own reason.
        """
        ...
