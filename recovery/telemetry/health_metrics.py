"""Metrics of vantage points and of replication, beside those of runs on the same endpoint."""

from __future__ import annotations

from recovery.domain.health import ReplicaLag
from recovery.telemetry.metrics import RecoveryMetrics

PROBE_BUCKETS = [0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0]


class HealthMetrics:
    """``recovery.ports.health.HealthMeasurements``. Seconds, bytes and counts."""

    def __init__(self, metrics: RecoveryMetrics) -> None:
        self._metrics = metrics
        meter = metrics.provider.get_meter("recovery-plans-health")
        gauge, counter = meter.create_gauge, meter.create_counter
        self._probe_seconds = meter.create_histogram(
            "dr_health_probe_duration_seconds",
            "s",
            "Duration of single probes by check",
            explicit_bucket_boundaries_advisory=PROBE_BUCKETS,
        )
        self._probe_passed = gauge("dr_health_probe_status", "", "Result of the last probe (1=pass, 0=fail)")
        self._lost = gauge(
            "dr_region_lost", "", "Whether a region is lost as this vantage point sees it (1=lost, 0=not, -1=unknown)"
        )
        self._frozen = counter("dr_monitor_frozen_total", "", "How often the probe loop found that it had stood still")
        self._frozen_seconds = gauge("dr_monitor_frozen_seconds", "s", "How long the probe loop stood still last")
        self._silent = gauge("dr_monitor_silent_seconds", "s", "How long no group's monitor could be told")
        self._lag_bytes = gauge("dr_replication_lag_bytes", "By", "Replication lag in bytes")
        self._lag_entries = gauge("dr_replication_lag_messages", "", "Messages of a stream that its mirror lacks")
        self._late = gauge(
            "dr_replication_over_limit", "", "Whether a replica is further behind than its limit allows (1=yes, 0=no)"
        )
        self._retained = gauge("dr_replication_slot_retained_bytes", "By", "WAL that a slot keeps from being removed")
        self._slot = gauge("dr_replication_slot_active", "", "Whether a replica uses its slot (1=yes, 0=no)")

    def health_checked(self, region: str, healthy: bool) -> None:
        self._metrics.health_checked(region, healthy)

    def probed(self, group: str, region: str, check: str, *, passed: bool, seconds: float) -> None:
        labels = {"group": group, "region": region, "check": check}
        self._probe_seconds.record(max(seconds, 0.0), {"region": region, "check": check})
        self._probe_passed.set(int(passed), labels)

    def region_judged(self, group: str, region: str, vantage: str, *, lost: bool | None) -> None:
        value = -1 if lost is None else int(lost)
        self._lost.set(value, {"group": group, "region": region, "vantage": vantage})

    def replica_seen(self, group: str, replica: ReplicaLag) -> None:
        target = replica.target or replica.name
        labels = {"group": group, "store": replica.store, "source": replica.source, "target": target}
        if replica.lag_seconds is not None and replica.store == "postgres":
            self._metrics.replication_lag(replica.source, target, replica.lag_seconds)
        if replica.lag_bytes is not None:
            self._lag_bytes.set(max(replica.lag_bytes, 0), labels)
        if replica.lag_entries is not None:
            self._lag_entries.set(max(replica.lag_entries, 0), labels | {"stream": replica.name})
        self._late.set(int(replica.is_late), labels | {"replica": replica.name})
        if replica.slot is not None:
            slot = {"group": group, "source": replica.source, "slot": replica.slot}
            self._slot.set(int(bool(replica.slot_active)), slot)
            if replica.retained_bytes is not None:
                self._retained.set(max(replica.retained_bytes, 0), slot)

    def loop_frozen(self, vantage: str, seconds: float) -> None:
        self._frozen.add(1, {"vantage": vantage})
        self._frozen_seconds.set(max(seconds, 0.0), {"vantage": vantage})

    def monitor_silent(self, vantage: str, seconds: float) -> None:
        self._silent.set(max(seconds, 0.0), {"vantage": vantage})
