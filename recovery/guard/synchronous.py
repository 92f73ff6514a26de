"""The strength ``synchronous``: who acknowledges commits, what that proves, and in which order it changes. Pure.

The record's ``acknowledging`` set (W of N members) is a promise about every commit that was acknowledged since the
record says so: at least W of these N members have it on their disks. A promotion trusts the record alone.

**What it proves** (``judge``): N - W + 1 members that confirmed to receive nothing more leave the old primary at most
W - 1, so nothing is acknowledged any more; and every W members have one of them in common, so the most advanced of
these holds everything that ever was. Whoever is promoted has to have as much as that one.

**How it changes** (``next_change``): at every instant what PostgreSQL waits for must imply what the record claims
(``implies``). So weakening writes the record first and PostgreSQL second. Strengthening waits until the members stream,
sets PostgreSQL, waits until W of them acknowledge and have all that was written before that (commits that nobody
waited for), and writes the record last. A record that claims more than PostgreSQL does, because somebody changed the
server, is taken back at once.

**Where the guard calls it**: ``Acknowledging.keep`` (recovery/guard/acknowledging.py) once per look at a group that is
primary here. A promotion and an adoption start with a record that claims nothing (``decisions``), because the set of a
new primary is empty.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from recovery.domain.ownership import AcknowledgingSet

ENOUGH = frozenset({"on", "remote_apply"})
"""Values of ``synchronous_commit`` under which an acknowledged commit is on the members' disks."""


class OnStandbyLoss(StrEnum):
    """What happens to commits when fewer than W members are left."""

    WAIT = "wait"  # they wait for the members to come back
    WEAKEN = "weaken"  # the record gives the claim up, then they go on


@dataclass(frozen=True)
class Receiver:
    """One connection that receives WAL: a line of ``pg_stat_replication``."""

    name: str  # application_name
    user: str
    streaming: bool  # caught up and streaming, as PostgreSQL says
    replays: bool  # it reports what it replayed: a standby; an archiver never does
    flushed: int  # bytes of WAL that it has on its disk
    acknowledges: bool = False  # its sender knows that it belongs to the set (sync_state is sync or quorum)


@dataclass(frozen=True)
class Weaker:
    """A stored setting of ``synchronous_commit`` under which commits do not wait as long as the set asks."""

    value: str
    role: str | None = None
    database: str | None = None
    source: str = ""  # of a setting of the whole server: the file or "the command line"

    def sentence(self) -> str:
        """Where it is set, as a person looks for it."""
        role = f"role {self.role}" if self.role else ""
        database = f"database {self.database}" if self.database else ""
        where = " in ".join(place for place in (role, database) if place) or f"the whole server ({self.source})"
        return f"synchronous_commit is {self.value} for {where}"


@dataclass(frozen=True)
class Observed:
    """What a primary says. ``names``: ``synchronous_standby_names`` as it is in effect."""

    names: str
    position: int = 0  # bytes of WAL written now
    receivers: Sequence[Receiver] = ()
    weaker: Sequence[Weaker] = ()
    fsync: bool = True


def parse_names(names: str) -> AcknowledgingSet | None:
    """What ``synchronous_standby_names`` waits for; None for nothing, and for ``*``, which any name satisfies.

    ``FIRST W (...)`` waits for W of its members too: fewer ways than ``ANY``, the same claim.

    Raises:
        ValueError: it is none of the forms that PostgreSQL knows.
    """
    text = names.strip()
    found = re.fullmatch(r"(?:(?:ANY|FIRST)\s+)?(\d+)\s*\((.*)\)", text, re.IGNORECASE | re.DOTALL)
    wait_for, inner = (int(found[1]), found[2]) if found else (1, text)
    members: list[str] = []
    rest = inner.strip()
    while rest:
        one = re.match(r'\s*(?:"((?:[^"]|"")*)"|([^\s,"()]+))\s*(?:,|$)', rest)
        if one is None:
            raise ValueError(f"synchronous_standby_names is {names!r}, which no version of PostgreSQL takes")
        members.append(one[1].replace('""', '"') if one[1] is not None else one[2])
        if one[2] == "*":
            return None
        rest = rest[one.end() :]
    return AcknowledgingSet(members=members, wait_for=wait_for) if members else None


