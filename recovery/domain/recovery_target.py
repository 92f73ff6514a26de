"""Which moment a recovery goes to, and from which recovery point along which timelines it gets there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from pydantic import Field, model_validator

from recovery.domain.base import Asked, Model
from recovery.domain.timelines import History, lsn_order, lsn_text
from recovery.domain.wal_archive import Branch, Stretch, WalRange, contiguous_end
from recovery.errors import BadInput, NotFound, Refused, SeveralTimelines

MOST_NAMED = 6  # windows in a sentence


class RecoveryTarget(Asked):
    """Exactly one of ``time``, ``lsn``, ``xid``, ``name`` and ``latest``.

    ``time`` (with an offset): every commit until then. ``lsn``: all WAL before this position. ``xid``: up to the commit
    of this transaction; ``name``: up to a restore point that ``pg_create_restore_point`` made. ``timeline``: by its
    number, where several were promoted from one, or an older one is wanted.
    """

    time: datetime | None = None
    lsn: str | None = None
    xid: int | None = Field(None, ge=3)
    name: str | None = Field(None, min_length=1, max_length=63)
    latest: bool = False
    timeline: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _one(self) -> RecoveryTarget:
        given = [self.time is not None, self.lsn is not None, self.xid is not None, self.name is not None, self.latest]
        if sum(given) != 1:
            raise ValueError("expected exactly one of time, lsn, xid, name and latest")
        if self.time is not None and self.time.utcoffset() is None:
            raise ValueError(f"expected a time with its offset, for example {self.time.isoformat()}Z")
        if self.lsn is not None:
            try:
                lsn_order(self.lsn)
            except BadInput as error:
                raise ValueError(str(error)) from None
        return self

    def __str__(self) -> str:
        if self.time is not None:
            return f"time {self.time:%Y-%m-%d %H:%M:%S.%f%z}"
        if self.lsn is not None:
            return f"LSN {self.lsn}"
        if self.xid is not None:
            return f"transaction {self.xid}"
        return f"restore point {self.name!r}" if self.name is not None else "the latest archived WAL"

    @property
    def must_be_met(self) -> bool:
        """Whether PostgreSQL has to find the target itself: what was archived does not tell whether it is there."""
        return self.xid is not None or self.name is not None


class Window(Model):
    """What can be reached from one recovery point along one lineage.

    ``forks``: (timeline, LSN at which it was left) of the ancestors, oldest first, and ``fork_times`` when that was.
    ``first`` is where the point ends, ``last`` where the archived WAL that follows it without a gap does; the times are
    those of both.
    """

    system_identifier: str
    point_id: str
    point_timeline: int
    timeline: int
    forks: list[tuple[int, str]] = Field(default_factory=list)
    fork_times: list[datetime | None] = Field(default_factory=list)
    first: str
    first_time: datetime
    last: str
    last_time: datetime | None = None
    validated: bool = True

    @property
    def branch(self) -> Branch:
        return Branch(self.timeline, tuple((number, lsn_order(left)) for number, left in self.forks))

    @property
    def span(self) -> WalRange:
        return WalRange(lsn_order(self.first), lsn_order(self.last))

    def __str__(self) -> str:
        until = f" ({self.last_time:%Y-%m-%d %H:%M:%S} UTC)" if self.last_time is not None else ""
        return (
            f"timeline {self.timeline} from {self.first} ({self.first_time:%Y-%m-%d %H:%M:%S} UTC, {self.point_id}) "
            f"to {self.last}{until}"
        )


class ChosenRecovery(Model):
    """How a run gets to its target: nothing at or after ``until`` (LSN) is read.

    ``timeline`` and ``forks`` are those of the branch that holds the target.
    """

    target: RecoveryTarget
    system_identifier: str
    timeline: int
    forks: list[tuple[int, str]] = Field(default_factory=list)
    until: str
    start: str  # the point's stop LSN: no target lies before it

    @property
    def branch(self) -> Branch:
        return Branch(self.timeline, tuple((number, lsn_order(left)) for number, left in self.forks))


class ReachedPoint(Model):
    """Where a recovery ended: the last LSN that it replayed, on which timeline, and on which one it goes on.

    ``at_end_of_wal``: it was given no more, and found no target of PostgreSQL's own.
    """

    timeline: int
    lsn: str
    new_timeline: int
    last_commit_at: datetime | None = None
    at_end_of_wal: bool = False

    def __str__(self) -> str:
        commit = f", last commit at {self.last_commit_at:%Y-%m-%d %H:%M:%S.%f} UTC" if self.last_commit_at else ""
        return f"timeline {self.timeline}, {self.lsn}{commit}; goes on with timeline {self.new_timeline}"


def farthest(ranges: Iterable[Sequence[WalRange]], start: int, unit: int) -> int:
    """How far a recovery gets from ``start`` with what several locations have, each its own ranges.

    Files are taken whole from one location or another: the first is needed from its begin, and where a location ends,
    the next must have that file from its begin. ``unit``: a file's size in bytes.
    """
    locations = list(ranges)
    position = start
    while True:
        begin = position - position % unit
        reached = max((contiguous_end(each, begin) for each in locations), default=start)
        if reached <= position:
            return position
        position = reached


def choose(target: RecoveryTarget, windows: Sequence[Window]) -> tuple[Window, ChosenRecovery]:
    """The window that gets to the target with the least WAL to replay, and how.

    Raises:
        NotFound: there is no window at all.
        Refused: it lies outside of all windows, which are named. SeveralTimelines: more than one could be meant.
    """
    if not windows:
        raise NotFound(
            f"{target} cannot be reached: no validated physical recovery point lies within archived WAL. Take one with "
            "drctl backup run --kind physical, and see drctl wal status"
        )
    newest = windows[0].system_identifier
    candidates = [each for each in windows if each.system_identifier == newest]
    if target.timeline is not None:
        candidates = [each for each in candidates if each.timeline == target.timeline]
        if not candidates:
            known = ", ".join(sorted({str(each.timeline) for each in windows}))
            raise Refused(f"timeline {target.timeline} cannot be reached from any recovery point; known: {known}")
    reaching = [each for each in candidates if _reaches(each, target)]
    if not reaching:
        raise Refused(f"{target} lies outside of what can be reached: {_listed(candidates)}")
    branches = {_stretch(target, each).branch: each for each in reaching}
    if len(branches) > 1:
        raise SeveralTimelines(
            f"{target} exists on several timelines ({_listed(list(branches.values()))}): say which with --timeline, or "
            "name a recovery point of it with --point",
            [branch.timeline for branch in branches],
        )
    window = max(reaching, key=lambda each: each.span)
    return window, _chosen(target, window)


def likeliest(timelines: Sequence[int], lineage: str | None) -> tuple[int, str]:
    """Which of several timelines a group means that nobody can be asked about, and why.

    Args:
        lineage: of the group's owner (see ``recovery.domain.timelines``), as last seen; it may be older than the WAL.
    """
    try:
        present = History.parse(lineage).timeline if lineage else None
    except BadInput:  # a later version's
        present = None
    if present is not None and present in timelines:
        return present, "which the group is on"
    return max(timelines), "which was begun last"


def _reaches(window: Window, target: RecoveryTarget) -> bool:
    if target.lsn is not None:
        return window.span.start <= lsn_order(target.lsn) <= window.span.end
    if target.time is not None:
        return window.first_time <= target.time and window.last_time is not None and target.time <= window.last_time
    return True


def _stretch(target: RecoveryTarget, window: Window) -> Stretch:
    """The part of the lineage in which the target lies.

    PostgreSQL writes the timeline that it was told to follow into the history of the one that it begins, wherever it
    ended: with a descendant of the right one that history would be wrong.
    """
    stretches = window.branch.stretches()
    if target.lsn is not None:
        return window.branch.stretch_at(lsn_order(target.lsn) - 1)
    if target.time is not None:
        for stretch, left_at in zip(stretches, window.fork_times, strict=False):
            if left_at is not None and target.time <= left_at:
                return stretch
    return stretches[-1]


def _chosen(target: RecoveryTarget, window: Window) -> ChosenRecovery:
    stretch, until = _stretch(target, window), lsn_order(window.last)
    branch = stretch.branch
    if target.lsn is not None:
        until = lsn_order(target.lsn)
    elif stretch.left_at is not None:
        until = min(until, stretch.left_at)
    return ChosenRecovery(
        target=target,
        system_identifier=window.system_identifier,
        timeline=branch.timeline,
        forks=[(number, lsn_text(left)) for number, left in branch.forks],
        until=lsn_text(until),
        start=window.first,
    )


def _listed(windows: Sequence[Window]) -> str:
    """One line per timeline: the widest windows, newest timelines first."""
    widest: dict[tuple[int, str], Window] = {}
    for window in sorted(windows, key=lambda each: each.span.start, reverse=True):
        widest[window.timeline, window.last] = window
    shown = sorted(widest.values(), key=lambda each: (each.timeline, each.span), reverse=True)
    more = f"; and {len(shown) - MOST_NAMED} more" if len(shown) > MOST_NAMED else ""
    return "; ".join(str(each) for each in shown[:MOST_NAMED]) + more
