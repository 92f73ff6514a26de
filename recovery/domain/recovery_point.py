"""Recovery points: what a backup wrote, what a validation found."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum

from pydantic import Field, ValidationInfo, field_validator

from recovery.domain.base import Recorded
from recovery.domain.jetstream import JetStreamSource
from recovery.domain.managed import SnapshotSource
from recovery.domain.redis import RedisSource
from recovery.domain.search import SearchSource
from recovery.domain.timelines import lsn_order
from recovery.errors import BadInput


class DataStore(StrEnum):
    """The stores of a group that have recovery points."""

    POSTGRES = "postgres"
    NATS = "nats"
    REDIS = "redis"
    SEARCH = "search"

    @property
    def key(self) -> str:
        """What the configuration calls it."""
        return "elasticsearch" if self is DataStore.SEARCH else self.value


class BackupKind(StrEnum):
    """How a recovery point was taken; each kind is one store's."""

    PHYSICAL = "physical"
    LOGICAL = "logical"
    SNAPSHOT = "snapshot"  # of a PostgreSQL that RDS runs
    STREAMS = "streams"
    RDB = "rdb"
    SEARCH = "search"

    @property
    def store(self) -> DataStore:
        return STORE_OF[self]


STORE_OF = {
    BackupKind.PHYSICAL: DataStore.POSTGRES,
    BackupKind.LOGICAL: DataStore.POSTGRES,
    BackupKind.SNAPSHOT: DataStore.POSTGRES,
    BackupKind.STREAMS: DataStore.NATS,
    BackupKind.RDB: DataStore.REDIS,
    BackupKind.SEARCH: DataStore.SEARCH,
}


def kinds_of(store: DataStore) -> list[BackupKind]:
    """The kinds of recovery points that a store has."""
    return [kind for kind, owner in STORE_OF.items() if owner == store]


def store_of(point_id: str) -> DataStore:
    """The store whose points have such an id; PostgreSQL's where it names no kind."""
    try:
        return kind_of(point_id).store
    except ValueError:
        return DataStore.POSTGRES


def kind_of(point_id: str) -> BackupKind:
    """The kind that a point's id names: ``20261122T101500Z-physical-1a2b3c4d``.

    Raises:
        ValueError: it is no id of a recovery point.
    """
    return BackupKind(point_id.split("-")[1] if point_id.count("-") == 2 else point_id)


def kind_taken(step: str) -> BackupKind | None:
    """The kind of point that a backup's step takes, by the step's name: it has the kind's, or that of a store that has
    one kind (``take-physical-backup``, ``take-redis-backup``)."""
    named = set(step.split("-"))
    return next((kind for kind in BackupKind if {kind.value, kind.store.value} & named), None)


class VerdictState(StrEnum):
    """Result of a validation (the states of a recovery point besides "not yet validated")."""

    VALID = "VALID"
    CORRUPT = "CORRUPT"
    RESTORE_FAILED = "RESTORE_FAILED"
    FAILED = "FAILED"


class StoredObject(Recorded):
    """One object of a recovery point: a complete age file (or a zstd frame, of an artefact that is not sealed).

    ``key`` is relative to the location's root; ``size`` and ``sha256`` are those of the stored (encrypted) bytes;
    ``plain_size`` is the number of bytes of the artefact that it holds (before compression).
    """

    key: str
    size: int
    sha256: str
    plain_size: int


class Artefact(Recorded):
    """A byte stream cut into objects, in order: ``base.tar``, ``backup_manifest``, ``shop.dump``, ``globals.sql``.

    ``cat`` of all objects, each opened by ``age -d`` (where it is ``sealed``) and ``zstd -d``, gives the stream.
    """

    name: str
    objects: list[StoredObject]
    sealed: bool = True  # False: not encrypted, since later backups must read it without a private key

    @property
    def plain_size(self) -> int:
        return sum(entry.plain_size for entry in self.objects)


class TableFingerprint(Recorded):
    """Exact content of a table: ``database.schema.name``, rows, and an order-independent checksum over its rows.

    ``checksum`` sums hashes of the rows' text, ``hashes`` those of their values, with their exclusive or: which of
    them a point has says how it is compared. A point has neither of a table whose rows are too long for it.
    """

    table: str
    rows: int
    checksum: str | None = None
    hashes: str | None = None


