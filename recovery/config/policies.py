"""What a group does by itself and on request: backup, replication, failover, tests, approvals.

Everything here may also stand under ``defaults``, for all groups that do not say otherwise.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from recovery.config.base import Section
from recovery.config.cron import WORDS
from recovery.config.installation import Budgets
from recovery.config.names import Name, OwnFile, Seconds
from recovery.config.values import CronText, Duration, Size, Switch, between, expected, size_between, switch
from recovery.domain.recovery_point import BackupKind

Scenario = Literal["region_failure", "database_corruption", "network_partition", "backup_restore"]

DAY = timedelta(days=1)


class BackupValidationPolicy(Section):
    """Every recovery point is restored for real before it counts."""

    enabled: Switch = Field(True, description="Validate at all.", examples=[True])
    after_backup: Switch = Field(True, description="Validate each point right after its backup.", examples=[True])
    frequency: CronText = Field(
        WORDS["daily"],
        description="When all points of the last day are validated (cron, or a word).",
        examples=["daily"],
    )
    lookback: Annotated[Duration, AfterValidator(between(timedelta(minutes=1), timedelta(days=366)))] = Field(
        DAY, description="How old the points are that a scheduled validation takes.", examples=["24h"]
    )
    scratch_folder: OwnFile | None = Field(
        None,
        description="Folder for throw-away servers, with room for one restored cluster; without it the temporary one.",
        examples=["/var/tmp/recovery-scratch"],
    )
    budget: Duration | None = Field(
        None, description="Longest time for all points of one run; without it the plan's own.", examples=["2h"]
    )


Periods = Annotated[int, Field(ge=1, le=10_000)] | None


class WalPolicy(Section):
    """The WAL archive: what PostgreSQL writes is kept at the locations while it is written."""

    enabled: Switch = Field(False, description="Whether the group's WAL is archived continuously.", examples=[True])
    flush_interval: Annotated[Duration, AfterValidator(between(timedelta(seconds=0.5), timedelta(hours=1)))] = Field(
        timedelta(seconds=10),
        description="How often the running segment is archived: the RPO of a server that writes little.",
        examples=["10s"],
    )
    slot: Annotated[str, Field(pattern=r"^[a-z0-9_]{1,63}$")] = Field(
        "recovery_plans_wal",
        description="Physical replication slot, made where it is missing: the owner's holds WAL until it is archived, "
        "a standby's follows it.",
        examples=["recovery_plans_wal"],
    )
    optional_locations: list[Name] = Field(
        default_factory=list,
        description="Locations that the server's WAL does not wait for: what one misses is copied to it afterwards.",
        examples=[["backup-secondary"]],
    )
    retained_warning: Annotated[Size, AfterValidator(size_between(64 * 1024**2, 1024**5))] = Field(
        2 * 1024**3,
        description="WAL that the slot holds at the owner, above which people are warned.",
        examples=["2GiB"],
    )
    retained_critical: Annotated[Size, AfterValidator(size_between(64 * 1024**2, 1024**5))] = Field(
        10 * 1024**3,
        description="The same, above which the message is critical: the server's disk fills.",
        examples=["10GiB"],
    )

    @model_validator(mode="after")
    def _growing(self) -> WalPolicy:
        if self.retained_critical < self.retained_warning:
            raise expected("retained_critical of at least retained_warning")
        return self


class BaseBackupPolicy(Section):
    """How PostgreSQL's base backups (kind physical) are taken."""

    source: Literal["primary", "standby"] = Field(
        "primary",
        description="standby: the server of another region streams the cluster when it is close enough; else the "
        "primary does, and the point says why.",
        examples=["standby"],
    )
    standby_lag: Annotated[Duration, AfterValidator(between(timedelta(seconds=1), timedelta(hours=1)))] = Field(
        timedelta(seconds=30),
        description="How long a standby may take to replay what the primary has when the backup begins.",
        examples=["30s"],
    )
    incrementals: Annotated[int, Field(ge=0, le=100)] = Field(
        0,
        description="So many backups after a full one hold only what changed (PostgreSQL 17 and later, with "
        "summarize_wal on); the chain is kept, validated and restored as a whole. 0: each one is full.",
        examples=[6],
    )


