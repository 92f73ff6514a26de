"""The lease of a region, as its holder and as its watchers know it. Pure: no I/O, and no clock of its own.

Every time is a float: seconds of the caller's own ``CLOCK_BOOTTIME``, which is never compared with another machine's.
Values are frozen: each method returns a new one, so that a decision is made on what was true at one instant.

**Holder** (one ``Held`` per guard process and instance name)::

    held = Held.take(region, instance, ttl, found)      # ``found``: what ``LeaseStore.read_lease`` returned
    held, lease = held.renewal(now(), at)               # ``now()`` BEFORE the write is sent; a serial never used before
    try:
        version = await store.write_lease(lease, version=held.version)
        held = held.confirmed(lease.serial, version, now())
    except (Contended, Unreachable):                    # not the lease's word: it may be written, or arrive later
        held = held.seen(await store.read_lease(region), now())     # again, until the witness answers
    held.valid(now())                                   # may act; ``held.deadline`` goes to the companion

A renewal counts from before it was sent, whenever its confirmation comes. ``lost`` says that the lease is over for good
(broken, or taken over by another instance): demote everything, read again, and ``Held.take`` under a new name when
``may_take`` allows it. The ttl belongs to the instance: for another ttl start another instance.

**Who may take the lease of a region over** from another instance of the same region: ``may_take``. Only over one that
is absent, broken, given back, the caller's own predecessor that is known to be dead (exclusive lock on the same state
folder), or that the caller watched unchanged for ttl and margin.

**Watcher** (one ``Watched`` per other region)::

    began = now(); found = await store.read_lease(region)
    watched = watched.read(found, began=began, returned=now())
    if watched.may_break(now(), margin) and promises.none_binds(...):
        watched, lease = watched.breaking(by, at)
        try:    await store.write_lease(lease, version=watched.version)
        except (Contended, Unreachable): pass           # read again: broken, renewed, or still to come
        watched = watched.read(await ..., ...)

Why this is safe: the watcher's time begins after a read returned the very version that its write names. If that write
succeeds, no renewal was applied since, so the holder's newest one was sent before the watcher began to count, and its
deadline, ``ttl`` after that, is past on every clock that runs within ``DRIFT`` of the truth; ``margin`` pays for the
drift and for a demotion that began at the deadline. docs/at-most-one-primary.md has the whole argument,
tests/model/test_model.py checks it.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from datetime import datetime

from recovery.domain.ownership import RegionLease

Found = tuple[RegionLease, str] | None
"""What a read of a lease returns: the lease and its version, or None where there is none."""

DRIFT = 0.01
"""How far a host's clock may run from the truth: one part in a hundred, either way."""
DEMOTION = 1.0
"""Seconds within which guard or companion have ended every write after the deadline."""
RENEWALS_PER_TTL = 5
ATTEMPTS_KEPT = 32


def least_margin(ttl: float, demotion: float = DEMOTION) -> float:
    """Seconds beyond ``ttl`` that a watcher has to wait at least: what two clocks may differ by, and a demotion."""
    return (ttl + demotion) * ((1 + DRIFT) / (1 - DRIFT)) - ttl


