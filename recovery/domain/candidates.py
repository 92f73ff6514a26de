"""Which region takes a group over: a pure choice, with the reason for every region that was not chosen.

A standby is eligible when it is healthy, when its data descend from those of the owner (the same cluster, and its
history of timelines is a part of the owner's: equal timeline numbers alone prove nothing, for two servers may both have
begun a timeline 2), and when its lag is within its own limit. Of these the most advanced one is chosen, for what it
lacks would be lost and the more advanced ones would have to be rewound; then the one of highest priority, then one at
the owner's own site. A replica rule of priority 0 takes its standby out of the choice unless the operator names it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta

from recovery.domain.base import Recorded
from recovery.domain.group import GroupSnapshot
from recovery.domain.guarding import StoreRole, StoreState
from recovery.domain.timelines import History
from recovery.domain.words import duration, listed, size
from recovery.errors import BadInput

LEADING = ("postgres", "redis", "nats")
"""The first of these that a group has decides which standby is most advanced."""


class Candidate(Recorded):
    """A region as a target, and why it is none. ``lost_*``: what taking it would cost, as far as that is known."""

    region: str
    eligible: bool
    rejected: str = ""
    only_lag: bool = False  # nothing but its lag speaks against it: an operator may accept the loss
    priority: int = 0
    site: str | None = None  # what it is lost together with, where that is more than itself
    is_local: bool = False  # it is at the owner's own site
    order: int | None = None  # bytes of WAL, or the leading store's own count
    position: str | None = None
    timeline: int | None = None
    history: str | None = None
    lag_seconds: float | None = None
    lag_limit: float = 0.0
    lost_bytes: int | None = None
    lost_seconds: float | None = None

    @property
    def cost(self) -> str:
        """What would be lost: ``about 42 s and 1.2 MiB``."""
        parts = []
        if self.lost_seconds is not None:
            parts.append(duration(timedelta(seconds=self.lost_seconds)))
        if self.lost_bytes is not None:
            parts.append(size(self.lost_bytes))
        return f"about {' and '.join(parts)}" if parts else "an unknown amount"


@dataclass(frozen=True)
class Seen:
    """What a region answered when it was asked: its stores, or why it did not answer."""

    states: list[StoreState] = field(default_factory=list)
    unreachable: str = ""
    holds_lease: bool | None = None  # None: it has no guard

    def store(self, name: str) -> StoreState | None:
        return next((state for state in self.states if state.store == name), None)


@dataclass(frozen=True)
class Choice:
    """The target, or why there is none, and every region that was looked at."""

    target: str | None
    candidates: list[Candidate]
    reason: str = ""

    @property
    def acceptable(self) -> bool:
        """Whether an operator who accepts the loss would get a target."""
        return any(candidate.only_lag for candidate in self.candidates)


@dataclass(frozen=True)
class Wish:
    """What was asked for. ``accept_loss``: lag is no hindrance. ``region``: this one or none.

    ``outage_age``: seconds since the owner fell silent; None where it is not known, or where it did not.
    """

    region: str | None = None
    accept_loss: bool = False
    outage_age: float | None = None


@dataclass(frozen=True)
class _Owner:
    """The old primary as far as it is known."""

    state: StoreState | None
    history: str | None

    def ahead_of(self, standby: StoreState | None) -> int | None:
        """How much the standby lacks, in the store's units; None where either does not say."""
        if self.state is None or standby is None or self.state.order is None or standby.order is None:
            return None
        return max(self.state.order - standby.order, 0)


def leading_store(group: GroupSnapshot) -> str:
    """The store by which standbys are compared. Raises ValueError for a group without any."""
    stores = stores_of(group)
    for name in LEADING:
        if name in stores:
            return name
    raise ValueError(f"group {group.name} has no store that could be promoted")


def stores_of(group: GroupSnapshot) -> list[str]:
    """The group's stores, in the order in which they are promoted."""
    has = {
        "postgres": any(region.postgres for region in group.regions),
        "redis": any(region.redis for region in group.regions),
        "nats": bool(group.streams) and any(region.nats for region in group.regions),
    }
    return [name for name in LEADING if has[name]]


