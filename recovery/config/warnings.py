"""What a configuration may say and yet should not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING

from recovery.config.cron import Cron
from recovery.config.group import Group
from recovery.config.locations import Store
from recovery.config.references import region_of
from recovery.config.snapshot import budgets_of, kinds_of
from recovery.domain.recovery_point import BackupKind
from recovery.domain.words import duration

if TYPE_CHECKING:
    from recovery.config.config import Config

CriticalPaths = Callable[[dict[str, float]], Mapping[str, timedelta]]
"""From a group's budgets (``"<plan>.<step>"`` -> seconds) to the critical path of each recovery plan."""

EXAMPLE_RECIPIENTS = frozenset(
    {
        "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p",
        "age17m9q6u4uxyh2afmzjuu9892cfe8wqwv6at856sf6wj52tvjrdgkqqfj0f4",
    }
)

NOT_A_RECOVERY = ("Backup", "Retention", "Restore", "Drill", "Readiness")


def warnings_of(config: Config, critical_paths: CriticalPaths | None) -> list[str]:
    """One sentence each, beginning with the key."""
    found = list(_installation(config))
    for name, group in config.groups.items():
        found += [f"groups.{name}.{text}" for text in _group(config, name, group, critical_paths)]
    return found


def _installation(config: Config) -> Iterator[str]:
    if len(config.keys.recipients) < 2:
        yield "keys.recipients: only one key can open the recovery points; add a second one (escrow) in other hands"
    if EXAMPLE_RECIPIENTS & set(config.keys.recipients):
        yield "keys.recipients: a key of recovery.example.yaml is among them, whose private half you do not have"
    if not config.keys.trusted_signers:
        yield "keys.trusted_signers: nobody's signature is trusted; whoever can write to a location can forge a point"
    for name, location in config.locations.items():
        if _same_server(config.witness, location):
            yield (
                f"witness: it is on the same server or bucket as location {name}, so that both are lost together; "
                "put it outside all data regions"
            )
    for name, channel in config.notifications.channels.items():
        if "critical" not in channel.severities and len(config.notifications.channels) == 1:
            yield f"notifications.channels.{name}: nobody is told of critical events; add critical to severities"
    if not config.notifications.channels:
        yield "notifications.channels: nobody is told of anything; add a channel"
    for plural, name, objective in _beyond_targets(config):
        yield f"tiers.{name}.{plural}: {duration(objective)} is more than targets.{plural} promises"


def _beyond_targets(config: Config) -> Iterator[tuple[str, str, timedelta]]:
    used = {group.tier for group in config.groups.values()}
    for name, tier in config.tiers.items():
        if name in used and tier.rto > config.targets.rto:
            yield "rto", name, tier.rto
        if name in used and tier.rpo > config.targets.rpo:
            yield "rpo", name, tier.rpo


def _same_server(one: Store, other: Store) -> bool:
    if one.is_folder or other.is_folder:
        return one.is_folder and other.is_folder
    if one.endpoint or other.endpoint:
        return one.endpoint == other.endpoint
    return one.bucket == other.bucket


def _group(config: Config, name: str, group: Group, critical_paths: CriticalPaths | None) -> Iterator[str]:
    locations = config.locations_of(name)
    if len(locations) < 2:
        yield f"backup.locations: only {', '.join(locations)}; name a second location in another region"
    elif len({entry.in_region for entry in locations.values()}) == 1 and all(e.in_region for e in locations.values()):
        yield "backup.locations: all of them are lost with one region; name one in another region"
    if len(group.regions) < 2:
        yield "regions: only one, so there is nowhere to recover to when it is lost; add another"
    yield from _snapshots(group)
    yield from _objectives(config, group)
    yield from _budgets(config, group, critical_paths)
    if len(group.regions) > 1 and len({config.regions[name].site or name for name in group.regions}) == 1:
        yield "regions: all of them are at one site and lost with it; add one at another site"
    for index, replica in enumerate(group.replication.replicas):
        zone_of = region_of(replica.region, list(group.regions))
        if zone_of == group.home and replica.region not in (zone_of, *group.regions):
            yield (
                f"replication.replicas[{index}].region: {replica.region} is a zone of {zone_of}, the group's home, and "
                f"no region of the group, so nothing fails over to it; add it to regions with site: {zone_of}"
            )
        if region_of(replica.region, list(group.regions)) == replica.region and replica.name is None:
            continue
        if replica.lag_threshold and replica.lag_threshold > config.tiers[group.tier].rpo:
            yield f"replication.replicas[{index}].lag_threshold: a replica this far behind misses the tier's RPO"
    if group.failover.policy == "automatic" and len(group.failover.vantage_points or group.regions) < 3:
        yield "failover: automatic needs three vantage points or more; a failover will ask a person instead"
    yield from _without_fence(group)
    yield from _shared_credentials(group)
    for service in group.services:
        others = [tier for tier, entry in config.tiers.items() if tier != group.tier and service in entry.services]
        if others:
            yield f"services: {service} belongs to tier {others[0]}, and the group has tier {group.tier}"