@dataclass(frozen=True)
class Held:
    """The lease of the guard's own region, as far as its instance knows.

    ``serial`` is the greatest that was ever tried, ``version`` what the next write names, ``tried`` the renewals whose
    outcome is unknown with the time before they were sent. ``valid_from``: since when the lease held without a gap; a
    record that was read before that is too old to act on.
    """

    region: str
    instance: str
    ttl: float
    serial: int = 0
    version: str | None = None
    tried: tuple[tuple[int, float], ...] = ()
    deadline: float = -math.inf
    valid_from: float = math.inf
    lost: str | None = None  # a sentence: why this instance will never hold the lease again

    @classmethod
    def take(cls, region: str, instance: str, ttl: float, found: Found) -> Held:
        """A new instance over what stands there; ask ``may_take`` first. Nothing is held until a renewal is confirmed.

        Raises:
            ValueError: ``instance`` is the name that stands in the lease: a new instance needs a name never used.
        """
        if found is None:
            return cls(region, instance, ttl)
        lease, version = found
        if lease.instance == instance:
            raise ValueError(f"{instance} held this lease before: a new instance takes a name that was never used")
        return cls(region, instance, ttl, serial=lease.serial, version=version)

    def valid(self, now: float) -> bool:
        return self.lost is None and now < self.deadline

    def left(self, now: float) -> float:
        """Seconds that the lease still holds; 0.0 when it does not."""
        return max(0.0, self.deadline - now) if self.lost is None else 0.0

    def renewal_due(self, now: float) -> float:
        """Seconds until the next renewal is to be sent (0.0: now): a fifth of the ttl after the last attempt."""
        last = max((sent for _, sent in self.tried), default=self.deadline - self.ttl)
        return min(max(0.0, last + self.ttl / RENEWALS_PER_TTL - now), self.ttl / RENEWALS_PER_TTL)

    def renewal(self, now: float, at: datetime, *, released: bool = False) -> tuple[Held, RegionLease]:
        """What to write with ``version=held.version``. ``now`` is read BEFORE the write is sent.

        ``released``: the lease is given back. Only after everything of the region is demoted; from this moment on the
        instance holds nothing, whatever becomes of the write.

        Raises:
            ValueError: the lease is lost.
        """
        if self.lost is not None:
            raise ValueError(f"{self.instance} renews no more: {self.lost}")
        serial = self.serial + 1
        lease = RegionLease(
            region=self.region, instance=self.instance, serial=serial, ttl=self.ttl, released=released, changed_at=at
        )
        if released:
            given_back = replace(self, serial=serial, tried=(), deadline=-math.inf, lost="it was given back in order")
            return given_back, lease
        return replace(self, serial=serial, tried=(*self.tried, (serial, now))[-ATTEMPTS_KEPT:]), lease

    def confirmed(self, serial: int, version: str, now: float) -> Held:
        """The witness has the renewal ``serial``: it counts from when that was sent. ``now`` tells of a gap before."""
        if self.lost is not None:
            return self
        sent = next((sent for tried, sent in self.tried if tried == serial), None)
        if sent is None:
            return replace(self, version=version)  # older than what we keep: nothing is gained by it
        deadline = max(self.deadline, sent + self.ttl)
        gap = now >= self.deadline
        return replace(
            self,
            version=version,
            deadline=deadline,
            tried=tuple(attempt for attempt in self.tried if attempt[0] > serial),
            valid_from=now if gap else self.valid_from,
        )

    def seen(self, found: Found, now: float) -> Held:
        """What a read tells: after a conflict, after an unknown outcome, or before a renewal.

        A serial of ours confirms the attempt that carried it. An older one leaves the deadline as it is: the attempts
        that were sent may still arrive, so their serials are never used again. A lease that is gone was deleted by
        hand: the next renewal creates it.
        """
        if self.lost is not None:
            return self
        if found is None:
            return replace(self, version=None)
        lease, version = found
        if lease.instance != self.instance:
            if version == self.version:
                return self  # our first renewal has not arrived, or not yet
            return replace(self, tried=(), lost=f"the instance {lease.instance} took the lease of {self.region} over")
        if lease.broken_by is not None:
            return replace(self, tried=(), lost=f"{lease.broken_by} broke it")
        return self.confirmed(lease.serial, version, now)


def may_take(found: Found, watched: Watched, now: float, margin: float, dead: Collection[str] = ()) -> str | None:
    """None when a new instance may write itself into the lease of its own region, else the reason why not yet.

    Args:
        watched: the caller's own observation of that lease.
        dead: instances that cannot run any more: predecessors in the same state folder, whose exclusive lock we hold.
    """
    if found is None:
        return None
    lease, version = found
    if lease.broken_by is not None or lease.released or lease.instance in dead:
        return None
    if watched.version == version and watched.may_break(now, margin):
        return None
    wait = lease.ttl + max(margin, least_margin(lease.ttl)) - watched.unchanged_for(now)
    return (
        f"the instance {lease.instance} may still hold the lease of {lease.region}: "
        f"it has to stay unchanged for {wait:.1f} s more"
    )


