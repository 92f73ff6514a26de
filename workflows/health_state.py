"""What a group's monitor knows, and what it shows."""

from __future__ import annotations

from datetime import datetime

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from pydantic import Field

    from activities.monitoring import PlanEnd
    from activities.notifications import Alert
    from recovery.domain.base import Recorded
    from recovery.domain.group import GroupSnapshot
    from recovery.domain.guarding import Unfenced
    from recovery.health.decision import Question, policy_of
    from recovery.health.quorum import Heard, Outage, Votes

MOST_EVENTS = 4_000  # of a history, after which the next run goes on


class OwnRun(Recorded):
    """The plan that this monitor started last."""

    plan: str
    workflow_id: str
    run_id: str
    started_at: datetime
    outage_began_at: datetime
    reason: str
    incident: str
    end: PlanEnd | None = None
    ended_at: datetime | None = None


class MonitorState(Recorded):
    """Everything that a group's monitor knows."""

    snapshot: GroupSnapshot | None = None
    loaded_at: datetime | None = None
    loaded_for: list[str] = Field(default_factory=list)  # configurations that vantage points had at that time
    heard: dict[str, dict[str, Heard]] = Field(default_factory=dict)
    owner: str | None = None
    epoch: int = 0
    outage: Outage | None = None
    losses: list[datetime] = Field(default_factory=list)
    question: Question | None = None
    starting: str | None = None  # the incident of a plan that was asked for and is not known to have begun
    run: OwnRun | None = None
    last_automatic_at: datetime | None = None
    refusals: int = 0
    retry_at: datetime | None = None
    unfenced: list[Unfenced] = Field(default_factory=list)  # as each region's guard said last
    left_behind: list[Unfenced] = Field(default_factory=list)  # as people were told of it
    fences_seen_at: datetime | None = None
    told: list[str] = Field(default_factory=list)
    unsent: list[Alert] = Field(default_factory=list)
    unwatched_since: datetime | None = None
    note: str = ""
    most_events: int = MOST_EVENTS
    runs: int = 1


class HealthView(Recorded):
    """What the query ``health`` answers."""

    group: str
    policy: str = ""
    policy_note: str = ""
    configured: list[str] = Field(default_factory=list)
    votes: Votes | None = None
    outage: Outage | None = None
    question: Question | None = None
    run: OwnRun | None = None
    cooldown_until: datetime | None = None
    watched_until: datetime | None = None
    losses: list[datetime] = Field(default_factory=list)
    note: str = ""
    now: datetime


def all_stale_at(state: MonitorState) -> datetime | None:
    """When the last report of a configured vantage point counts no more, unless another one comes."""
    if state.snapshot is None:
        return None
    configured = state.snapshot.failover.vantage_points
    moments = [
        entry.stale_at
        for name, each in state.heard.items()
        for entry in each.values()
        if name in configured and not entry.report.leaving
    ]
    return max(moments, default=None)


def view_of(group: str, state: MonitorState, votes: Votes, now: datetime) -> HealthView:
    """What a monitor that knows ``state`` answers at ``now``."""
    if state.snapshot is None:
        return HealthView(group=group, note=state.note or "the configuration is being loaded", now=now)
    policy, why = policy_of(state.snapshot, state.unfenced)
    cooldown = state.last_automatic_at + state.snapshot.failover.cooldown if state.last_automatic_at else None
    watched = [entry.report.watched_until for each in state.heard.values() for entry in each.values()]
    return HealthView(
        group=group,
        policy=policy,
        policy_note=why,
        configured=state.snapshot.failover.vantage_points,
        votes=votes,
        outage=state.outage,
        question=state.question,
        run=state.run,
        cooldown_until=cooldown if cooldown is not None and cooldown > now else None,
        watched_until=max((at for at in watched if at is not None and at > now), default=None),
        losses=state.losses,
        note=state.note,
        now=now,
    )
