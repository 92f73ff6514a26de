"""A protection group: the stores, workloads and records that fail over together."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field, model_validator

from recovery.config.base import Section
from recovery.config.installation import Role, Tls
from recovery.config.names import (
    AbsolutePath,
    Address,
    DnsName,
    Host,
    Name,
    Port,
    Seconds,
    SqlName,
    StreamName,
    TableName,
    WebAddress,
    WebPath,
)
from recovery.config.policies import Inheritable
from recovery.config.values import Duration, Switch, expected
from recovery.domain.secret import SecretRef


class PostgresPlaceAt(Section):
    """PostgreSQL of the group in one region: its address, and where it lives on that region's host."""

    host: Host | None = Field(
        None, description="Host; without it the region's endpoint.", examples=["postgres-primary.us-east-1.example.com"]
    )
    port: Port | None = Field(None, description="TCP port; without it the endpoint's, else 5432.", examples=[5432])
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


class Postgres(Section):
    """What is recovered of PostgreSQL, and as whom. Where it lives stands under the group's regions."""

    databases: list[SqlName] = Field(
        default_factory=list,
        description="Databases of logical points; without it all of the cluster.",
        examples=[["shop"]],
    )
    database: SqlName = Field("postgres", description="Database to connect to first.", examples=["postgres"])
    major: Annotated[int, Field(ge=10, le=99)] | None = Field(
        None, description="Major version; without it the server's own is taken.", examples=[16]
    )
    user: SqlName = Field("postgres", description="User for checks and for changes.", examples=["recovery"])
    password: SecretRef | None = Field(None, description="Its password.", examples=["env:SHOP_POSTGRES_PASSWORD"])
    backup_user: SqlName | None = Field(
        None,
        description="User for backups (REPLICATION, pg_read_all_data); without it user.",
        examples=["recovery_backup"],
    )
    backup_password: SecretRef | None = Field(
        None, description="Its password.", examples=["aws-secretsmanager:shop/postgres#backup_password"]
    )
    replication_user: SqlName | None = Field(
        None, description="User of standbys; without it backup_user.", examples=["replicator"]
    )
    replication_password: SecretRef | None = Field(
        None, description="Its password.", examples=["file:/etc/recovery/secrets/replication"]
    )
    sslmode: Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] = Field(
        "prefer", description="TLS towards the server, as libpq names it.", examples=["verify-full"]
    )
    ssl_root_certificate: AbsolutePath | None = Field(
        None, description="PEM file of the authorities to trust.", examples=["/etc/recovery/tls/postgres-ca.pem"]
    )
    managed_by: Literal["self", "patroni", "rds"] = Field(
        "self",
        description="Who makes a server primary: self (our guard, or pg_promote), patroni (key patroni) or rds (key "
        "rds, plan DatabaseFailover).",
        examples=["patroni"],
    )


class Nats(Section):
    """JetStream streams of the group."""

    streams: list[StreamName] = Field(
        min_length=1, description="Streams that are recovered.", examples=[["events", "commands", "audit"]]
    )
    user: str | None = Field(None, min_length=1, description="User.", examples=["recovery"])
    password: SecretRef | None = Field(None, description="Its password.", examples=["env:NATS_PASSWORD"])
    credentials: SecretRef | None = Field(
        None, description="A .creds file's content (JWT and seed).", examples=["file:/etc/recovery/secrets/nats.creds"]
    )
    tls: Tls | None = Field(None, description="TLS to the servers; without it as the server asks.")
    domain: str | None = Field(None, min_length=1, description="JetStream domain.", examples=["hub"])


class Redis(Section):
    """Redis of the group."""

    user: str | None = Field(None, min_length=1, description="ACL user.", examples=["recovery"])
    password: SecretRef | None = Field(None, description="Its password.", examples=["env:REDIS_PASSWORD"])
    tls: Tls | None = Field(None, description="TLS to the servers; without it plain text.")


