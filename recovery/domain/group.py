"""The secret-free picture of one protection group that a run works with from its first to its last step."""

from __future__ import annotations

from datetime import timedelta

from pydantic import Field

from recovery.domain.base import Model


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
    task_queue: str
    postgres: PostgresAt | None = None
    nats: str | None = None
    redis: str | None = None  # host:port
    health_urls: list[str] = Field(default_factory=list)
    dns_value: str | None = None  # what the group's records hold while this region is active


class DnsRecord(Model):
    """A record that clients resolve to find the active region."""

    name: str
    type: str = "A"
    ttl: int = 60
    zone: str


class RetentionRule(Model):
    count: int | None = None
    days: int | None = None


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
    health_status: int = 200
    health_timeout: timedelta = timedelta(seconds=5)
    validate_after_backup: bool = True
    require_approval: bool = False
    approval_timeout: timedelta = timedelta(hours=1)
    approval_default: str = "decline"
    hold_timeout: timedelta | None = None
    budgets: dict[str, float] = Field(default_factory=dict)  # "<plan>.<step>" -> seconds, from the configuration
    config_hash: str = ""

    def region(self, name: str) -> RegionPlan:
        """Raises KeyError with the known names."""
        for region in self.regions:
            if region.name == name:
                return region
        known = ", ".join(region.name for region in self.regions)
        raise KeyError(f"group {self.name} has no region {name!r}: it has {known}")
