"""All probes of one group in one region, asked at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from recovery.domain.health import Part, Sighting
from recovery.ports.health import StoreProbe


class ProbesOfRegion:
    """``recovery.ports.health.RegionProbe``."""

    def __init__(self, probes: Sequence[StoreProbe]) -> None:
        self._probes = probes

    async def look(self, part: Part) -> Sighting:
        found = await asyncio.gather(*(probe.look(part) for probe in self._probes))
        return Sighting(findings=[finding for findings in found for finding in findings])
