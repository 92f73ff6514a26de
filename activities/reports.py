"""Reports of runs: stored as evidence, counted for the metrics, and learned from."""

from __future__ import annotations

from activities.boundary import service
from recovery.domain.plan import MONITOR
from recovery.domain.recovery_counts import MOVES, PLANNED, counted, has_arrived
from recovery.domain.report import RunReport
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
        recovery = counted(report)
        if recovery is not None:
            self._measurements.recovery_finished(recovery)
            if report.plan in MOVES:
                self._count_move(report, recovery.duration.total_seconds())
        return key

    def _count_move(self, report: RunReport, seconds: float) -> None:
        for loss in report.losses:
            if loss.unit == "bytes" and loss.lost is not None:
                self._measurements.data_lost(loss.store, loss.lost)
        found = report.recovered_set
        if found is not None and has_arrived(report):
            rpo = {each.store: each.rpo.total_seconds() for each in found.stores if each.rpo is not None}
            self._measurements.stores_recovered(rpo, None if found.skew is None else found.skew.total_seconds())
        if not has_arrived(report):
            self._measurements.failover_failed(report.failed_step or "cancelled")
            return
        unplanned = "health" if report.requested_by == MONITOR else "operator"
        self._measurements.failover_finished(
            report.source_region or "none",
            report.target_region or "none",
            "planned" if report.plan in PLANNED else unplanned,
            seconds,
        )
