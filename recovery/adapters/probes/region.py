"""All probes of one group in one region, asked at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from recovery.adapters.probes.reach import LONGEST_CONNECT
from recovery.domain.health import Finding, Part, Sighting
from recovery.ports.health import StoreProbe


class ProbesOfRegion:
    """``recovery.ports.health.RegionProbe``.

    Args:
        quick: seconds from a look's beginning. Later than that nothing is waited for any more once something vital of
            the owner has failed: that decides, and a server that hangs beside it would only delay the verdict.
    """

    def __init__(self, probes: Sequence[StoreProbe], quick: float = LONGEST_CONNECT) -> None:
        self._probes, self._quick = probes, quick

    async def look(self, part: Part) -> Sighting:
        clock = asyncio.get_running_loop().time
        asked = [asyncio.ensure_future(probe.look(part)) for probe in self._probes]
        quick_until, pending = clock() + self._quick, set(asked)
        try:
            while pending:
                # Elsewhere nothing waits for a verdict, and whether anything lives there takes every answer.
                has_failed = part is Part.OWNER and not Sighting(findings=_found(asked)).passed
                patience = max(quick_until - clock(), 0.0) if has_failed else None
                done, pending = await asyncio.wait(pending, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
                if not done:
                    break
            return Sighting(findings=_found(asked))
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)


def _found(asked: Sequence[asyncio.Future[list[Finding]]]) -> list[Finding]:
    """Of those that have answered, in the order of the probes. Raises what one of them raised."""
    return [finding for task in asked if task.done() for finding in task.result()]
