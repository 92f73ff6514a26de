"""recovery.example.yaml has every key that exists, and every key and value of the two documents it grew from."""

from __future__ import annotations

from typing import Any

import pytest

from drctl.config import key_lines
from recovery.config import Config
from recovery.config.values import cron, duration
from recovery.config.yaml_source import read_document

PLATFORM, SHOP = "groups.platform", "groups.shop"
DEFAULTS = "defaults"

# First document: disaster recovery and business continuity of a platform in three regions.
FIRST: list[tuple[str, Any]] = [
    ("tiers.critical.rto", "15min"),
    ("tiers.critical.rpo", "5min"),
    ("tiers.critical.services", ["auth", "payments", "core-api"]),
    ("tiers.standard.rto", "1hour"),
    ("tiers.standard.rpo", "30min"),
    ("tiers.standard.services", ["analytics", "reporting"]),
    ("tiers.low.rto", "4hours"),
    ("tiers.low.rpo", "4hours"),
    ("tiers.low.services", ["batch-jobs", "maintenance"]),
    (f"{PLATFORM}.postgres.major", 16),
    ("locations.backup-primary.url", "s3://backup-primary/"),
    ("locations.backup-primary.storage_class", "GLACIER_IR"),
    ("locations.backup-primary.versioning", "required"),
    ("locations.backup-secondary.url", "s3://backup-secondary/"),
    ("regions.us-east-1.role", "primary"),
    ("regions.us-east-1.endpoints.postgres", "postgres-primary.us-east-1.rds.amazonaws.com"),
    ("regions.us-east-1.endpoints.nats", "nats-cluster-us-east-1.example.com"),
    ("regions.us-east-1.endpoints.redis", "redis-primary.us-east-1.cache.amazonaws.com"),
    ("regions.us-east-1.health_urls[0]", "https://primary.example.com/health"),
    ("regions.us-east-1.health_urls[1]", "https://api.example.com/health"),
    ("regions.eu-west-1.role", "secondary"),
    ("regions.eu-west-1.endpoints.postgres", "postgres-replica.eu-west-1.rds.amazonaws.com"),
    ("regions.eu-west-1.endpoints.nats", "nats-cluster-eu-west-1.example.com"),
    ("regions.eu-west-1.endpoints.redis", "redis-replica.eu-west-1.cache.amazonaws.com"),
    ("regions.us-west-2.role", "dr"),
    ("regions.us-west-2.endpoints.postgres", "postgres-dr.us-west-2.rds.amazonaws.com"),
    ("regions.us-west-2.endpoints.nats", "nats-cluster-us-west-2.example.com"),
    ("regions.us-west-2.endpoints.redis", "redis-dr.us-west-2.cache.amazonaws.com"),
    (f"{DEFAULTS}.replication.mode", "streaming"),
    (f"{DEFAULTS}.replication.max_wal_senders", 10),
    (f"{DEFAULTS}.replication.wal_level", "replica"),
    (f"{DEFAULTS}.replication.hot_standby", True),
    (f"{DEFAULTS}.replication.archive_mode", "on"),
    (f"{DEFAULTS}.replication.archive_command", "aws s3 cp %p s3://wal-archive/%f"),
    (f"{DEFAULTS}.replication.max_lag_seconds", 30),
    (f"{DEFAULTS}.replication.replicas[0]", {"region": "us-east-1", "priority": 100}),
    (f"{DEFAULTS}.replication.replicas[1]", {"region": "eu-west-1", "priority": 90}),
    (f"{DEFAULTS}.replication.replicas[2]", {"region": "us-west-2", "priority": 50}),
    (
        f"{PLATFORM}.replication.replicas[0]",
        {"name": "replica-1", "region": "us-east-1b", "lag_threshold": "5s", "priority": 100},
    ),
    (
        f"{PLATFORM}.replication.replicas[1]",
        {"name": "replica-2", "region": "eu-west-1a", "lag_threshold": "10s", "priority": 90},
    ),
    (
        f"{PLATFORM}.replication.replicas[2]",
        {"name": "dr-replica", "region": "us-west-2a", "lag_threshold": "30s", "priority": 50},
    ),
    (f"{PLATFORM}.nats.streams", ["events", "commands", "audit"]),
    (f"{PLATFORM}.critical_tables", ["users", "tasks", "events"]),
    (f"{PLATFORM}.checks.paths", ["/healthz", "/readyz", "/api/v1/status"]),
    (f"{PLATFORM}.checks.port", 9655),
    (f"{PLATFORM}.checks.status", 200),
    (f"{PLATFORM}.checks.timeout", "5s"),
    (f"{PLATFORM}.dns.records[0].name", "api.example.com"),
    (f"{PLATFORM}.dns.records[0].type", "A"),
    (f"{PLATFORM}.dns.records[0].set_identifier", "Primary"),
    (f"{PLATFORM}.dns.records[0].weight", 100),
    (f"{PLATFORM}.dns.records[0].evaluate_target_health", True),
    ("monitoring.prometheus_url", "http://prometheus:9090"),
    ("reports.url", "s3://dr-reports/runs"),
    (f"{DEFAULTS}.backup.schedule", "0 */6 * * *"),
    (f"{DEFAULTS}.backup.retention_days", 30),
    (f"{DEFAULTS}.backup.locations", ["backup-primary", "backup-secondary"]),
    (f"{DEFAULTS}.backup.validation.enabled", True),
    (f"{DEFAULTS}.backup.validation.frequency", "daily"),
    (f"{DEFAULTS}.backup.validation.lookback", "24h"),
    (f"{DEFAULTS}.failover.automatic", True),
    (f"{DEFAULTS}.failover.health_check_interval", "30s"),
    (f"{DEFAULTS}.failover.failure_threshold", 3),
    (f"{DEFAULTS}.failover.dns_ttl", 60),
    (f"{DEFAULTS}.failover.connection_drain_timeout", "30s"),
    (f"{DEFAULTS}.testing.enabled", True),
    (f"{DEFAULTS}.testing.schedule", "weekly"),
    (
        f"{DEFAULTS}.testing.scenarios",
        ["region_failure", "database_corruption", "network_partition", "backup_restore"],
    ),
    (f"{DEFAULTS}.testing.namespace", "dr-test"),
    (f"{DEFAULTS}.testing.workload.virtual_users", 50),
    (f"{DEFAULTS}.testing.workload.duration", "5m"),
    (f"{DEFAULTS}.testing.workload.transactions_per_second", 100),
    (f"{DEFAULTS}.testing.workload.max_lost_transactions", 30000),
    (f"{SHOP}.testing.schedule", "0 2 * * SUN"),
    ("monitoring.alerts[0]", {"name": "high_replication_lag", "threshold": "60s", "severity": "warning"}),
    ("monitoring.alerts[1]", {"name": "backup_failure", "threshold": 2, "severity": "critical"}),
    ("monitoring.alerts[2]", {"name": "rto_violation", "threshold": "900s", "severity": "critical"}),
]

