"""How a message about an incident is worded."""

from __future__ import annotations

from typing import Protocol

from recovery.domain.incident import Incident


class IncidentWriter(Protocol):
    def write(self, incident: Incident) -> str:
        """In Markdown."""
        ...
