"""What steps of a plan get and give: one context in, one outcome out, typed all the way."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from hashlib import sha256
from typing import Any

from pydantic import ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from recovery.domain.base import Asked, Model
from recovery.domain.candidates import Candidate
from recovery.domain.group import GroupSnapshot
from recovery.domain.guarding import Promotion
from recovery.domain.handover import StoreDivergence, StoreLoss
from recovery.domain.managed import ManagedTarget
from recovery.domain.ownership import FenceProof, OwnershipRecord
from recovery.domain.recovery_point import BackupKind, CheckResult, DataStore, Verdict
from recovery.domain.recovery_set import ChosenSet
from recovery.domain.recovery_target import ChosenRecovery, ReachedPoint, RecoveryTarget
from recovery.domain.redis import Way
from recovery.domain.search import RestoredSearch, SearchChoice

MONITOR = "monitor"
"""Who asks for the runs that a group's health monitor starts: it has told people that they begin."""


class PlanRequest(Asked):
    """How a run is started. ``{"group": "shop"}`` is enough for every plan.

    Unknown fields are kept, so that the first step can refuse them in a sentence: an input that cannot be decoded
    would leave the run hanging without a word.
    """

    model_config = ConfigDict(extra="allow")

    group: str = ""
    region: str | None = None  # where to: the target of a recovery or restore, the source of a backup
    point_id: str | None = None  # a named recovery point instead of the newest validated one
    set_id: str | None = None  # of a full recovery: a named recovery set, all of which comes back
    kind: BackupKind | None = None
    store: DataStore | None = None  # only points of this store
    streams: tuple[str, ...] | None = None  # of JetStream: only these
    target_stream: str | None = None  # the name that a stream is to get
    replicas: int | None = None  # of restored streams; None: as many as at the source
    replace: bool = False  # what a restore finds under the same name is deleted first
    way: Way | None = None  # of Redis: how a running server gets the data
    append_only: bool = False  # the stopped Redis in target_directory loads an append-only file
    search: SearchChoice | None = None  # of a search engine's point: what is restored, and how it is called then
    take_over: bool = False  # a search engine goes on in a repository that another cluster wrote to until now
    target_database: str | None = None  # logical restore into this database
    target_directory: str | None = None  # physical restore into this folder; of Redis: a stopped server's
    target_port: int | None = None
    target_instance: str | None = None  # name of the RDS instance that a snapshot is restored into
    target: RecoveryTarget | None = None  # a moment to recover to, with archived WAL; None: the point's own end
    reason: str = ""
    requested_by: str = ""
    outage_began_at: datetime | None = None  # what RTO and RPO are measured from; the run's start when not given
    since: timedelta | None = None  # validation: all points of this last while
    approve: bool = False  # approved beforehand: by the operator, or (``automatic``) as nobody answered a monitor
    automatic: bool = False  # a health monitor started it without a person's word: its policy says whether one is asked
    accept_data_loss: bool = False  # lag is no hindrance for a target; needs a reason
    force: bool = False  # prechecks that fail are warnings; needs a reason
    confirm_fence: bool = False  # a person vouches that the old primary is off; only where no guard can prove it
    graceful: bool = True  # a switchover in order; an operator may change it while it runs
    incident_id: str | None = None  # of whoever noticed the outage; else the run mints one
    second_person: str = ""  # who else consents to accept_data_loss or force, where the group asks for two
    unreadable: str = ""  # set by the workflow when its input is no request: what the first step refuses it with


def wanted_kinds(request: PlanRequest, group: GroupSnapshot) -> list[BackupKind]:
    """Of which a backup takes points: the kind that was asked for, else all that are configured, of the store that was
    asked for."""
    if request.kind is not None:
        return [request.kind]
    return [kind for kind in BackupKind if kind in group.backup_kinds and request.store in (None, kind.store)]


class AliasTarget(Model):
    """Route 53: the load balancer (or other resource) whose addresses an alias record answers with."""

    hosted_zone: str  # of the target, not of the record
    name: str
    evaluate_target_health: bool = True