def priority_of(group: GroupSnapshot, region: str) -> int:
    """A region's priority as a target: its replica's own, else the region's."""
    rule = group.replica_rule(region)
    return rule.priority if rule is not None else group.region(region).priority


def choose(
    group: GroupSnapshot, owner: str, seen: Mapping[str, Seen], wish: Wish, lineage: str | None = None
) -> Choice:
    """The region that takes over from ``owner``.

    Args:
        seen: what each region answered; the owner's own answer is used where it gave one.
        lineage: the owner's history as the ownership record has it, for when the owner does not answer.
    """
    store = leading_store(group)
    own = seen[owner].store(store) if owner in seen else None
    owners = _Owner(own, (own.history if own is not None and own.history else None) or lineage)
    wish = replace(wish, outage_age=_outage_age(wish, owner, seen, store))
    known = {region.name for region in group.regions}
    judged = [
        _judge(
            group, region.name, seen.get(region.name, Seen(unreachable="it was not asked")), owners, wish
        ).model_copy(update={"is_local": owner in known and group.same_site(region.name, owner)})
        for region in group.regions
        if region.name != owner
    ]
    judged = _contradictions(judged) if store == "postgres" and not owners.history else judged
    eligible = [candidate for candidate in judged if candidate.eligible]
    if eligible:
        best = max(eligible, key=_advanced)
        others = [_behind(candidate, best) if candidate.eligible else candidate for candidate in judged]
        return Choice(best.region, others)
    return Choice(None, judged, _no_target(group, owner, judged))


def waits_for_lease(
    group: GroupSnapshot, owner: str, seen: Mapping[str, Seen], wish: Wish, lineage: str | None = None
) -> bool:
    """Whether ``choose`` finds no target only because a guard holds no lease yet, as after the witness's return."""
    leased = {name: replace(answer, holds_lease=None) for name, answer in seen.items()}
    return choose(group, owner, leased, wish, lineage).target is not None


def _advanced(candidate: Candidate) -> tuple[int, int, bool, str]:
    order = candidate.order if candidate.order is not None else -1
    return order, candidate.priority, candidate.is_local, candidate.region


def _behind(candidate: Candidate, best: Candidate) -> Candidate:
    if candidate.region == best.region:
        return candidate
    ahead = (best.order or 0) - (candidate.order or 0)
    if ahead > 0:
        why = f"{best.region} is more advanced, by {size(ahead)}"
    elif best.priority > candidate.priority:
        why = f"{best.region} has the higher priority"
    elif best.is_local and not candidate.is_local:
        why = f"{best.region} is at the lost primary's own site"
    else:
        why = f"{best.region} is as good"
    return candidate.model_copy(update={"rejected": why})


def _outage_age(wish: Wish, owner: str, seen: Mapping[str, Seen], store: str) -> float:
    """As given; else since the last that any standby heard of an owner that does not answer, or has no primary."""
    there = seen.get(owner, Seen(unreachable="never asked"))
    state = there.store(store)
    if not there.unreachable and (state is None or state.role is StoreRole.PRIMARY):
        return 0.0
    heard = [
        state.heard_seconds_ago
        for name, answer in seen.items()
        if name != owner and (state := answer.store(store)) is not None and state.heard_seconds_ago is not None
    ]
    return wish.outage_age if wish.outage_age is not None else min(heard, default=0.0)


def _judge(group: GroupSnapshot, name: str, seen: Seen, owner: _Owner, wish: Wish) -> Candidate:
    store = leading_store(group)
    state = seen.store(store)
    rule = group.replica_rule(name)
    limit = (rule.lag_limit if rule else group.replication.max_lag).total_seconds()
    lag = _lag(state, wish.outage_age or 0.0)
    found = Candidate(
        region=name,
        eligible=True,
        priority=priority_of(group, name),
        site=group.region(name).site,
        order=state.order if state else None,
        position=state.position if state else None,
        timeline=state.timeline if state else None,
        history=state.history if state else None,
        lag_seconds=lag,
        lag_limit=limit,
        lost_bytes=owner.ahead_of(state),
        lost_seconds=lag,
    )
    why = _unfit(name, seen, store, wish)
    if not why and rule is not None and rule.priority == 0 and wish.region != name:
        why = f"its priority is 0: it is only taken when it is named (--to {name})"
    if not why and store == "postgres":
        why = _foreign(state, owner.history)
    if why:
        return found.model_copy(update={"eligible": False, "rejected": why})
    late = _late(lag, limit)
    if late and not wish.accept_loss:
        return found.model_copy(update={"eligible": False, "rejected": late, "only_lag": True})
    return found


