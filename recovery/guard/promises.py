"""What guards promise each other while the witness is silent. Pure: times are the caller's ``CLOCK_BOOTTIME``.

A holder whose renewals get no answer asks the guard of every region that could take the group over not to do so for
one ttl. It stays primary only while *all* of them promised (``Received``), and only without a gap: authority that
ended is given back by the witness alone, never by a promise, because a takeover may be under way that the promising
guard forgot in a restart.

The guard that promises (``Given``) breaks no lease of that holder, uses no broken lease as proof for that group, and
makes nothing of that group a primary while the promise binds. It promises nothing once it sent a break that may still
arrive, or began to take the group over. After its own start it forgot what it promised, and therefore acts on no lease
before the longest promise it could have given is past (``quarantined``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from recovery.domain.ownership import OwnershipRecord
from recovery.guard.lease import Held, Watched, least_margin


@dataclass(frozen=True)
class Given:
    """The promises of one guard process. ``longest``: the greatest ttl that it promises for, seconds."""

    started: float
    longest: float
    margin: float
    promised: tuple[tuple[str, str, float], ...] = ()  # group, holder's instance, until

    def give(self, group: str, holder: str, ttl: float, now: float) -> Given:
        """Binds from now on. Store the result BEFORE the answer is sent; ask ``may_promise`` first.

        Raises:
            ValueError: the ttl is longer than this guard would remember to wait after a restart.
        """
        if ttl > self.longest:
            raise ValueError(f"a promise for {ttl:g} s is longer than the {self.longest:g} s that this guard allows")
        until = now + ttl + max(self.margin, least_margin(ttl))
        # The last end of each group is kept: ``bound_until`` tells of it.
        others = tuple(one for one in self.promised if one[:2] != (group, holder) and (one[2] > now or one[0] != group))
        former = max((one[2] for one in self.promised if one[:2] == (group, holder)), default=until)
        return replace(self, promised=(*others, (group, holder, max(until, former))))

    def quarantined(self, now: float) -> float:
        """Seconds for which a promise that was forgotten in a restart may still bind; 0.0 when none can."""
        return max(0.0, self.started + self.longest + max(self.margin, least_margin(self.longest)) - now)

    def binds_lease(self, holder: str, now: float) -> float:
        """Seconds for which the lease of ``holder`` must not be broken; 0.0: it may."""
        return max(self.quarantined(now), self._left(now, [until for _, who, until in self.promised if who == holder]))

    def binds_proof(self, group: str, now: float) -> float:
        """Seconds for which an ended lease proves nothing about ``group``; 0.0: it does."""
        return max(self.quarantined(now), self.binds_primary(group, now))

    def binds_primary(self, group: str, now: float) -> float:
        """Seconds for which nothing of ``group`` may become primary here; 0.0: it may."""
        return self._left(now, [until for what, _, until in self.promised if what == group])

    def bound_until(self, group: str) -> float:
        """Until when a promise, also one that was forgotten in a restart, may have kept ``group`` where it was."""
        forgotten = self.started + self.longest + max(self.margin, least_margin(self.longest))
        return max([forgotten, *(until for what, _, until in self.promised if what == group)])

    @staticmethod
    def _left(now: float, ends: Sequence[float]) -> float:
        return max(0.0, max(ends, default=-math.inf) - now)


def may_promise(
    given: Given,
    *,
    group: str,
    epoch: int,
    holder: str,
    ttl: float,
    region: str,
    record: OwnershipRecord | None,
    watched: Watched,
    taking_over: bool,
) -> str | None:
    """None when the holder may be promised ``ttl`` seconds, else the reason why not.

    Args:
        region: the promising guard's own.
        record: of the group, as this guard last read it; None when it never could.
        watched: the holder's region's lease, as this guard last read it.
        taking_over: this guard sent, or is about to send, a proof or a promotion for the group, or has it primary.
            Set it before the request leaves, and keep it until a record that was read afterwards tells otherwise.
    """
    if ttl > given.longest:
        return f"{ttl:g} s is longer than the {given.longest:g} s for which this guard promises"
    if taking_over:
        return f"this guard takes {group} over"
    if watched.break_may_arrive():
        return f"a break of the lease of {watched.region} is under way"
    if watched.lease is not None and (watched.over() or watched.lease.instance != holder):
        return f"the lease of {holder} has ended"
    if record is not None and record.epoch > epoch:
        return f"{group} is at epoch {record.epoch}"
    if record is not None and (record.region == region or (record.fencing and record.fencing.epoch == epoch)):
        return f"{group} is being taken over by the run {record.run}"
    return None


@dataclass(frozen=True)
class Received:
    """The promises that a holder got for one group and epoch. Start a new one when instance or epoch changes."""

    group: str
    epoch: int
    instance: str
    answers: tuple[tuple[str, float], ...] = ()  # peer's region, the holder's time before the question was sent
    until: float = -math.inf

    def promised(self, peer: str, *, sent: float, now: float, held: Held, peers: Sequence[str]) -> Received:
        """``peer`` promised one ttl, asked at ``sent``, its answer came at ``now``.

        ``peers``: every region that could take the group over. When all of them promised, ``until`` moves on to one
        ttl after the earliest of the questions, but only while the lease or the promises before still hold.
        """
        if held.instance != self.instance or not self.valid(now, held):
            return replace(self, answers=())  # it ended: only a confirmed renewal begins it again
        answers = {**dict(self.answers), peer: max(sent, dict(self.answers).get(peer, sent))}
        until = self.until
        if peers and all(one in answers for one in peers):
            until = max(until, min(answers[one] for one in peers) + held.ttl)
        return replace(self, answers=tuple(sorted(answers.items())), until=until)

    def valid(self, now: float, held: Held) -> bool:
        """The group may stay primary: by the lease, or by promises without a gap since the lease."""
        return held.lost is None and now < max(held.deadline, self.until)

    def deadline(self, held: Held) -> float:
        """When the group has to be demoted: what the companion is told. Minus infinity: now."""
        return max(held.deadline, self.until) if held.lost is None else -math.inf
