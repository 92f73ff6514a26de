"""What is recovered of a group's stores and workloads, and as whom. Where they live is said with its regions."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from recovery.config.base import Section
from recovery.config.installation import Tls
from recovery.config.names import AbsolutePath, DomainName, Name, OwnFile, SqlName, StreamNames, WebAddress
from recovery.config.values import Switch, expected
from recovery.domain.search import names_a_secret
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

    streams: StreamNames = Field(
        min_length=1,
        description="Streams that are recovered; `all` takes every one that the account has at the time.",
        examples=[["events", "commands", "audit"]],
    )
    user: str | None = Field(None, min_length=1, description="User.", examples=["recovery"])
    password: SecretRef | None = Field(None, description="Its password.", examples=["env:NATS_PASSWORD"])
    credentials: SecretRef | None = Field(
        None, description="A .creds file's content (JWT and seed).", examples=["file:/etc/recovery/secrets/nats.creds"]
    )
    tls: Tls | None = Field(None, description="TLS to the servers; without it as the server asks.")
    domain: DomainName | None = Field(
        None,
        description="JetStream domain, where the servers that are connected to are of another one or of none.",
        examples=["hub"],
    )

    @model_validator(mode="after")
    def _one_login(self) -> Nats:
        if self.credentials is not None and (self.user is not None or self.password is not None):
            raise expected("user and password, or credentials, and not both")
        return self


class Redis(Section):
    """Redis of the group."""

    user: str | None = Field(None, min_length=1, description="ACL user.", examples=["recovery"])
    password: SecretRef | None = Field(None, description="Its password.", examples=["env:REDIS_PASSWORD"])
    tls: Tls | None = Field(None, description="TLS to the servers; without it plain text.")


class SearchStorage(Section):
    """Where each region's cluster keeps its snapshots: a repository that is registered with it before a backup, in a
    folder of its own called as the region, since only one cluster may write to a repository."""

    type: Literal["s3", "fs"] = Field(
        "s3", description="s3: a bucket (plugin repository-s3); fs: a folder that all nodes share.", examples=["s3"]
    )
    bucket: str | None = Field(None, min_length=1, description="The bucket (s3).", examples=["shop-search-snapshots"])
    base_path: str = Field("", description="Folder in the bucket, above the regions' own.", examples=["recovery"])
    client: str = Field(
        "default",
        min_length=1,
        description="Name under which the nodes' keystores hold the bucket's credentials.",
        examples=["default"],
    )
    location: AbsolutePath | None = Field(
        None, description="The folder (fs), named in path.repo of every node.", examples=["/mnt/snapshots"]
    )
    settings: dict[str, str] = Field(
        default_factory=dict,
        description="Further settings by the product's names, never a secret.",
        examples=[{"server_side_encryption": "true", "max_snapshot_bytes_per_sec": "40mb"}],
    )

    @model_validator(mode="after")
    def _has_its_place(self) -> SearchStorage:
        if self.type == "s3" and (self.bucket is None or self.location is not None):
            raise expected("bucket, and no location, where type is s3")
        if self.type == "fs" and (self.location is None or self.bucket is not None or self.base_path):
            raise expected("location, and neither bucket nor base_path, where type is fs")
        return self

    @model_validator(mode="after")
    def _shows_no_secret(self) -> SearchStorage:
        """Settings get into every run's history, and everybody may read them in the cluster."""
        if named := [key for key in self.settings if names_a_secret(key)]:
            raise expected(
                f"no {', '.join(named)} in settings: credentials belong into the nodes' keystores, under the name of"
                f" client ({self.client})"
            )
        return self


class SearchScratch(Section):
    """A cluster in which recovery points are proven: restored under other names, compared, and deleted again. It may be
    one of the regions' own."""

    address: WebAddress = Field(description="Its address.", examples=["https://search-scratch.example.com:9200"])
    user: str | None = Field(None, min_length=1, description="User.", examples=["recovery"])
    password: SecretRef | None = Field(None, description="Its password.", examples=["env:SEARCH_SCRATCH_PASSWORD"])
    tls: Tls | None = Field(None, description="Authorities and certificates for an https address.")


class Elasticsearch(Section):
    """Elasticsearch or OpenSearch of the group."""

    user: str | None = Field(None, min_length=1, description="User.", examples=["recovery"])
    password: SecretRef | None = Field(None, description="Its password.", examples=["env:ELASTICSEARCH_PASSWORD"])
    tls: Tls | None = Field(None, description="Authorities and certificates for https addresses.")
    repository: str = Field("recovery", min_length=1, description="Snapshot repository.", examples=["recovery"])
    storage: SearchStorage | None = Field(
        None, description="Its place; without it the repository has to be registered with each cluster."
    )
    indices: list[str] = Field(
        default_factory=lambda: ["*"],
        min_length=1,
        description="Patterns of indices, data streams and aliases; a hyphen before one excludes.",
        examples=[["orders-*", "products"]],
    )
    include_global_state: Switch = Field(
        False, description="Whether templates, persistent settings and pipelines come along.", examples=[True]
    )
    derived: Switch = Field(
        False,
        description="Whether all of it can be made anew from the group's other stores. No failover moves or fences a "
        "search engine: without this word automatic asks a person first.",
        examples=[True],
    )
    scratch: SearchScratch | None = Field(
        None, description="A cluster in which points are proven; without it none is ever VALID."
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
