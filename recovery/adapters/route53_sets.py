"""Records as Route 53 writes them: resource record sets, simple and weighted, with values or as an alias."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import dns.exception
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype

from recovery.domain.plan import AliasTarget, DnsBefore
from recovery.errors import BadInput

RecordSet = dict[str, Any]
"""``ResourceRecordSet`` of the API."""

_OTHER_ROUTING = {
    "Region": "latency",
    "GeoLocation": "geolocation",
    "GeoProximityLocation": "geoproximity",
    "CidrRoutingConfig": "IP-based",
    "Failover": "failover",
    "MultiValueAnswer": "multivalue",
    "TrafficPolicyInstanceId": "traffic policy",
}


def plain_name(text: str) -> str:
    """``\\052.Example.COM.`` is ``*.example.com``: the API writes unusual characters as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text).rstrip(".").lower()


def written(record: DnsBefore) -> RecordSet:
    """The set as a change names it.

    Raises:
        BadInput: a value is none of the record's type, or the name lies outside the zone.
    """
    _check(record)
    found: RecordSet = {"Name": plain_name(record.name), "Type": record.type.upper()}
    if record.set_identifier is not None:
        found |= {"SetIdentifier": record.set_identifier, "Weight": record.weight or 0}
    if record.alias is not None:
        found["AliasTarget"] = {
            "HostedZoneId": record.alias.hosted_zone,
            "DNSName": record.alias.name,
            "EvaluateTargetHealth": record.alias.evaluate_target_health,
        }
    else:
        found |= {"TTL": record.ttl, "ResourceRecords": [{"Value": value} for value in record.values]}
    if record.health_check is not None:
        found["HealthCheckId"] = record.health_check
    return found


def read(found: RecordSet, name: str, zone: str) -> DnsBefore:
    """The record, under the name that was asked for.

    Raises:
        BadInput: a routing that this library does not change.
    """
    for key, routing in _OTHER_ROUTING.items():
        if key in found:
            raise BadInput(
                f"{name} {found['Type']} is a {routing} record, which is not changed here: "
                "expected a simple or a weighted one"
            )
    target = found.get("AliasTarget")
    return DnsBefore(
        name=name,
        type=found["Type"],
        ttl=int(found.get("TTL", 0)),
        values=[entry["Value"] for entry in found.get("ResourceRecords", [])],
        zone=zone,
        set_identifier=found.get("SetIdentifier"),
        weight=found.get("Weight"),
        alias=None
        if target is None
        else AliasTarget(
            hosted_zone=target["HostedZoneId"],
            name=target["DNSName"],
            evaluate_target_health=bool(target["EvaluateTargetHealth"]),
        ),
        health_check=found.get("HealthCheckId"),
    )


def chosen(sets: Iterable[RecordSet], type: str, name: str, set_identifier: str | None) -> RecordSet | None:
    """The set of that type and identifier among all sets of one name.

    Raises:
        BadInput: the name is a CNAME; or it is weighted and no identifier was given; or the other way round.
    """
    kind = type.upper()
    of_name = list(sets)
    aliases = [found for found in of_name if found["Type"] == "CNAME"]
    if aliases and kind != "CNAME":
        target = aliases[0].get("ResourceRecords", [{"Value": "another name"}])[0]["Value"]
        raise BadInput(
            f"{name} is an alias (CNAME) of {target}: configure the record with type CNAME, or name the record that "
            "it points to"
        )
    members = [found for found in of_name if found["Type"] == kind]
    named = [found["SetIdentifier"] for found in members if "SetIdentifier" in found]
    if set_identifier is None and named:
        raise BadInput(
            f"{name} {kind} is a set of several records ({', '.join(named)}): "
            "say which of them in the record's set_identifier, with its weight"
        )
    if set_identifier is not None and members and not named:
        raise BadInput(
            f"{name} {kind} is a simple record, and the configuration gives it the set_identifier {set_identifier}: "
            "leave out set_identifier and weight, or make it a weighted record first"
        )
    for found in members:
        if found.get("SetIdentifier") == set_identifier:
            return found
    return None


def inside(name: str, zone: str) -> bool:
    return f".{plain_name(name)}".endswith(f".{plain_name(zone)}")


def rdata(type: str, value: str) -> dns.rdata.Rdata:
    """Compares equal however a value is spelt. Raises BadInput."""
    try:
        rdtype = dns.rdatatype.from_text(type)
        return dns.rdata.from_text(dns.rdataclass.IN, rdtype, value, origin=dns.name.root, relativize=False)
    except (dns.exception.DNSException, ValueError) as error:
        raise BadInput(f"{value!r} is no value of a {type} record ({error})") from None


def _check(record: DnsBefore) -> None:
    if not inside(record.name, record.zone):
        raise BadInput(
            f"Record {record.name} does not lie in zone {record.zone}: write its full name, for example "
            f"db.{record.zone}"
        )
    for value in record.values:
        rdata(record.type, value)