class BackupPolicy(Section):
    """When, how and where recovery points are written, and how long they stay."""

    schedule: CronText = Field(
        "0 */6 * * *",
        description="When backups start: cron of five fields in UTC, or hourly, daily, weekly.",
        examples=["0 */6 * * *"],
    )
    enabled: Switch = Field(True, description="Whether the schedule runs.", examples=[True])
    kinds: list[BackupKind] = Field(
        default_factory=lambda: [BackupKind.PHYSICAL, BackupKind.LOGICAL],
        min_length=1,
        description="physical: base backup of the cluster; logical: dump of the databases with all roles; snapshot: of "
        "the RDS instance, in place of a base backup, where postgres.managed_by is rds; streams: snapshots of the "
        "group's JetStream streams; rdb: dump of its Redis; search: snapshot of its search engine. Kinds that a "
        "group's stores do not have are left out.",
        examples=[["physical", "logical", "streams", "rdb", "search"]],
    )
    retention_days: Annotated[int, Field(ge=1, le=36500)] | None = Field(
        30, description="Days after which a point goes (never the last validated one).", examples=[30]
    )
    retention_count: Annotated[int, Field(ge=1, le=100_000)] | None = Field(
        None, description="Points of each kind to keep at least, whatever their age.", examples=[8]
    )
    retention_daily: Periods = Field(
        None, description="Days (UTC) of which the last point stays, counted over days that have one.", examples=[7]
    )
    retention_weekly: Periods = Field(None, description="ISO weeks of which the last point stays.", examples=[5])
    retention_monthly: Periods = Field(None, description="Months of which the last point stays.", examples=[12])
    retention_yearly: Periods = Field(None, description="Years of which the last point stays.", examples=[7])
    retention_schedule: CronText = Field(
        "30 3 * * *", description="When retention runs (cron, or a word).", examples=["30 3 * * *"]
    )
    locations: list[Name] = Field(
        default_factory=list,
        description="Names of the locations, each written at once; without it all of them.",
        examples=[["backup-primary", "backup-secondary"]],
    )
    chunk_size: Annotated[Size, AfterValidator(size_between(64 * 1024, 512 * 1024**2))] = Field(
        8 * 1024**2, description="Bytes of the source in one object, before compression.", examples=["8MiB"]
    )
    parallel_uploads: Annotated[int, Field(ge=1, le=64)] = Field(
        4, description="Objects on their way to one location at once.", examples=[4]
    )
    compression_level: Annotated[int, Field(ge=-7, le=19)] = Field(
        1, description="zstd level; 1 is fast, 19 small.", examples=[1]
    )
    checkpoint: Literal["fast", "spread"] = Field(
        "fast", description="Whether a physical backup's checkpoint is immediate or gentle.", examples=["fast"]
    )
    validation: BackupValidationPolicy = Field(
        default_factory=BackupValidationPolicy, description="How recovery points are proven."
    )
    postgres: BaseBackupPolicy = Field(
        default_factory=BaseBackupPolicy, description="How base backups of PostgreSQL are taken."
    )
    wal: WalPolicy = Field(default_factory=WalPolicy, description="Continuous archive of PostgreSQL's WAL.")


class Replica(Section):
    """A standby, as a candidate for promotion."""

    name: Name | None = Field(None, description="Its name, as application_name shows it.", examples=["replica-1"])
    region: str = Field(
        pattern=r"^[a-z0-9-]+$",
        description="Region, or an availability zone of it.",
        examples=["us-east-1b"],
    )
    lag_threshold: Duration | None = Field(
        None, description="Lag above which it is no candidate; without it max_lag_seconds.", examples=["5s"]
    )
    priority: Annotated[int, Field(ge=0, le=1000)] = Field(
        0, description="Preference as a target, higher is better; 0 is never chosen by itself.", examples=[100]
    )


