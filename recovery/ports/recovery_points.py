"""Taking, finding, validating, expiring and restoring recovery points of one group."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

from recovery.domain.chains import POSTGRES_MANIFEST
from recovery.domain.group import GroupSnapshot
from recovery.domain.plan import RestoredServer
from recovery.domain.recovery_point import (
    BackupKind,
    CheckResult,
    DataStore,
    Manifest,
    RecoveryPoint,
    Verdict,
    VerdictState,
)
from recovery.domain.recovery_set import RecoverySet
from recovery.domain.recovery_target import ChosenRecovery, RecoveryTarget
from recovery.domain.redis import Way
from recovery.domain.search import SearchChoice
from recovery.domain.wal_read_back import WalReadBack
from recovery.ports.postgres import BackupSource, PointReader

Progress = Callable[[int, int, str], None]
"""Called with (bytes done, bytes expected or 0, what is being done)."""


@dataclass(frozen=True)
class BackupOrder:
    """One backup to take; ``point_id`` was minted before the call, ``attempt`` counts the tries."""

    group: GroupSnapshot
    region: str
    kind: BackupKind
    point_id: str
    run_id: str
    attempt: int
    started_at: datetime
    epoch: int | None = None
    take_over: bool = False  # search: goes on in a repository that another cluster wrote to until now

    @property
    def readable(self) -> frozenset[str]:
        """Artefacts that are stored without encryption: a base backup that others follow has PostgreSQL's manifest
        read again by a worker that holds no private key. It names files, their sizes, times and checksums."""
        followed = self.kind is BackupKind.PHYSICAL and self.group.base_backup.incrementals
        return frozenset({POSTGRES_MANIFEST} if followed else ())


@dataclass(frozen=True)
class TakenPoint:
    """``dropped`` maps a location that did not get the point to the reason; ``warnings``: what is wrong beside it."""

    manifest: Manifest
    complete: list[str]
    dropped: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Repaired:
    """``written`` maps a location to the keys that were written anew, ``left`` one that is not sound to the reason."""

    written: dict[str, list[str]]
    left: dict[str, str]


@dataclass(frozen=True)
class Expired:
    """What retention did: ids of points removed, with reasons, and how many orphaned objects.

    ``warnings``: clocks by which nothing was removed, since they cannot be right; what was left elsewhere, with why.
    """

    removed: dict[str, str]
    kept: dict[str, str]
    orphans: int
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class ExpiredWal:
    """``pieces`` of archived WAL were removed; ``kept``: why none was looked at, empty otherwise."""

    pieces: int
    kept: str = ""


@dataclass(frozen=True)
class ListedSets:
    """``rejected``: keys of documents that are there and not believed, with location and reason. ``unreachable``:
    locations that did not answer, with the reason."""

    sets: list[RecoverySet] = field(default_factory=list)  # newest first
    rejected: dict[str, str] = field(default_factory=dict)
    unreachable: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RestoreOrder:
    """One restore. ``restore_id`` was minted before the call: only what carries it is ever removed."""

    group: GroupSnapshot
    region: str
    point_id: str
    restore_id: str
    target_database: str | None = None
    target_directory: str | None = None
    target_port: int | None = None
    target_instance: str | None = None  # RDS: the name that is asked for
    recovery: ChosenRecovery | None = None  # PostgreSQL: goes on with archived WAL after the point's own end
    streams: tuple[str, ...] = ()  # JetStream: only these; none: all of the point
    target_stream: str | None = None  # JetStream: the name that was asked for
    replicas: int | None = None  # JetStream: another number than the source's
    replace: bool = False  # what is there under the same name is deleted first
    way: Way | None = None  # Redis: how a running server gets the data; None: the one that fits it
    append_only: bool = False  # Redis: the stopped server in target_directory loads an append-only file
    search: SearchChoice | None = None  # search: what is restored, and how it is called; None: all, as it was


class StorePoints(Protocol):
    """One store's part in taking and proving recovery points: all that PostgreSQL, JetStream and the others do in
    their own ways. A store is added by one of these, and by one ``Restores``, in the worker's tables.

    Raises NotFound, Unreachable, SourceFailed, Refused as the library's errors say.
    """

    @property
    def at_once(self) -> int:
        """So many artefacts of a backup may be read at the same time."""
        ...

    async def check_source(self, group: GroupSnapshot, region: str) -> list[CheckResult]:
        """Whether the store can be backed up now. One that does not answer raises."""
        ...

    def opened(self, order: BackupOrder, progress: Progress) -> AbstractAsyncContextManager[BackupSource]:
        """The running backup, which ends with the context; no second one of its kind runs beside it.

        ``progress`` is for what is done before the first byte can be read, and what is read is told by the reader.
        """
        ...

    async def validate(
        self,
        group: GroupSnapshot,
        reader: PointReader,
        scratch_folder: Path,
        progress: Callable[[int, int], None],
        run_id: str,
    ) -> tuple[VerdictState, str, list[CheckResult]]:
        """Restores into a scratch server, checks it and removes it. Raises nothing but cancellation and bugs.

        ``run_id``: an attempt goes on with what an earlier one of the same run made, and with no other run's.
        """
        ...


class KeptElsewhere(Protocol):
    """What is kept of recovery points outside the locations: snapshots of a search engine, or of RDS."""

    async def discard(self, group: GroupSnapshot, region: str, point_id: str, manifest: Manifest | None) -> bool:
        """Deletes what belongs to this point and to nothing else; False: there is none. Idempotent.

        Args:
            region: whose cluster took it.
            manifest: None: of a point that did not come into being.

        Raises NotOurs where others made what is called so; Unreachable, Refused.
        """
        ...

    async def discard_orphans(
        self, group: GroupSnapshot, points: Sequence[RecoveryPoint], named: Collection[str], before: datetime
    ) -> tuple[int, list[str]]:
        """Deletes what was made before then for points of which no location holds a manifest: those of backups that
        ended early. Call it only where every location answered.

        Args:
            named: ids of all points that any manifest names, also one that is not believed.

        Returns:
            How many were deleted, and what was left, with the reason.
        """
        ...


class RecoveryPoints(Protocol):
    """Raises NotFound, Unreachable, SourceFailed, Refused, WrongKey as the library's errors say."""

    async def check_source(
        self, group: GroupSnapshot, region: str, stores: Collection[DataStore] = (DataStore.POSTGRES,)
    ) -> list[CheckResult]:
        """Whether these stores can be backed up now, and what each location lacks.

        One store of several that does not answer is a failed check: the others are backed up all the same.
        """
        ...

    async def take(self, order: BackupOrder, progress: Progress) -> TakenPoint: ...

    async def remove_unfinished(self, group: GroupSnapshot, point_id: str, region: str | None = None) -> int:
        """Removes the objects of a point that has no manifest, and what its store keeps of it elsewhere; a complete
        point is not touched. Objects removed.

        Args:
            region: whose server was backed up; None: the home region's.
        """
        ...

    async def fill(self, group: GroupSnapshot, point_id: str, progress: Progress) -> TakenPoint:
        """Copies the point to each location that lacks it."""
        ...

    async def points(self, group: GroupSnapshot, since: timedelta | None = None) -> list[RecoveryPoint]:
        """Complete points with their newest verdicts, newest first."""
        ...

    async def point(self, group: GroupSnapshot, point_id: str) -> RecoveryPoint: ...

    async def newest_validated(self, group: GroupSnapshot, kind: BackupKind | None = None) -> RecoveryPoint: ...

    async def unbelieved(self, group: GroupSnapshot) -> dict[str, str]:
        """Points of which a location holds a manifest with a bad or unknown signature: id -> where and why."""
        ...

    async def validate(self, group: GroupSnapshot, point_id: str, run_id: str, progress: Progress) -> Verdict:
        """Restores the point for real, stores the verdict beside the manifest and returns it.

        A wrong key is said before objects are downloaded in bulk. A point whose manifest no location's signature
        vouches for is CORRUPT; that verdict is returned and not stored.
        """
        ...

    async def repair(self, group: GroupSnapshot, point_id: str, progress: Progress) -> Repaired:
        """Writes what is damaged at one location anew from another that holds it intact, under conditions only.

        Raises Corrupt where something is intact nowhere: then nothing was written. A verdict is not changed by it:
        validate the point again.
        """
        ...

    async def expire(self, group: GroupSnapshot, now: datetime, *, dry_run: bool) -> Expired: ...

    async def write_set(
        self, group: GroupSnapshot, point_ids: Sequence[str], *, set_id: str, run_id: str, missing: Sequence[str] = ()
    ) -> tuple[RecoverySet, dict[str, str]]:
        """Signs and stores which points belong together; the same for every attempt. Also the locations that did not
        take it, with the reason. Raises NotFound where one of the points is not complete, Unreachable."""
        ...

    async def sets(self, group: GroupSnapshot) -> ListedSets:
        """All recovery sets that a trusted key signed. Raises Unreachable: no location answers."""
        ...


