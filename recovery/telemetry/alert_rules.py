"""``monitoring.alerts`` as alerting rules of Prometheus (its documentation, "Alerting rules")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from recovery.config.operations import Alert

GROUP = "recovery"


@dataclass(frozen=True)
class Rule:
    """``expr`` has ``{threshold}`` where the configured one stands: seconds, or a count."""

    alert: str
    expr: str
    summary: str
    action: str
    after: str | None = None  # how long it must hold


def _increased(series: str, by: str) -> str:
    """Within a day. A counter that appears with its first count has no increase yet: its whole value counts."""
    return (
        f"sum by ({by}) (increase({series}[24h])) >= {{threshold}}\n"
        f"or sum by ({by}) (\n"
        f"  {series}\n"
        f"  unless {series} offset 24h\n"
        ") >= {threshold}\n"
    )


RULES = {
    "high_replication_lag": Rule(
        "HighReplicationLag",
        "max by (source, target) (dr_replication_lag_seconds) > {threshold}",
        "Replication from {{ $labels.source }} to {{ $labels.target }} is {{ $value | humanizeDuration }} behind",
        "Look at the target's load and the network between; a failover now would lose this much.",
        after="1m",
    ),
    "backup_failure": Rule(
        "BackupFailure",
        _increased('dr_backup_duration_seconds_count{status="failure"}', "type"),
        "{{ $value | humanize }} {{ $labels.type }} backups failed within a day",
        "drctl status shows the runs and their reasons.",
    ),
    "rto_violation": Rule(
        "RtoViolation",
        "max by (type) (dr_recovery_achieved_rto_seconds) > {threshold}",
        "In the last {{ $labels.type }} recovery the service was away for {{ $value | humanizeDuration }}",
        "drctl report shows where the time went.",
    ),
    "rpo_violation": Rule(
        "RpoViolation",
        'min by (group) ({__name__=~"dr_wal_archived_age_seconds|dr_last_valid_point_age_seconds"}) > {threshold}',
        "A recovery of {{ $labels.group }} from its backups now would lose {{ $value | humanizeDuration }}",
        "drctl wal status and drctl backup list show what there is; drctl backup run starts a backup.",
        after="1m",
    ),
    "validation_overdue": Rule(
        "ValidationTooOld",
        "min by (group, type) (dr_last_valid_point_age_seconds) > {threshold}",
        "{{ $labels.group }}: the newest valid {{ $labels.type }} point is {{ $value | humanizeDuration }} old",
        "drctl validate starts a validation; a recovery now would lose this much.",
        after="5m",
    ),
    "validation_failure": Rule(
        "ValidationFailure",
        _increased('dr_backup_validation_total{state!="VALID"}', "group, type"),
        "{{ $value | humanize }} {{ $labels.type }} recovery points of {{ $labels.group }} failed within a day",
        "drctl backup list shows the verdicts and their reasons.",
    ),
    "failover_failure": Rule(
        "FailoverFailure",
        _increased("dr_failover_errors_total", "reason"),
        "{{ $value | humanize }} changes of region did not complete within a day (at {{ $labels.reason }})",
        "drctl status shows where they stand and what may be chosen.",
    ),
}
"""By the alert's name in the configuration. ``drill_overdue`` has none: drills are not measured yet."""


def without_rule(alerts: Sequence[Alert]) -> list[str]:
    """Names of alerts that nothing is measured for yet."""
    return [alert.name for alert in alerts if alert.name not in RULES]


def rule_group(alerts: Sequence[Alert]) -> dict[str, Any]:
    """A group of rules as it stands in a rule file below ``groups``; alerts that have no rule are left out."""
    return {"name": GROUP, "rules": [_written(RULES[alert.name], alert) for alert in alerts if alert.name in RULES]}


def _written(rule: Rule, alert: Alert) -> dict[str, Any]:
    limit = alert.threshold.total_seconds() if isinstance(alert.threshold, timedelta) else alert.threshold
    found = {"alert": rule.alert, "expr": rule.expr.replace("{threshold}", f"{limit:g}")}
    if rule.after is not None:
        found["for"] = rule.after
    return {
        **found,
        "labels": {"severity": alert.severity, "name": alert.name},
        "annotations": {"summary": rule.summary, "action": rule.action},
    }
