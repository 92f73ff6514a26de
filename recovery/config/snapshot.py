"""From the configuration to the secret-free picture of one group, and the hash that tells whether two workers agree."""

from __future__ import annotations

import hashlib
import json
from datetime import timedelta
from typing import TYPE_CHECKING

from recovery.config.endpoints import capacity_rule, capacity_url, health_urls
from recovery.config.group import Group, GroupRegion
from recovery.config.installation import Region
from recovery.config.names import split_address
from recovery.config.plain import plain
from recovery.config.policies import BackupPolicy
from recovery.domain.addresses import address_of
from recovery.domain.group import (
    BaseBackupRule,
    DnsRecord,
    FailoverRule,
    GroupSnapshot,
    Objectives,
    PostgresAt,
    RegionPlan,
    ReplicaRule,
    ReplicationRule,
    RetentionRule,
    WalRule,
)
from recovery.domain.managed import ManagedRule
from recovery.domain.recovery_point import BackupKind
from recovery.domain.search import SearchRule, SearchStorage

if TYPE_CHECKING:
    from recovery.config.config import Config

POSTGRES_PORT, NATS_PORT, REDIS_PORT = 5432, 4222, 6379


def snapshot_of(config: Config, name: str) -> GroupSnapshot:
    """``name`` must be a known group."""
    group = config.groups[name]
    tier = config.tiers[group.tier]
    return GroupSnapshot(
        name=name,
        objectives=Objectives(tier=group.tier, rto=tier.rto, rpo=tier.rpo),
        services=group.services,
        home_region=group.home,
        regions=[_region_plan(config, group, region) for region in group.regions],
        records=_records(group),
        validation_queue=config.validation_queue,
        locations=list(config.locations_of(name)),
        backup_kinds=kinds_of(group),
        logical_databases=group.postgres.databases if group.postgres else [],
        critical_tables=group.critical_tables,
        retention=_retention(group.backup),
        base_backup=BaseBackupRule(
            from_standby=group.backup.postgres.source == "standby",
            standby_lag=group.backup.postgres.standby_lag,
            incrementals=group.backup.postgres.incrementals,
        ),
        wal=_wal(group),
        replication=_replication(group),
        failover=_failover(config, group),
        streams=group.nats.streams if group.nats else [],
        search=_search(group),
        managed=_managed(group),
        managed_by=group.postgres.managed_by if group.postgres else "self",
        poolers=[pooler.address for pooler in group.routing.pgbouncer],
        pause_timeout=group.routing.pause_timeout,
        second_person=group.approvals.second_person,
        health_status=group.checks.status,
        health_timeout=group.checks.timeout,
        health_body=group.checks.body,
        health_latency=group.checks.latency,
        capacity=capacity_rule(group.checks),
        prometheus=config.monitoring.prometheus_url,
        validate_after_backup=group.backup.validation.enabled and group.backup.validation.after_backup,
        require_approval=group.approvals.require,
        approval_timeout=group.approvals.timeout,
        approval_default=group.approvals.default,
        hold_timeout=group.approvals.hold_timeout,
        budgets=budgets_of(config, group),
        config_hash=hash_of(config, name),
    )


def budgets_of(config: Config, group: Group) -> dict[str, float]:
    """``"<plan>.<step>"`` -> seconds: the tier's, with the group's (or the defaults') over them."""
    found: dict[str, float] = {}
    for budgets in (config.tiers[group.tier].budgets, group.budgets):
        for plan, steps in budgets.items():
            found.update({f"{plan}.{step}": budget.total_seconds() for step, budget in steps.items()})
    if group.backup.validation.budget is not None:
        found.setdefault("BackupValidation.validate-points", group.backup.validation.budget.total_seconds())
    return found


