"""Reports of runs: stored as evidence, counted for the metrics, and learned from."""

from __future__ import annotations

from activities.boundary import service
from recovery.domain.plan import MONITOR
from recovery.domain.report import RunReport, RunState
from recovery.ports.measurements import Measurements
from recovery.ports.reports import ReportStore

MOVES = ("Failover", "Switchover", "Failback", "FullRecovery", "DatabaseFailover")
"""Plans that make another region, or another server, the group's."""
PLANNED = ("Switchover", "Failback")


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
            if report.plan in MOVES:
                self._count_move(report, seconds)
        return key

    def _count_move(self, report: RunReport, seconds: float) -> None:
        for loss in report.losses:
            if loss.unit == "bytes" and loss.lost is not None:
                self._measurements.data_lost(loss.store, loss.lost)
        if report.state is not RunState.COMPLETED or report.returned:
            self._measurements.failover_failed(report.failed_step or "cancelled")
            return
        unplanned = "health" if report.requested_by == MONITOR else "operator"
        self._measurements.failover_finished(
            report.source_region or "none",
            report.target_region or "none",
            "planned" if report.plan in PLANNED else unplanned,
            seconds,
        )
