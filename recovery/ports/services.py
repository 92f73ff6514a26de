"""Health of the services that a group's clients use."""

from __future__ import annotations

from typing import Protocol

from recovery.domain.recovery_point import CheckResult


class HealthProbe(Protocol):
    async def check(self, url: str) -> CheckResult:
        """One HTTP question with a time limit; a failure is a result with its reason, never an exception."""
        ...
