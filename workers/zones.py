"""The DNS zones of all groups, each with its own server and key."""

from __future__ import annotations

from recovery.adapters.rfc2136 import Rfc2136Zone, TsigKey
from recovery.adapters.secrets import Secrets
from recovery.config import Config
from recovery.config.names import split_address
from recovery.domain.plan import DnsBefore
from recovery.errors import BadInput
from recovery.ports.dns import DnsZone

DNS_PORT = 53


class ConfiguredZones:
    """``recovery.ports.dns.DnsZone`` that passes each record on to the server of its zone."""

    def __init__(self, config: Config, secrets: Secrets) -> None:
        self._config = config
        self._secrets = secrets
        self._zones: dict[str, DnsZone] = {}

    async def read(self, name: str, type: str, zone: str) -> DnsBefore:
        """See the port."""
        return await (await self._zone(zone)).read(name, type, zone)

    async def replace(self, changes: list[tuple[DnsBefore, DnsBefore]]) -> None:
        """See the port. All records of a group are in one zone, so that one change takes them all."""
        zones = {before.zone for before, _ in changes}
        if len(zones) > 1:
            raise BadInput(f"records of several zones cannot change at once: {', '.join(sorted(zones))}")
        for zone in zones:
            await (await self._zone(zone)).replace(changes)

    async def _zone(self, name: str) -> DnsZone:
        if name not in self._zones:
            self._zones[name] = await self._connect(name)
        return self._zones[name]

    async def _connect(self, name: str) -> DnsZone:
        for group in self._config.groups.values():
            dns = group.dns
            if dns is None or dns.zone != name:
                continue
            if dns.provider == "rfc2136" and dns.server is not None and dns.tsig is not None:
                host, port = split_address(dns.server)
                key = TsigKey(dns.tsig.name, await self._secrets.resolve(dns.tsig.secret), dns.tsig.algorithm)
                return Rfc2136Zone(host, port or DNS_PORT, key=key)
            raise BadInput(
                f"zone {name} is at {dns.provider}, which this version does not change yet: use provider rfc2136"
            )
        raise BadInput(f"no group of the configuration has the DNS zone {name}")
