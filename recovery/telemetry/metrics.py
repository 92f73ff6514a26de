"""Metrics of backups, validations and recoveries: OpenTelemetry instruments on one Prometheus endpoint per process.

Names, labels, buckets and help texts are fixed: dashboards and alert rules of our users hang on them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from datetime import datetime
from types import TracebackType
from typing import Self
from wsgiref.simple_server import WSGIServer

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import CallbackOptions, Histogram, Observation
from opentelemetry.sdk.metrics import Histogram as HistogramInstrument
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource
from prometheus_client import CollectorRegistry, start_http_server

from recovery.domain.addresses import address_of
from recovery.domain.handover import StoreDivergence
from recovery.domain.recovery_counts import CountedRecovery
from recovery.domain.recovery_point import CheckResult, Verdict, VerdictState
from recovery.errors import BadInput

BACKUP_BUCKETS = [10.0 * 2**power for power in range(10)]  # 10 s to 85 min
FAILOVER_BUCKETS = [30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0]
VALIDATION_BUCKETS = [5.0 * 2**power for power in range(12)]  # 5 s to 2.8 h
SDK_BUCKETS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0]


class RecoveryMetrics:
    """Implements the ``Measurements`` port. Methods never raise for any value, never wait, and are thread-safe.

    Seconds, bytes and percent throughout. ``provider`` takes further instruments, Temporal's own among them;
    ``registry`` is what the endpoint shows.
    """

    def __init__(self, *, service: str = "recovery-plans", clock: Callable[[], float] = time.time) -> None:
        self.registry = CollectorRegistry()
        # Scope labels would add to every label set, and dashboards count on the exact ones.
        reader = PrometheusMetricReader(scope_info_enabled=False, registry=self.registry)
        self.provider = MeterProvider(
            metric_readers=[reader],
            resource=Resource.create({"service.name": service}),
            views=[
                View(
                    instrument_type=HistogramInstrument,
                    instrument_name="temporal_*",
                    aggregation=ExplicitBucketHistogramAggregation(SDK_BUCKETS),
                )
            ],
            shutdown_on_exit=False,
        )
        self._clock = clock
        self._lock = threading.Lock()
        self._rto, self._rpo = _Share(), _Share()
        self._last_valid: dict[tuple[str, str], float] = {}
        self._create()

    def _create(self) -> None:
        meter = self.provider.get_meter("recovery-plans")

        def seconds(name: str, help: str, buckets: list[float]) -> Histogram:
            return meter.create_histogram(name, "s", help, explicit_bucket_boundaries_advisory=buckets)

        self._backup_duration = seconds("dr_backup_duration_seconds", "Duration of backup operations", BACKUP_BUCKETS)
        self._backup_size = meter.create_gauge("dr_backup_size_bytes", "By", "Size of backups in bytes")
        self._replication_lag = meter.create_gauge("dr_replication_lag_seconds", "s", "Replication lag in seconds")
        self._failover_duration = seconds(
            "dr_failover_duration_seconds", "Duration of failover operations", FAILOVER_BUCKETS
        )
        self._failovers = meter.create_counter("dr_failover_total", "", "Total number of failovers")
        self._failover_errors = meter.create_counter(
            "dr_failover_errors_total", "", "Total number of failovers that did not complete"
        )
        self._recovery_check = meter.create_gauge(
            "dr_recovery_validation_status", "", "Status of recovery validation checks (1=pass, 0=fail)"
        )
        self._rto_percent = meter.create_gauge("dr_rto_compliance_percent", "%", "Percentage of failovers meeting RTO")
        self._rpo_percent = meter.create_gauge("dr_rpo_compliance_percent", "%", "Percentage of recoveries meeting RPO")
        self._health_checks = meter.create_counter("dr_health_check_total", "", "Total number of health checks")
        self._completed = meter.create_gauge(
            "dr_recovery_completed", "", "Whether the last recovery of this type completed (1=yes, 0=no)"
        )
        self._recovery_duration = meter.create_gauge(
            "dr_recovery_duration_seconds", "s", "Duration of the last recovery of this type in seconds"
        )
        self._achieved_rto = meter.create_gauge(
            "dr_recovery_achieved_rto_seconds",
            "s",
            "From the beginning of the outage to the service's answer in the last recovery of this type",
        )
        self._data_loss = meter.create_gauge(
            "dr_data_loss_bytes", "By", "Bytes known to be lost in the last recovery of this store"
        )
        self._diverged = {
            "transactions": meter.create_counter(
                "dr_diverged_transactions_total", "", "Transactions that a returned old primary alone had acknowledged"
            ),
            "messages": meter.create_counter(
                "dr_diverged_messages_total", "", "Messages that a returned old source alone had acknowledged"
            ),
            "bytes": meter.create_counter(
                "dr_diverged_bytes_total", "", "Bytes of changes that a returned old primary alone had"
            ),
        }
        self._store_rpo = meter.create_gauge(
            "dr_recovery_store_rpo_seconds",
            "s",
            "From the last moment that this store was recovered to until the lost side can have taken no more writes, "
            "in the last recovery of several",
        )
        self._skew = meter.create_gauge(
            "dr_recovery_skew_seconds",
            "s",
            "How far apart the stores stand at the most after the last recovery of them",
        )
        self._create_validation()

    def _create_validation(self) -> None:
        meter = self.provider.get_meter("recovery-plans")
        self._validations = meter.create_counter(
            "dr_backup_validation_total", "", "Total number of validated recovery points by verdict"
        )
        self._validation_status = meter.create_gauge(
            "dr_backup_validation_status", "", "Verdict on the last validated recovery point (1=VALID, 0=not)"
        )
        self._validation_overall = meter.create_gauge(
            "dr_backup_validation_overall_status",
            "",
            "Verdict of the last validation over all of its recovery points (1=all VALID, 0=not)",
        )
        self._validation_duration = meter.create_histogram(
            "dr_backup_validation_duration_seconds",
            "s",
            "Duration of the validation of a recovery point by restoring it",
            explicit_bucket_boundaries_advisory=VALIDATION_BUCKETS,
        )
        meter.create_observable_gauge(
            "dr_last_valid_point_age_seconds",
            [self._observe_ages],
            "s",
            "Age of the newest recovery point that was restored and found VALID",
        )

    # Backup and validation ------------------------------------------------------------------------------------------

    def backup_finished(self, kind: str, status: str, seconds: float) -> None:
        """``status``: ``success`` or ``failure``."""
        self._backup_duration.record(max(seconds, 0.0), {"type": kind, "status": status})

    def backup_stored(self, kind: str, bytes_by_location: dict[str, int]) -> None:
        """``bytes_by_location`` holds the locations that took the point."""
        for location, count in bytes_by_location.items():
            self._backup_size.set(count, {"type": kind, "location": location})

    def point_validated(self, verdict: Verdict, kind: str, taken_at: datetime) -> None:
        """``taken_at``: when the point's backup finished; a VALID point's age counts from then."""
        labels = {"group": verdict.group, "type": kind}
        is_valid = verdict.state is VerdictState.VALID
        self._validations.add(1, labels | {"state": verdict.state.value})
        self._validation_status.set(int(is_valid), labels)
        self._validation_duration.record(max(verdict.duration.total_seconds(), 0.0), labels)
        if is_valid:
            self.newest_valid_point(verdict.group, kind, taken_at)

    def validation_finished(self, group: str, all_valid: bool) -> None:
        """The overall verdict of a validation of all that was taken of late."""
        self._validation_overall.set(int(all_valid), {"group": group})

    def newest_valid_point(self, group: str, kind: str, taken_at: datetime) -> None:
        """Also called at a worker's start with what the catalogue says, so that a restart does not lose the age."""
        with self._lock:
            key = (group, kind)
            self._last_valid[key] = max(taken_at.timestamp(), self._last_valid.get(key, 0.0))

    def _observe_ages(self, _: CallbackOptions) -> Iterable[Observation]:
        now = self._clock()
        with self._lock:
            known = list(self._last_valid.items())
        return [Observation(max(now - at, 0.0), {"group": group, "type": kind}) for (group, kind), at in known]

    # Recovery and failover ------------------------------------------------------------------------------------------

    def recovery_checked(self, checks: list[CheckResult]) -> None:
        for check in checks:
            self._recovery_check.set(int(check.passed), {"check": check.name})

    def recovery_finished(self, recovery: CountedRecovery) -> None:
        """A recovery that did not complete missed its RTO, whatever was measured until then."""
        labels = {"type": recovery.type}
        self._completed.set(int(recovery.completed), labels)
        self._recovery_duration.set(max(recovery.duration.total_seconds(), 0.0), labels)
        if recovery.achieved.rto is not None:
            self._achieved_rto.set(recovery.achieved.rto.total_seconds(), labels)
        self._count_compliance(recovery)

    def failover_finished(self, from_region: str, to_region: str, reason: str, seconds: float) -> None:
        """A change of region that completed. ``reason``: ``health``, ``operator`` or ``planned``, never free text."""
        self._failovers.add(1, {"from_region": from_region, "to_region": to_region, "reason": reason})
        self._failover_duration.record(max(seconds, 0.0))

    def failover_failed(self, reason: str) -> None:
        """``reason``: the step at which it ended, or ``cancelled``; never an error's text."""
        self._failover_errors.add(1, {"reason": reason})

    def data_lost(self, store: str, count: int) -> None:
        """Bytes of ``store`` (``postgres``, ``jetstream``, ``redis`` ...) known to be lost in the last recovery."""
        self._data_loss.set(max(count, 0), {"store": store})

    def divergence_saved(self, group: str, found: StoreDivergence) -> None:
        """What a returned side alone had acknowledged, once it was put aside and the side follows."""
        counts = {"transactions": found.transactions, "messages": found.messages, "bytes": found.bytes}
        for unit, count in counts.items():
            if count:
                labels = {"group": group, "region": found.region, "store": found.store}
                self._diverged[unit].add(count, labels)

    def stores_recovered(self, rpo: Mapping[str, float], skew: float | None) -> None:
        """Of a recovery of several stores: each store's achieved RPO, and how far apart they stand, in seconds."""
        for store, seconds in rpo.items():
            self._store_rpo.set(max(seconds, 0.0), {"store": store})
        if skew is not None:
            self._skew.set(max(skew, 0.0))

    def learn_compliance(self, history: Iterable[CountedRecovery]) -> None:
        """What earlier runs achieved, from their stored reports: called once, at a worker's start."""
        for recovery in history:
            self._count_compliance(recovery)

    def _count_compliance(self, recovery: CountedRecovery) -> None:
        achieved = recovery.achieved
        rto_met = achieved.rto_met if recovery.completed else (False if achieved.rto_objective is not None else None)
        with self._lock:
            rto, rpo = self._rto.counted(rto_met), self._rpo.counted(achieved.rpo_met)
        if rto is not None:
            self._rto_percent.set(rto)
        if rpo is not None:
            self._rpo_percent.set(rpo)

    # Health ---------------------------------------------------------------------------------------------------------

    def health_checked(self, region: str, healthy: bool) -> None:
        self._health_checks.add(1, {"region": region, "result": "healthy" if healthy else "unhealthy"})

    def replication_lag(self, source: str, target: str, seconds: float) -> None:
        self._replication_lag.set(max(seconds, 0.0), {"source": source, "target": target})

    # Endpoint -------------------------------------------------------------------------------------------------------

    def serve(self, host: str = "127.0.0.1", port: int = 0) -> Endpoint:
        """Starts to answer ``GET /metrics`` in a thread of its own; port 0 takes a free one.

        Raises:
            BadInput: the address cannot be listened at, with what the system said.
        """
        try:
            server, thread = start_http_server(port, addr=host, registry=self.registry)
        except (OSError, OverflowError) as error:
            raise BadInput(
                f"Metrics cannot be served at {host}:{port} ({getattr(error, 'strerror', None) or error}): choose "
                "another monitoring.metrics.port, or 0 for any free one."
            ) from None
        return Endpoint(server, thread)

    def close(self) -> None:
        """Ends the instruments; a process does this once, at its end."""
        self.provider.shutdown()


class Endpoint(AbstractContextManager["Endpoint"]):
    """A served metrics address; ``close`` frees the port."""

    def __init__(self, server: WSGIServer, thread: threading.Thread) -> None:
        self._server, self._thread = server, thread
        self.host: str = str(server.server_address[0])
        self.port: int = server.server_port

    @property
    def url(self) -> str:
        return f"http://{address_of(self.host, self.port)}/metrics"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Share:
    """How many of those that could be judged met their objective."""

    def __init__(self) -> None:
        self.met = self.judged = 0

    def counted(self, met: bool | None) -> float | None:
        """Percent after this one; None while nothing was judged."""
        if met is not None:
            self.judged += 1
            self.met += met
        return 100.0 * self.met / self.judged if self.judged else None