class Restores(Protocol):
    """Restores into this host (physical points) or into a server that it reaches (all others)."""

    async def verify_infrastructure(self, order: RestoreOrder) -> list[CheckResult]:
        """Everything a restore needs: binaries of the right major, space, an empty target, keys, a complete point.

        A check that fails says what to do; nothing is changed.
        """
        ...

    async def restore(self, order: RestoreOrder, progress: Progress) -> RestoredServer:
        """Restores, starts, and keeps clients out. Repeated with the same ``restore_id`` it starts over."""
        ...

    async def remove(self, order: RestoreOrder) -> bool:
        """Removes what a restore with this id made, wherever it stopped; False when there was nothing."""
        ...

    async def verify(self, group: GroupSnapshot, restored: RestoredServer) -> list[CheckResult]:
        """Holds the restored data against the point's manifest and the group's critical tables."""
        ...

    async def open_writes(self, group: GroupSnapshot, restored: RestoredServer) -> None:
        """Lets clients in. Repeated, it changes nothing."""
        ...

    async def accepts_writes(self, group: GroupSnapshot, restored: RestoredServer) -> bool: ...

    async def write_probe(self, group: GroupSnapshot, restored: RestoredServer, run_id: str) -> datetime:
        """Commits one row as a client would and returns the server's time of the commit."""
        ...


class RecoveryTargets(Protocol):
    """Moments between and after recovery points, where the group's WAL is archived."""

    async def choose(
        self, group: GroupSnapshot, target: RecoveryTarget, point_id: str | None = None
    ) -> tuple[RecoveryPoint, ChosenRecovery]:
        """The recovery point to begin with, and the way from it to the target. A named point need not be validated.

        Raises:
            Refused: the target lies outside of what can be reached, which the message names.
            NotFound: there is no such point, or none from which archived WAL leads on.
            Unreachable: no location answers.
        """
        ...

    async def expire(self, group: GroupSnapshot) -> ExpiredWal:
        """Removes archived WAL that no recovery point needs any more, and partials of whole units.

        WAL of a server without any recovery point stays, and all of it while there may be points that are not seen.
        """
        ...

    async def read_back(self, group: GroupSnapshot, since: datetime, progress: Progress) -> WalReadBack:
        """Reads what was archived since then at every location that answers, and holds it against its signed records.

        Raises:
            WrongKey: this worker has no key that opens archived WAL. Unreachable: no location answers.
        """
        ...