# Second document: disaster recovery of a shop in two regions.
_PHASES = [
    (
        "Preparation",
        "1h",
        ["Notify stakeholders", "Create test backup", "Verify DR infrastructure", "Document current state"],
    ),
    (
        "Failover",
        "2h",
        ["Initiate controlled failover", "Monitor recovery progress", "Verify data integrity", "Test all services"],
    ),
    (
        "Validation",
        "2h",
        ["Run smoke tests", "Verify user access", "Test payment processing (sandbox)", "Test order flow"],
    ),
    ("Failback", "2h", ["Sync any data created during test", "Switch back to primary", "Verify primary operation"]),
    ("Documentation", "1h", ["Document findings", "Update runbooks", "Create improvement tickets"]),
]
SECOND: list[tuple[str, Any]] = [
    ("targets.rto", "4h"),
    ("targets.rpo", "1h"),
    ("targets.mttr", "2h"),
    ("targets.availability", "99.9%"),
    (f"{SHOP}.home", "eu-central-1"),
    (f"{SHOP}.regions.eu-central-1.role", "primary"),
    (f"{SHOP}.regions.eu-west-1.role", "dr"),
    (f"{SHOP}.backup.schedule", "0 */6 * * *"),
    (f"{SHOP}.backup.retention_days", 30),
    ("locations.shop-platform-backups.url", "s3://shop-platform-backups/database"),
    ("locations.shop-platform-backups.replication.bucket", "shop-platform-backups-eu-west-1"),
    ("locations.shop-platform-backups.replication.storage_class", "STANDARD"),
    ("locations.shop-platform-backups.replication.kms_key", "arn:aws:kms:eu-west-1:111122223333:key/dr"),
    (f"{SHOP}.kubernetes.services", ["core", "web", "admin", "search", "notification"]),
    (f"{SHOP}.checks.paths", ["/health", "/api/v1/health", "/api/v1/health/db", "/api/v1/health/redis"]),
    (f"{SHOP}.dns.records[0]", {"name": "api.shop-platform.com", "ttl": 60}),
    (f"{SHOP}.dns.records[1]", {"name": "www.shop-platform.com", "ttl": 60}),
    (f"{SHOP}.dns.records[2]", {"name": "admin.shop-platform.com", "ttl": 60}),
    (f"{SHOP}.dns.records[3]", {"name": "cdn.shop-platform.com", "ttl": 60}),
    (f"{SHOP}.rds.instances.eu-central-1", "shop-production"),
    (f"{SHOP}.rds.instances.eu-west-1", "shop-replica"),
    (f"{SHOP}.rds.restored_instance", "shop-restored"),
    (f"{SHOP}.rds.instance_class", "db.r6g.xlarge"),
    (f"{SHOP}.budgets.FullRecovery.verify-infrastructure", "5m"),
    (f"{SHOP}.budgets.FullRecovery.restore-database", "30m"),
    (f"{SHOP}.budgets.FullRecovery.switch-dns", "5m"),
    (f"{SHOP}.budgets.FullRecovery.notify-stakeholders", "1m"),
    (f"{SHOP}.testing.plans[0].name", "Quarterly DR Test"),
    (f"{SHOP}.testing.plans[0].schedule", "0 2 1 */3 *"),
    (f"{DEFAULTS}.testing.max_age", "90d"),
    *(
        (f"{SHOP}.testing.plans[0].phases[{index}]", {"name": name, "duration": length, "tasks": tasks})
        for index, (name, length, tasks) in enumerate(_PHASES)
    ),
]


