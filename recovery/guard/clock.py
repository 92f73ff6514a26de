"""Time as guards count it."""

from __future__ import annotations

import time
from datetime import UTC, datetime


def boottime() -> float:
    """Seconds on CLOCK_BOOTTIME: it goes on while the host sleeps, and nobody sets it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def utc() -> datetime:
    """For people alone: no decision rests on it."""
    return datetime.now(UTC)
