"""What backup, validation and restore need of PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Literal, Protocol

from recovery.domain.addresses import address_of
from recovery.domain.recovery_point import BackupKind, CheckResult, Manifest, Source, VerdictState
from recovery.domain.recovery_target import ReachedPoint

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes expected; 0 when unknown)."""


Checkpoint = Literal["fast", "spread"]
"""How a base backup's first checkpoint is made: at once, or gently over checkpoint_completion_target."""


class ArtefactStream(Protocol):
    """One named byte stream of a backup, read once."""

    @property
    def name(self) -> str: ...

    def chunks(self) -> AsyncIterator[bytes]:
        """Buffers of any size. Closing the iterator early releases the source."""
        ...


class BackupSource(Protocol):
    """One running backup of one store. Leaving its context releases what it holds there: slot, snapshot, sessions."""

    @property
    def kind(self) -> BackupKind: ...

    @property
    def expected_bytes(self) -> int:
        """Size before compression as far as it is known beforehand, 0 when it is not."""
        ...

    def artefacts(self) -> AsyncIterator[ArtefactStream]:
        """The streams, one after the other: each must be read to its end before the next is asked for, unless the
        store gives several at once."""
        ...

    async def finish(self) -> Source:
        """Identity, position, fingerprints. Only after all streams were read."""
        ...


@dataclass(frozen=True)
class PostgresLogin:
    """How a worker connects to a PostgreSQL server. ``host`` is a name, an address or a socket folder.

    The password never shows in ``repr``, in a child's arguments or in an error.
    """

    host: str
    port: int
    user: str = "postgres"
    database: str = "postgres"
    password: str | None = field(default=None, repr=False)
    sslmode: str = "prefer"
    sslrootcert: str | None = None

    def at(self, database: str) -> PostgresLogin:
        """The same server and user, another database."""
        return replace(self, database=database)

    @property
    def address(self) -> str:
        return address_of(self.host, self.port)


@dataclass(frozen=True)
class PostgresPlace:
    """Where a PostgreSQL lives or is to live on this host (host names, paths, TCP ports; never a password)."""

    host: str
    port: int
    data_directory: Path
    run_as: str | None = None


FetchWal = Callable[[str], Awaitable[bytes]]
"""A segment or ``.history`` file by its name, as archived.

Raises NotFound where nothing of that name may be read: PostgreSQL takes that for the end of the WAL. Any other error
stops the recovery.
"""


@dataclass(frozen=True)
class ArchiveRecovery:
    """How a restored copy goes on after the point's own end.

    ``timeline``: the number of the one to follow. ``settings``: PostgreSQL's ``recovery_target_*``; without one the
    recovery ends where ``fetch`` gives no more. ``end_is_enough``: that end is also right where a target was set and
    nothing that was fetched lies beyond it.
    """

    timeline: int
    fetch: FetchWal
    segment_bytes: int
    settings: Mapping[str, str] = field(default_factory=dict)
    end_is_enough: bool = False


@dataclass(frozen=True)
class RestoreOptions:
    """How a recovery point is put back.

    ``restore_id`` was minted before the first attempt: a repeated restore with the same id finds its own work, and only
    what carries this id is ever removed. ``settings`` go into the new server's configuration file.
    ``tablespaces`` maps a tablespace's folder at the source to its new folder; others go beside the data directory.
    ``proven``: a validation restored just this point and compared each of its files with PostgreSQL's own checksum.
    """

    restore_id: str
    read_only: bool = True
    settings: Mapping[str, str] = field(default_factory=dict)
    tablespaces: Mapping[str, Path] = field(default_factory=dict)
    start_timeout: float = 3600.0
    durable: bool = True  # wait until everything is on the disk
    proven: bool = False
    start: bool = True
    recovery: ArchiveRecovery | None = None  # None: the copy ends exactly at the point's stop LSN


@dataclass(frozen=True)
class Restored:
    """What a physical restore made: a running primary on a timeline of its own.

    It ends at the point's stop LSN, or, with ``reached``, where its recovery from archived WAL ended.
    """

    place: PostgresPlace
    restored_bytes: int
    last_commit_at: datetime | None = None  # of the newest transaction that was replayed
    notes: list[str] = field(default_factory=list)
    reached: ReachedPoint | None = None


@dataclass(frozen=True)
class RestoredDatabase:
    """What a logical restore made."""

    database: str
    restored_bytes: int
    skipped_roles: list[str] = field(default_factory=list)  # existed already and were left as they were
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class IncrementalBase:
    """What an incremental base backup builds on.

    ``chain``: ids of the points that it needs, the full one first. ``manifest``: PostgreSQL's own, of the last of them.
    """

    chain: tuple[str, ...]
    manifest: bytes = field(repr=False)


@dataclass(frozen=True)
class BaseBackupOptions:
    """How a base backup is taken.

    ``standby``: the server that streams it, instead of the primary; everything else is asked at the primary. It gets
    ``standby_seconds`` to replay what the primary had when the backup began. ``notes`` go into the manifest.
    ``base``: only what changed since is sent, if the server can; else everything, and a note says why.
    """

    checkpoint: Checkpoint = "fast"
    standby: PostgresLogin | None = None
    standby_seconds: float = 30.0
    notes: tuple[str, ...] = ()
    base: IncrementalBase | None = None


