"""Sections that an installation has once: Temporal, keys, guards, regions, tiers, targets."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from recovery.config.base import Section
from recovery.config.names import (
    AbsolutePath,
    Address,
    HostPort,
    Name,
    OwnFile,
    PlanName,
    Recipient,
    Signer,
    WebAddress,
)
from recovery.config.values import Duration, Percentage, Switch, between, expected
from recovery.domain.secret import SecretRef

Budgets = dict[PlanName, dict[Name, Duration]]
"""Plan -> step -> budget."""

Role = Literal["primary", "secondary", "dr"]


class Tls(Section):
    """TLS towards a server."""

    enabled: Switch = Field(True, description="Speak TLS.", examples=[True])
    ca_file: OwnFile | None = Field(
        None,
        description="PEM file of the authorities to trust; without it the system's.",
        examples=["/etc/recovery/tls/ca.pem"],
    )
    certificate_file: OwnFile | None = Field(
        None, description="PEM file of our own certificate (mutual TLS).", examples=["/etc/recovery/tls/client.pem"]
    )
    key: SecretRef | None = Field(
        None,
        description="Private key (PEM) of our own certificate.",
        examples=["file:/etc/recovery/tls/client.key"],
    )
    server_name: str | None = Field(
        None,
        description="Name in the server's certificate, where it differs from the address.",
        examples=["temporal.example.com"],
    )

    @model_validator(mode="after")
    def _pair(self) -> Tls:
        if (self.certificate_file is None) != (self.key is None):
            raise expected("certificate_file and key together, or neither of them")
        return self


class Temporal(Section):
    """The Temporal cluster that runs the plans. Run it outside the region that it helps to save."""

    address: HostPort | None = Field(
        None,
        description="host:port of the frontend; without it `drctl up` runs an embedded server.",
        examples=["temporal.example.com:7233"],
    )
    namespace: str = Field("default", min_length=1, description="Temporal namespace.", examples=["recovery"])
    ui_address: WebAddress | None = Field(
        None,
        description="Where people open the Temporal UI; printed beside runs.",
        examples=["https://temporal.example.com"],
    )
    tls: Tls | None = Field(None, description="TLS to the frontend; without it plain text.")
    api_key: SecretRef | None = Field(None, description="API key of Temporal Cloud.", examples=["env:TEMPORAL_API_KEY"])
    control_queue: str = Field(
        "recovery-control",
        min_length=1,
        description="Task queue of workflows and of steps that any region's worker may run.",
        examples=["recovery-control"],
    )
    region_queue: str = Field(
        "recovery-{region}",
        pattern=r"^[^{}]*\{region\}[^{}]*$",
        description="Task queue of steps that must run in a region; {region} stands for its name.",
        examples=["recovery-{region}"],
    )
    payload_key: SecretRef | None = Field(
        None,
        description="Key (32 bytes in base64) that encrypts everything in histories; without it they are readable. "
        "There is one: what was written under another is not read any more. Replace it while no plan runs: stop all "
        "workers and monitors, terminate the runs that are open, delete the schedules; then start all with the new "
        "key, and run `drctl schedules apply`.",
        examples=["env:RECOVERY_PAYLOAD_KEY"],
    )
    state_file: AbsolutePath | None = Field(
        None,
        description="State of the embedded server; without it ~/.local/state/recovery-plans/temporal.db.",
        examples=["/var/lib/recovery-plans/temporal.db"],
    )


class Keys(Section):
    """Who can open recovery points, and who vouches for them."""

    recipients: list[Recipient] = Field(
        min_length=1,
        description="age public keys; each one alone opens every recovery point. Name at least two: operators, escrow.",
        examples=[["age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"]],
    )
    identities: list[SecretRef] = Field(
        default_factory=list,
        description="age private keys, only where recovery points are validated or restored; not on backup workers.",
        examples=[["file:/etc/recovery/keys/operator.agekey"]],
    )
    signing_key: SecretRef | None = Field(
        None,
        description="Ed25519 private key (ed25519-secret:...) that signs manifests and verdicts.",
        examples=["file:/etc/recovery/keys/signing.key"],
    )
    trusted_signers: list[Signer] = Field(
        default_factory=list,
        description="Ed25519 public keys (ed25519:...) whose manifests and verdicts count.",
        examples=[["ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="]],
    )


class Guards(Section):
    """The guards of all regions: small processes beside the stores, which alone make a primary."""

    token: SecretRef | None = Field(
        None,
        description="Secret that plans, the command line and guards share; without it no group is guarded.",
        examples=["file:/etc/recovery/secrets/guard.token"],
    )
    state_folder: AbsolutePath = Field(
        "/var/lib/recovery-plans/guard",
        description="Folder of the guard's state; a region's guard keeps its own below it.",
        examples=["/var/lib/recovery-plans/guard"],
    )
    margin: Annotated[Duration, AfterValidator(between(timedelta(seconds=0.5), timedelta(minutes=5)))] = Field(
        timedelta(seconds=1.5),
        description="What a watcher waits beyond the ttl: a completed demotion, and clocks of different speed.",
        examples=["1500ms"],
    )
    watchdog_device: AbsolutePath | None = Field(
        None, description="Kernel watchdog that resets the host of a frozen guard.", examples=["/dev/watchdog"]
    )
    ca_file: OwnFile | None = Field(
        None, description="PEM file of the authorities that guards' https addresses are trusted by."
    )
    certificate_file: OwnFile | None = Field(
        None, description="PEM file of the guard's own certificate, where its address is https."
    )
    key_file: OwnFile | None = Field(None, description="PEM file of that certificate's private key.")


class Endpoints(Section):
    """Addresses of a region's stores and of its application."""

    postgres: Address | None = Field(
        None,
        description="PostgreSQL, host or host:port (5432).",
        examples=["postgres-primary.us-east-1.rds.amazonaws.com"],
    )
    nats: Address | None = Field(
        None, description="NATS, host or host:port (4222).", examples=["nats-cluster-us-east-1.example.com"]
    )
    redis: Address | None = Field(
        None,
        description="Redis, host or host:port (6379).",
        examples=["redis-primary.us-east-1.cache.amazonaws.com"],
    )
    elasticsearch: WebAddress | None = Field(
        None, description="Elasticsearch or OpenSearch.", examples=["https://search.us-east-1.example.com:9200"]
    )
    http: WebAddress | None = Field(
        None,
        description="The application in this region; check paths are appended to it.",
        examples=["https://primary.example.com"],
    )