class Elasticsearch(Section):
    """Elasticsearch or OpenSearch of the group."""

    user: str | None = Field(None, min_length=1, description="User.", examples=["recovery"])
    password: SecretRef | None = Field(None, description="Its password.", examples=["env:ELASTICSEARCH_PASSWORD"])
    tls: Tls | None = Field(None, description="Authorities and certificates for https addresses.")
    repository: str = Field("recovery", min_length=1, description="Snapshot repository.", examples=["recovery"])
    indices: list[str] = Field(
        default_factory=lambda: ["*"], min_length=1, description="Index patterns.", examples=[["orders-*", "products"]]
    )


class Kubernetes(Section):
    """Workloads of the group."""

    kubeconfig: SecretRef | None = Field(
        None, description="kubeconfig; without it the pod's own account.", examples=["file:/etc/recovery/kubeconfig"]
    )
    namespace: Name = Field(description="Namespace.", examples=["shop"])
    deployments: list[Name] = Field(
        default_factory=list, description="Deployments scaled with the group.", examples=[["core", "web"]]
    )
    services: list[Name] = Field(
        default_factory=list,
        description="Services that must be healthy after a recovery.",
        examples=[["core", "web", "admin", "search", "notification"]],
    )


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


class Tsig(Section):
    """Key of RFC 2136 updates."""

    name: str = Field(min_length=1, description="Name of the key.", examples=["recovery-key"])
    secret: SecretRef = Field(description="The key (base64).", examples=["env:DNS_TSIG_SECRET"])
    algorithm: Literal["hmac-sha224", "hmac-sha256", "hmac-sha384", "hmac-sha512"] = Field(
        "hmac-sha256", description="Algorithm of the key.", examples=["hmac-sha256"]
    )


class Record(Section):
    """A record that is pointed at the active region."""

    name: DnsName = Field(description="Full name.", examples=["api.shop-platform.com"])
    type: Literal["A", "AAAA", "CNAME"] = Field("A", description="Type.", examples=["A"])
    ttl: Seconds | None = Field(
        None, description="Time to live in seconds; without it failover.dns_ttl.", examples=[60]
    )
    set_identifier: str | None = Field(
        None, min_length=1, description="Route 53: identifier of a weighted record.", examples=["Primary"]
    )
    weight: Annotated[int, Field(ge=0, le=255)] | None = Field(
        None, description="Route 53: weight of a weighted record.", examples=[100]
    )
    region: Name | None = Field(
        None,
        description="Route 53: the region that this weighted record always points at. It has its weight while that "
        "region is active, else 0. Without it the record keeps its weight and its value moves.",
        examples=["us-east-1"],
    )
    points_at: Literal["region", "database"] = Field(
        "region",
        description="region: what the active region's dns_value says; database: the address of its PostgreSQL (type "
        "CNAME for names).",
        examples=["database"],
    )
    evaluate_target_health: Switch = Field(
        True, description="Route 53: whether an alias record follows its target's health.", examples=[True]
    )

    @model_validator(mode="after")
    def _weighted(self) -> Record:
        if (self.set_identifier is None) != (self.weight is None):
            raise expected("set_identifier and weight together, or neither of them")
        if self.region is not None and not self.weight:
            raise expected("set_identifier and a weight above 0 beside region")
        return self


