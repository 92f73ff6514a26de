"""Where reports of runs are kept as evidence."""

from __future__ import annotations

from typing import Protocol

from recovery.domain.report import RunReport


class ReportStore(Protocol):
    """Reports by group and run, outside the data regions."""

    async def store(self, report: RunReport) -> str:
        """Writes the report (again, when it is written twice) and returns its key."""
        ...

    async def recent(self, group: str, limit: int, plan: str | None = None) -> list[RunReport]:
        """Newest first, of all plans or of one. A damaged report is left out: it must not stop a recovery.

        Of one plan, what is read does not grow with the runs of the others: a backup four times a day must not push
        last month's failover out of what the next one learns from.
        """
        ...

    async def find(self, group: str, run_id: str) -> RunReport:
        """Raises NotFound."""
        ...