def _without_fence(group: Group) -> Iterator[str]:
    """Stores that no guard can keep from a second primary, as far as the configuration shows it."""
    if group.failover.policy == "automatic" and group.elasticsearch is not None and not group.elasticsearch.derived:
        yield (
            "elasticsearch: no failover moves or fences it, so that automatic asks a person first; say derived where "
            "all of it can be made anew from the other stores"
        )
    if group.failover.policy == "automatic" and group.nats is not None and group.nats.credentials is not None:
        yield (
            "nats.credentials: users by JWT carry their permissions past a guard's fence, so that automatic asks a "
            "person first; let the guards log in as a user with a password"
        )


def _snapshots(group: Group) -> Iterator[str]:
    if group.rds is None or BackupKind.SNAPSHOT.value not in kinds_of(group):
        return
    if len(group.regions) > 1 and set(group.rds.snapshot_copies) <= {group.home}:
        yield (
            f"rds.snapshot_copies: snapshots of {group.home} stay there and are lost with it; name another region of "
            "the group"
        )


def _shared_credentials(group: Group) -> Iterator[str]:
    """Of standbys that acknowledge together: each of two could call itself by the other's name."""
    if not group.replication.synchronous or len(group.regions) < 3:
        return
    users: dict[str, list[str]] = {}
    for region in group.regions:
        user = group.replicates_as(region)
        users.setdefault(user[0] if user else "", []).append(region)
    for user_name, regions in users.items():
        if len(regions) > 1:
            whose = f"the user {user_name}" if user_name else "whatever their servers are configured with"
            yield (
                f"replication.synchronous: the standbys of {', '.join(regions)} stream as {whose}, so that zero loss "
                "is never claimed; give each region a postgres.replication_user of its own"
            )


def _objectives(config: Config, group: Group) -> Iterator[str]:
    rpo = config.tiers[group.tier].rpo
    gap = Cron.parse(group.backup.schedule).longest_gap()
    streams = group.replication.mode == "streaming"
    if group.backup.enabled and not streams and gap > rpo:
        yield (
            f"backup.schedule: backups {duration(gap)} apart cannot meet the RPO of {duration(rpo)} "
            f"of tier {group.tier}; set replication.mode to streaming, or back up more often"
        )
    if not group.backup.enabled and not streams:
        yield "backup.enabled: nothing protects this group's data: no backups run and nothing replicates"
    if not group.backup.validation.enabled:
        yield "backup.validation.enabled: recovery points that were never restored are hopes; switch it on"
    lag = timedelta(seconds=group.replication.max_lag_seconds)
    if streams and lag > rpo:
        yield f"replication.max_lag_seconds: {duration(lag)} of lag is more than the RPO of {duration(rpo)}"


def _budgets(config: Config, group: Group, critical_paths: CriticalPaths | None) -> Iterator[str]:
    tier = config.tiers[group.tier]
    overrides = budgets_of(config, group)
    if critical_paths is not None:
        totals = dict(critical_paths(overrides))
    else:
        totals = {}
        for name, seconds in overrides.items():
            plan = name.partition(".")[0]
            totals[plan] = totals.get(plan, timedelta()) + timedelta(seconds=seconds)
    for plan, total in sorted(totals.items()):
        if plan.startswith(NOT_A_RECOVERY) or (plan == "DatabaseFailover" and group.rds is None):
            continue
        if total > tier.rto:
            yield (
                f"budgets.{plan}: its steps may take {duration(total)} together, and the RTO of tier "
                f"{group.tier} is {duration(tier.rto)}; shorten the longest budgets, or choose another tier"
            )
