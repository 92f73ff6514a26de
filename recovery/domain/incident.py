"""What people are told during an incident, in the form that communication plans ask for."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from pydantic import Field

from recovery.domain.base import Model


class IncidentStatus(StrEnum):
    INVESTIGATING = "INVESTIGATING"
    IDENTIFIED = "IDENTIFIED"
    MONITORING = "MONITORING"
    RESOLVED = "RESOLVED"


class IncidentSeverity(StrEnum):
    CRITICAL = "Critical"
    HIGH = "High"
    MEDIUM = "Medium"
    LOW = "Low"


class Incident(Model):
    """One message about an incident. Times are UTC."""

    incident_id: str
    group: str
    status: IncidentStatus
    severity: IncidentSeverity
    started_at: datetime
    now: datetime
    summary: str
    services: list[str] = Field(default_factory=list)
    users: str = "unknown"
    business: str = "unknown"
    actions: list[str] = Field(default_factory=list)
    next_update_at: datetime | None = None
    commander: str = "not named"
