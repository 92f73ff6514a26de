"""Which recovery points may go. Pure: it decides, others delete."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial

from pydantic import Field

from recovery.domain.base import Model
from recovery.domain.chains import BAD, bases_of, is_recoverable
from recovery.domain.group import RetentionRule
from recovery.domain.point_order import newest_first
from recovery.domain.recovery_point import RecoveryPoint
from recovery.domain.search import SearchSource

_PERIODS: dict[str, tuple[str, Callable[[datetime], str]]] = {
    "daily": ("day", lambda at: f"{at:%Y-%m-%d}"),
    "weekly": ("week", lambda at: f"{at:%G-W%V}"),  # ISO 8601
    "monthly": ("month", lambda at: f"{at:%Y-%m}"),
    "yearly": ("year", lambda at: f"{at:%Y}"),
}
"""Field of the rule -> what a period is called, and the name of the one (UTC) in which a moment lies."""


_WRITTEN_WITHIN = timedelta(hours=1)
"""What two honest clocks, and the writing of a manifest, differ by at most."""


class RetentionPlan(Model):
    """Point ids, newest first, and why each of them stays or goes. ``warnings``: clocks that cannot both be right."""

    keep: list[str] = Field(default_factory=list)
    remove: list[str] = Field(default_factory=list)
    reasons: dict[str, str] = Field(default_factory=dict)
    warnings: list[str] = Field(default_factory=list)


def plan_retention(
    points: Iterable[RecoveryPoint], rule: RetentionRule, now: datetime, stored: Mapping[str, datetime]
) -> RetentionPlan:
    """Applies the rule to each source (cluster, set of streams) and kind by itself.

    A point goes only when no part of the rule keeps it; a rule without parts keeps everything. The newest point, the
    newest validated and the newest not yet validated one always stay. Points known to be bad take none of the
    ``count`` places and stand for no day, week, month or year.

    ``days`` counts back from the newest point of the series, or from ``now`` where that is earlier; periods are counted
    where they have a point: when backups have stopped, nothing expires. A period's last validated point stands for it,
    and where none is validated its last one.

    All of this is counted twice: by the end that each point names, which is its worker's clock, and by the time at
    which its location stored it (``stored``, by point id), which is the location's. What either keeps stays, so that no
    clock alone makes anything expire; a point that no location names a time for is kept where one is asked for. Of
    points that name a position in their source's history (an LSN, a sequence) that one says which are the newest, and a
    clock only which of two at the same position.

    What a kept incremental base backup builds on stays with it, whatever the rule says.

    Raises:
        ValueError: a part of the rule is negative.
    """
    negative = {name: value for name, value in rule if value is not None and value < 0}
    if negative:
        raise ValueError(f"retention cannot be negative: {negative}")
    series: defaultdict[tuple[str, str], list[RecoveryPoint]] = defaultdict(list)
    for point in newest_first(points):
        series[point.manifest.source.identity, point.manifest.kind.value].append(point)
    keep: list[str] = []
    remove: list[str] = []
    reasons: dict[str, str] = {}
    warnings: list[str] = []
    for members in series.values():
        needed: dict[str, str] = {}  # newest first: whatever builds on a point comes before it
        for point, reason in _judge(members, rule, now, stored):
            if not reason and point.point_id in needed:
                reason = f"{needed[point.point_id]}, which is kept, builds on it"
            if reason:
                needed |= {base: point.point_id for base in bases_of(point) if base not in needed}
            reasons[point.point_id] = reason or _past(rule)
            (keep if reason else remove).append(point.point_id)
        warnings += _ahead(members, stored)
    return RetentionPlan(keep=keep, remove=remove, reasons=reasons, warnings=warnings)


def _ahead(members: list[RecoveryPoint], stored: Mapping[str, datetime]) -> list[str]:
    """A copy may be younger than its point; nothing is stored before it ended."""
    ahead = [
        point
        for point in members
        if point.point_id in stored and point.manifest.finished_at - stored[point.point_id] > _WRITTEN_WITHIN
    ]
    if not ahead:
        return []
    ended, there = ahead[0].manifest.finished_at.astimezone(UTC), stored[ahead[0].point_id].astimezone(UTC)
    return [
        f"{len(ahead)} of {len(members)} {ahead[0].manifest.kind} points are stamped later than their location stored "
        f"them ({ahead[0].point_id}: {ended:%Y-%m-%d %H:%M} against {there:%Y-%m-%d %H:%M} UTC): the clock of the "
        "worker that took them, or of the location, is wrong. Nothing expires by either clock alone"
    ]


def _judge(
    members: list[RecoveryPoint], rule: RetentionRule, now: datetime, stored: Mapping[str, datetime]
) -> list[tuple[RecoveryPoint, str]]:
    """Each point of one series, newest first, with the reason to keep it; an empty one when there is none."""
    seen = {point.point_id for point in members}
    ended = {point.point_id: point.manifest.finished_at for point in members}
    by_time = any(value is not None for name, value in rule if name != "count")
    kept: dict[str, str] = {}
    if all(value is None for _, value in rule):
        kept = dict.fromkeys(seen, "no retention is configured")
    for point in members:
        if point.point_id not in stored and (by_time or (rule.count is not None and _position(point) is None)):
            kept[point.point_id] = "no location says when it was stored"
    there = {point_id: stored[point_id] for point_id in ended if point_id in stored}
    placed = [point for point in members if point.point_id in stored or _position(point) is not None]
    placed.sort(key=partial(_place, ended | there), reverse=True)
    by_location = _by_clock(placed, rule, now, there) | _by_order(placed, rule, seen)
    kept |= {point_id: f"{why} by the clock of its location" for point_id, why in by_location.items()}
    kept |= _by_clock(members, rule, now, ended) | _by_order(members, rule, seen)
    return [(point, kept.get(point.point_id, "")) for point in members]


def _place(times: Mapping[str, datetime], point: RecoveryPoint) -> tuple[int, int, float, str]:
    """Sorts points when these are their times: a position that no clock says comes first."""
    return (*(_position(point) or (-1, 0)), times[point.point_id].timestamp(), point.point_id)


def _position(point: RecoveryPoint) -> tuple[int, int] | None:
    """None: a clock says where in its source's history it stands, as the one of a search engine does."""
    source = point.manifest.source
    return None if isinstance(source, SearchSource) else source.position


