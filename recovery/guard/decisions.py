"""What a guard may do with an ownership record, and what it has to write next. Pure: the caller does the I/O.

Each function looks at one record as it was read and answers with a step: ``Write`` (compare-and-swap this record over
the version that was read; when that is contended or its outcome unknown, read again and ask again), ``Break`` (do the
same with the watched lease), ``Settled`` (nothing to write, it is so already), ``Wait``, or ``Refusal``. No answer
depends on an earlier one: a guard that was killed between two steps asks again and goes on.

Who asks for what: the target's guard ``fence_step`` until it is settled, then ``promotion``; the source's guard
``must_demote`` at every renewal, then ``demotion``; ``adoption`` whatever instance finds its region the owner and is
not the record's guard (at first, after a restart, after ``unfence``).

A store may be made or left primary only while ``may_be_primary`` says so, and only in the very server process that
was running when it was asked: the companion kills that process at the deadline, so that an effect which was held up
between the check and the act finds nothing to act on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType

from recovery.domain.guarding import GuardOrder
from recovery.domain.ownership import (
    Demotion,
    FenceProof,
    FenceRequest,
    OwnershipRecord,
    Phase,
    Strength,
)
from recovery.guard.lease import Held, Watched, least_margin
from recovery.guard.promises import Given, Received


@dataclass(frozen=True)
class Write:
    """Compare-and-swap ``record`` over the version that the decision was made on."""

    record: OwnershipRecord


@dataclass(frozen=True)
class Break:
    """Compare-and-swap ``watched.breaking(...)`` over ``watched.version``, then read the lease again."""


@dataclass(frozen=True)
class Settled:
    """It is so already."""

    record: OwnershipRecord


@dataclass(frozen=True)
class Wait:
    """Not yet: ask again when something was read anew, at the latest after ``seconds``."""

    reason: str
    seconds: float


@dataclass(frozen=True)
class Refusal:
    """A rule forbids it, and will go on forbidding it."""

    reason: str


FenceStep = Write | Break | Settled | Wait | Refusal


@dataclass(frozen=True)
class Evidence:
    """What goes into a proof besides its reason."""

    by: str  # region and instance of the guard that proves
    at: datetime
    zero_loss: bool = False


def may_be_primary(
    record: OwnershipRecord | None,
    region: str,
    held: Held,
    now: float,
    *,
    read_began: float,
    received: Received | None = None,
) -> bool:
    """Whether the stores of the group may accept writes in ``region`` at ``now``; see ``must_demote``."""
    return must_demote(record, region, held, now, read_began=read_began, received=received) is None


def must_demote(
    record: OwnershipRecord | None,
    region: str,
    held: Held,
    now: float,
    *,
    read_began: float,
    received: Received | None = None,
) -> str | None:
    """None when the stores of the group may accept writes in ``region`` at ``now``, else why they must not.

    Args:
        record: of the group, as last read; None when it is not there or was never read.
        read_began: when that read began, by the clock of ``now``. A record from before the lease's last gap says
            nothing: read it again first. (A gap that promises bridged is none.)
        received: promises of the other guards for this group, when the witness is silent.
    """
    if record is None:
        return "no ownership record was read"
    if record.region != region:
        return f"{record.group} belongs to {record.region} since epoch {record.epoch}"
    if record.guard != held.instance:
        return f"{record.group} is held by the guard instance {record.guard}"
    if record.fencing is not None:
        return f"the run {record.fencing.run} asks for the fence of epoch {record.epoch}"
    if held.lost is not None:
        return held.lost
    promised = received is not None and (received.epoch, received.instance) == (record.epoch, held.instance)
    if not held.valid(now) and not (promised and received is not None and received.valid(now, held)):
        return "the lease ended"
    bridged = promised and received is not None and received.until >= held.valid_from
    if read_began < held.valid_from and not bridged:
        return "the record was read before the lease's last gap"
    return None


def adoption(
    record: OwnershipRecord,
    region: str,
    held: Held,
    now: float,
    given: Given,
    at: datetime,
    *,
    anew: bool,
    strengths: Mapping[str, Strength] = MappingProxyType({}),
) -> Write | Settled | Wait | Refusal:
    """The owner's guard becomes the record's: at first, after a restart, after a fence that was taken back.

    Args:
        anew: the stores were demoted since this instance adopted the group: each time as primary has its own epoch.
        strengths: of this guard's stores: whoever fences them when they are silent can tell by the record alone.
    """
    if record.region != region:
        return Refusal(f"{record.group} belongs to {record.region}")
    if record.fencing is not None:
        return Refusal(f"the run {record.fencing.run} asked for the fence of epoch {record.epoch}")
    if not held.valid(now):
        return Refusal("this guard holds no lease")
    if record.guard == held.instance and not anew:
        return Settled(record)
    if (seconds := given.binds_primary(record.group, now)) > 0:
        return Wait(f"another guard was promised that {record.group} stays where it is", seconds)
    return Write(
        record.model_copy(
            update={
                "epoch": record.epoch + 1,
                "guard": held.instance,
                "acknowledging": None,  # what PostgreSQL waits for was not compared by this instance yet
                "strengths": dict(strengths),
                "demotion": None,
                "changed_at": at,
                "reason": f"adopted by {held.instance}",
            }
        )
    )


def demotion(
    record: OwnershipRecord,
    region: str,
    instance: str,
    at: datetime,
    positions: Mapping[str, str],
    *,
    planned: bool,
    strengths: Mapping[str, Strength] = MappingProxyType({}),
) -> Write | Settled | Refusal:
    """Confirms, AFTER it was done, that nothing of the group accepts writes in ``region``.

    Only asked for while the record is being fenced. From then on this guard promotes nothing of the group until it
    reads a record that is not being fenced any more, and then only by ``adoption``.
    """
    if record.region != region or record.fencing is None:
        return Refusal(f"nobody asks for the demotion of {record.group} in {region}")
    if record.demotion is not None and record.demotion.epoch == record.epoch:
        return Settled(record)
    confirmed = Demotion(
        epoch=record.epoch,
        region=region,
        instance=instance,
        at=at,
        planned=planned,
        positions=dict(positions),
        strengths=dict(strengths),
    )
    return Write(record.model_copy(update={"demotion": confirmed, "changed_at": at}))


def fence_step(
    record: OwnershipRecord,
    order: GuardOrder,
    region: str,
    *,
    watched: Watched,
    fencing_seen: float,
    given: Given,
    now: float,
    margin: float,
    evidence: Evidence,
    holds_lease: bool = True,
) -> FenceStep:
    """The target's guard, on its way to a proof that the source has no primary. Settled: ``record.fence`` is it.

    Args:
        region: of the guard that is asked, which must be the target's.
        watched: the source's lease.
        fencing_seen: when this guard first knew that the record carries the order's request (its write or read
            returned). Only a lease that was read after that is sure to be the newest instance's.
        holds_lease: whether this guard has the lease of its own region. Another process of the region that does not
            know what the holder promised must neither break a lease nor call a broken one a proof.
    """
    if record.fence is not None and record.fence.epoch == order.epoch and record.fence.run == order.run:
        return Settled(record)  # also for an attempt that comes after the promotion: it changes nothing
    if (refused := _not_the_orders(record, order, region)) is not None:
        return refused
    if (asked := record.fencing) is None or (asked.run, asked.target, asked.epoch, asked.planned) != (
        order.run,
        order.target,
        order.epoch,
        order.planned,
    ):
        return _request(record, order, evidence.at)
    if (known := record.demotion) is not None and known.epoch == record.epoch:
        return _proven(record, order, evidence, "demotion-confirmed", demoted=known)
    if record.guard is None:
        return _proven(record, order, evidence, "never-served")
    if not holds_lease:
        return Wait("this guard holds no lease of its own region", 1.0)
    if watched.over() and (watched.began >= fencing_seen or _holder(watched) == record.guard):
        if (seconds := given.binds_proof(record.group, now)) > 0:
            return Wait(f"the guard of {record.region} was promised that {record.group} stays there", seconds)
        return _proven(
            record,
            order,
            evidence,
            "lease-broken",
            watched=watched,
            silent_for=max(0.0, now - max(watched.ended_by(margin), given.bound_until(record.group))),
        )
    if watched.may_break(now, margin):
        if (seconds := given.binds_lease(_holder(watched), now)) > 0:
            return Wait(f"the guard of {record.region} was promised to keep its lease", seconds)
        return Break()
    ttl = watched.lease.ttl if watched.lease else 0.0
    left = ttl + max(margin, least_margin(ttl)) - watched.unchanged_for(now)
    return Wait(f"{record.region} neither confirmed its demotion nor let its lease end", max(0.0, left))


def promotion(
    record: OwnershipRecord,
    order: GuardOrder,
    region: str,
    held: Held,
    now: float,
    given: Given,
    at: datetime,
    *,
    strengths: Mapping[str, Strength] = MappingProxyType({}),
) -> Write | Settled | Wait | Refusal:
    """The target's guard takes the group over. Settled: it has done so, and its stores may be made primary."""
    if record.run != order.run:
        return Refusal(f"{record.group} is locked by the run {record.run}, not by {order.run}")
    if record.epoch > order.epoch and (record.region, record.guard) == (region, held.instance):
        return Settled(record) if record.fencing is None else Refusal(f"{record.group} is being fenced again")
    if (refused := _not_the_orders(record, order, region)) is not None:
        return refused
    if record.fencing is None or (record.fencing.run, record.fencing.target) != (order.run, region):
        return Refusal(f"the run {order.run} did not ask this guard to fence {order.source}")
    if record.fence is None or record.fence.epoch != record.epoch:
        return Refusal(f"there is no proof that {order.source} is fenced in epoch {record.epoch}")
    if not held.valid(now):
        return Refusal("this guard holds no lease")
    if record.fence.how != "demotion-confirmed" and (seconds := given.binds_primary(record.group, now)) > 0:
        return Wait(f"another guard was promised that {record.group} stays where it is", seconds)
    return Write(
        record.model_copy(
            update={
                "epoch": record.epoch + 1,
                "region": region,
                "node": None,
                "guard": held.instance,
                "acknowledging": None,  # a new primary waits for nobody until its standbys follow it
                "strengths": dict(strengths),
                "fencing": None,
                "demotion": None,
                "changed_at": at,
                "reason": order.reason or f"promoted by the run {order.run}",
            }
        )
    )