class DnsBefore(Model):
    """A record as it stood before a switch: what its undo writes back.

    A record without ``values`` and without ``alias`` does not exist. ``set_identifier``, ``weight``, ``alias`` (whose
    ``ttl`` is 0) and ``health_check`` are Route 53's.
    """

    name: str
    type: str
    ttl: int
    values: list[str]
    zone: str
    set_identifier: str | None = None
    weight: int | None = None
    alias: AliasTarget | None = None
    health_check: str | None = None

    @property
    def exists(self) -> bool:
        return bool(self.values) or self.alias is not None


class RestoredServer(Model):
    """Where a restore put its data: everything that its undo needs to remove it again."""

    region: str
    host: str
    port: int
    database: str
    databases: list[str] = Field(default_factory=list)  # of a logical restore: all that it made
    kind: BackupKind
    streams: list[str] = Field(default_factory=list)  # of a restore of streams
    keys: dict[int, int] = Field(default_factory=dict)  # of a restored Redis, by database, right after it
    search: RestoredSearch | None = None  # of a restore into a search engine
    restore_id: str = ""  # by which what was restored is known in its server until it is opened
    data_directory: str | None = None
    append_only: bool = False  # the Redis of data_directory
    instance: str | None = None  # at RDS, of a restored snapshot
    run_as: str | None = None
    point_id: str
    restored_bytes: int = 0
    last_commit_at: datetime | None = None
    read_only: bool = False
    reached: ReachedPoint | None = None  # of a recovery that went on with archived WAL


