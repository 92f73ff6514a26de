"""Records by which a group's clients find the active region."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from recovery.config.base import Section
from recovery.config.names import Address, DnsName, Name, Seconds, WebAddress
from recovery.config.values import Switch, expected
from recovery.domain.secret import SecretRef


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
