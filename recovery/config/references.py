"""Checks across keys: everything that is named must exist. They work on what was read, however wrong the rest is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from recovery.config.mistakes import KeyPath, suggestion

Finding = tuple[KeyPath, str]


def mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _names(value: Any) -> list[tuple[int, str]]:
    return (
        [(index, entry) for index, entry in enumerate(value) if isinstance(entry, str)]
        if isinstance(value, list)
        else []
    )


def _unknown(path: KeyPath, what: str, found: object, known: Any) -> Iterator[Finding]:
    if isinstance(found, str) and found not in known:
        names = ", ".join(sorted(known)) or "none"
        yield path, f"expected a {what} that exists{suggestion(found, known)}; known: {names}; got {found!r}"


def check_references(data: dict[str, Any], default_tiers: list[str]) -> Iterator[Finding]:
    """``data`` is the whole configuration with the defaults already merged into the groups."""
    regions, locations = mapping(data.get("regions")), mapping(data.get("locations"))
    tiers = mapping(data["tiers"]) if "tiers" in data else default_tiers
    for name, location in locations.items():
        yield from _unknown(("locations", name, "in_region"), "region", mapping(location).get("in_region"), regions)
    for name, group in mapping(data.get("groups")).items():
        path: KeyPath = ("groups", name)
        yield from _unknown((*path, "tier"), "tier", mapping(group).get("tier"), tiers)
        for index, location in _names(mapping(mapping(group).get("backup")).get("locations")):
            yield from _unknown((*path, "backup", "locations", index), "location", location, locations)
        yield from _group_regions(path, mapping(group), regions)


def _group_regions(path: KeyPath, group: dict[str, Any], regions: dict[str, Any]) -> Iterator[Finding]:
    own = mapping(group.get("regions"))
    for region in own:
        yield from _unknown((*path, "regions", region), "region", region, regions)
    yield from _unknown((*path, "home"), "region of the group", group.get("home"), own)
    for region in mapping(mapping(group.get("rds")).get("instances")):
        yield from _unknown((*path, "rds", "instances", region), "region of the group", region, own)
    replicas = mapping(group.get("replication")).get("replicas")
    for index, replica in enumerate(replicas if isinstance(replicas, list) else []):
        found = mapping(replica).get("region")
        if isinstance(found, str) and region_of(found, list(own)) is None:
            place = (*path, "replication", "replicas", index, "region")
            yield from _unknown(place, "region of the group, or an availability zone of one", found, own)


def region_of(place: str, regions: list[str]) -> str | None:
    """The region that is ``place`` or that it is an availability zone of (``us-east-1b``)."""
    for region in regions:
        zone = place.removeprefix(region)
        if place == region or (place.startswith(region) and len(zone) == 1 and zone.isalpha()):
            return region
    return None
