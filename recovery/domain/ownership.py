"""Who owns a protection group now. Kept outside all data regions and changed only by compare-and-swap."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Literal

from pydantic import Field

from recovery.domain.base import Recorded


class Phase(StrEnum):
    STEADY = "steady"  # no plan is changing the group
    RUNNING = "running"  # a plan holds the group's lock; everything it did can be undone
    PIVOTED = "pivoted"  # a plan passed its point of no return; undo refuses from here on


class Strength(StrEnum):
    """What keeps a store from having two primaries, strongest first."""

    SYNCHRONOUS = "synchronous"  # no write is acknowledged that the new primary lacks
    WATCHDOG = "watchdog"  # lease, guard, companion, and the kernel's watchdog beneath them
    GUARD = "guard"  # lease, guard, companion: a woken host may accept writes for at most one ttl
    MANUAL = "manual"  # a person confirms that the old primary is off


class Pivot(Recorded):
    """The point of no return of a run, written before its step starts."""

    run_id: str
    step: str
    at: datetime


class AcknowledgingSet(Recorded):
    """Standbys that acknowledge commits: ``wait_for`` (W) of ``members`` (N), as PostgreSQL's ``ANY W (...)``.

    A promotion claims zero loss only by this: N-W+1 members confirmed that they receive no more, and the most advanced
    of these is promoted.
    """

    members: list[str]  # application names of the standbys
    wait_for: int = 1


class FenceRequest(Recorded):
    """A plan wants the primary of ``epoch`` off. From now on no guard promotes for that epoch but the target's."""

    epoch: int
    target: str  # region whose guard was asked
    run: str
    planned: bool = False  # an orderly end: everything is sent to the standbys first
    at: datetime


class Demotion(Recorded):
    """The old primary's own guard confirms: nothing of the group accepts a write in that region any more."""

    epoch: int
    region: str
    instance: str
    at: datetime
    planned: bool = False
    positions: dict[str, str] = Field(default_factory=dict)  # store -> final LSN, offset, sequence; where it is known
    strengths: dict[str, Strength] = Field(default_factory=dict)  # of its stores; empty: an earlier version said none


class FenceProof(Recorded):
    """Why no other primary can exist for ``epoch``: which way, when, by whom, and how strong."""

    epoch: int
    region: str  # that was fenced
    how: Literal["demotion-confirmed", "lease-broken", "person", "managed", "never-served"]
    by: str  # the guard's region and instance, or the person
    at: datetime
    run: str
    watched_for: float | None = None  # seconds that the lease did not change, by the watcher's clock
    served_until: datetime | None = None  # the old primary acknowledged nothing later; None: nothing later than ``at``
    strengths: dict[str, Strength] = Field(default_factory=dict)  # of the fenced stores; a missing one is not known
    zero_loss: bool = False  # the acknowledging set proves it
    stopped: dict[str, str] = Field(default_factory=dict)  # member that receives nothing more -> what it has (LSN)
    positions: dict[str, str] = Field(default_factory=dict)
    hands_over: bool = False  # its manager moves the primary in order: the old one serves until the promotion
    reason: str = ""

    @property
    def last_write_by(self) -> datetime:
        """When the old primary can have acknowledged its last write, at the latest."""
        return self.at if self.served_until is None else min(self.served_until, self.at)


class OwnershipRecord(Recorded):
    """State, never configuration: ``region`` owns ``group`` since ``epoch`` began.

    ``run`` is the run that holds the group's lock, honoured by every run whether or not Temporal knows of it.
    ``guard`` is the guard instance that holds the primary; None for a group without guards.
    """

    group: str
    epoch: int = 1
    region: str
    node: str | None = None
    guard: str | None = None
    phase: Phase = Phase.STEADY
    run: str | None = None
    workflow_id: str | None = None
    plan: str | None = None
    pivot: Pivot | None = None
    acknowledging: AcknowledgingSet | None = None
    lineage: str | None = None  # the owner's PostgreSQL history (see recovery.domain.timelines), as last seen
    strengths: dict[str, Strength] = Field(default_factory=dict)  # of the owner's stores, as its guard said last
    fencing: FenceRequest | None = None
    demotion: Demotion | None = None
    fence: FenceProof | None = None
    changed_at: datetime
    reason: str = ""


class RegionLease(Recorded):
    """One per region, renewed by its guard for all groups at once.

    ``serial`` grows with every renewal: a watcher that saw no change of it for ``ttl`` and a margin, counted from after
    its first reading, knows that the holder has demoted everything. ``broken_by`` ends the lease for good: the
    instance that held it must start over with a new name, and ask each group's record again.
    """

    region: str
    instance: str
    serial: int = 0
    ttl: float  # seconds
    broken_by: str | None = None
    released: bool = False  # given back in order: nothing of the region is primary
    changed_at: datetime
