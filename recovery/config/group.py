"""A protection group: the stores, workloads and records that fail over together."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from pydantic import Field, model_validator

from recovery.config.base import Section
from recovery.config.dns import Dns
from recovery.config.installation import Role
from recovery.config.managers import Patroni, Rds, Routing
from recovery.config.names import (
    AbsolutePath,
    Address,
    Host,
    Name,
    OwnFile,
    OwnPort,
    Port,
    SqlName,
    TableName,
    WebAddress,
    WebPath,
)
from recovery.config.policies import Inheritable
from recovery.config.stores import Elasticsearch, Kubernetes, Nats, Postgres, Redis
from recovery.config.values import Duration, expected
from recovery.domain.secret import SecretRef


class PostgresPlaceAt(Section):
    """PostgreSQL of the group in one region: its address, and where it lives on that region's host."""

    host: Host | None = Field(
        None, description="Host; without it the region's endpoint.", examples=["postgres-primary.us-east-1.example.com"]
    )
    port: OwnPort | None = Field(None, description="TCP port; without it the endpoint's, else 5432.", examples=[5432])
    data_directory: AbsolutePath | None = Field(
        None,
        description="Data directory on that host: where a physical point is restored.",
        examples=["/var/lib/postgresql/16/main"],
    )
    bin_directories: dict[Annotated[int, Field(ge=10, le=99)], AbsolutePath] = Field(
        default_factory=dict,
        description="Folder of the server's programs for each major version; without it they are looked for.",
        examples=[{16: "/usr/lib/postgresql/16/bin"}],
    )
    run_as: Name | None = Field(
        None, description="Operating-system user of the server, when the worker runs as root.", examples=["postgres"]
    )
    wal_socket: OwnFile | None = Field(
        None,
        description="Socket at which this region's worker takes WAL files from archive_command and gives them to "
        "restore_command (recovery-wal), where the server archives by files as well.",
        examples=["/run/recovery/shop-wal.sock"],
    )
    replication_user: SqlName | None = Field(
        None,
        description="User as whom this region's standby streams; without it the group's. Where commits wait for "
        "several standbys, each needs one of its own: else one could acknowledge in another's name.",
        examples=["standby_eu_west_1"],
    )
    replication_password: SecretRef | None = Field(
        None, description="Its password.", examples=["file:/etc/recovery/secrets/replication-eu-west-1"]
    )

    @model_validator(mode="after")
    def _password_has_its_user(self) -> PostgresPlaceAt:
        if self.replication_password is not None and self.replication_user is None:
            raise expected("replication_user beside replication_password: whose password is it?")
        return self


class GroupRegion(Section):
    """A region's part in the group. Empty takes everything from the region itself."""

    role: Role | None = Field(None, description="Part in this group: primary, secondary or dr.", examples=["dr"])
    priority: Annotated[int, Field(ge=0, le=1000)] | None = Field(
        None, description="Preference as a target in this group, higher is better.", examples=[90]
    )
    postgres: PostgresPlaceAt = Field(default_factory=PostgresPlaceAt, description="PostgreSQL in this region.")
    nats: Address | None = Field(None, description="NATS in this region.", examples=["nats.eu-west-1.example.com:4222"])
    redis: Address | None = Field(
        None, description="Redis in this region.", examples=["redis.eu-west-1.example.com:6379"]
    )
    elasticsearch: WebAddress | None = Field(
        None,
        description="Elasticsearch or OpenSearch in this region.",
        examples=["https://search.eu-west-1.example.com"],
    )
    http: WebAddress | None = Field(
        None, description="The application in this region.", examples=["http://shop.eu-west-1.example.com:9655"]
    )
    health_urls: list[WebAddress] | None = Field(
        None,
        description="Addresses that answer 200 while the group works here; without it the checks' paths.",
        examples=[["https://secondary.example.com/health"]],
    )
    dns_value: str | None = Field(
        None,
        min_length=1,
        description="What the group's records hold while this region is active: an address or a name.",
        examples=["203.0.113.10"],
    )
    dns_ipv6: str | None = Field(
        None, min_length=1, description="The same for AAAA records: an IPv6 address.", examples=["2001:db8::10"]
    )
    dns_alias_zone: str | None = Field(
        None,
        min_length=1,
        description="Route 53: hosted zone of the load balancer that dns_value names. With it A and AAAA records are "
        "aliases; it is not the zone of the records.",
        examples=["Z32O12XQLNTSW2"],
    )
    kubernetes_context: str | None = Field(
        None, min_length=1, description="Context of the region's cluster in the kubeconfig.", examples=["eks-eu-west-1"]
    )