def _by_order(members: Sequence[RecoveryPoint], rule: RetentionRule, seen: Collection[str]) -> dict[str, str]:
    """Of points, newest first, each that stays for its place in this order, whatever its age.

    Args:
        seen: the ids of all points of the series.
    """
    kept: dict[str, str] = {}
    better = 0  # newer points that are not known to be bad
    for point in members:
        if rule.count is not None and better < rule.count:
            kept[point.point_id] = f"one of the last {rule.count}"
        better += not _is_bad(point)
    unproven = [point.point_id for point in members if not _proven(point)]
    valid = [point.point_id for point in members if point.is_valid]
    whole = [point.point_id for point in members if is_recoverable(point, seen)]  # a base may be at a silent location
    kept |= dict.fromkeys(unproven[:1], "the newest point that is not validated yet")
    kept |= {point.point_id: "the newest point" for point in members[:1]}
    return kept | dict.fromkeys([*valid[:1], *whole[:1]], "the newest validated point")


def _by_clock(
    members: Sequence[RecoveryPoint], rule: RetentionRule, now: datetime, times: Mapping[str, datetime]
) -> dict[str, str]:
    """Of the points that ``times`` has, each that days and periods keep when these are the times of the points."""
    timed = [point for point in members if point.point_id in times]
    kept = _kept_by_periods(timed, rule, times)
    reference = min([now, max(times.values(), default=now)])
    for point in timed:
        if rule.days is not None and reference - times[point.point_id] <= timedelta(days=rule.days):
            kept[point.point_id] = f"not older than {rule.days} days"
    return kept


def _kept_by_periods(
    members: Sequence[RecoveryPoint], rule: RetentionRule, times: Mapping[str, datetime]
) -> dict[str, str]:
    """The points, newest first, that stand for a day, week, month or year, each with what it stands for."""
    kept: dict[str, str] = {}
    good = [point for point in members if not _is_bad(point)]
    for part, (word, name_of) in _PERIODS.items():
        standing: dict[str, RecoveryPoint] = {}
        for point in good:
            period = name_of(times[point.point_id].astimezone(UTC))
            if period not in standing or (point.is_valid and not standing[period].is_valid):
                standing[period] = point
        for period in sorted(standing, reverse=True)[: getattr(rule, part) or 0]:
            kept.setdefault(standing[period].point_id, f"the last of the {word} {period}")
    return kept


def _past(rule: RetentionRule) -> str:
    parts = []
    if rule.count is not None:
        parts.append(f"not one of the last {rule.count}")
    if rule.days is not None:
        parts.append(f"older than {rule.days} days")
    periods = [word for part, (word, _) in _PERIODS.items() if getattr(rule, part) is not None]
    if periods:
        parts.append(f"the last of no {' or '.join(periods)} that is kept")
    return " and ".join(parts)


def _is_bad(point: RecoveryPoint) -> bool:
    return point.verdict is not None and point.verdict.state in BAD


def _proven(point: RecoveryPoint) -> bool:
    return point.is_valid or _is_bad(point)
