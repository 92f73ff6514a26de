"""What a guard is asked and what it answers: the words between a plan's steps, the guards, and the command line."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum

from pydantic import Field

from recovery.domain.base import Asked, Model, Recorded
from recovery.domain.group import GroupSnapshot
from recovery.domain.handover import StoreDivergence
from recovery.domain.ownership import OwnershipRecord, Strength
from recovery.domain.words import listed


class StoreRole(StrEnum):
    PRIMARY = "primary"  # accepts writes
    STANDBY = "standby"  # follows, or is ready to
    STOPPED = "stopped"  # does not run
    STALE = "stale"  # was a primary and has been replaced: its data have to be looked at before it may follow
    UNREACHABLE = "unreachable"  # runs, or seems to, and does not answer


class StoreState(Model):
    """One store of one group in one region, as it is now."""

    store: str  # postgres, redis or nats
    role: StoreRole
    strength: Strength | None = None
    position: str | None = None  # LSN, offset or sequences, in the store's own words
    order: int | None = None  # the same as one number that grows: bytes, or the sum of last sequences
    timeline: int | None = None
    history: str | None = None  # PostgreSQL: see recovery.domain.timelines.History
    lag_seconds: float | None = None  # behind its primary, as last known; None while unknown
    heard_seconds_ago: float | None = None  # since the primary's last message: so long ago lag_seconds was known
    receives: bool | None = None  # of a standby: whether its upstream sends; None where this was not learned
    detail: str = ""
    primary_of: int | None = None  # the epoch in which it was made primary last, unless it followed somebody since
    divergence: StoreDivergence | None = None  # ``follow``: what it held alone as a primary, and where that was saved


class Unfenced(Recorded):
    """A store whose guard cannot keep it from a second primary (strength ``manual``): nothing moves it by itself."""

    region: str
    store: str
    detail: str = ""

    @property
    def words(self) -> str:
        """``redis in us-east-1 (its configuration would start a primary)``."""
        return f"{self.store} in {self.region}" + (f" ({self.detail})" if self.detail else "")


def unfenced(region: str, states: Sequence[StoreState]) -> list[Unfenced]:
    """Those of a region's stores that say so of themselves. A store without a strength says nothing."""
    return [
        Unfenced(region=region, store=state.store, detail=state.detail)
        for state in states
        if state.strength is Strength.MANUAL
    ]


def left_behind(group: GroupSnapshot) -> list[Unfenced]:
    """What the group has beside the stores that guards keep: a search engine that is more than an index of them.

    No failover moves it: the old region's goes on accepting writes, and what it held alone is missed in the new one.
    """
    regions = [region.name for region in group.regions if region.search]
    if not regions or group.search is None or group.search.derived:
        return []
    why = "no failover moves or fences it; elasticsearch.derived says where it can be made anew"
    return [Unfenced(region=listed(regions), store="search", detail=why)]


class GroupState(Model):
    """A group in the guard's region."""

    group: str
    epoch: int | None = None
    owner: str | None = None
    stores: list[StoreState] = Field(default_factory=list)
    warnings: list[str] = Field(default_factory=list)  # what weakens the claim: a weaker setting, a missing watchdog


class GuardStatus(Model):
    """A guard's answer to a question. Times are seconds by the guard's own clock."""

    region: str
    instance: str
    ttl: float
    holds_lease: bool
    lease_left: float = 0.0
    by_promise: bool = False  # the witness is silent, and every other guard promised not to promote
    watched: dict[str, float] = Field(default_factory=dict)  # region -> seconds since its lease was renewed
    groups: list[GroupState] = Field(default_factory=list)


class GuardOrder(Asked):
    """What a step asks of a guard. ``run`` must hold the group's lock; the guard reads the record itself.

    ``epoch`` is the epoch that the run found when it took the lock: an order that comes late finds another one in the
    record and changes nothing.
    """

    group: str
    run: str
    epoch: int
    source: str  # region that owned the group when the run began
    target: str
    effect_id: str
    planned: bool = False
    store: str | None = None  # one store; None: all of the group
    reason: str = ""
    person: str = ""  # who vouches that the old primary is off and stays off; only where no guard can prove it
    accept_loss: bool = False  # it need not be proven that nothing is lost, where the record claims that it can be
    # Seconds from now after which the guard gives the order up.
    deadline: float = Field(default=60.0, gt=0, le=86_400, allow_inf_nan=False)


class Stopped(Model):
    """A guard's word that its standby takes nothing more from the primary that is being fenced.

    It holds until the record's epoch has moved on: nothing lets that standby follow anybody before.
    """

    region: str
    member: str  # the name under which it acknowledges commits
    position: str  # LSN of what is on its disk, read after it stopped


class Promotion(Model):
    """A store became primary, or was found to be one already under this very epoch."""

    store: str
    epoch: int
    at: datetime
    position: str | None = None
    timeline: int | None = None
    before: str | None = None  # the last position that came from the old primary
    already: bool = False
    record: OwnershipRecord | None = None
    note: str = ""