def hash_of(config: Config, name: str) -> str:
    """SHA-256 (hex) of everything that shapes the group's runs and that all processes agree on, in canonical JSON.

    References to secrets are left out, and so are addresses and the files of certificates: each process may keep its
    secrets where it likes, and reach the stores by the way that leads there from its own place.
    """
    group = config.groups[name]
    shaping = {
        "version": config.version,
        "name": name,
        "group": plain(group, references=False),
        "tier": plain(config.tiers[group.tier], references=False),
        "locations": {key: plain(value, references=False) for key, value in config.locations_of(name).items()},
        "regions": {region: plain(config.regions[region], references=False) for region in group.regions},
        "guarded": [region for region in group.regions if config.guards.token and config.regions[region].guard],
        "queues": [config.temporal.control_queue, *(config.region_queue(region) for region in group.regions)],
        "witness": plain(config.witness, references=False),
        "recipients": config.keys.recipients,
        "trusted_signers": config.keys.trusted_signers,
    }
    canonical = json.dumps(shaping, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _region_plan(config: Config, group: Group, name: str) -> RegionPlan:
    own, shared = group.regions[name], config.regions[name]
    return RegionPlan(
        name=name,
        role=own.role or shared.role,
        priority=shared.priority if own.priority is None else own.priority,
        site=shared.site,
        task_queue=config.region_queue(name),
        restore_queue=config.restore_queue(name),
        postgres=postgres_at(group, own, shared),
        nats=_with_port(own.nats or shared.endpoints.nats, NATS_PORT) if group.nats else None,
        redis=_with_port(own.redis or shared.endpoints.redis, REDIS_PORT) if group.redis else None,
        search=(own.elasticsearch or shared.endpoints.elasticsearch) if group.elasticsearch else None,
        health_urls=health_urls(group, own, shared),
        capacity_url=capacity_url(group, own, shared),
        guard=shared.guard if config.guards.token else None,
        dns_value=own.dns_value,
        dns_ipv6=own.dns_ipv6,
        dns_alias_zone=own.dns_alias_zone,
    )


def kinds_of(group: Group) -> list[str]:
    """Nobody streams a base backup from RDS, and nobody else takes its snapshots."""
    managed = group.postgres is not None and group.postgres.managed_by == "rds"
    without = BackupKind.PHYSICAL if managed else BackupKind.SNAPSHOT
    return [
        kind.value for kind in group.backup.kinds if getattr(group, kind.store.key) is not None and kind is not without
    ]


def _retention(backup: BackupPolicy) -> RetentionRule:
    return RetentionRule(
        count=backup.retention_count,
        days=backup.retention_days,
        daily=backup.retention_daily,
        weekly=backup.retention_weekly,
        monthly=backup.retention_monthly,
        yearly=backup.retention_yearly,
    )


def _replication(group: Group) -> ReplicationRule:
    policy = group.replication
    limit = timedelta(seconds=policy.max_lag_seconds)
    return ReplicationRule(
        streaming=policy.mode == "streaming",
        synchronous=policy.synchronous,
        acknowledgements=policy.acknowledgements,
        on_standby_loss=policy.on_standby_loss,
        max_lag=limit,
        replicas=[
            ReplicaRule(
                name=replica.name,
                region=replica.region,
                lag_limit=replica.lag_threshold or limit,
                priority=replica.priority,
            )
            for replica in policy.replicas
        ],
    )


def _wal(group: Group) -> WalRule | None:
    policy = group.backup.wal
    if not policy.enabled or group.postgres is None:
        return None
    return WalRule(
        flush_interval=policy.flush_interval,
        slot=policy.slot,
        optional_locations=policy.optional_locations,
        retained_warning=policy.retained_warning,
        retained_critical=policy.retained_critical,
    )


def _search(group: Group) -> SearchRule | None:
    search = group.elasticsearch
    if search is None:
        return None
    storage = search.storage
    return SearchRule(
        repository=search.repository,
        indices=search.indices,
        global_state=search.include_global_state,
        derived=search.derived,
        storage=SearchStorage(
            type=storage.type,
            place=storage.bucket or storage.location or "",
            base_path=storage.base_path,
            client=storage.client,
            settings=storage.settings,
        )
        if storage
        else None,
    )


def _managed(group: Group) -> ManagedRule | None:
    if group.rds is None:
        return None
    return ManagedRule(
        instances=group.rds.instances,
        restored_instance=group.rds.restored_instance,
        snapshot=group.rds.snapshot,
        instance_class=group.rds.instance_class,
        fence_security_groups=group.rds.fence_security_groups,
        snapshot_copies=group.rds.snapshot_copies,
        kms_keys=group.rds.kms_keys,
        subnet_groups=group.rds.subnet_groups,
        security_groups=group.rds.security_groups,
    )


def _failover(config: Config, group: Group) -> FailoverRule:
    policy = group.failover
    return FailoverRule(
        policy=policy.policy if policy.automatic is None else ("automatic" if policy.automatic else "manual"),
        interval=policy.health_check_interval,
        timeout=policy.health_check_timeout,
        failure_threshold=policy.failure_threshold,
        recovery_threshold=policy.recovery_threshold,
        vantage_points=policy.vantage_points,
        cooldown=policy.cooldown,
        approve_timeout=policy.approve_timeout,
        lease_ttl=policy.lease_ttl,
        margin=config.guards.margin,
        drain=policy.connection_drain_timeout,
        watch_for=policy.watch_for,
    )


def postgres_at(group: Group, own: GroupRegion, shared: Region) -> PostgresAt | None:
    """The group's PostgreSQL in a region: the group's word first, the region's endpoint second."""
    if group.postgres is None:
        return None
    host, port = split_address(shared.endpoints.postgres) if shared.endpoints.postgres else (None, None)
    host = own.postgres.host or host
    if host is None:
        return None
    return PostgresAt(
        host=host,
        port=own.postgres.port or port or POSTGRES_PORT,
        database=group.postgres.database,
        user=group.postgres.user,
        major=group.postgres.major,
        data_directory=own.postgres.data_directory,
        run_as=own.postgres.run_as,
    )


def _with_port(address: str | None, usual: int) -> str | None:
    if address is None:
        return None
    host, port = split_address(address)
    return address_of(host, port or usual)


def _records(group: Group) -> list[DnsRecord]:
    if group.dns is None:
        return []
    ttl, zone = group.failover.dns_ttl, group.dns.zone
    return [
        DnsRecord(
            name=entry.name,
            type=entry.type,
            ttl=entry.ttl or ttl,
            zone=zone,
            set_identifier=entry.set_identifier,
            weight=entry.weight,
            region=entry.region,
            evaluate_target_health=entry.evaluate_target_health,
            points_at=entry.points_at,
        )
        for entry in group.dns.records
    ]