def implies(server: AcknowledgingSet | None, claimed: AcknowledgingSet | None) -> bool:
    """Whether every commit that ``server`` acknowledges is one that ``claimed`` promises.

    Of any W members that acknowledged, at most as many are strangers to the claim as the server's set has strangers.
    """
    if claimed is None:
        return True
    if server is None:
        return False
    strangers = len(_names(server) - _names(claimed))
    return min(server.wait_for, len(_names(server))) - strangers >= claimed.wait_for


def least_stopped(acknowledging: AcknowledgingSet) -> int:
    """How many members have to confirm that they receive nothing more: N - W + 1."""
    return len(_names(acknowledging)) - acknowledging.wait_for + 1


def missing(acknowledging: AcknowledgingSet | None, stopped: Collection[str]) -> str | None:
    """None when the members that ``stopped`` receiving prove zero loss, else a sentence what is missing."""
    if acknowledging is None:
        return "the record names no acknowledging set"
    there = _names(acknowledging) & {name.casefold() for name in stopped}
    needed = least_stopped(acknowledging)
    if acknowledging.wait_for < 1 or len(there) >= needed:
        return None if acknowledging.wait_for >= 1 else "the record's set waits for nobody"
    of = ", ".join(acknowledging.members)
    return f"{len(there)} of {of} confirmed that they receive nothing more, {needed} have to"


@dataclass(frozen=True)
class Proven:
    """Whoever has everything up to ``position`` (bytes of WAL) lacks no acknowledged commit."""

    position: int


@dataclass(frozen=True)
class CatchUp:
    """Enough members stopped; the one to be promoted has to get what ``member`` has, up to ``position``, first."""

    member: str
    position: int


@dataclass(frozen=True)
class Unproven:
    reason: str


def judge(
    acknowledging: AcknowledgingSet | None, stopped: Mapping[str, int], own: int | None
) -> Proven | CatchUp | Unproven:
    """What the members that stopped prove for a promotion.

    Args:
        stopped: member -> position (bytes of WAL) of those that confirmed, read AFTER they stopped. Names that are no
            members' prove nothing.
        own: position of the one that is to be promoted, a member or not, after it stopped; None: not known.
    """
    if (reason := missing(acknowledging, stopped)) is not None:
        return Unproven(reason)
    assert acknowledging is not None
    there = {name: order for name, order in stopped.items() if name.casefold() in _names(acknowledging)}
    ahead, best = max(there.items(), key=lambda entry: entry[1])
    return Proven(best) if own is not None and own >= best else CatchUp(ahead, best)


def voids(observed: Observed, claimed: AcknowledgingSet | None) -> list[str]:
    """Why the claim does not hold although the sets agree, one sentence each; empty when it holds.

    What a session sets for itself (``SET synchronous_commit``) cannot be seen from outside, and every role may do it:
    its own commits then have no promise, which the manual says.
    """
    if claimed is None:
        return []
    members = _names(claimed)
    found = [weak.sentence() for weak in observed.weaker]
    if not observed.fsync:
        found.append("fsync is off: what is acknowledged may not be on a disk")
    mine = [one for one in observed.receivers if one.name.casefold() in members]
    for name in sorted({one.name.casefold() for one in mine}):
        same = [one for one in mine if one.name.casefold() == name]
        if len(same) > 1:
            found.append(f"{len(same)} connections call themselves {name}: each acknowledges in its name")
    found += [
        f"{one.name} replays nothing: an archiver acknowledges in a member's name"
        for one in mine
        if one.streaming and not one.replays
    ]
    for user in sorted({one.user for one in mine}):
        names = sorted({one.name for one in observed.receivers if one.user == user})
        if len(names) > 1:
            found.append(f"{', '.join(names)} share the credentials of {user}: each could take the other's name")
    return found


