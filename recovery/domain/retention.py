"""Which recovery points may go. Pure: it decides, others delete."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime, timedelta

from pydantic import Field

from recovery.domain.base import Model
from recovery.domain.group import RetentionRule
from recovery.domain.point_order import newest_first
from recovery.domain.recovery_point import RecoveryPoint, VerdictState

_BAD = {VerdictState.CORRUPT, VerdictState.RESTORE_FAILED}


class RetentionPlan(Model):
    """Point ids, newest first, and why each of them stays or goes."""

    keep: list[str] = Field(default_factory=list)
    remove: list[str] = Field(default_factory=list)
    reasons: dict[str, str] = Field(default_factory=dict)


def plan_retention(points: Iterable[RecoveryPoint], rule: RetentionRule, now: datetime) -> RetentionPlan:
    """Applies the rule to each source (system identifier) and kind by itself.

    A point goes only when neither ``count`` nor ``days`` keeps it; a rule with neither keeps everything. The newest
    point, the newest validated and the newest not yet validated one always stay. Points known to be bad take none of
    the ``count`` places.

    ``days`` counts back from the newest point of the series, or from ``now`` where that is earlier: when backups
    have stopped, or a clock is wrong, nothing expires.

    Raises:
        ValueError: ``count`` or ``days`` is negative.
    """
    if (rule.count or 0) < 0 or (rule.days or 0) < 0:
        raise ValueError(f"retention cannot be negative: count {rule.count}, days {rule.days}")
    series: defaultdict[tuple[str, str], list[RecoveryPoint]] = defaultdict(list)
    for point in newest_first(points):
        series[point.manifest.source.system_identifier, point.manifest.kind.value].append(point)
    keep: list[str] = []
    remove: list[str] = []
    reasons: dict[str, str] = {}
    for members in series.values():
        for point, reason in _judge(members, rule, now):
            reasons[point.point_id] = reason or _past(rule)
            (keep if reason else remove).append(point.point_id)
    return RetentionPlan(keep=keep, remove=remove, reasons=reasons)


def _judge(members: list[RecoveryPoint], rule: RetentionRule, now: datetime) -> list[tuple[RecoveryPoint, str]]:
    """Each point of one series, newest first, with the reason to keep it; an empty one when there is none."""
    newest_valid = next((point.point_id for point in members if point.is_valid), None)
    newest_unproven = next((point.point_id for point in members if not _proven(point)), None)
    reference = min(now, max(point.manifest.finished_at for point in members))
    judged = []
    better = 0  # newer points that are not known to be bad
    for number, point in enumerate(members):
        if point.point_id == newest_valid:
            reason = "the newest validated point"
        elif number == 0:
            reason = "the newest point"
        elif point.point_id == newest_unproven:
            reason = "the newest point that is not validated yet"
        else:
            reason = _kept_by_rule(rule, better, reference - point.manifest.finished_at)
        judged.append((point, reason))
        better += not _is_bad(point)
    return judged


def _kept_by_rule(rule: RetentionRule, better: int, age: timedelta) -> str:
    if rule.count is None and rule.days is None:
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
    return " and ".join(parts)


def _is_bad(point: RecoveryPoint) -> bool:
    return point.verdict is not None and point.verdict.state in _BAD


def _proven(point: RecoveryPoint) -> bool:
    return point.is_valid or _is_bad(point)