class ReplicationPolicy(Section):
    """How PostgreSQL replicates. Settings of the server are expectations that readiness compares with it."""

    mode: Literal["streaming", "none"] = Field(
        "none",
        description="streaming: standbys follow the primary; none: only recovery points.",
        examples=["streaming"],
    )
    synchronous: Switch = Field(
        False,
        description="Whether commits wait for the standbys of the other regions, which must be under guard.",
        examples=[False],
    )
    acknowledgements: Annotated[int, Field(ge=1, le=100)] | None = Field(
        None,
        description="How many of these standbys a commit waits for; without it all of them. With fewer a lost one "
        "holds nothing up, and a failover has to reach more of them before it is proven that nothing is lost: all but "
        "this many, and one.",
        examples=[1],
    )
    on_standby_loss: Literal["wait", "weaken"] = Field(
        "wait",
        description="When a standby that commits wait for is lost: wait for it, or go on without it after the ownership"
        " record has given up the claim that nothing can be lost.",
        examples=["weaken"],
    )
    max_wal_senders: Annotated[int, Field(ge=1, le=262143)] = Field(
        10, description="Expected max_wal_senders.", examples=[10]
    )
    wal_level: Literal["replica", "logical"] = Field("replica", description="Expected wal_level.", examples=["replica"])
    hot_standby: Switch = Field(True, description="Expected hot_standby.", examples=[True])
    archive_mode: Switch = Field(False, description="Whether WAL is archived.", examples=["on"])
    archive_command: str | None = Field(
        None,
        min_length=1,
        description="Expected archive_command, where the server itself archives.",
        examples=["aws s3 cp %p s3://wal-archive/%f"],
    )
    max_lag_seconds: Seconds = Field(
        30, description="Lag in seconds above which a failover asks the operator.", examples=[30]
    )
    replicas: list[Replica] = Field(default_factory=list, description="The standbys.")


class FailoverPolicy(Section):
    """When the active region changes without being planned."""

    automatic: Switch | None = Field(
        None, description="Short for policy: true is automatic, false is manual.", examples=[True]
    )
    policy: Literal["automatic", "approve", "manual"] = Field(
        "manual",
        description="Who starts a failover: monitors, monitors with an approval, people.",
        examples=["approve"],
    )
    health_check_interval: Annotated[Duration, AfterValidator(between(timedelta(seconds=0.1), DAY))] = Field(
        timedelta(seconds=30), description="Time between two probes.", examples=["30s"]
    )
    health_check_timeout: Annotated[Duration, AfterValidator(between(timedelta(seconds=0.1), DAY))] = Field(
        timedelta(seconds=5), description="Longest wait for one probe's answer.", examples=["5s"]
    )
    failure_threshold: Annotated[int, Field(ge=1, le=1000)] = Field(
        3, description="Failures in a row after which a region counts as lost.", examples=[3]
    )
    recovery_threshold: Annotated[int, Field(ge=1, le=1000)] = Field(
        2, description="Successes in a row after which it counts as healthy again.", examples=[2]
    )
    vantage_points: list[Name] = Field(
        default_factory=list,
        description="Regions or places from which monitors look; a majority of them decides, three for automatic.",
        examples=[["us-east-1", "eu-west-1", "us-west-2"]],
    )
    dns_ttl: Seconds = Field(60, description="Seconds that resolvers may keep the records.", examples=[60])
    connection_drain_timeout: Duration = Field(
        timedelta(seconds=30), description="How long old connections may finish their work.", examples=["30s"]
    )
    cooldown: Duration = Field(
        timedelta(minutes=30), description="Least time between two automatic runs.", examples=["30m"]
    )
    approve_timeout: Duration = Field(
        timedelta(minutes=15), description="How long policy approve waits for a person.", examples=["15m"]
    )
    lease_ttl: Annotated[Duration, AfterValidator(between(timedelta(seconds=3), timedelta(hours=1)))] = Field(
        timedelta(seconds=15), description="How long a primary's lease holds without renewal.", examples=["15s"]
    )
    watch_for: Duration = Field(
        timedelta(minutes=30), description="How long the new region is probed more often afterwards.", examples=["30m"]
    )

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: object) -> object:
        """``automatic`` becomes ``policy``, unless that is there too."""
        if not isinstance(value, dict) or value.get("automatic") is None or "policy" in value:
            return value
        try:
            chosen = "automatic" if switch(value["automatic"]) else "manual"
        except PydanticCustomError:
            return value  # the key's own check says what is wrong with it
        return {key: entry for key, entry in value.items() if key != "automatic"} | {"policy": chosen}

    @model_validator(mode="after")
    def _one_voice(self) -> FailoverPolicy:
        if self.automatic is not None:
            raise expected("either automatic or policy, which say the same thing; keep policy")
        return self