def _unfit(name: str, seen: Seen, store: str, wish: Wish) -> str:
    if wish.region is not None and wish.region != name:
        return f"{wish.region} was asked for"
    if seen.unreachable:
        return f"it does not answer: {seen.unreachable}"
    if seen.holds_lease is False:
        return "its guard holds no lease: it could not keep a primary"
    state = seen.store(store)
    if state is None:
        return f"it has no {store} of this group"
    if state.role is not StoreRole.STANDBY:
        words = {
            StoreRole.STALE: "it was a primary and was replaced: reprotect it first (drctl reprotect)",
            StoreRole.STOPPED: "it is stopped",
            StoreRole.UNREACHABLE: "it does not answer",
            StoreRole.PRIMARY: "it is a primary, and does not own the group",
        }
        return f"{store}: {words[state.role]}" + (f" ({state.detail})" if state.detail else "")
    return ""


def _lag(state: StoreState | None, outage_age: float) -> float | None:
    """Seconds of the owner's work that the standby lacks: what it had to replay, and how long it had heard nothing.

    Since the outage began there was nothing to hear: that time is no lag.
    """
    if state is None or state.lag_seconds is None:
        return None
    return state.lag_seconds + max((state.heard_seconds_ago or 0.0) - outage_age, 0.0)


def _late(lag: float | None, limit: float) -> str:
    if lag is None:
        return "how far it is behind is not known"
    if lag > limit:
        words = [duration(timedelta(seconds=value)) for value in (lag, limit)]
        return f"it is {words[0]} behind, and {words[1]} is its limit"
    return ""


def _foreign(state: StoreState | None, reference: str | None) -> str:
    """Why the standby's data do not descend from the owner's; empty where they do, or nobody can say."""
    if reference is None:
        return ""
    if state is None or not state.history or not state.position:
        return "its history is not known, so its data may be another cluster's"
    try:
        return History.parse(state.history).why_not_ancestor_of(History.parse(reference), state.position) or ""
    except BadInput as error:
        return str(error)


def _contradictions(judged: list[Candidate]) -> list[Candidate]:
    """Nobody knows the owner's history: of standbys that contradict each other none is taken by itself."""
    found = list(judged)
    for number, one in enumerate(judged):
        for other in judged:
            why = _apart(one, other) if one.eligible and other.eligible else ""
            if why:
                reason = f"its history contradicts that of {other.region}, and the owner's is not known: {why}"
                found[number] = one.model_copy(update={"eligible": False, "rejected": reason})
    return found


def _apart(one: Candidate, other: Candidate) -> str:
    """Why neither of two standbys can be an ancestor of the other."""
    if one.region == other.region or not (one.history and other.history and one.position and other.position):
        return ""
    try:
        ours, theirs = History.parse(one.history), History.parse(other.history)
    except BadInput as error:
        return str(error)
    forward = ours.why_not_ancestor_of(theirs, one.position)
    return forward if forward and theirs.why_not_ancestor_of(ours, other.position) else ""


def _no_target(group: GroupSnapshot, owner: str, judged: list[Candidate]) -> str:
    late = [candidate for candidate in judged if candidate.only_lag]
    reasons = "; ".join(f"{candidate.region}: {candidate.rejected}" for candidate in judged) or "it has no other region"
    if not late:
        return f"no region can take {group.name} over from {owner}: {reasons}"
    costs = listed([f"{candidate.region} would cost {candidate.cost}" for candidate in late])
    return (
        f"every standby of {group.name} is beyond its lag limit ({reasons}). {costs}. "
        "Accept the loss (drctl accept-loss), or wait and retry"
    )
