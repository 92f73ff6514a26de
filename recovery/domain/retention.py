"""Which recovery points may go. Pure: it decides, others delete."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta

from pydantic import Field

from recovery.domain.base import Model
from recovery.domain.chains import BAD, bases_of, is_recoverable
from recovery.domain.group import RetentionRule
from recovery.domain.point_order import newest_first
from recovery.domain.recovery_point import RecoveryPoint

_PERIODS: dict[str, tuple[str, Callable[[datetime], str]]] = {
    "daily": ("day", lambda at: f"{at:%Y-%m-%d}"),
    "weekly": ("week", lambda at: f"{at:%G-W%V}"),  # ISO 8601
    "monthly": ("month", lambda at: f"{at:%Y-%m}"),
    "yearly": ("year", lambda at: f"{at:%Y}"),
}
"""Field of the rule -> what a period is called, and the name of the one (UTC) in which a moment lies."""


class RetentionPlan(Model):
    """Point ids, newest first, and why each of them stays or goes."""

    keep: list[str] = Field(default_factory=list)
    remove: list[str] = Field(default_factory=list)
    reasons: dict[str, str] = Field(default_factory=dict)


def plan_retention(points: Iterable[RecoveryPoint], rule: RetentionRule, now: datetime) -> RetentionPlan:
    """Applies the rule to each source (cluster, set of streams) and kind by itself.

    A point goes only when no part of the rule keeps it; a rule without parts keeps everything. The newest point, the
    newest validated and the newest not yet validated one always stay. Points known to be bad take none of the
    ``count`` places and stand for no day, week, month or year.

    ``days`` counts back from the newest point of the series, or from ``now`` where that is earlier; periods are counted
    where they have a point: when backups have stopped, or a clock is wrong, nothing expires. A period's last validated
    point stands for it, and where none is validated its last one.

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
    for members in series.values():
        needed: dict[str, str] = {}  # newest first: whatever builds on a point comes before it
        for point, reason in _judge(members, rule, now):
            if not reason and point.point_id in needed:
                reason = f"{needed[point.point_id]}, which is kept, builds on it"
            if reason:
                needed |= {base: point.point_id for base in bases_of(point) if base not in needed}
            reasons[point.point_id] = reason or _past(rule)
            (keep if reason else remove).append(point.point_id)
    return RetentionPlan(keep=keep, remove=remove, reasons=reasons)


def _judge(members: list[RecoveryPoint], rule: RetentionRule, now: datetime) -> list[tuple[RecoveryPoint, str]]:
    """Each point of one series, newest first, with the reason to keep it; an empty one when there is none."""
    seen = {point.point_id for point in members}
    valid = [point.point_id for point in members if point.is_valid]
    whole = [point.point_id for point in members if is_recoverable(point, seen)]  # a base may be at a silent location
    newest_valid = {*valid[:1], *whole[:1]}
    newest_unproven = next((point.point_id for point in members if not _proven(point)), None)
    reference = min(now, max(point.manifest.finished_at for point in members))
    periods = _kept_by_periods(members, rule)
    judged = []
    better = 0  # newer points that are not known to be bad
    for number, point in enumerate(members):
        if point.point_id in newest_valid:
            reason = "the newest validated point"
        elif number == 0:
            reason = "the newest point"
        elif point.point_id == newest_unproven:
            reason = "the newest point that is not validated yet"
        else:
            reason = _kept_by_rule(rule, better, reference - point.manifest.finished_at)
            reason = reason or periods.get(point.point_id, "")
        judged.append((point, reason))
        better += not _is_bad(point)
    return judged


def _kept_by_periods(members: Sequence[RecoveryPoint], rule: RetentionRule) -> dict[str, str]:
    """The points, newest first, that stand for a day, week, month or year, each with what it stands for."""
    kept: dict[str, str] = {}
    good = [point for point in members if not _is_bad(point)]
    for part, (word, name_of) in _PERIODS.items():
        standing: dict[str, RecoveryPoint] = {}
        for point in good:
            period = name_of(point.manifest.finished_at.astimezone(UTC))
            if period not in standing or (point.is_valid and not standing[period].is_valid):
                standing[period] = point
        for period in sorted(standing, reverse=True)[: getattr(rule, part) or 0]:
            kept.setdefault(standing[period].point_id, f"the last of the {word} {period}")
    return kept


def _kept_by_rule(rule: RetentionRule, better: int, age: timedelta) -> str:
    if all(value is None for _, value in rule):
        return "no retention is configured"
    if rule.count is not None and better < rule.count:
        return f"one of the last {rule.count}"
    if rule.days is not None and age <= timedelta(days=rule.days):
        return f"not older than {rule.days} days"
    return ""


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
