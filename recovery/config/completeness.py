"""What a group lacks that no single key can say, and what two groups must not share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from recovery.config.group import Group, GroupRegion
from recovery.config.managers import Rds
from recovery.config.mistakes import KeyPath
from recovery.config.snapshot import kinds_of, postgres_at
from recovery.domain.chains import FIRST_MAJOR
from recovery.domain.group import ALL_STREAMS
from recovery.domain.recovery_point import BackupKind

if TYPE_CHECKING:
    from recovery.config.config import Config


def incomplete(config: Config) -> Iterator[tuple[KeyPath, str]]:
    """What a group needs and no key says, after everything single was found right."""
    for name, group in config.groups.items():
        for region, own in group.regions.items():
            path: KeyPath = ("groups", name, "regions", region)
            shared = config.regions[region].endpoints
            if group.postgres and postgres_at(group, own, config.regions[region]) is None:
                yield (*path, "postgres", "host"), _nowhere("PostgreSQL", region, "postgres", "10.0.0.5")
            if group.nats and not (own.nats or shared.nats):
                yield (*path, "nats"), _nowhere("NATS", region, "nats", "nats.example.com:4222")
            if group.redis and not (own.redis or shared.redis):
                yield (*path, "redis"), _nowhere("Redis", region, "redis", "redis.example.com:6379")
            if group.elasticsearch and not (own.elasticsearch or shared.elasticsearch):
                yield (
                    (*path, "elasticsearch"),
                    _nowhere("Elasticsearch", region, "elasticsearch", "https://search.example.com:9200"),
                )
            yield from (((*path, key), said) for key, said in _unpointed(group, own))
        if (
            group.backup.postgres.incrementals
            and group.postgres
            and (group.postgres.major or FIRST_MAJOR) < FIRST_MAJOR
        ):
            yield (
                ("groups", name, "backup", "postgres", "incrementals"),
                f"expected 0 with PostgreSQL {group.postgres.major}: incremental base backups begin with {FIRST_MAJOR}",
            )
        if BackupKind.SNAPSHOT in kinds_of(group) and group.rds and group.home not in group.rds.instances:
            yield ("groups", name, "rds", "instances"), f"expected the instance of {group.home} too, the group's home"
        yield from _wal_locations(name, group, list(config.locations_of(name)))
        yield from _fenced_streams(config, name, group)
        for region in sorted(group.patroni.members if group.patroni else ()):
            if region not in group.regions:
                yield ("groups", name, "patroni", "members"), f"expected the group's regions only, not {region}"
        for region in sorted(_regions_of(group.rds) if group.rds else ()):
            if region not in group.regions:
                yield ("groups", name, "rds"), f"expected the group's regions only, and {region} is none of them"
        for number, record in enumerate(group.dns.records if group.dns else []):
            if record.region is not None and record.region not in group.regions:
                yield (
                    ("groups", name, "dns", "records", number, "region"),
                    f"expected one of the group's regions: {', '.join(group.regions)}",
                )
        if not (group.postgres or group.nats or group.redis or group.elasticsearch):
            yield ("groups", name), "expected at least one store (postgres, nats, redis or elasticsearch) in the group"
    yield from _shared_slots(config)


def _regions_of(rds: Rds) -> set[str]:
    return {
        *rds.instances, *rds.fence_security_groups, *rds.snapshot_copies, *rds.kms_keys, *rds.subnet_groups,
        *rds.security_groups,
    }  # fmt: skip


def _fenced_streams(config: Config, name: str, group: Group) -> Iterator[tuple[KeyPath, str]]:
    """A guard makes mirrors of named streams, each region's in a domain of its own, and fences users by their names."""
    guards = [region for region in group.regions if config.guards.token and config.regions[region].guard]
    if group.nats is None or not guards:
        return
    path: KeyPath = ("groups", name, "nats")
    if ALL_STREAMS in group.nats.streams:
        yield (*path, "streams"), f"expected the streams' names: region {guards[0]} has a guard, which mirrors each"
    if group.nats.credentials is not None:
        yield (
            (*path, "credentials"),
            f"expected user and password: the guard of {guards[0]} fences users by their names",
        )
    if group.nats.domain is not None:
        yield (*path, "domain"), f"expected none: region {guards[0]} has a guard, and each region a domain of its own"


def _wal_locations(name: str, group: Group, known: list[str]) -> Iterator[tuple[KeyPath, str]]:
    path: KeyPath = ("groups", name, "backup", "wal", "optional_locations")
    optional = group.backup.wal.optional_locations
    for location in sorted(set(optional) - set(known)):
        yield path, f"expected some of the group's locations ({', '.join(known)}), and {location} is none of them"
    if group.backup.wal.enabled and set(known) <= set(optional):
        yield path, "expected a location that is not optional: the server must not forget WAL that is nowhere"


def _shared_slots(config: Config) -> Iterator[tuple[KeyPath, str]]:
    """An archiver ends whoever else streams from its slot: of two groups each would end the other one's for ever."""
    first: dict[tuple[str, int, str], str] = {}
    for name, group in config.groups.items():
        if not group.backup.wal.enabled:
            continue
        slot = group.backup.wal.slot
        places = [postgres_at(group, own, config.regions[region]) for region, own in group.regions.items()]
        others = [first.setdefault((place.host, place.port, slot), name) for place in places if place is not None]
        shared = next((other for other in others if other != name), None)
        if shared is not None:
            yield (
                ("groups", name, "backup", "wal", "slot"),
                f"expected another slot than {slot}: group {shared} archives WAL of the same server through it, and "
                f"each would end the other one's session. Name one for this group, or leave the archive to {shared} "
                "(enabled: false)",
            )


def _unpointed(group: Group, own: GroupRegion) -> Iterator[tuple[str, str]]:
    """Keys that a region lacks to have the group's records point at it."""
    if group.dns is None:
        return
    needed = {
        "dns_ipv6" if record.type == "AAAA" and own.dns_alias_zone is None else "dns_value"
        for record in group.dns.records
    }
    missing = "this key is missing: expected what the group's {} hold while this region is active, for example {}"
    if "dns_value" in needed and own.dns_value is None:
        yield "dns_value", missing.format("records", "203.0.113.10")
    if "dns_ipv6" in needed and own.dns_ipv6 is None:
        yield "dns_ipv6", missing.format("AAAA records", "2001:db8::10")


def _nowhere(store: str, region: str, key: str, example: str) -> str:
    return (
        f"this key is missing: expected {store}'s address in this region, here or as "
        f"regions.{region}.endpoints.{key}, for example {example}"
    )
