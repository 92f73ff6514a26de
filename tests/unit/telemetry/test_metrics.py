"""What a scrape of the endpoint really shows: exact names, label sets, buckets and help texts."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from recovery.domain.handover import StoreDivergence
from recovery.domain.recovery_counts import CountedRecovery
from recovery.domain.recovery_point import CheckResult, Verdict, VerdictState
from recovery.domain.report import Achieved
from recovery.errors import BadInput
from recovery.ports.measurements import Measurements
from recovery.telemetry.metrics import Endpoint, RecoveryMetrics

NOW = datetime(2026, 11, 22, 5, 0, tzinfo=UTC)
MET = Achieved(
    rto=timedelta(seconds=42),
    rto_objective=timedelta(minutes=15),
    rpo=timedelta(seconds=3),
    rpo_objective=timedelta(minutes=5),
)
MISSED = MET.model_copy(update={"rto": timedelta(minutes=16)})


def recovery(
    achieved: Achieved, kind: str = "region", seconds: float = 1.0, *, completed: bool = True
) -> CountedRecovery:
    return CountedRecovery(kind, timedelta(seconds=seconds), achieved, completed)


def verdict(state: VerdictState) -> Verdict:
    return Verdict(
        point_id="p1",
        group="shop",
        state=state,
        location="primary",
        manifest_sha256="0" * 64,
        validated_at=NOW,
        duration=timedelta(seconds=12),
        run_id="r",
    )


@pytest.fixture
def metrics() -> Iterator[RecoveryMetrics]:
    metrics = RecoveryMetrics(clock=NOW.timestamp)
    yield metrics
    metrics.close()


@pytest.fixture
def endpoint(metrics: RecoveryMetrics) -> Iterator[Endpoint]:
    with metrics.serve() as endpoint:
        yield endpoint


def scrape(endpoint: Endpoint) -> str:
    with urllib.request.urlopen(endpoint.url, timeout=5) as answer:
        text: str = answer.read().decode()
    return text


def shown(metrics: RecoveryMetrics) -> str:
    """What the endpoint would show, without HTTP."""
    return generate_latest(metrics.registry).decode()


def samples(text: str) -> dict[str, float]:
    """``name{a="b"}`` with sorted labels, to value."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f'{key}="{value}"' for key, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def record_everything(metrics: RecoveryMetrics) -> None:
    metrics.backup_finished("physical", "success", 25.0)
    metrics.backup_stored("physical", {"primary": 1_000, "secondary": 1_000})
    metrics.point_validated(verdict(VerdictState.VALID), "physical", NOW - timedelta(minutes=10))
    metrics.validation_finished("shop", True)
    metrics.recovery_checked([CheckResult(name="tables", passed=True), CheckResult(name="rows", passed=False)])
    metrics.recovery_finished(recovery(MET, "corruption", 77.5))
    metrics.failover_finished("region-a", "region-b", "health", 45.0)
    metrics.failover_failed("fence-primary")
    metrics.data_lost("postgres", 512)
    metrics.divergence_saved("shop", StoreDivergence(store="postgres", region="region-a", transactions=8, bytes=2_144))
    metrics.divergence_saved("shop", StoreDivergence(store="nats", region="region-a", messages=67))
    metrics.stores_recovered({"postgres": 3.0, "redis": 240.0}, 41.5)
    metrics.health_checked("region-a", False)
    metrics.replication_lag("region-a", "region-b", 1.5)