class TestPhase(Section):
    """One phase of a rehearsal, with what is done in it."""

    __test__ = False

    name: str = Field(min_length=1, description="Name of the phase.", examples=["Preparation"])
    duration: Duration = Field(description="Time set aside.", examples=["1h"])
    tasks: list[str] = Field(default_factory=list, description="What is done.", examples=[["Notify stakeholders"]])


class TestPlan(Section):
    """A rehearsal with people, in phases."""

    __test__ = False

    name: str = Field(min_length=1, description="Name of the plan.", examples=["Quarterly DR Test"])
    schedule: CronText = Field(
        WORDS["quarterly"], description="When it begins (cron, or a word).", examples=["0 2 1 */3 *"]
    )
    phases: list[TestPhase] = Field(min_length=1, description="Phases in their order.")


class TestWorkload(Section):
    """Load that a drill runs, and the loss that it tolerates."""

    __test__ = False

    transactions_per_second: Annotated[float, Field(gt=0, le=1_000_000)] = Field(
        100, description="Transactions per second.", examples=[100]
    )
    virtual_users: Annotated[int, Field(ge=1, le=100_000)] = Field(50, description="Clients at once.", examples=[50])
    duration: Duration = Field(timedelta(minutes=5), description="How long it runs before the fault.", examples=["5m"])
    max_lost_transactions: Annotated[int, Field(ge=0)] | None = Field(
        None, description="Lost transactions above which a drill has failed.", examples=[30000]
    )


class TestingPolicy(Section):
    """Rehearsals."""

    __test__ = False

    enabled: Switch = Field(False, description="Whether drills run by themselves.", examples=[True])
    schedule: CronText = Field(WORDS["weekly"], description="When drills run (cron, or a word).", examples=["weekly"])
    scenarios: list[Scenario] = Field(
        default_factory=lambda: list[Scenario](["backup_restore"]),
        min_length=1,
        description="What is rehearsed, one scenario a drill, in turn.",
        examples=[["region_failure", "database_corruption", "network_partition", "backup_restore"]],
    )
    namespace: Name = Field("dr-test", description="Kubernetes namespace of drills.", examples=["dr-test"])
    max_age: Duration = Field(
        timedelta(days=90), description="Age of the last successful test above which readiness warns.", examples=["90d"]
    )
    workload: TestWorkload = Field(default_factory=TestWorkload, description="Load during a drill.")
    plans: list[TestPlan] = Field(default_factory=list, description="Rehearsals with people.")


class Approvals(Section):
    """Gates at which a plan waits for a person."""

    require: Switch = Field(False, description="Wait for an approval before the first change.", examples=[False])
    timeout: Duration = Field(timedelta(hours=1), description="How long a gate waits.", examples=["1h"])
    default: Literal["approve", "decline"] = Field(
        "decline", description="What happens when nobody answers.", examples=["decline"]
    )
    hold_timeout: Duration | None = Field(
        None,
        description="How long a step that is held before the point of no return waits for the operator; without it for "
        "ever. Then the plan rolls back; a full recovery removes what the held restore of a further store has written "
        "and goes on without it, and waits on where the restored data of one failed their check. Where it waits on, "
        "people are told again after the same time, once an hour at the most.",
        examples=["4h"],
    )
    second_person: Switch = Field(False, description="Whether a forced step needs a second person.", examples=[False])


class Inheritable(Section):
    """What ``defaults`` may hold and every group may say otherwise."""

    backup: BackupPolicy = Field(default_factory=BackupPolicy, description="Recovery points.")
    replication: ReplicationPolicy = Field(default_factory=ReplicationPolicy, description="Replication.")
    failover: FailoverPolicy = Field(default_factory=FailoverPolicy, description="Failover.")
    testing: TestingPolicy = Field(default_factory=TestingPolicy, description="Drills and tests.")
    approvals: Approvals = Field(default_factory=Approvals, description="Approval gates.")
    budgets: Budgets = Field(
        default_factory=dict,
        description="Budgets of steps, over the tier's: plan -> step -> duration.",
        examples=[{"FullRecovery": {"restore-database": "30m"}}],
    )