def wanted(configured: AcknowledgingSet, alive: Collection[str], policy: OnStandbyLoss) -> AcknowledgingSet | None:
    """The set to aim at with these members receiving; None: commits wait for nobody.

    A weakened set names the members that are left alone, so that these can prove zero loss among themselves.
    """
    there = {name.casefold() for name in alive}
    left = [name for name in configured.members if name.casefold() in there]
    if policy is OnStandbyLoss.WAIT or len(left) >= configured.wait_for:
        return configured
    return AcknowledgingSet(members=left, wait_for=len(left)) if left else None


@dataclass(frozen=True)
class WriteRecord:
    """Compare-and-swap this set into the record."""

    acknowledging: AcknowledgingSet | None
    reason: str


@dataclass(frozen=True)
class SetServer:
    """Set PostgreSQL to wait for this set. It shows as done when ``Observed.names`` says so."""

    acknowledging: AcknowledgingSet | None
    reason: str


@dataclass(frozen=True)
class Keep:
    """Nothing to change now; ``waiting_for`` says what would have to come first."""

    waiting_for: str | None = None


def next_change(
    record: AcknowledgingSet | None,
    server: AcknowledgingSet | None,
    target: AcknowledgingSet | None,
    receivers: Sequence[Receiver],
    void: Sequence[str] = (),
    *,
    floor: int | None,
) -> WriteRecord | SetServer | Keep:
    """The next step from what is to ``target``; call it again after each, with what was then read.

    Args:
        record: the set that the record claims; ``server``: what PostgreSQL waits for now.
        void: reasons from ``voids`` against claiming ``target``.
        floor: bytes of WAL written when PostgreSQL was first seen to wait for ``server``; None: only now.
    """
    if not implies(server, record):
        return WriteRecord(None, "PostgreSQL waits for less than the record claims")
    if void and record is not None:
        return WriteRecord(None, void[0])
    if same(server, target):
        if same(record, target) or void:
            return Keep(void[0] if void else None)
        behind = _behind(target, receivers, floor)
        return Keep(behind) if behind else WriteRecord(target, "all commits wait for this set")
    if implies(target, record):
        ready = _count(target, [one for one in receivers if one.streaming and one.replays])
        if target is not None and ready < target.wait_for and not implies(server, target):
            return Keep(f"{ready} of {', '.join(target.members)} stream, {target.wait_for} have to")
        return SetServer(target, "the set is changed")
    if implies(server, target):
        return WriteRecord(target, "the set is weakened: the record first")
    return WriteRecord(None, "the set is exchanged: nothing is claimed meanwhile")


def same(one: AcknowledgingSet | None, other: AcknowledgingSet | None) -> bool:
    """Whether both name the same members and wait for as many."""
    if one is None or other is None:
        return one is other
    return _names(one) == _names(other) and one.wait_for == other.wait_for


def _behind(target: AcknowledgingSet | None, receivers: Sequence[Receiver], floor: int | None) -> str | None:
    """Why the record cannot claim ``target`` yet although PostgreSQL waits for it."""
    if target is None:
        return None
    if floor is None:
        return "PostgreSQL waits for this set only now"
    ready = _count(target, [one for one in receivers if one.acknowledges and one.replays and one.flushed >= floor])
    if ready >= target.wait_for:
        return None
    return f"{ready} of {', '.join(target.members)} have what was written before, {target.wait_for} have to"


def _count(target: AcknowledgingSet | None, receivers: Sequence[Receiver]) -> int:
    return len({one.name.casefold() for one in receivers} & _names(target)) if target is not None else 0


def _names(acknowledging: AcknowledgingSet) -> set[str]:
    """PostgreSQL compares application names without their case."""
    return {name.casefold() for name in acknowledging.members}