class Dns(Section):
    """Records by which clients find the active region."""

    provider: Literal["route53", "rfc2136"] = Field(
        description="route53: Amazon's; rfc2136: a server that takes dynamic updates.", examples=["route53"]
    )
    zone: DnsName = Field(description="Zone of the records.", examples=["shop-platform.com"])
    zone_id: str | None = Field(
        None, pattern=r"^[A-Z0-9]{1,32}$", description="Route 53: hosted zone.", examples=["Z2FDTNDATAQYW2"]
    )
    endpoint: WebAddress | None = Field(
        None, description="Route 53: another address of its API (for tests).", examples=["http://127.0.0.1:5000"]
    )
    access_key: SecretRef | None = Field(
        None, description="Route 53: access key id; without it the machine's own.", examples=["env:DNS_ACCESS_KEY_ID"]
    )
    secret_key: SecretRef | None = Field(
        None, description="Route 53: secret access key.", examples=["env:DNS_SECRET_ACCESS_KEY"]
    )
    check_answers: Switch = Field(
        True,
        description="Route 53: after a change, ask the zone's name servers until they answer rightly.",
        examples=[True],
    )
    name_servers: list[Address] | None = Field(
        None,
        description="Route 53: the name servers to ask; without it the zone's delegation set.",
        examples=[["ns-2048.awsdns-64.com:53"]],
    )
    server: Address | None = Field(
        None,
        description="rfc2136: authoritative server, host or host:port (53).",
        examples=["ns1.shop-platform.com:53"],
    )
    tsig: Tsig | None = Field(None, description="rfc2136: key that signs updates.")
    records: list[Record] = Field(min_length=1, description="The records; all change at once.")

    @model_validator(mode="after")
    def _complete(self) -> Dns:
        for owner, needed, optional in (
            ("route53", ("zone_id",), ("endpoint", "access_key", "secret_key", "name_servers")),
            ("rfc2136", ("server", "tsig"), ()),
        ):
            missing = [key for key in needed if getattr(self, key) is None]
            foreign = [key for key in (*needed, *optional) if getattr(self, key) is not None]
            if self.provider == owner and missing:
                raise expected(f"{' and '.join(missing)} beside provider {owner}")
            if self.provider != owner and foreign:
                raise expected(f"no {' or '.join(foreign)} beside provider {self.provider}: that is {owner}'s")
        if (self.access_key is None) != (self.secret_key is None):
            raise expected("access_key and secret_key together, or neither of them")
        weighted = [record.name for record in self.records if record.set_identifier is not None]
        if self.provider != "route53" and weighted:
            raise expected(
                f"no set_identifier beside provider {self.provider} ({', '.join(weighted)}): that is route53's"
            )
        seen = [(record.name, record.type, record.set_identifier) for record in self.records]
        if twice := sorted({name for name, *rest in seen if seen.count((name, *rest)) > 1}):  # type: ignore[arg-type]
            raise expected(f"each record once, and {', '.join(twice)} stands there twice")
        outside = [record.name for record in self.records if not f".{record.name}".endswith(f".{self.zone}")]
        if outside:
            raise expected(f"records of the zone {self.zone} only, and {', '.join(outside)} lies outside it")
        return self


class Patroni(Section):
    """Patroni's REST API, where Patroni manages the group's PostgreSQL."""

    members: dict[Name, list[WebAddress]] = Field(
        min_length=1,
        description="Region -> REST addresses of the members there.",
        examples=[{"us-east-1": ["https://pg-1.us-east-1.example.com:8008"]}],
    )
    user: str | None = Field(None, min_length=1, description="User (restapi.authentication).", examples=["recovery"])
    password: SecretRef | None = Field(None, description="Its password.", examples=["env:PATRONI_PASSWORD"])
    ca_file: AbsolutePath | None = Field(
        None, description="PEM file of the authorities to trust.", examples=["/etc/recovery/tls/patroni-ca.pem"]
    )
    certificate_file: AbsolutePath | None = Field(
        None,
        description="PEM file of our certificate and its key (restapi.verify_client).",
        examples=["/etc/recovery/tls/patroni-client.pem"],
    )

    @model_validator(mode="after")
    def _pair(self) -> Patroni:
        if (self.user is None) != (self.password is None):
            raise expected("user and password together, or neither of them")
        return self


