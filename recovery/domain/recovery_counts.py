"""What a run's report adds to the counts of recoveries: the same whether it has just ended or was stored long ago."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from recovery.domain.report import BY_SILENCE, Achieved, RunReport, RunState, StepState

TYPES = {
    "FullRecovery": "region",
    "Failover": "region",
    "DatabaseFailover": "database",
    "Restore": "corruption",
    "Switchover": "planned",
    "Failback": "planned",
}
"""Plan -> the ``type`` of its recovery in the metrics."""

MOVES = frozenset({"Failover", "Switchover", "Failback", "FullRecovery", "DatabaseFailover"})
"""Plans that make another region, or another server, the group's."""

PLANNED = frozenset({"Switchover", "Failback"})
"""Nothing is lost when they begin: what they take is no outage, and is not held against the objectives."""

_CHOSEN = frozenset({"decline", "abort"})
_BEGUN = frozenset({StepState.DONE, StepState.WARNED, StepState.HELD, StepState.RUNNING, StepState.UNDO_REFUSED})


@dataclass(frozen=True)
class CountedRecovery:
    """``achieved`` has an objective only where the run is held against one; ``duration`` is the run's, with waits."""

    type: str
    duration: timedelta
    achieved: Achieved
    completed: bool


def counted(report: RunReport) -> CountedRecovery | None:
    """None for a plan that recovers nothing, for a run under way, and for one that ended before its pivot because
    somebody chose so: it neither recovered nor failed to."""
    kind = TYPES.get(report.plan)
    if kind is None or report.ended_at is None or ended_by_choice(report):
        return None
    return CountedRecovery(
        type=kind,
        duration=report.ended_at - report.started_at,
        achieved=Achieved() if report.plan in PLANNED else report.achieved,
        completed=has_arrived(report),
    )


def has_arrived(report: RunReport) -> bool:
    """A switchover that was taken back has ended in order, and not where it was to go."""
    return report.state is RunState.COMPLETED and not report.returned


def ended_by_choice(report: RunReport) -> bool:
    """It was cancelled, aborted or declined before anything final began; a planned one also by everybody's silence."""
    if report.state is RunState.COMPLETED or any(
        step.pivot and _has_begun(step.attempts, step.state) for step in report.steps
    ):
        return False
    if report.failed_step is None or any(
        action.action in _CHOSEN and action.actor != BY_SILENCE for action in report.actions
    ):
        return True
    # A step that failed without an attempt had a gate that did not open.
    failed = next((step for step in report.steps if step.name == report.failed_step), None)
    return report.plan in PLANNED and failed is not None and failed.attempts == 0


def _has_begun(attempts: int, state: StepState) -> bool:
    return attempts > 0 or state in _BEGUN
