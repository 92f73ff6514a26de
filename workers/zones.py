"""The DNS zones of all groups, each with its own provider, server and key."""

from __future__ import annotations

from recovery.adapters.aws import AwsAccess
from recovery.adapters.rfc2136 import Rfc2136Zone, TsigKey
from recovery.adapters.route53 import DNS_PORT, Route53Zone
from recovery.adapters.secrets import Secrets
from recovery.config import Config
from recovery.config.dns import Dns
from recovery.config.names import split_address
from recovery.domain.plan import DnsBefore
from recovery.domain.secret import SecretRef
from recovery.errors import BadInput
from recovery.ports.dns import DnsZone


class ConfiguredZones:
    """``recovery.ports.dns.DnsZone`` that passes each record on to the server of its zone."""

    def __init__(self, config: Config, secrets: Secrets) -> None:
        self._config = config
        self._secrets = secrets
        self._zones: dict[str, DnsZone] = {}

    async def read(self, name: str, type: str, zone: str, set_identifier: str | None = None) -> DnsBefore:
        """See the port."""
        return await (await self._zone(zone)).read(name, type, zone, set_identifier)

    async def replace(self, changes: list[tuple[DnsBefore, DnsBefore]]) -> None:
        """See the port. All records of a group are in one zone, so that one change takes them all."""
        zones = {before.zone for before, _ in changes}
        if len(zones) > 1:
            raise BadInput(f"records of several zones cannot change at once: {', '.join(sorted(zones))}")
        for zone in zones:
            await (await self._zone(zone)).replace(changes)

    async def settle(self, records: list[DnsBefore]) -> list[str]:
        """See the port."""
        notes = []
        for zone in dict.fromkeys(record.zone for record in records):
            notes += await (await self._zone(zone)).settle([record for record in records if record.zone == zone])
        return notes

    async def close(self) -> None:
        for zone in self._zones.values():
            if isinstance(zone, Route53Zone):
                await zone.close()

    async def _zone(self, name: str) -> DnsZone:
        if name not in self._zones:
            self._zones[name] = await self._connect(name)
        return self._zones[name]

    async def _connect(self, name: str) -> DnsZone:
        found = {
            group: section
            for group, configured in self._config.groups.items()
            if (section := configured.dns) is not None and section.zone == name
        }
        if not found:
            raise BadInput(f"no group of the configuration has the DNS zone {name}")
        if len({(section.provider, section.zone_id, section.server) for section in found.values()}) > 1:
            raise BadInput(
                f"groups {', '.join(sorted(found))} name different servers or hosted zones for the zone {name}: "
                "give all of them the same dns.provider, dns.zone_id and dns.server"
            )
        section = next(iter(found.values()))
        return await (self._rfc2136(section) if section.provider == "rfc2136" else self._route53(section))

    async def _rfc2136(self, section: Dns) -> Rfc2136Zone:
        assert section.server is not None and section.tsig is not None, "the configuration is complete"
        host, port = split_address(section.server)
        tsig = section.tsig
        key = TsigKey(tsig.name, await self._secrets.resolve(tsig.secret), tsig.algorithm)
        return Rfc2136Zone(host, port or DNS_PORT, key=key)

    async def _route53(self, section: Dns) -> Route53Zone:
        assert section.zone_id is not None, "the configuration is complete"
        access = AwsAccess(
            endpoint_url=section.endpoint,
            access_key=await self._secret(section.access_key),
            secret_key=await self._secret(section.secret_key),
        )
        servers = section.name_servers
        return Route53Zone(
            section.zone,
            section.zone_id,
            access,
            check_answers=section.check_answers,
            name_servers=None if servers is None else [_server(address) for address in servers],
        )

    async def _secret(self, reference: SecretRef | None) -> str | None:
        return None if reference is None else await self._secrets.resolve(reference)


def _server(address: str) -> tuple[str, int]:
    host, port = split_address(address)
    return host, port or DNS_PORT