# name, type, help, labels: the first eight are the seed's, to the letter.
CONTRACT = [
    ("dr_backup_duration_seconds", "histogram", "Duration of backup operations", {"type", "status"}),
    ("dr_backup_size_bytes", "gauge", "Size of backups in bytes", {"type", "location"}),
    ("dr_replication_lag_seconds", "gauge", "Replication lag in seconds", {"source", "target"}),
    ("dr_failover_duration_seconds", "histogram", "Duration of failover operations", set()),
    ("dr_failover_total", "counter", "Total number of failovers", {"from_region", "to_region", "reason"}),
    (
        "dr_recovery_validation_status",
        "gauge",
        "Status of recovery validation checks (1=pass, 0=fail)",
        {"check"},
    ),
    ("dr_rto_compliance_percent", "gauge", "Percentage of failovers meeting RTO", set()),
    ("dr_rpo_compliance_percent", "gauge", "Percentage of recoveries meeting RPO", set()),
    ("dr_health_check_total", "counter", None, {"region", "result"}),
    ("dr_failover_errors_total", "counter", None, {"reason"}),
    ("dr_recovery_completed", "gauge", None, {"type"}),
    ("dr_recovery_duration_seconds", "gauge", None, {"type"}),
    ("dr_recovery_achieved_rto_seconds", "gauge", None, {"type"}),
    ("dr_data_loss_bytes", "gauge", None, {"store"}),
    ("dr_diverged_transactions_total", "counter", None, {"group", "region", "store"}),
    ("dr_diverged_messages_total", "counter", None, {"group", "region", "store"}),
    ("dr_diverged_bytes_total", "counter", None, {"group", "region", "store"}),
    ("dr_recovery_store_rpo_seconds", "gauge", None, {"store"}),
    ("dr_recovery_skew_seconds", "gauge", None, set()),
    ("dr_backup_validation_status", "gauge", None, {"group", "type"}),
    ("dr_backup_validation_overall_status", "gauge", None, {"group"}),
    ("dr_backup_validation_total", "counter", None, {"group", "type", "state"}),
    ("dr_backup_validation_duration_seconds", "histogram", None, {"group", "type"}),
    ("dr_last_valid_point_age_seconds", "gauge", None, {"group", "type"}),
]


def test_names_types_helps_and_labels_are_exact(metrics: RecoveryMetrics, endpoint: Endpoint) -> None:
    record_everything(metrics)
    text = scrape(endpoint)
    exposed = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE dr_")}
    assert exposed == {name for name, *_ in CONTRACT}
    families = {family.name: family for family in text_string_to_metric_families(text)}
    for name, kind, help, labels in CONTRACT:
        assert f"# TYPE {name} {kind}\n" in text
        assert f"# HELP {name} {help or ''}" in text
        family = families[name.removesuffix("_total") if kind == "counter" else name]
        assert family.samples, name
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == labels, name


@pytest.mark.parametrize(
    ("name", "buckets"),
    [
        ("dr_backup_duration_seconds", [10, 20, 40, 80, 160, 320, 640, 1280, 2560, 5120]),
        ("dr_failover_duration_seconds", [30, 60, 120, 300, 600, 900, 1800]),
    ],
)
def test_buckets_are_the_seeds(metrics: RecoveryMetrics, name: str, buckets: list[float]) -> None:
    record_everything(metrics)
    families = {family.name: family for family in text_string_to_metric_families(shown(metrics))}
    bounds = [sample.labels["le"] for sample in families[name].samples if sample.name.endswith("_bucket")]
    assert [float(bound) for bound in bounds] == [*buckets, float("inf")]


def test_values_arrive(metrics: RecoveryMetrics) -> None:
    record_everything(metrics)
    metrics.backup_finished("physical", "success", 35.0)
    metrics.backup_stored("physical", {"primary": 2_000})
    found = samples(shown(metrics))
    assert found['dr_backup_duration_seconds_count{status="success",type="physical"}'] == 2
    assert found['dr_backup_duration_seconds_sum{status="success",type="physical"}'] == 60
    assert found['dr_backup_duration_seconds_bucket{le="20.0",status="success",type="physical"}'] == 0
    assert found['dr_backup_duration_seconds_bucket{le="40.0",status="success",type="physical"}'] == 2
    assert found['dr_backup_size_bytes{location="primary",type="physical"}'] == 2_000
    assert found['dr_backup_size_bytes{location="secondary",type="physical"}'] == 1_000
    assert found['dr_recovery_validation_status{check="tables"}'] == 1
    assert found['dr_recovery_validation_status{check="rows"}'] == 0
    assert found['dr_last_valid_point_age_seconds{group="shop",type="physical"}'] == 600
    assert found['dr_failover_total{from_region="region-a",reason="health",to_region="region-b"}'] == 1
    assert found['dr_health_check_total{region="region-a",result="unhealthy"}'] == 1
    assert found['dr_data_loss_bytes{store="postgres"}'] == 512
    assert found['dr_diverged_transactions_total{group="shop",region="region-a",store="postgres"}'] == 8
    assert found['dr_diverged_messages_total{group="shop",region="region-a",store="nats"}'] == 67
    assert found['dr_diverged_bytes_total{group="shop",region="region-a",store="postgres"}'] == 2_144
    assert found['dr_recovery_store_rpo_seconds{store="redis"}'] == 240
    assert found["dr_recovery_skew_seconds"] == 41.5
    assert found['dr_recovery_duration_seconds{type="corruption"}'] == 77.5


