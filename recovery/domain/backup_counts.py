"""What the report of a backup or of a validation adds to the metrics: once, however often its steps were tried."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from recovery.domain.recovery_counts import ended_by_choice
from recovery.domain.recovery_point import BackupKind, kind_of, kind_taken
from recovery.domain.report import RunReport, RunState

BACKUP, VALIDATION = "Backup", "BackupValidation"


@dataclass(frozen=True)
class CountedBackup:
    """``duration``: of the step with all of its attempts; the run's where the step never began."""

    kind: str
    succeeded: bool
    duration: timedelta


def counted_backups(report: RunReport) -> list[CountedBackup]:
    """One for each kind that the run was to take: it has written a point of it, or it has failed to, wherever it ended.

    What it had written counts also where it failed at another kind: such a point stays. Where somebody cancelled or
    aborted it, what is missing is no failure. Empty for other plans, and for a run under way.
    """
    if report.plan != BACKUP or report.ended_at is None:
        return []
    written = {kind_of(point_id) for point_id in report.point_ids}
    return [
        CountedBackup(kind, kind in written, _duration(report, kind))
        for kind in report.kinds
        if kind in written or not ended_by_choice(report)
    ]


def all_valid(report: RunReport) -> bool | None:
    """The overall verdict of a validation of all that was taken of late. False also where it found no point at all, or
    failed before it had judged: nothing is known to be valid then.

    None for a validation of one named point, which says nothing about the others; for one that somebody cancelled; and
    for other plans, a run under way, and a group that is not configured.
    """
    if report.plan != VALIDATION or report.ended_at is None or report.point_named is not None or not report.config_hash:
        return None
    return None if ended_by_choice(report) else report.state is RunState.COMPLETED


def _duration(report: RunReport, kind: str) -> timedelta:
    # One step takes what stands for a whole cluster.
    named = BackupKind.PHYSICAL if kind == BackupKind.SNAPSHOT else kind
    for step in report.steps:
        if kind_taken(step.name) == named and step.started_at is not None and step.ended_at is not None:
            return step.ended_at - step.started_at - step.waited
    assert report.ended_at is not None
    return report.ended_at - report.started_at