FROM_THE_SERVER = BaseBackupOptions()
"""Streamed by the server itself, with a fast checkpoint."""


class PostgresHost(Protocol):
    """PostgreSQL binaries and processes of the machine on which the worker runs."""

    async def majors(self) -> dict[int, str]:
        """Installed major versions and their full version: ``{16: "16.14"}``."""
        ...

    async def extensions(self, major: int) -> set[str] | None:
        """Names of the extensions that are installed for this version, which has to be; None where that is unknown."""
        ...

    async def free_bytes(self, path: Path) -> int: ...

    async def is_empty(self, place: PostgresPlace) -> bool:
        """True when the data directory does not exist or holds nothing and nothing listens at the address."""
        ...

    async def is_running(self, place: PostgresPlace) -> bool:
        """True while a postmaster owns the data directory, whether or not it accepts connections yet."""
        ...

    async def start(self, place: PostgresPlace, *, timeout: float = 60.0) -> None:
        """Starts the server and returns once it accepts connections.

        Raises:
            RestoreFailed: it ended or did not get ready in ``timeout`` seconds; with the last lines of its log.
            Refused: an interrupted restore left the data directory incomplete.
        """
        ...

    async def stop(self, place: PostgresPlace, *, patience: float = 10.0) -> None:
        """Ends the server: fast, then immediate, each given ``patience`` seconds, then SIGKILL of all its processes.

        Does nothing when none runs.
        """
        ...


class PointReader(Protocol):
    """A recovery point opened for reading: objects fetched in parallel, checked, decrypted, decompressed, in order.

    ``bases``: of an incremental base backup, the points that it needs, the full one first, opened in the same way.
    """

    manifest: Manifest

    @property
    def bases(self) -> Sequence[PointReader]: ...

    def stream(self, artefact: str, progress: Progress | None = None) -> AsyncIterator[bytes]:
        """The artefact's bytes.

        Raises:
            Corrupt: an object is missing or differs from the manifest in size, SHA-256, encryption or compression.
            WrongKey: no identity at hand opens it.
        """
        ...


class PostgresRecovery(Protocol):
    """Everything that backup, validation and restore activities do with PostgreSQL on the worker's machine."""

    @property
    def host(self) -> PostgresHost: ...

    def physical_source(
        self, login: PostgresLogin, point_id: str, options: BaseBackupOptions = FROM_THE_SERVER
    ) -> AbstractAsyncContextManager[BackupSource]:
        """A base backup over the replication protocol. ``login``: of the primary.

        Raises:
            Unreachable: the server did not answer when the backup began, or the standby fell behind.
            Refused: the standby is of another cluster.
            SourceFailed: it refused or ended the backup, was promoted meanwhile, or found damaged pages; in its own
                words.
        """
        ...

    def logical_source(
        self, login: PostgresLogin, point_id: str, databases: Sequence[str]
    ) -> AbstractAsyncContextManager[BackupSource]:
        """``pg_dump`` of each database from one exported snapshot, and the cluster's roles and tablespaces."""
        ...

    async def restore_physical(
        self, reader: PointReader, place: PostgresPlace, options: RestoreOptions, progress: Progress | None = None
    ) -> Restored:
        """Raises Refused, NoSpace, Corrupt, WrongKey, Contended, RestoreFailed; on any the target is removed again."""
        ...

    async def remove_restored(self, place: PostgresPlace, restore_id: str) -> bool:
        """Undo of a physical restore; True when there was something to remove.

        Raises:
            Refused: the folder is not the work of this restore; nothing was touched.
        """
        ...

    async def restore_logical(
        self,
        reader: PointReader,
        login: PostgresLogin,
        options: RestoreOptions,
        *,
        source_database: str,
        database: str | None = None,
        progress: Progress | None = None,
    ) -> RestoredDatabase:
        """Restores one database of the point under the name ``database`` (default: its own) into a running server."""
        ...

    async def remove_restored_database(self, login: PostgresLogin, database: str, restore_id: str) -> bool:
        """Undo of a logical restore; roles stay, because others may use them by now."""
        ...

    async def set_read_only(self, place: PostgresPlace, read_only: bool) -> None:
        """Makes new transactions read-only by default, or not: a courtesy to clients, never a fence."""
        ...

    async def set_database_read_only(self, login: PostgresLogin, database: str, read_only: bool) -> None:
        """The same for new sessions of one database of any server."""
        ...

    async def verify_restored(
        self,
        manifest: Manifest,
        login: PostgresLogin,
        critical_tables: Sequence[str],
        *,
        database: str | None = None,
        everything: bool = False,
    ) -> list[CheckResult]:
        """The checks of a validation on a server that was restored for good. ``database``: see ``restore_logical``.

        Only the critical tables are read, unless ``everything``.
        """
        ...

    async def validate(
        self,
        reader: PointReader,
        scratch_folder: Path,
        critical_tables: Sequence[str],
        progress: Progress | None = None,
    ) -> tuple[VerdictState, str, list[CheckResult]]:
        """Restores into a scratch server, checks it and removes it. Raises nothing but cancellation and bugs."""
        ...
