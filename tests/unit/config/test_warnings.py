"""What is allowed and yet unwise is said, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from recovery.config import Config
from recovery.config.warnings import EXAMPLE_RECIPIENTS

Spoil = Callable[..., str]
KEY = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"
OTHER = "age10873tnrr3v6udeajj25cknyrspjkue8dqrry47389hurcdk7p38qxdqljx"
ESCROW = "age17pa4tygjnqp5dz8fuqyl6y52n42xturm596wzjfk57e6wrajqpcsw7qecs"


def _warned(text: str, key: str) -> list[str]:
    return [warning for warning in Config.parse(text).warnings() if warning.startswith(key)]


def test_six_hourly_backups_alone_cannot_meet_five_minutes(minimal: str, spoiled: Spoil) -> None:
    (warning,) = _warned(minimal, "groups.shop.backup.schedule")
    assert "backups 6 h apart cannot meet the RPO of 5 min of tier critical" in warning
    assert "set replication.mode to streaming" in warning
    assert not _warned(
        spoiled(("backup:\n", "replication: {mode: streaming}\n    backup:\n")), "groups.shop.backup.schedule"
    )
    assert not _warned(
        spoiled(("tier: critical", "tier: low"), ("backup:\n", "backup:\n      schedule: '0 */4 * * *'\n")),
        "groups.shop.backup",
    )


CASES = [
    pytest.param("tier: critical", "tier: critical", "keys.recipients", "only one key", id="one recipient"),
    pytest.param(
        'trusted_signers: ["ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="]',
        "trusted_signers: []",
        "keys.trusted_signers",
        "can forge a point",
        id="no signer",
    ),
    pytest.param(
        "http://127.0.0.1:8300",
        "http://127.0.0.1:8302",
        "witness",
        "same server or bucket as location store-b",
        id="witness on a store",
    ),
    pytest.param(
        "locations: [store-a, store-b]",
        "locations: [store-a]",
        "groups.shop.backup.locations",
        "only store-a",
        id="one location",
    ),
    pytest.param(
        "in_region: region-b",
        "in_region: region-a",
        "groups.shop.backup.locations",
        "lost with one region",
        id="locations in one region",
    ),
    pytest.param(
        "backup:\n",
        "backup:\n      enabled: false\n",
        "groups.shop.backup.enabled",
        "nothing protects",
        id="nothing at all",
    ),
    pytest.param(
        "backup:\n",
        "backup:\n      validation: {enabled: false}\n",
        "groups.shop.backup.validation.enabled",
        "switch it on",
        id="no validation",
    ),
    pytest.param(
        "tier: critical",
        "tier: critical\n    failover: {policy: automatic}",
        "groups.shop.failover",
        "three vantage points",
        id="two vantage points",
    ),
    pytest.param(
        "tier: critical",
        "tier: critical\n    replication: {mode: streaming, max_lag_seconds: 600}",
        "groups.shop.replication.max_lag_seconds",
        "10 min of lag is more than the RPO of 5 min",
        id="too much lag",
    ),
    pytest.param(
        "tier: critical",
        "tier: critical\n    replication: {replicas: [{name: late, region: region-b, lag_threshold: 1h}]}",
        "groups.shop.replication.replicas[0].lag_threshold",
        "misses the tier's RPO",
        id="late replica",
    ),
    pytest.param(
        "tier: critical",
        "tier: critical\n    replication: {replicas: [{name: near, region: region-ab, priority: 100}]}",
        "groups.shop.replication.replicas[0].region",
        "nothing fails over to it; add it to regions with site: region-a",
        id="a local replica without a place",
    ),
    pytest.param(
        "severities: [info, warning, critical]",
        "severities: [info]",
        "notifications.channels.webhook",
        "critical events",
        id="nobody for critical",
    ),
    pytest.param(
        "tier: critical", "tier: low", "tiers.low.rpo", "4 h is more than targets.rpo promises", id="beyond the targets"
    ),
    pytest.param(
        "tier: critical",
        "tier: critical\n    budgets: {full-recovery: {restore-database: 10m, verify-data: 6m}}",
        "groups.shop.budgets.FullRecovery",
        "16 min together, and the RTO of tier critical is 15 min",
        id="budgets beyond the RTO",
    ),
]


@pytest.mark.parametrize(("old", "new", "key", "said"), CASES)
def test_what_is_unwise_is_said(spoiled: Spoil, old: str, new: str, key: str, said: str) -> None:
    assert any(said in warning for warning in _warned(spoiled((old, new)), key)), Config.parse(
        spoiled((old, new))
    ).warnings()


def test_a_service_of_another_tier(spoiled: Spoil) -> None:
    text = spoiled(
        ("groups:\n", "tiers:\n  critical: {rto: 15m, rpo: 5m}\n  low: {rto: 4h, rpo: 1h, services: [shop]}\ngroups:\n")
    )
    assert _warned(text, "groups.shop.services") == [
        "groups.shop.services: shop belongs to tier low, and the group has tier critical"
    ]


def test_budgets_that_fit_and_those_of_backups_are_no_concern(spoiled: Spoil) -> None:
    budgets = "budgets: {full-recovery: {restore-database: 10m}, backup: {write-points: 9h}}"
    assert not _warned(spoiled(("tier: critical", f"tier: critical\n    {budgets}")), "groups.shop.budgets")


def test_the_plans_own_budgets_count_where_they_are_known(minimal: str) -> None:
    config = Config.parse(minimal)
    asked: list[dict[str, float]] = []

    def critical_paths(budgets: dict[str, float]) -> dict[str, timedelta]:
        asked.append(budgets)
        return {"FullRecovery": timedelta(minutes=40), "Switchover": timedelta(minutes=2)}

    warnings = [text for text in config.warnings(critical_paths) if ".budgets." in text]
    assert warnings == [
        "groups.shop.budgets.FullRecovery: its steps may take 40 min together, and the RTO of tier critical is "
        "15 min; shorten the longest budgets, or choose another tier"
    ]
    assert asked == [{}]


def test_a_careful_configuration_is_not_warned_of(spoiled: Spoil) -> None:
    assert KEY in EXAMPLE_RECIPIENTS
    text = spoiled(
        (f"[{KEY}]", f'["{OTHER}", "{ESCROW}"]'),
        ("tier: critical", "tier: critical\n    replication: {mode: streaming}"),
    )
    assert Config.parse(text).warnings() == []
