"""The secret-free picture of one protection group that a run works with from its first to its last step."""

from __future__ import annotations

from datetime import timedelta

from pydantic import Field

from recovery.domain.base import Model
from recovery.domain.health_answer import ExpectedAnswer, ExpectedCapacity
from recovery.domain.managed import ManagedRule
from recovery.domain.search import SearchRule

ALL_STREAMS = "*"
"""No stream can be called so."""


class Objectives(Model):
    """RTO and RPO of a tier."""

    tier: str
    rto: timedelta
    rpo: timedelta


class Endpoint(Model):
    host: str
    port: int


class PostgresAt(Model):
    """PostgreSQL of the group in one region. Passwords are resolved by the worker from its own configuration."""

    host: str
    port: int = 5432
    database: str = "postgres"
    user: str = "postgres"
    major: int | None = None
    data_directory: str | None = None  # on the region's host; where a restore puts a physical point
    run_as: str | None = None  # operating-system user of the server, when the worker runs as root


class RegionPlan(Model):
    """One region's part in a group."""

    name: str
    role: str = "secondary"
    priority: int = 0
    site: str | None = None  # what it is lost together with; None: itself alone
    task_queue: str
    restore_queue: str | None = None  # task queue of its workers that can open recovery points
    postgres: PostgresAt | None = None
    nats: str | None = None
    redis: str | None = None  # host:port
    search: str | None = None  # https://host:port of Elasticsearch or OpenSearch
    health_urls: list[str] = Field(default_factory=list)
    capacity_url: str | None = None  # where the application says how much it can serve
    guard: str | None = None  # address of the region's guard
    dns_value: str | None = None  # what the group's records hold while this region is active
    dns_ipv6: str | None = None  # the same for AAAA records
    dns_alias_zone: str | None = None  # Route 53: hosted zone of dns_value, which A and AAAA records alias then

    def has(self, store: str) -> bool:
        """Whether the group has this store here."""
        return getattr(self, store, None) is not None

    @property
    def place(self) -> str:
        """Its site; its own name where it has none."""
        return self.site or self.name


class DnsRecord(Model):
    """A record that clients resolve to find the active region."""

    name: str
    type: str = "A"
    ttl: int = 60
    zone: str
    set_identifier: str | None = None  # Route 53: one member of a weighted set
    weight: int | None = None
    region: str | None = None  # a weighted member that stands for a region: its weight moves, not its value
    evaluate_target_health: bool = True
    points_at: str = "region"  # or "database": the address of PostgreSQL itself


class ReplicaRule(Model):
    """A standby as a candidate: ``priority`` 0 is never chosen by itself."""

    name: str | None = None
    region: str
    lag_limit: timedelta
    priority: int = 0


class ReplicationRule(Model):
    streaming: bool = False
    synchronous: bool = False
    acknowledgements: int | None = None  # standbys that a commit waits for; None: all
    on_standby_loss: str = "wait"  # or weaken
    max_lag: timedelta = timedelta(seconds=30)
    replicas: list[ReplicaRule] = Field(default_factory=list)


class FailoverRule(Model):
    """When and how the active region changes."""

    policy: str = "manual"  # automatic, approve, manual
    interval: timedelta = timedelta(seconds=30)
    timeout: timedelta = timedelta(seconds=5)
    failure_threshold: int = 3
    recovery_threshold: int = 2
    vantage_points: list[str] = Field(default_factory=list)
    cooldown: timedelta = timedelta(minutes=30)
    approve_timeout: timedelta = timedelta(minutes=15)
    lease_ttl: timedelta = timedelta(seconds=15)
    margin: timedelta = timedelta(seconds=1.5)
    drain: timedelta = timedelta(seconds=30)
    watch_for: timedelta = timedelta(minutes=30)


class RetentionRule(Model):
    """A point stays while any of these keeps it: the last ``count``, those of the last ``days``, and one for each of
    the last so many days, weeks, months and years (grandfather, father, son)."""

    count: int | None = None
    days: int | None = None
    daily: int | None = None
    weekly: int | None = None
    monthly: int | None = None
    yearly: int | None = None


class BaseBackupRule(Model):
    """How PostgreSQL's base backups are taken: with ``from_standby`` from a standby that has what the primary has
    within ``standby_lag``; after a full one so many ``incrementals`` that hold only what changed."""

    from_standby: bool = False
    standby_lag: timedelta = timedelta(seconds=30)
    incrementals: int = 0