def test_a_corrupt_point_neither_counts_as_valid_nor_renews_the_age(metrics: RecoveryMetrics) -> None:
    metrics.point_validated(verdict(VerdictState.VALID), "logical", NOW - timedelta(hours=2))
    metrics.point_validated(verdict(VerdictState.CORRUPT), "logical", NOW - timedelta(minutes=1))
    found = samples(shown(metrics))
    assert found['dr_backup_validation_status{group="shop",type="logical"}'] == 0
    assert found['dr_last_valid_point_age_seconds{group="shop",type="logical"}'] == 7_200
    assert found['dr_backup_validation_total{group="shop",state="CORRUPT",type="logical"}'] == 1


def test_an_older_valid_point_does_not_raise_the_age(metrics: RecoveryMetrics) -> None:
    for minutes in (10, 600):
        metrics.point_validated(verdict(VerdictState.VALID), "logical", NOW - timedelta(minutes=minutes))
    assert samples(shown(metrics))['dr_last_valid_point_age_seconds{group="shop",type="logical"}'] == 600


@pytest.mark.parametrize("all_valid", [True, False])
def test_overall_verdict(metrics: RecoveryMetrics, all_valid: bool) -> None:
    metrics.validation_finished("shop", all_valid)
    assert samples(shown(metrics))['dr_backup_validation_overall_status{group="shop"}'] == int(all_valid)


def test_compliance_is_the_share_of_those_that_were_judged(metrics: RecoveryMetrics) -> None:
    metrics.learn_compliance([recovery(MET), recovery(MISSED), recovery(Achieved())])
    metrics.recovery_finished(recovery(MET))
    metrics.recovery_finished(recovery(MET.model_copy(update={"rpo": None}), completed=False))
    found = samples(shown(metrics))
    assert found["dr_rto_compliance_percent"] == 50  # met, missed, met, not completed
    assert found["dr_rpo_compliance_percent"] == 100
    assert found['dr_recovery_completed{type="region"}'] == 0


def test_a_restart_shows_the_compliance_that_was_shown_before(metrics: RecoveryMetrics) -> None:
    history = [recovery(MET), recovery(MET, completed=False), recovery(MISSED)]
    for each in history:
        metrics.recovery_finished(each)
    restarted = RecoveryMetrics(clock=NOW.timestamp)
    restarted.learn_compliance(history)
    names = ("dr_rto_compliance_percent", "dr_rpo_compliance_percent")
    before, after = samples(shown(metrics)), samples(shown(restarted))
    restarted.close()
    assert [after[name] for name in names] == [before[name] for name in names]
    assert round(after["dr_rto_compliance_percent"]) == 33


def test_the_time_of_a_run_is_not_the_time_of_its_outage(metrics: RecoveryMetrics) -> None:
    metrics.recovery_finished(recovery(MET, seconds=1200))  # it waited for an approval, long after service was back
    found = samples(shown(metrics))
    assert found['dr_recovery_achieved_rto_seconds{type="region"}'] == 42
    assert found['dr_recovery_duration_seconds{type="region"}'] == 1200


def test_nothing_is_claimed_before_anything_was_judged(metrics: RecoveryMetrics) -> None:
    metrics.recovery_finished(recovery(Achieved()))
    assert "compliance_percent" not in "".join(samples(shown(metrics)))


def test_implements_the_port(metrics: RecoveryMetrics) -> None:
    port: Measurements = metrics
    port.backup_finished("logical", "failure", -1)


def test_a_taken_port_is_a_sentence(endpoint: Endpoint, metrics: RecoveryMetrics) -> None:
    with pytest.raises(
        BadInput, match=rf"cannot be served at 127\.0\.0\.1:{endpoint.port} .*monitoring\.metrics\.port"
    ):
        metrics.serve("127.0.0.1", endpoint.port)


def test_close_frees_the_port(metrics: RecoveryMetrics) -> None:
    with metrics.serve() as first:
        port = first.port
    with metrics.serve("127.0.0.1", port) as second:
        assert second.port == port