class Region(Section):
    """A region, as far as all groups share it. A group may say otherwise for itself."""

    role: Role = Field("secondary", description="Part in the picture: primary, secondary or dr.", examples=["primary"])
    priority: Annotated[int, Field(ge=0, le=1000)] = Field(
        0, description="Preference as a target, higher is better.", examples=[100]
    )
    site: Name | None = Field(
        None,
        description="What it is lost together with; without it its own name. Regions of one site are zones or hosts of "
        "one region, each with a guard of its own: a failover may stay within a site.",
        examples=["us-east-1"],
    )
    endpoints: Endpoints = Field(default_factory=Endpoints, description="Addresses of stores and application.")
    health_urls: list[WebAddress] = Field(
        default_factory=list,
        description="Addresses that answer 200 while the region works.",
        examples=[["https://primary.example.com/health"]],
    )
    guard: WebAddress | None = Field(
        None,
        description="Address of the region's guard, where it listens and where others reach it.",
        examples=["http://10.1.0.5:7450"],
    )
    task_queue: str | None = Field(
        None,
        min_length=1,
        description="Task queue, where it is not temporal.region_queue.",
        examples=["recovery-us-east-1"],
    )


class Tier(Section):
    """Objectives that groups share."""

    rto: Duration = Field(description="Recovery time objective.", examples=["15min"])
    rpo: Duration = Field(description="Recovery point objective.", examples=["5min"])
    services: list[str] = Field(
        default_factory=list, description="Services that belong to this tier.", examples=[["auth", "payments"]]
    )
    budgets: Budgets = Field(
        default_factory=dict,
        description="Budgets of steps for this tier's groups: plan -> step -> duration.",
        examples=[{"FullRecovery": {"restore-database": "30m"}}],
    )


class Targets(Section):
    """What the whole installation promises, over all groups; reports compare with it."""

    rto: Duration = Field(timedelta(hours=4), description="No recovery takes longer.", examples=["4h"])
    rpo: Duration = Field(timedelta(hours=1), description="No recovery loses more.", examples=["1h"])
    mttr: Duration = Field(timedelta(hours=2), description="Mean time to recovery.", examples=["2h"])
    availability: Percentage = Field(99.9, description="Yearly availability, in percent.", examples=[99.9])