class PgBouncer(Section):
    """A PgBouncer between the group's clients and PostgreSQL. Its databases name the host by a DNS record."""

    address: Address = Field(description="host:port (6432).", examples=["pgbouncer.us-east-1.example.com:6432"])
    databases: list[SqlName] = Field(
        min_length=1, description="The group's databases, as PgBouncer calls them.", examples=[["platform"]]
    )
    user: SqlName = Field("pgbouncer", description="User of its admin console (admin_users).", examples=["recovery"])
    password: SecretRef | None = Field(None, description="Its password.", examples=["env:PGBOUNCER_PASSWORD"])
    sslmode: Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] = Field(
        "prefer", description="TLS towards it, as libpq names it.", examples=["verify-full"]
    )
    ssl_root_certificate: AbsolutePath | None = Field(
        None, description="PEM file of the authorities to trust.", examples=["/etc/recovery/tls/pgbouncer-ca.pem"]
    )


class Routing(Section):
    """How clients reach PostgreSQL beside DNS, which ends no pooled connection (docs/routing.md)."""

    pgbouncer: list[PgBouncer] = Field(
        default_factory=list,
        description="Poolers that are paused for a planned switch, and told to find the new primary.",
    )
    pause_timeout: Duration = Field(
        timedelta(seconds=5),
        description="How long a planned switch waits for running transactions before it gives up.",
        examples=["5s"],
    )


SecurityGroup = Annotated[str, Field(pattern=r"^sg-[0-9a-f]{8,17}$")]


class Rds(Section):
    """Amazon RDS instances of the group, where PostgreSQL is managed."""

    instances: dict[Name, Name] = Field(
        description="Region -> instance.", examples=[{"eu-central-1": "shop-production", "eu-west-1": "shop-replica"}]
    )
    restored_instance: Name | None = Field(
        None, description="Name of an instance restored from a snapshot.", examples=["shop-restored"]
    )
    snapshot: str | None = Field(
        None,
        min_length=1,
        description="Snapshot to restore; without it the newest.",
        examples=["shop-production-daily"],
    )
    instance_class: str = Field(
        "db.r6g.xlarge",
        pattern=r"^db\.[a-z0-9-]+\.[a-z0-9]+$",
        description="Class of a restored instance.",
        examples=["db.r6g.xlarge"],
    )
    fence_security_groups: dict[Name, list[SecurityGroup]] = Field(
        default_factory=dict,
        description="Region -> security groups that let nobody in: put on an instance that is replaced. Without them "
        "a person has to confirm that it is off, unless RDS could stop it.",
        examples=[{"eu-central-1": ["sg-0a1b2c3d4e5f60718"]}],
    )
    aws_regions: dict[Name, Name] = Field(
        default_factory=dict,
        description="Region -> Amazon's name of it, where they differ.",
        examples=[{"frankfurt": "eu-central-1"}],
    )
    endpoint: WebAddress | None = Field(
        None, description="Another address of its API (for tests).", examples=["http://127.0.0.1:5000"]
    )
    access_key: SecretRef | None = Field(
        None, description="Access key id; without it the machine's own.", examples=["env:RDS_ACCESS_KEY_ID"]
    )
    secret_key: SecretRef | None = Field(None, description="Secret access key.", examples=["env:RDS_SECRET_ACCESS_KEY"])

    @model_validator(mode="after")
    def _pair(self) -> Rds:
        if (self.access_key is None) != (self.secret_key is None):
            raise expected("access_key and secret_key together, or neither of them")
        return self


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

    @model_validator(mode="after")
    def _manager(self) -> Group:
        by = self.postgres.managed_by if self.postgres else "self"
        for manager, section in (("patroni", self.patroni), ("rds", self.rds)):
            if by == manager and section is None:
                raise expected(f"the key {manager} beside postgres.managed_by {manager}")
        return self

    @model_validator(mode="before")
    @classmethod
    def _null_regions(cls, value: object) -> object:
        """``eu-west-1:`` with nothing behind it means: as the region itself."""
        if isinstance(value, dict) and isinstance(regions := value.get("regions"), dict):
            return value | {"regions": {name: {} if entry is None else entry for name, entry in regions.items()}}
        return value
