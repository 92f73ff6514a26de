"""Who else has a hand in a group's PostgreSQL: Patroni, Amazon RDS, and poolers between it and the clients."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field, model_validator

from recovery.config.base import Section
from recovery.config.names import Address, Name, OwnFile, SqlName, WebAddress
from recovery.config.values import Duration, expected
from recovery.domain.secret import SecretRef


class Patroni(Section):
    """Patroni's REST API, where Patroni manages the group's PostgreSQL."""

    members: dict[Name, list[WebAddress]] = Field(
        min_length=1,
        description="Region -> REST addresses of the members there.",
        examples=[{"us-east-1": ["https://pg-1.us-east-1.example.com:8008"]}],
    )
    spans_regions: bool = Field(
        False,
        description="One cluster, with one DCS, has members in all of these regions. Without it that is known only "
        "while Patroni lists the lost region's members, which it does for its ttl.",
        examples=[True],
    )
    user: str | None = Field(None, min_length=1, description="User (restapi.authentication).", examples=["recovery"])
    password: SecretRef | None = Field(None, description="Its password.", examples=["env:PATRONI_PASSWORD"])
    ca_file: OwnFile | None = Field(
        None, description="PEM file of the authorities to trust.", examples=["/etc/recovery/tls/patroni-ca.pem"]
    )
    certificate_file: OwnFile | None = Field(
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
    ssl_root_certificate: OwnFile | None = Field(
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
KmsKey = Annotated[str, Field(pattern=r"^[A-Za-z0-9:/_-]+$")]


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
    snapshot_copies: list[Name] = Field(
        default_factory=list,
        description="Regions that get a copy of each recovery point of kind snapshot, beside the one that takes it.",
        examples=[["eu-west-1"]],
    )
    kms_keys: dict[Name, KmsKey] = Field(
        default_factory=dict,
        description="Region -> KMS key of the copies there: its ARN, id, or alias. An encrypted snapshot needs one.",
        examples=[{"eu-west-1": "alias/shop-backups"}],
    )
    subnet_groups: dict[Name, Name] = Field(
        default_factory=dict,
        description="Region -> DB subnet group of an instance restored from a recovery point; without it that of the "
        "group's instance there.",
        examples=[{"eu-west-1": "shop-private"}],
    )
    security_groups: dict[Name, list[SecurityGroup]] = Field(
        default_factory=dict,
        description="Region -> its security groups; without it those of the group's instance there. They have to let "
        "the workers in, which read what was restored.",
        examples=[{"eu-west-1": ["sg-0a1b2c3d4e5f60719"]}],
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