def brought_here_in(record: OwnershipRecord) -> int | None:
    """The first epoch of the region that owns the group now, where the run that holds the record brought it there.

    From that epoch on nobody else can have been a primary. None: no run is at work, or it moved nothing (yet).
    """
    fence = record.fence
    if record.run is None or fence is None or fence.run != record.run or fence.epoch >= record.epoch:
        return None
    return fence.epoch + 1


def unfence(record: OwnershipRecord, order: GuardOrder, at: datetime) -> Write | Settled | Refusal:
    """Takes the request back before the pivot. The epoch moves on, so that no late attempt of the order fits any more.

    The source's guard, which is still the record's, goes on if it had not demoted yet, and adopts ``anew`` if it had.
    """
    if record.run != order.run:
        return Refusal(f"{record.group} is locked by the run {record.run}, not by {order.run}")
    if record.region != order.source:
        return Refusal(f"{record.group} was taken over by {record.region} in epoch {record.epoch}")
    if record.phase is Phase.PIVOTED:
        return Refusal(f"the run {record.run} passed its pivot: look at what is there, then go forward or hold")
    if record.fencing is None and record.epoch > order.epoch:
        return Settled(record)
    taken_back = {"fencing": None, "demotion": None, "fence": None}
    return Write(record.model_copy(update={**taken_back, "epoch": record.epoch + 1, "changed_at": at}))


