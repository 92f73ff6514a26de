"""Who owns a protection group now. Kept outside all data regions and changed only by compare-and-swap."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from recovery.domain.base import Recorded


class Phase(StrEnum):
    STEADY = "steady"  # no plan is changing the group
    RUNNING = "running"  # a plan holds the group's lock; everything it did can be undone
    PIVOTED = "pivoted"  # a plan passed its point of no return; undo refuses from here on


class Pivot(Recorded):
    """The point of no return of a run, written before its step starts."""

    run_id: str
    step: str
    at: datetime


class OwnershipRecord(Recorded):
    """State, never configuration: ``region`` owns ``group`` since ``epoch`` began.

    ``run`` is the run that holds the group's lock, honoured by every run whether or not Temporal knows of it.
    """

    group: str
    epoch: int = 1
    region: str
    phase: Phase = Phase.STEADY
    run: str | None = None
    workflow_id: str | None = None
    plan: str | None = None
    pivot: Pivot | None = None
    changed_at: datetime
    reason: str = ""
