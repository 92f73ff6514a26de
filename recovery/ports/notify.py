"""Messages to people and to other systems."""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol


class Severity(StrEnum):
    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


class Markup(StrEnum):
    """What a body is written in; a channel shows it in its own."""

    NONE = "text"
    MARKDOWN = "markdown"


class Notifier(Protocol):
    async def send(self, severity: Severity, title: str, body: str, markup: Markup = Markup.NONE) -> list[str]:
        """Delivers to every channel that is routed for the severity; returns the names of those that took it.

        Raises:
            Unreachable: at least one channel did not take the message (the names are in the error).
        """
        ...
