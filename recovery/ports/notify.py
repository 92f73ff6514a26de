"""Messages to people and to other systems."""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol


class Severity(StrEnum):
    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


class Notifier(Protocol):
    async def send(self, severity: Severity, title: str, body: str) -> list[str]:
        """Delivers to every channel that is routed for the severity; returns the names of those that took it.

        Raises:
            Unreachable: at least one channel did not take the message (the names are in the error).
        """
        ...
