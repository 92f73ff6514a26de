"""What a group's records hold while a region is active.

Two ways of weighted sets (Route 53) are known. A member *without* a region keeps its weight, and its value moves: the
group has one member, ``Primary``, say, that always points at the active region. A member *with* a region keeps its
value, and its weight moves: the active region's member has its configured weight, every other region's has 0.
"""

from __future__ import annotations

from ipaddress import ip_address

from recovery.domain.group import DnsRecord, GroupSnapshot, RegionPlan
from recovery.domain.plan import AliasTarget, DnsBefore
from recovery.errors import Refused

ADDRESS_TYPES = ("A", "AAAA")


def pointed_at(
    group: GroupSnapshot, record: DnsRecord, before: DnsBefore, region: str, database: str | None = None
) -> DnsBefore:
    """The record while ``region`` is active; ``before`` is how it stands, whose health check is kept.

    Args:
        database: the address of the group's PostgreSQL, where it is another than the region's.

    Raises:
        Refused: the configuration does not say what the record holds in that region.
    """
    weight = record.weight
    if record.region is not None and record.region != region:
        weight = 0
    region = record.region or region
    alias, values = _target(group.name, record, group.region(region), database)
    return DnsBefore(
        name=before.name,
        type=before.type,
        ttl=0 if alias else record.ttl,
        values=values,
        zone=before.zone,
        set_identifier=record.set_identifier,
        weight=weight,
        alias=alias,
        health_check=before.health_check,
    )


def _target(
    group: str, record: DnsRecord, region: RegionPlan, database: str | None
) -> tuple[AliasTarget | None, list[str]]:
    kind = record.type.upper()
    if record.points_at == "database":
        host = database or (region.postgres.host if region.postgres else None)
        if host is None:
            raise Refused(f"{record.name} points at the group's database, and region {region.name} of {group} has none")
        return None, [_absolute(host) if kind == "CNAME" else host]
    if region.dns_alias_zone is not None and region.dns_value is not None and kind in ADDRESS_TYPES:
        target = AliasTarget(
            hosted_zone=region.dns_alias_zone,
            name=region.dns_value,
            evaluate_target_health=record.evaluate_target_health,
        )
        return target, []
    key = "dns_ipv6" if kind == "AAAA" else "dns_value"
    value = region.dns_ipv6 if kind == "AAAA" else region.dns_value
    if value is None:
        raise Refused(
            f"region {region.name} of group {group} has no address for the group's {kind} records: "
            f"set groups.{group}.regions.{region.name}.{key} in the configuration"
        )
    return None, [value]


def same(one: DnsBefore, other: DnsBefore) -> bool:
    """Whether both answer clients alike. The time to live, and how names and addresses are spelt, do not count."""
    return (
        sorted(map(_spelt, one.values)) == sorted(map(_spelt, other.values))
        and one.weight == other.weight
        and _alias(one) == _alias(other)
    )


def words(record: DnsBefore) -> str:
    """``203.0.113.10``, ``alias of lb.example.com``, ``absent``; with the weight, where it has one."""
    what = f"alias of {record.alias.name}" if record.alias else " ".join(record.values) or "absent"
    return what if record.weight is None or not record.exists else f"{what} (weight {record.weight})"


def title(record: DnsBefore | DnsRecord) -> str:
    """The record's name, and the member of its set where it has one."""
    return record.name if record.set_identifier is None else f"{record.name} ({record.set_identifier})"


def _alias(record: DnsBefore) -> tuple[str, str, bool] | None:
    if record.alias is None:
        return None
    return record.alias.hosted_zone, _spelt(record.alias.name), record.alias.evaluate_target_health


def _absolute(name: str) -> str:
    """With the final dot, without which a server of RFC 2136 takes a name for one within the zone."""
    return name if name.endswith(".") else f"{name}."


def _spelt(value: str) -> str:
    try:
        return str(ip_address(value))
    except ValueError:
        return value.lower().rstrip(".")