@pytest.fixture(scope="module")
def written(example: str) -> Any:
    return read_document(example).data


def _at(data: Any, path: str) -> Any:
    for part in path.replace("[", ".[").split("."):
        data = data[int(part[1:-1])] if part.startswith("[") else data[part]
    return data


@pytest.mark.parametrize(("path", "value"), FIRST)
def test_the_first_documents_key_has_its_value(written: Any, path: str, value: Any) -> None:
    assert _at(written, path) == value


@pytest.mark.parametrize(("path", "value"), SECOND)
def test_the_second_documents_key_has_its_value(written: Any, path: str, value: Any) -> None:
    assert _at(written, path) == value


def test_the_example_loads_and_means_what_the_documents_say(example: str) -> None:
    config = Config.parse(example, "recovery.example.yaml")
    platform = config.groups["platform"]
    assert config.tiers["critical"].rto == duration("15m")
    assert platform.failover.policy == "automatic"
    assert platform.backup.validation.frequency == cron("daily")
    assert platform.testing.schedule == "0 2 * * SUN"
    assert platform.replication.archive_mode is True
    assert config.snapshot("platform").region("us-east-1").health_urls[0] == (
        "http://platform.us-east-1.example.com:9655/healthz"
    )
    assert config.groups["shop"].failover.policy == "approve", "the group's word counts more than the defaults'"


def test_the_example_warns_of_nothing_but_its_keys(example: str) -> None:
    warnings = Config.parse(example).warnings()
    assert len(warnings) == 1
    assert "private half you do not have" in warnings[0]


def _key_paths(data: Any, path: str = "") -> set[str]:
    """Key paths as ``key_lines`` writes them, with names and positions unified."""
    found: set[str] = set()
    if isinstance(data, dict):
        for key, value in data.items():
            found |= {f"{path}.{key}", f"{path}.<name>"} | _key_paths(value, f"{path}.{key}")
            found |= _key_paths(value, f"{path}.<name>")
    elif isinstance(data, list):
        for value in data:
            found |= _key_paths(value, f"{path}[]")
    return found


def test_every_key_that_exists_stands_in_the_example(written: Any) -> None:
    known = {line.split("  ")[0] for line in key_lines(Config.schema_document())}
    # What groups inherit need not be repeated in a group, and the other way round.
    shown = {path.removeprefix(".") for path in _key_paths(written)}
    shown |= {path.replace("groups.<name>.", "defaults.", 1) for path in shown}
    shown |= {path.replace("defaults.", "groups.<name>.", 1) for path in shown}
    # Stores have the same keys wherever they stand, and so has TLS.
    stores = ("locations.<name>.", "witness.", "reports.")
    below = {path.removeprefix(store) for path in shown for store in stores if path.startswith(store)}
    same = {path for path in known for store in stores if path.startswith(store) and path.removeprefix(store) in below}
    same |= {path for path in known if ".tls." in path and f"temporal.tls.{path.rpartition('.')[2]}" in shown}
    assert sorted(known - shown - same) == []
