"""Whether clients find the owner by the group's records. Shown, and never a reason to fail over."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import dns.asyncresolver
import dns.exception
import dns.resolver

from recovery.adapters.probes.reach import framed
from recovery.domain.group import DnsRecord
from recovery.domain.health import Finding, Part

CHECK = "dns"


class DnsProbe:
    """Asks the authoritative server where one is configured, else the machine's own resolver.

    Args:
        value: what the records hold while this region is active.
    """

    def __init__(self, records: list[DnsRecord], value: str, seconds: float, server: tuple[str, int] | None) -> None:
        self._records, self._value, self._seconds = records, value, seconds
        self._resolver = dns.asyncresolver.Resolver(configure=server is None)
        if server is not None:
            self._resolver.nameservers, self._resolver.port = [server[0]], server[1]
        self._resolver.lifetime = seconds

    async def look(self, part: Part) -> list[Finding]:
        """See ``recovery.ports.health.StoreProbe``. Only the owner has records that point at it."""
        if part is not Part.OWNER:
            return []
        questions = [self._question(entry) for entry in self._records]
        found = await asyncio.gather(*(framed(CHECK, self._seconds, each, _FAILURES) for each in questions))
        return [finding.model_copy(update={"vital": False}) for finding in found]

    def _question(self, record: DnsRecord) -> Callable[[], Awaitable[Finding]]:
        async def ask() -> Finding:
            answer = await self._resolver.resolve(record.name, record.type)
            values = sorted(entry.to_text().rstrip(".") for entry in answer)
            passed = values == [self._value.rstrip(".")]
            words = f"{record.name} is {', '.join(values)}"
            return Finding(check=CHECK, passed=passed, detail=words if passed else f"{words}, expected {self._value}")

        return ask


_FAILURES = (dns.exception.DNSException,)