class DatabaseProperties(Recorded):
    """What ``CREATE DATABASE`` needs to make a database like the one at the source."""

    owner: str
    encoding: str
    collate: str
    ctype: str
    provider: str = "c"  # pg_database.datlocprovider: c (libc), i (ICU), b (builtin)
    locale: str | None = None  # of the ICU or builtin provider
    settings: list[str] = Field(default_factory=list)  # "name=value" of ALTER DATABASE ... SET
    privileges: list[str] = Field(default_factory=list)  # aclitem texts


class PostgresSource(Recorded):
    """Identity of the PostgreSQL cluster that a point came from."""

    system_identifier: str
    server_version: str  # e.g. "16.14"
    major: int
    timeline: int
    start_lsn: str | None = None
    stop_lsn: str | None = None
    databases: list[str] = Field(default_factory=list)
    extensions: list[str] = Field(default_factory=list)  # "database.name version"
    roles: list[str] = Field(default_factory=list)
    collation_versions: dict[str, str] = Field(default_factory=dict)
    data_checksums: bool = False
    cluster_bytes: int = 0  # size of the data directory or of the database at the source
    last_commit_at: datetime | None = None  # newest commit that the point surely holds
    canary: str | None = None  # value written to the canary table before the stop LSN
    tables: list[TableFingerprint] = Field(default_factory=list)
    # "database.schema.name" of a sequence -> its last value, read before the backup and again after it: sequences
    # belong to no snapshot, so the point's value lies between the two.
    sequences: dict[str, int] = Field(default_factory=dict)
    sequences_after: dict[str, int] = Field(default_factory=dict)
    large_objects: int = 0
    large_object_checksums: dict[str, str] = Field(default_factory=dict)  # by database, where it can be compared
    # How `tables` relate to the point: exactly ("same-snapshot", of `fingerprint_lsn`), or only for tables that did not
    # change meanwhile ("unchanged-tables").
    fingerprints_taken: str | None = None
    fingerprint_lsn: str | None = None
    superuser: str | None = None  # name of the bootstrap superuser, as which a restored copy is administered
    preload_libraries: list[str] = Field(default_factory=list)
    settings: dict[str, str] = Field(default_factory=dict)  # non-default ones that mean the same on every machine
    database_properties: dict[str, DatabaseProperties] = Field(default_factory=dict)
    tablespaces: dict[str, str] = Field(default_factory=dict)  # oid -> folder at the source
    # Of an incremental base backup: ids of the points that it needs, the full one first.
    bases: list[str] = Field(default_factory=list)
    streamed_from: str | None = None  # address of the standby that a base backup came from; None: the server itself
    table_count: int = 0  # tables that hold data, in all databases of the point
    snapshot: SnapshotSource | None = None  # RDS keeps the data; `system_identifier` is its id of the instance
    notes: list[str] = Field(default_factory=list)  # what this backup could not record, each with the reason

    @property
    def identity(self) -> str:
        """What retention and order keep apart: points of different clusters say nothing of each other."""
        return self.system_identifier

    @property
    def extension_names(self) -> list[str]:
        """Of all databases, sorted."""
        return sorted({entry.rpartition(" ")[0].rpartition(".")[2] for entry in self.extensions})

    @property
    def position(self) -> tuple[int, int] | None:
        """Where in the cluster's history the content ends; a later point has a greater one, whatever the clocks say.

        A base backup is recovered to its stop, a dump is of the moment of its snapshot. RDS says no LSN of its own
        snapshots, but when it took each: one clock, and no worker's. Raises BadInput: no LSN.
        """
        if self.snapshot is not None:
            return 0, int(self.snapshot.taken_at.timestamp() * 1000)
        lsn = self.stop_lsn or self.start_lsn
        return (self.timeline, lsn_order(lsn)) if lsn else None

    @property
    def window(self) -> tuple[datetime, datetime] | None:
        """When the content was read, where the source says it more closely than its manifest does."""
        return (self.snapshot.began_at, self.snapshot.taken_at) if self.snapshot is not None else None


Source = PostgresSource | JetStreamSource | RedisSource | SearchSource

SOURCES: dict[str, type[Source]] = {
    DataStore.POSTGRES: PostgresSource,
    DataStore.NATS: JetStreamSource,
    DataStore.REDIS: RedisSource,
    DataStore.SEARCH: SearchSource,
}
"""What a manifest says of where its point came from, by store. Each has ``identity``, ``position``, ``window`` and
``notes``."""


