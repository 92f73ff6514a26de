"""Where reports of runs are kept as evidence."""

from __future__ import annotations

from typing import Protocol

from recovery.domain.report import RunReport


class ReportStore(Protocol):
    """Reports by group and run, outside the data regions."""

    async def store(self, report: RunReport) -> str:
        """Writes the report (again, when it is written twice) and returns its key."""
        ...

    async def recent(self, group: str, limit: int) -> list[RunReport]:
        """Newest first. What cannot be read is left out: a damaged report must not stop a recovery."""
        ...

    async def find(self, group: str, run_id: str) -> RunReport:
        """Raises NotFound."""
        ...