def _not_the_orders(record: OwnershipRecord, order: GuardOrder, region: str) -> Refusal | None:
    if record.group != order.group:
        return Refusal(f"this is the record of {record.group}, the order is about {order.group}")
    if order.target != region:
        return Refusal(f"the order names {order.target} as its target, this is the guard of {region}")
    if record.run != order.run:
        return Refusal(f"{record.group} is locked by the run {record.run}, not by {order.run}")
    if record.epoch != order.epoch:
        return Refusal(f"{record.group} is at epoch {record.epoch}, the order is for epoch {order.epoch}")
    if record.region != order.source:
        return Refusal(f"{record.group} belongs to {record.region}, the order names {order.source} as its source")
    return None


def _holder(watched: Watched) -> str:
    return watched.lease.instance if watched.lease else ""


def _request(record: OwnershipRecord, order: GuardOrder, at: datetime) -> Write:
    """A proof of this epoch, if another run left one, stays true: nothing was promoted since, and nothing could be.

    But for what the acknowledging set proves: that is about one target, and another one has to prove it again.
    """
    request = FenceRequest(epoch=record.epoch, target=order.target, run=order.run, planned=order.planned, at=at)
    fenced_before = record.fencing is not None
    fence = record.fence if fenced_before or (record.fence and record.fence.epoch != record.epoch) else None
    elsewhere = record.fencing is not None and record.fencing.target != order.target
    if fence is not None and fence.epoch == record.epoch and elsewhere and record.acknowledging is not None:
        fence = None
    if fence is not None and fence.epoch == record.epoch:
        fence = fence.model_copy(update={"run": order.run})
    return Write(
        record.model_copy(
            update={
                "fencing": request,
                "demotion": record.demotion if fenced_before else None,
                "fence": fence,
                "changed_at": at,
            }
        )
    )


def _proven(
    record: OwnershipRecord,
    order: GuardOrder,
    evidence: Evidence,
    how: str,
    *,
    demoted: Demotion | None = None,
    watched: Watched | None = None,
    silent_for: float = 0.0,
) -> Write:
    """The strengths are the fenced side's: as its guard confirmed them, or wrote them into the record before.

    ``silent_for``: seconds for which the fenced side can have acknowledged nothing any more.
    """
    served_until = demoted.at if demoted else evidence.at - timedelta(seconds=silent_for) if watched else None
    proof = FenceProof.model_validate(
        {
            "epoch": record.epoch,
            "region": record.region,
            "how": how,
            "by": evidence.by,
            "at": evidence.at,
            "run": order.run,
            "watched_for": round(watched.stood_for, 3) if watched else None,
            "served_until": served_until,
            "strengths": (demoted.strengths if demoted else {}) or record.strengths,
            "zero_loss": evidence.zero_loss,
            "positions": dict(demoted.positions) if demoted else {},
            "reason": order.reason,
        }
    )
    return Write(record.model_copy(update={"fence": proof, "changed_at": evidence.at}))