class Manifest(Recorded):
    """What makes a recovery point exist. Written last, signed, never changed afterwards."""

    format: int = 1
    point_id: str
    group: str
    store: str = DataStore.POSTGRES.value
    kind: BackupKind
    started_at: datetime
    finished_at: datetime
    source: Source
    source_region: str
    artefacts: list[Artefact]
    recipients: list[str]  # age public keys that can open it
    tools: dict[str, str] = Field(default_factory=dict)
    run_id: str
    attempt: int = 1
    epoch: int | None = None

    @field_validator("source", mode="before")
    @classmethod
    def _source_of_its_store(cls, value: object, info: ValidationInfo) -> object:
        """The store says how the source is read, not which model its fields happen to fit."""
        model = SOURCES.get(info.data.get("store", ""))
        return model.model_validate(value) if model is not None and isinstance(value, dict) else value

    @property
    def postgres(self) -> PostgresSource:
        """Raises BadInput: the point is of another store."""
        if not isinstance(self.source, PostgresSource):
            raise BadInput(f"recovery point {self.point_id} is of {self.store}, and not of PostgreSQL")
        return self.source

    @property
    def jetstream(self) -> JetStreamSource:
        """Raises BadInput: the point is of another store."""
        if not isinstance(self.source, JetStreamSource):
            raise BadInput(f"recovery point {self.point_id} is of {self.store}, and not of JetStream")
        return self.source

    @property
    def snapshot(self) -> SnapshotSource:
        """Raises BadInput: the point is no snapshot."""
        if self.postgres.snapshot is None:
            raise BadInput(f"recovery point {self.point_id} is a {self.kind} one, and no snapshot of RDS")
        return self.postgres.snapshot

    @property
    def redis(self) -> RedisSource:
        """Raises BadInput: the point is of another store."""
        if not isinstance(self.source, RedisSource):
            raise BadInput(f"recovery point {self.point_id} is of {self.store}, and not of Redis")
        return self.source

    @property
    def search(self) -> SearchSource:
        """Raises BadInput: the point is of another store."""
        if not isinstance(self.source, SearchSource):
            raise BadInput(f"recovery point {self.point_id} is of {self.store}, and not of a search engine")
        return self.source

    @property
    def stored_bytes(self) -> int:
        """At each location."""
        return sum(entry.size for artefact in self.artefacts for entry in artefact.objects)

    @property
    def plain_bytes(self) -> int:
        """Of the content, wherever it is stored."""
        return sum(artefact.plain_size for artefact in self.artefacts) + self._bytes_elsewhere

    @property
    def _bytes_elsewhere(self) -> int:
        if isinstance(self.source, SearchSource):
            return self.source.bytes
        if isinstance(self.source, PostgresSource) and self.source.snapshot is not None:
            return self.source.cluster_bytes
        return 0

    def artefact(self, name: str) -> Artefact:
        for artefact in self.artefacts:
            if artefact.name == name:
                return artefact
        raise KeyError(name)


class CheckResult(Recorded):
    """One check of a validation or of a plan. ``warning``: what somebody has to do, though it passed."""

    name: str
    passed: bool
    detail: str = ""
    seconds: float = 0.0
    warning: str = ""


NO_LOCATION = "none"


class Verdict(Recorded):
    """What a validation found out about one recovery point at one location. Signed, stored beside the manifest.

    ``location`` is ``NO_LOCATION`` where no location's bytes were judged: none could be, or another service keeps them.
    """

    point_id: str
    group: str
    state: VerdictState
    reason: str = ""
    checks: list[CheckResult] = Field(default_factory=list)
    location: str
    manifest_sha256: str
    validated_at: datetime
    duration: timedelta
    run_id: str
    restored_bytes: int = 0


class RecoveryPoint(Recorded):
    """A point as the catalogue lists it: manifest, newest verdict, and the locations that hold it completely.

    ``damaged_at``: those of them where a validation found it damaged, and none found it whole since.
    """

    manifest: Manifest
    verdict: Verdict | None = None
    locations: list[str]
    manifest_sha256: str = ""  # of the signed payload: what a verdict names its manifest by
    damaged_at: list[str] = Field(default_factory=list)

    @property
    def point_id(self) -> str:
        return self.manifest.point_id

    @property
    def is_valid(self) -> bool:
        return self.verdict is not None and self.verdict.state is VerdictState.VALID
