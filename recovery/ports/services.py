"""Health of the services that a group's clients use."""

from __future__ import annotations

from datetime import timedelta
from typing import Protocol

from recovery.domain.health_answer import Expected
from recovery.domain.recovery_point import CheckResult


class HealthProbe(Protocol):
    async def check(self, url: str, *, expected: Expected, timeout: timedelta) -> CheckResult:
        """One HTTP question; a failure is a result with its reason, never an exception.

        Args:
            expected: the answer that counts as well.
            timeout: for the whole question, name resolution and body included.
        """
        ...
