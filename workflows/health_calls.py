"""How long a monitor's calls may take."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from workflows.steps import HEARTBEAT, PROBE


def limits(attempt: timedelta, budget: timedelta) -> dict[str, Any]:
    """Of one try, and of all together."""
    return {
        "start_to_close_timeout": attempt,
        "schedule_to_close_timeout": budget,
        "heartbeat_timeout": HEARTBEAT,
        "retry_policy": PROBE,
    }
