"""Reports of runs: stored as evidence, and learned from."""

from __future__ import annotations

from activities.boundary import service
from recovery.domain.report import RunReport, RunState
from recovery.ports.measurements import Measurements
from recovery.ports.reports import ReportStore


class Reports:
    def __init__(self, store: ReportStore, measurements: Measurements) -> None:
        self._store = store
        self._measurements = measurements

    @service("reports.store")
    async def store(self, report: RunReport) -> str:
        """Writes the report as evidence, counts a recovery for the metrics, and returns the report's key."""
        key = await self._store.store(report)
        if any(step.pivot for step in report.steps) and report.ended_at is not None:
            seconds = (report.ended_at - report.started_at).total_seconds()
            completed = report.state is RunState.COMPLETED
            self._measurements.recovery_finished(report.plan, seconds, report.achieved, completed=completed)
        return key