class WalRule(Model):
    """How the group's WAL is archived: ``retained_*`` are bytes that the owner's slot may hold."""

    flush_interval: timedelta = timedelta(seconds=10)
    slot: str = "recovery_plans_wal"
    optional_locations: list[str] = Field(default_factory=list)
    retained_warning: int = 2 * 1024**3
    retained_critical: int = 10 * 1024**3


class GroupSnapshot(Model):
    """Immutable configuration of one run (engine rule 7)."""

    name: str
    objectives: Objectives
    services: list[str] = Field(default_factory=list)
    home_region: str
    regions: list[RegionPlan]
    records: list[DnsRecord] = Field(default_factory=list)
    validation_queue: str | None = None  # task queue of the workers that can open recovery points
    locations: list[str] = Field(default_factory=list)
    backup_kinds: list[str] = Field(default_factory=lambda: ["physical", "logical"])
    logical_databases: list[str] = Field(default_factory=list)
    critical_tables: list[str] = Field(default_factory=list)
    retention: RetentionRule = RetentionRule()
    base_backup: BaseBackupRule = BaseBackupRule()
    wal: WalRule | None = None  # None: the group's WAL is not archived
    replication: ReplicationRule = ReplicationRule()
    failover: FailoverRule = FailoverRule()
    streams: list[str] = Field(default_factory=list)  # of JetStream; ALL_STREAMS for every one of the account
    search: SearchRule | None = None  # of Elasticsearch or OpenSearch
    managed: ManagedRule | None = None  # PostgreSQL that a provider runs
    managed_by: str = "self"  # who makes a PostgreSQL primary: self, patroni or rds
    poolers: list[str] = Field(default_factory=list)  # addresses of PgBouncers between clients and PostgreSQL
    pause_timeout: timedelta = timedelta(seconds=5)  # how long a planned switch waits for running transactions
    second_person: bool = False
    health_status: int = 200
    health_timeout: timedelta = timedelta(seconds=5)
    health_body: str | None = None  # words that the answer must contain
    health_latency: timedelta | None = None  # above which an answer counts as a failure
    capacity: ExpectedCapacity | None = None
    prometheus: str | None = None  # address of the Prometheus that is to go on measuring after a recovery
    validate_after_backup: bool = True
    require_approval: bool = False
    approval_timeout: timedelta = timedelta(hours=1)
    approval_default: str = "decline"
    hold_timeout: timedelta | None = None
    budgets: dict[str, float] = Field(default_factory=dict)  # "<plan>.<step>" -> seconds, from the configuration
    config_hash: str = ""

    @property
    def health_answer(self) -> ExpectedAnswer:
        """What each health endpoint has to answer."""
        latency = self.health_latency.total_seconds() if self.health_latency else None
        return ExpectedAnswer(self.health_status, self.health_body, latency)

    @property
    def chosen_streams(self) -> list[str] | None:
        """Names of streams; None: all that the account has when they are asked for."""
        return None if ALL_STREAMS in self.streams else self.streams

    @property
    def guarded(self) -> bool:
        """Whether every region of the group has a guard, and no other manager makes its PostgreSQL primary."""
        return self.managed_by == "self" and all(region.guard for region in self.regions)

    def replica_rule(self, region: str) -> ReplicaRule | None:
        """What is configured of a region's standby: under its own name, else under that of an availability zone of it
        (``us-east-1b``) which is no region itself; the highest priority counts."""
        rules = self.replication.replicas
        exact = next((rule for rule in rules if rule.region == region), None)
        others = {each.name for each in self.regions}
        zones = [rule for rule in rules if rule.region not in others and _is_zone_of(rule.region, region)]
        return exact or max(zones, key=lambda rule: rule.priority, default=None)

    def region_of(self, place: str) -> str | None:
        """The region that ``place`` is, or is an availability zone of; None where it is neither."""
        names = [region.name for region in self.regions]
        return place if place in names else next((name for name in names if _is_zone_of(place, name)), None)

    def same_site(self, one: str, other: str) -> bool:
        """Whether two regions are lost together. Raises KeyError with the known names."""
        return self.region(one).place == self.region(other).place

    def region(self, name: str) -> RegionPlan:
        """Raises KeyError with the known names."""
        for region in self.regions:
            if region.name == name:
                return region
        known = ", ".join(region.name for region in self.regions)
        raise KeyError(f"group {self.name} has no region {name!r}: it has {known}")


def _is_zone_of(place: str, region: str) -> bool:
    zone = place.removeprefix(region)
    return place.startswith(region) and len(zone) == 1 and zone.isalpha()