class Capacity(Section):
    """Whether the application in a region could take the group's clients."""

    path: WebPath = Field(
        description="Path below the region's http address that answers with JSON.", examples=["/api/v1/capacity"]
    )
    field: Annotated[str, Field(min_length=1)] = Field(
        description="Number in the answer, or a list whose entries count; names within names are joined by dots.",
        examples=["workers.ready"],
    )
    at_least: Annotated[float, Field(ge=0)] = Field(description="Least that is enough.", examples=[3])


class EndpointChecks(Section):
    """What the application answers when it works."""

    paths: list[WebPath] = Field(
        default_factory=list,
        description="Paths that must answer the status, below each region's http address.",
        examples=[["/healthz", "/readyz", "/api/v1/status"]],
    )
    port: Port | None = Field(
        None, description="Port, where the region's http address does not say it.", examples=[9655]
    )
    status: Annotated[int, Field(ge=100, le=599)] = Field(200, description="Expected HTTP status.", examples=[200])
    timeout: Duration = Field(timedelta(seconds=5), description="Longest wait for an answer.", examples=["5s"])
    body: str | None = Field(
        None, min_length=1, description="Words that the answer must contain.", examples=['"status": "ok"']
    )
    latency: Duration | None = Field(
        None,
        description="Time above which an answer counts as a failure; without it only the timeout does.",
        examples=["2s"],
    )
    capacity: Capacity | None = Field(
        None,
        description="Asked of the target before a failover or a switchover; what is wanting is a warning of the run.",
    )


class Group(Inheritable):
    """A protection group."""

    description: str = Field("", description="A sentence for people.", examples=["Shop: orders and payments"])
    tier: str = Field(description="Its tier, by name.", examples=["critical"])
    services: list[str] = Field(default_factory=list, description="Services in it.", examples=[["core", "web"]])
    home: Name = Field(description="Region that owns the group in ordinary times.", examples=["us-east-1"])
    regions: dict[Name, GroupRegion] = Field(
        min_length=1, description="Regions that the group lives in, each with what differs from the region itself."
    )
    postgres: Postgres | None = Field(None, description="PostgreSQL.")
    nats: Nats | None = Field(None, description="NATS JetStream.")
    redis: Redis | None = Field(None, description="Redis.")
    elasticsearch: Elasticsearch | None = Field(None, description="Elasticsearch or OpenSearch.")
    kubernetes: Kubernetes | None = Field(None, description="Workloads.")
    rds: Rds | None = Field(None, description="Managed PostgreSQL.")
    patroni: Patroni | None = Field(None, description="Patroni, where it manages PostgreSQL.")
    routing: Routing = Field(default_factory=Routing, description="Poolers between clients and PostgreSQL.")
    dns: Dns | None = Field(None, description="DNS records.")
    checks: EndpointChecks = Field(default_factory=EndpointChecks, description="Checks of the application.")
    critical_tables: list[TableName] = Field(
        default_factory=list,
        description="Tables that a recovered database must have, readable to the last row.",
        examples=[["users", "tasks", "events"]],
    )

    def replicates_as(self, region: str) -> tuple[str, SecretRef | None] | None:
        """User and password of the region's standby; None where neither the region nor the group names one."""
        own = self.regions[region].postgres
        if own.replication_user is not None:
            return own.replication_user, own.replication_password
        if self.postgres is None or self.postgres.replication_user is None:
            return None
        return self.postgres.replication_user, self.postgres.replication_password

    @model_validator(mode="after")
    def _enough_standbys(self) -> Group:
        wanted, there = self.replication.acknowledgements, len(self.regions) - 1
        if self.replication.synchronous and wanted is not None and wanted > there:
            raise expected(
                f"replication.acknowledgements of at most {there}, the number of the group's other regions: commits "
                "would wait for ever"
            )
        return self

    @model_validator(mode="after")
    def _manager(self) -> Group:
        by = self.postgres.managed_by if self.postgres else "self"
        for manager, section in (("patroni", self.patroni), ("rds", self.rds)):
            if by == manager and section is None:
                raise expected(f"the key {manager} beside postgres.managed_by {manager}")
        return self

    @model_validator(mode="after")
    def _wal_can_be_had(self) -> Group:
        if self.backup.wal.enabled and self.postgres is not None and self.postgres.managed_by == "rds":
            raise expected("backup.wal.enabled false where postgres.managed_by is rds: the provider archives the WAL")
        return self

    @model_validator(mode="before")
    @classmethod
    def _null_regions(cls, value: object) -> object:
        """``eu-west-1:`` with nothing behind it means: as the region itself."""
        if isinstance(value, dict) and isinstance(regions := value.get("regions"), dict):
            return value | {"regions": {name: {} if entry is None else entry for name, entry in regions.items()}}
        return value
