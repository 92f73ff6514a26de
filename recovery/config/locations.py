"""Where objects are kept: locations of recovery points, the witness, reports."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from recovery.config.base import Section
from recovery.config.names import Name, OwnFile, StoreUrl, WebAddress
from recovery.config.values import expected
from recovery.domain.secret import SecretRef


class Credentials(Section):
    """Credentials of an object store; without them the machine's own (instance role, AWS profile)."""

    access_key: SecretRef = Field(description="Access key id.", examples=["env:BACKUP_ACCESS_KEY_ID"])
    secret_key: SecretRef = Field(description="Secret access key.", examples=["env:BACKUP_SECRET_ACCESS_KEY"])
    session_token: SecretRef | None = Field(
        None, description="Session token of temporary credentials.", examples=["env:BACKUP_SESSION_TOKEN"]
    )


class Store(Section):
    """An S3 bucket or a folder, below a prefix."""

    url: StoreUrl = Field(description="s3://bucket/prefix or file:///folder.", examples=["s3://backup-primary/shop"])
    endpoint: WebAddress | None = Field(
        None, description="Address of an S3 server other than AWS.", examples=["https://s3.eu-west-1.example.com"]
    )
    region: str | None = Field(None, min_length=1, description="AWS region of the bucket.", examples=["us-east-1"])
    credentials: Credentials | None = Field(
        None, description="Credentials; without them the machine's own (instance role, profile)."
    )
    ca_file: OwnFile | None = Field(
        None,
        description="PEM file of the authorities to trust for this endpoint.",
        examples=["/etc/recovery/tls/ca.pem"],
    )

    @model_validator(mode="after")
    def _folder_needs_no_server(self) -> Store:
        given = [key for key in ("endpoint", "region", "credentials", "ca_file") if getattr(self, key) is not None]
        if self.is_folder and given:
            raise expected(f"no {', '.join(given)} beside a file:// url: a folder has none of it")
        return self

    @property
    def is_folder(self) -> bool:
        return self.url.startswith("file://")

    @property
    def bucket(self) -> str | None:
        """Name of the S3 bucket, None for a folder."""
        return None if self.is_folder else self.url.removeprefix("s3://").partition("/")[0]

    @property
    def prefix(self) -> str:
        """Prefix in the bucket, or the folder itself (absolute)."""
        if self.is_folder:
            return self.url.removeprefix("file://")
        return self.url.removeprefix("s3://").partition("/")[2]


class BucketReplication(Section):
    """What the bucket's own replication is expected to be; `drctl locations check` compares."""

    bucket: str = Field(
        min_length=3, description="Bucket that receives the copies.", examples=["shop-backups-eu-west-1"]
    )
    storage_class: str = Field("STANDARD", description="Storage class of the copies.", examples=["STANDARD"])
    kms_key: str | None = Field(
        None,
        description="KMS key (ARN) that encrypts the copies in their region.",
        examples=["arn:aws:kms:eu-west-1:111122223333:key/dr"],
    )


class ObjectLock(Section):
    """Nobody deletes or changes what was written, for so long. The bucket needs object lock and versioning."""

    mode: Literal["compliance", "governance"] = Field(
        "compliance",
        description="compliance: nobody at all; governance: only who may bypass it.",
        examples=["compliance"],
    )
    days: Annotated[int, Field(ge=1, le=36500)] = Field(
        description="Days from its writing on for which an object stays.", examples=[14]
    )


class Encryption(Section):
    """The store's own encryption, on top of ours: an object store never sees a recovery point in clear."""

    algorithm: Literal["AES256", "aws:kms", "aws:kms:dsse"] = Field(
        "AES256", description="The server's algorithm.", examples=["aws:kms"]
    )
    kms_key: str | None = Field(
        None,
        description="KMS key (ARN or id) for aws:kms; without it the account's own for S3.",
        examples=["arn:aws:kms:us-east-1:111122223333:key/dr"],
    )

    @model_validator(mode="after")
    def _key_of_kms(self) -> Encryption:
        if self.kms_key is not None and self.algorithm == "AES256":
            raise expected("algorithm aws:kms beside kms_key: AES256 uses a key of the store's own")
        return self


Tag = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[\w .:/=+@-]+$")]
TagValue = Annotated[str, Field(max_length=256, pattern=r"^[\w .:/=+@-]*$")]


class Location(Store):
    """One place where recovery points are kept. Name at least two, in different regions."""

    in_region: Name | None = Field(
        None, description="Region (of this file) that is lost together with this location.", examples=["us-east-1"]
    )
    storage_class: (
        Literal["STANDARD", "STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING", "GLACIER_IR", "EXPRESS_ONEZONE"] | None
    ) = Field(
        None,
        description="Storage class of new objects, one that is readable without thawing.",
        examples=["GLACIER_IR"],
    )
    versioning: Literal["required", "ignored"] = Field(
        "required",
        description="Whether a bucket without versioning is reported as a shortcoming.",
        examples=["required"],
    )
    retention_credentials: Credentials | None = Field(
        None,
        description="Credentials that may delete, for workers that run retention and have them; then those of backups "
        "need to write new objects only (deploy/s3).",
    )
    object_lock: ObjectLock | None = Field(
        None, description="How long nobody may delete or change what is written; `drctl locations check` tries it."
    )
    encryption: Encryption | None = Field(
        None, description="The store's own encryption of new objects; without it the bucket's default."
    )
    tags: dict[Tag, TagValue] = Field(
        default_factory=dict, max_length=10, description="Tags of new objects.", examples=[{"retention": "dr"}]
    )
    replication: BucketReplication | None = Field(
        None, description="The bucket's own cross-region replication, as it is expected to be."
    )
    max_connections: Annotated[int, Field(ge=1, le=256)] = Field(
        16, description="Connections at once to this location.", examples=[16]
    )

    @model_validator(mode="after")
    def _folder_has_no_bucket(self) -> Location:
        given = [
            key
            for key in ("storage_class", "retention_credentials", "object_lock", "encryption", "tags", "replication")
            if getattr(self, key)
        ]
        if self.is_folder and given:
            raise expected(f"no {', '.join(given)} beside a file:// url: only a bucket has that")
        return self


class Witness(Store):
    """Where ownership records live: outside all data regions, with conditional writes."""


class Reports(Store):
    """Where the reports of runs are kept as evidence."""
