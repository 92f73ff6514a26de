"""What is recovered of a group's stores and workloads, and as whom. Where they live is said with its regions."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from recovery.config.base import Section
from recovery.config.installation import Tls
from recovery.config.names import Name, OwnFile, SqlName, StreamName
from recovery.domain.secret import SecretRef


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
    ssl_root_certificate: OwnFile | None = Field(
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
