"""Whether this process itself stood still: frozen, swapped out, its machine suspended, or its loop blocked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

TICK = 0.2
LONGEST_GAP = 1.0
"""Seconds between two ticks; beyond them the time limit of a question that was under way may have passed unseen."""
FROZEN = 2.5
"""Seconds beyond which a gap is no busy machine any more, and nothing that was seen before it counts."""


def boottime() -> float:
    """Seconds of CLOCK_BOOTTIME, which goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Pulse:
    """Ticks, and tells when a tick came too late.

    Args:
        stalled: called with the seconds that were missed, right after the loop goes on.
    """

    def __init__(
        self,
        stalled: Callable[[float], Awaitable[None]],
        *,
        clock: Callable[[], float] = boottime,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        longest_gap: float = LONGEST_GAP,
    ) -> None:
        self._stalled = stalled
        self._clock = clock
        self._sleep = sleep
        self._longest_gap = longest_gap
        self._last = clock()

    def check(self) -> float:
        """Seconds that are missing since the last check, 0 when it came in time.

        Also asked right before a verdict counts: what a thawed loop does first need not be its tick.
        """
        now = self._clock()
        gap, self._last = now - self._last, now
        return gap if gap > self._longest_gap else 0.0

    async def run(self) -> None:
        self._last = self._clock()
        while True:
            await self._sleep(TICK)
            if missed := self.check():
                await self._stalled(missed)