class Facts(Model):
    """What a run learned so far. Outcomes of steps merge into it field by field; the later value wins."""

    group: GroupSnapshot | None = None
    expected_seconds: dict[str, float] | None = None  # median of earlier runs, by step
    source_region: str | None = None
    target_region: str | None = None
    point_id: str | None = None
    point_finished_at: datetime | None = None
    point_bytes: int | None = None
    point_major: int | None = None
    recovery: ChosenRecovery | None = None  # how it goes on with archived WAL
    chosen_set: ChosenSet | None = None  # of a group of several stores: what each comes back from
    location: str | None = None
    ownership_before: OwnershipRecord | None = None
    ownership: OwnershipRecord | None = None
    restored: RestoredServer | None = None
    restored_nats: RestoredServer | None = None  # one field for each store: they are restored at the same time
    restored_redis: RestoredServer | None = None
    restored_search: RestoredServer | None = None
    dns_before: list[DnsBefore] | None = None
    outage_began_at: datetime | None = None
    last_recovered_commit_at: datetime | None = None
    service_restored_at: datetime | None = None
    physical_point: str | None = None  # what this run's backups wrote
    logical_point: str | None = None
    snapshot_point: str | None = None
    streams_point: str | None = None
    rdb_point: str | None = None
    search_point: str | None = None
    points_to_validate: list[str] | None = None
    points_removed: list[str] | None = None
    verdicts: list[Verdict] | None = None
    wal_lost: list[str] | None = None  # archived ranges that no location gives any more
    points_repaired: list[str] | None = None  # were CORRUPT, and all of their copies are sound again: to be proven
    incident_id: str | None = None
    candidates: list[Candidate] | None = None
    unfenced: list[str] | None = None  # stores that nothing but a person's word keeps from a second primary
    consents: dict[str, str] | None = None  # step -> who consented to it
    fence: FenceProof | None = None
    fenced_at: datetime | None = None  # from when on no write was acknowledged by the old primary
    promoted_postgres: Promotion | None = None  # one field for each store: they are promoted at the same time
    promoted_redis: Promotion | None = None
    promoted_nats: Promotion | None = None
    losses: list[StoreLoss] | None = None
    divergences: list[StoreDivergence] | None = None
    write_pause: timedelta | None = None
    verification_failed: str | None = None  # why the new side was found wanting; empty string: it was not
    returned: bool | None = None  # a switchover that was taken back
    stale_regions: list[str] | None = None  # hold data of an old primary: to be reprotected
    watch_until: datetime | None = None
    further_runs: dict[str, str] | None = None  # what this run started: purpose -> workflow id
    managed: ManagedTarget | None = None
    clients_held: bool | None = None  # they wait in their poolers

    @property
    def serving_region(self) -> str | None:
        """The region that serves when the run is over."""
        return self.source_region if self.returned else self.target_region

    def served_until(self, outage: datetime) -> datetime:
        """When the old side can have acknowledged its last write, at the latest: whoever is cut off from all that
        watch it serves on to those whom it still reaches. The beginning of the outage where nobody was fenced."""
        if self.fence is None or self.fence.how == "never-served":
            return outage
        if self.fence.hands_over:
            return outage if self.promoted_postgres is None else max(outage, self.promoted_postgres.at)
        return max(outage, self.fence.last_write_by)

    @property
    def restored_beside(self) -> dict[DataStore, RestoredServer]:
        """What was restored beside PostgreSQL, by store."""
        stores = (DataStore.NATS, DataStore.REDIS, DataStore.SEARCH)
        found = {store: getattr(self, f"restored_{store}") for store in stores}
        return {store: restored for store, restored in found.items() if restored is not None}

    @property
    def promotions(self) -> list[Promotion]:
        found = (self.promoted_postgres, self.promoted_redis, self.promoted_nats)
        return [promotion for promotion in found if promotion is not None]

    @property
    def points_written(self) -> list[str]:
        return list(self.written.values())

    @property
    def written(self) -> dict[BackupKind, str]:
        """What this run's backups wrote, by kind."""
        found = {kind: getattr(self, f"{kind}_point") for kind in BackupKind}
        return {kind: point for kind, point in found.items() if point is not None}

    @model_serializer(mode="wrap")
    def _what_is_known(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Versions before 0.2 refuse facts that they do not know, also those that nobody has learned."""
        return {name: value for name, value in whole(self).items() if value is not None}

    def merged(self, newer: Facts) -> Facts:
        """This, with every field that ``newer`` knows (is not None) put over it."""
        known = {name: value for name in Facts.model_fields if (value := getattr(newer, name)) is not None}
        return self.model_copy(update=known)


class LockDemand(StrEnum):
    """What a step that changes the outside asks of the ownership record, in each of its attempts, before it begins."""

    BEFORE_PIVOT = "before-pivot"  # the group is this run's, and its point of no return did not begin
    HELD = "held"  # the group is this run's
    UNDO = "undo"  # nothing that this run made can be in use by clients


class PlanContext(Model):
    """The one argument of every step's activity.

    ``run_id`` is Temporal's; a reset of the workflow gives it a new one, but not a new ``first_run_id``. Effects are
    keyed by ``effect_id``, which is the same for every attempt, for the undo, and after a reset.
    """

    plan: str
    run_id: str
    first_run_id: str = ""
    workflow_id: str
    step: str
    request: PlanRequest
    facts: Facts = Facts()
    started_at: datetime
    dry_run: bool = False
    lock: LockDemand | None = None

    @property
    def effect_id(self) -> str:
        """Twelve hexadecimal digits that stand for this run of this workflow."""
        return sha256(f"{self.workflow_id} {self.holder}".encode()).hexdigest()[:12]

    @property
    def holder(self) -> str:
        """The id by which an ownership record knows this run, before and after a reset."""
        return self.first_run_id or self.run_id

    @property
    def incident_id(self) -> str:
        """The incident's name in every message: as it was given, else minted from what a retry does not change."""
        return self.request.incident_id or f"INC-{self.started_at:%Y%m%d-%H%M%S}-{self.effect_id[:6]}"

    def wants(self, kind: BackupKind) -> bool:
        """Whether a backup takes a point of this kind."""
        return kind in wanted_kinds(self.request, self.group)

    @property
    def kinds_missing(self) -> list[BackupKind]:
        """Of which this backup was to take a point, and has none."""
        written = self.facts.written
        return [kind for kind in wanted_kinds(self.request, self.group) if kind not in written]

    @property
    def group(self) -> GroupSnapshot:
        """The group's snapshot, which the first step of every plan loads."""
        if self.facts.group is None:
            raise ValueError(f"step {self.step} ran before the configuration was loaded")
        return self.facts.group


class StepOutcome(Model):
    """What a step did, in one sentence for people, and what the following steps need to know."""

    summary: str = ""
    facts: Facts = Facts()
    checks: list[CheckResult] = Field(default_factory=list)
    warnings: list[str] = Field(default_factory=list)
    attempt: int = 1
    effect_present: bool | None = None  # what an observation of a pivot found; None: could not tell
