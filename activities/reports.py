"""Reports of runs: stored as evidence, and learned from."""

from __future__ import annotations

from activities.boundary import service
from recovery.domain.report import RunReport
from recovery.ports.reports import ReportStore


class Reports:
    def __init__(self, store: ReportStore) -> None:
        self._store = store

    @service("reports.store")
    async def store(self, report: RunReport) -> str:
        """Writes the report beside the ownership records and returns its key."""
        return await self._store.store(report)