@dataclass(frozen=True)
class Renewed:
    """The newest renewal of a lease that a watcher ever saw. It tells people and plans since when the holder is
    silent, and so which standby is recent enough; no lease is broken by it.

    A witness that was killed may know no lease for a moment, or an older one: that is no renewal. It may also tell only
    now of one that it got just before: so the holder's own stamps say how much later than the last one it was made,
    within what the reads allow.
    """

    lease: RegionLease
    at: float
    read: float  # when the newest read that returned it began

    @classmethod
    def after(cls, last: Renewed | None, lease: RegionLease, *, began: float, returned: float) -> Renewed:
        if last is None or last.lease.instance != lease.instance:
            return cls(lease, at=returned, read=began)
        if lease.serial < last.lease.serial:
            return last
        if lease.serial == last.lease.serial:
            return replace(last, read=began)
        passed = (lease.changed_at - last.lease.changed_at).total_seconds()
        return cls(lease, at=min(returned, max(last.read, last.at + passed)), read=began)


@dataclass(frozen=True)
class Watched:
    """The lease of a region as a watcher saw it. ``since``: when the first read returned this very version."""

    region: str
    lease: RegionLease | None = None
    version: str | None = None
    since: float = math.inf
    began: float = -math.inf  # of the newest read
    break_sent: str | None = None  # the version that a break of ours names: it may arrive at any time
    stood_for: float = 0.0  # seconds that the lease had not changed when it was broken, as far as we saw
    renewed: Renewed | None = field(default=None, compare=False)  # no lease is broken by it

    def read(self, found: Found, *, began: float, returned: float) -> Watched:
        """A read that began and returned at these times. One that began before the newest one we know says nothing."""
        if began < self.began:
            return self
        if found is None:
            return Watched(self.region, began=began, renewed=self.renewed)
        lease, version = found
        renewed = Renewed.after(self.renewed, lease, began=began, returned=returned)
        if version == self.version:
            return replace(self, began=began, renewed=renewed)
        # Another watcher may have broken a later renewal than the one that was seen here.
        known = self.lease is not None and (self.lease.instance, self.lease.serial) == (lease.instance, lease.serial)
        stood_for = began - self.since if lease.broken_by is not None and known else 0.0
        return Watched(
            self.region,
            lease,
            version,
            since=returned,
            began=began,
            stood_for=max(0.0, stood_for),
            renewed=renewed,
        )

    def unchanged_for(self, now: float) -> float:
        """Seconds that the lease has not changed as far as we know; 0.0 when it was never seen."""
        return max(0.0, now - self.since)

    def silent_for(self, now: float) -> float | None:
        """Seconds since the holder was last seen to renew; None when it never was."""
        return None if self.renewed is None else max(0.0, now - self.renewed.at)

    def over(self) -> bool:
        """The holder's lease has ended for good: broken, or given back. No time needs to pass any more."""
        return self.lease is not None and (self.lease.broken_by is not None or self.lease.released)

    def ended_by(self, margin: float) -> float:
        """When the holder of a lease that was broken, or given back, had ended every write, at the latest.

        The watcher saw the lease's last renewal ``stood_for`` before it saw the end.
        """
        ttl = self.lease.ttl if self.lease else 0.0
        return self.since - self.stood_for + ttl + max(margin, least_margin(ttl))

    def may_break(self, now: float, margin: float) -> bool:
        """Whether the holder's deadline is past for certain, if the version is still this one when the write arrives.

        Args:
            margin: seconds, as configured; never less is used than ``least_margin`` asks for.
        """
        if self.lease is None or self.over():
            return False
        return self.unchanged_for(now) >= self.lease.ttl + max(margin, least_margin(self.lease.ttl))

    def breaking(self, by: str, at: datetime) -> tuple[Watched, RegionLease]:
        """What to write with ``version=watched.version``: the holder's next renewal will fail by it.

        Raises:
            ValueError: nothing was seen that could be broken.
        """
        if self.lease is None or self.version is None or self.over():
            raise ValueError(f"there is no lease of {self.region} to break")
        broken = self.lease.model_copy(update={"broken_by": by, "changed_at": at})
        return replace(self, break_sent=self.version), broken

    def break_may_arrive(self) -> bool:
        """A break was sent and the lease was not seen to change since: its holder must be promised nothing."""
        return self.break_sent is not None and self.break_sent == self.version
