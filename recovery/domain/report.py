"""The report in which every run ends (engine rule 12)."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum

from pydantic import Field

from recovery.domain.base import Recorded
from recovery.domain.candidates import Candidate
from recovery.domain.guarding import Promotion
from recovery.domain.handover import StoreDivergence, StoreLoss
from recovery.domain.ownership import FenceProof
from recovery.domain.recovered_set import RecoveredSet
from recovery.domain.recovery_point import CheckResult


class StepState(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    WAITING = "waiting"  # for an approval
    HELD = "held"  # for the operator
    DONE = "done"
    WARNED = "warned"  # failed, and the plan went on
    SKIPPED = "skipped"
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNDOING = "undoing"
    UNDONE = "undone"
    UNDO_FAILED = "undo-failed"
    UNDO_REFUSED = "undo-refused"  # a pivot had started


class RunState(StrEnum):
    RUNNING = "running"
    PAUSED = "paused"
    HELD = "held"
    WAITING = "waiting"
    ROLLING_BACK = "rolling-back"
    COMPLETED = "completed"
    ROLLED_BACK = "rolled-back"
    ROLLBACK_INCOMPLETE = "rollback-incomplete"
    STOPPED = "stopped"  # ended by the operator after a pivot: nothing was undone


class StepRecord(Recorded):
    """One row of the plan as it went. Times are the workflow's; ``waited`` is the part of them that people took."""

    name: str
    activity: str
    where: str
    group: int  # rows with the same number ran in parallel
    state: StepState = StepState.PENDING
    started_at: datetime | None = None
    ended_at: datetime | None = None
    waited: timedelta = timedelta()
    attempts: int = 0
    budget: timedelta
    expected: timedelta | None = None  # median of earlier runs; 0 where they left it out
    summary: str = ""
    error: str = ""
    has_undo: bool = False
    pivot: bool = False
    undo_started_at: datetime | None = None
    undo_ended_at: datetime | None = None
    undo_summary: str = ""
    undo_error: str = ""


BY_SILENCE = "timeout"
"""Who is recorded as the actor where nobody answered in time."""


class OperatorAction(Recorded):
    """Who did what to the run, when, and why."""

    action: str  # approve, decline, pause, resume, retry, skip, abort
    actor: str
    reason: str
    at: datetime
    step: str | None = None


class Achieved(Recorded):
    """Measured against objective. None where this kind of run has no such figure."""

    rto: timedelta | None = None
    rto_objective: timedelta | None = None
    rpo: timedelta | None = None  # no acknowledged write that is missing lies further apart
    rpo_least: timedelta | None = None  # where the old side may have served on unseen; None: ``rpo`` is exact
    rpo_objective: timedelta | None = None
    lost_transactions: int | None = None  # known only where somebody counts them

    @property
    def rto_met(self) -> bool | None:
        if self.rto is None or self.rto_objective is None:
            return None
        return self.rto <= self.rto_objective

    @property
    def rpo_met(self) -> bool | None:
        if self.rpo is None or self.rpo_objective is None:
            return None
        return self.rpo <= self.rpo_objective

    @property
    def rpo_is_open(self) -> bool:
        """The objective lies between the bounds: nobody knows whether it was met, and it counts as missed."""
        if self.rpo_met is not False or self.rpo_least is None or self.rpo_objective is None:
            return False
        return self.rpo_least <= self.rpo_objective


class RunReport(Recorded):
    """Everything about one run, for the operator today and the auditor next year."""

    plan: str
    group: str
    run_id: str
    workflow_id: str
    state: RunState
    started_at: datetime
    ended_at: datetime | None = None
    reason: str = ""
    requested_by: str = ""
    source_region: str | None = None
    target_region: str | None = None
    steps: list[StepRecord]
    undo_order: list[str] = Field(default_factory=list)
    actions: list[OperatorAction] = Field(default_factory=list)
    checks: list[CheckResult] = Field(default_factory=list)
    warnings: list[str] = Field(default_factory=list)
    achieved: Achieved = Achieved()
    recovered_set: RecoveredSet | None = None  # of a recovery of several stores
    point_ids: list[str] = Field(default_factory=list)
    point_named: str | None = None  # the one recovery point that was asked for
    kinds: list[str] = Field(default_factory=list)  # of a backup: of which it was to take points
    failed_step: str | None = None
    error: str = ""
    config_hash: str = ""
    critical_path: timedelta = timedelta()
    eta: datetime | None = None
    rto_ends_at: datetime | None = None  # of a run that goes on, until the service answers again
    hold_choices: list[str] = Field(default_factory=list)
    incident_id: str | None = None
    candidates: list[Candidate] = Field(default_factory=list)
    fence: FenceProof | None = None
    promotions: list[Promotion] = Field(default_factory=list)
    losses: list[StoreLoss] = Field(default_factory=list)
    divergences: list[StoreDivergence] = Field(default_factory=list)
    write_pause: timedelta | None = None  # from the last write that the old side acknowledged to the new side's first
    accepted_data_loss: bool = False
    forced: bool = False
    returned: bool = False  # a switchover that was taken back
    watch_until: datetime | None = None  # the new region is probed at a shorter interval until then
    further_runs: dict[str, str] = Field(default_factory=dict)
