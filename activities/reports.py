"""Reports of runs: stored as evidence, counted for the metrics, and learned from."""

from __future__ import annotations

from collections import deque

from temporalio import activity

from activities.boundary import StepProgress, report_progress, service
from recovery.domain.backup_counts import all_valid, counted_backups
from recovery.domain.plan import MONITOR
from recovery.domain.recovery_counts import MOVES, PLANNED, counted, has_arrived
from recovery.domain.report import RunReport
from recovery.ports.measurements import Measurements
from recovery.ports.reports import ReportStore

COUNTED = StepProgress(note="counted")
REMEMBERED = 1000  # runs


class Reports:
    def __init__(self, store: ReportStore, measurements: Measurements) -> None:
        self._store = store
        self._measurements = measurements
        self._counted: deque[str] = deque(maxlen=REMEMBERED)

    @service("reports.store")
    async def store(self, report: RunReport) -> str:
        """Counts a run for the metrics, writes its report as evidence, and returns the report's key.

        Counted first: the bucket may be away with the region that was lost, and a failover is to be seen all the same.
        Another attempt, here or on another worker, writes again and does not count again.
        """
        if report.run_id not in self._counted and COUNTED.model_dump() not in activity.info().heartbeat_details:
            self._counted.append(report.run_id)
            self._count(report)
        report_progress(COUNTED)
        activity.heartbeat(COUNTED)  # now: an attempt that is refused is over before its first regular one
        return await self._store.store(report)

    def _count(self, report: RunReport) -> None:
        for backup in counted_backups(report):
            status = "success" if backup.succeeded else "failure"
            self._measurements.backup_finished(backup.kind, status, backup.duration.total_seconds())
        valid = all_valid(report)
        if valid is not None:
            self._measurements.validation_finished(report.group, valid)
        if report.plan == "Reprotect" and has_arrived(report):  # one that is repeated finds the same again
            for found in report.divergences:
                self._measurements.divergence_saved(report.group, found)
        recovery = counted(report)
        if recovery is not None:
            self._measurements.recovery_finished(recovery)
            if report.plan in MOVES:
                self._count_move(report, recovery.duration.total_seconds())

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
