"""Addresses of the application's endpoints in a region, from the paths that a group names."""

from __future__ import annotations

from recovery.config.group import EndpointChecks, Group, GroupRegion
from recovery.config.installation import Region
from recovery.config.names import split_address
from recovery.domain.health_answer import ExpectedCapacity


def health_urls(group: Group, own: GroupRegion, shared: Region) -> list[str]:
    """The group's own, else its check paths below the region's http address, else the region's."""
    if own.health_urls is not None:
        return own.health_urls
    base = _base(group, own, shared)
    if not base or not group.checks.paths:
        return shared.health_urls
    return [f"{base}{path}" for path in group.checks.paths]


def capacity_url(group: Group, own: GroupRegion, shared: Region) -> str | None:
    """Where the region's application says how much it can serve."""
    base = _base(group, own, shared)
    return f"{base}{group.checks.capacity.path}" if base and group.checks.capacity else None


def capacity_rule(checks: EndpointChecks) -> ExpectedCapacity | None:
    capacity = checks.capacity
    return ExpectedCapacity(field=capacity.field, at_least=capacity.at_least) if capacity else None


def _base(group: Group, own: GroupRegion, shared: Region) -> str:
    base = (own.http or shared.endpoints.http or "").rstrip("/")
    scheme, _, rest = base.partition("://")
    if not base or group.checks.port is None or _port_of(rest) is not None:
        return base
    authority, slash, path = rest.partition("/")
    return f"{scheme}://{authority}:{group.checks.port}{slash}{path}"


def _port_of(rest: str) -> int | None:
    return split_address(rest.partition("/")[0])[1]
