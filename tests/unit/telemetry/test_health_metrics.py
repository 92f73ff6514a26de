"""What vantage points put on the endpoint: names and labels."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
from prometheus_client import generate_latest

from recovery.domain.health import ReplicaLag
from recovery.telemetry.health_metrics import HealthMetrics
from recovery.telemetry.metrics import RecoveryMetrics

B = ReplicaLag(
    store="postgres", source="region-a", name="b1", target="region-b", state="streaming", lag_bytes=4096,
    lag_seconds=11.5, limit=timedelta(seconds=10), slot="b1", slot_active=True, retained_bytes=8192,
)  # fmt: skip


@pytest.fixture
def metrics() -> Iterator[RecoveryMetrics]:
    metrics = RecoveryMetrics()
    yield metrics
    metrics.close()


def lines(metrics: RecoveryMetrics) -> set[str]:
    return set(generate_latest(metrics.registry).decode().splitlines())


def test_replication(metrics: RecoveryMetrics) -> None:
    HealthMetrics(metrics).replica_seen("shop", B)
    labels = 'group="shop",source="region-a",store="postgres",target="region-b"'
    assert {
        'dr_replication_lag_seconds{source="region-a",target="region-b"} 11.5',
        f"dr_replication_lag_bytes{{{labels}}} 4096.0",
        'dr_replication_over_limit{group="shop",replica="b1",source="region-a",store="postgres",target="region-b"} 1.0',
        'dr_replication_slot_active{group="shop",slot="b1",source="region-a"} 1.0',
        'dr_replication_slot_retained_bytes{group="shop",slot="b1",source="region-a"} 8192.0',
    } <= lines(metrics)


def test_what_is_late() -> None:
    assert B.is_late
    assert not B.model_copy(update={"lag_seconds": 10.0}).is_late
    assert not B.model_copy(update={"lag_seconds": None}).is_late
    gone = B.model_copy(update={"connected": False, "lag_seconds": None})
    assert gone.is_late and not gone.model_copy(update={"limit": None}).is_late


def test_probes_and_verdicts(metrics: RecoveryMetrics) -> None:
    seen = HealthMetrics(metrics)
    seen.health_checked("region-a", False)
    seen.probed("shop", "region-a", "postgres", passed=False, seconds=0.25)
    seen.region_judged("shop", "region-a", "outside", lost=None)
    seen.loop_frozen("outside", 20.0)
    seen.monitor_silent("outside", 61.0)
    assert {
        'dr_health_check_total{region="region-a",result="unhealthy"} 1.0',
        'dr_health_probe_status{check="postgres",group="shop",region="region-a"} 0.0',
        'dr_health_probe_duration_seconds_count{check="postgres",region="region-a"} 1.0',
        'dr_region_lost{group="shop",region="region-a",vantage="outside"} -1.0',
        'dr_monitor_frozen_total{vantage="outside"} 1.0',
        'dr_monitor_silent_seconds{vantage="outside"} 61.0',
    } <= lines(metrics)
