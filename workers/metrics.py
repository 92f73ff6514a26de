"""Brings the Temporal SDK's own metrics and log lines into ours: one Prometheus endpoint, one log.

The SDK ships a bridge (``temporalio.contrib.opentelemetry.MetricsExporter``, experimental, 1.35). It remembers label
sets by the ``id`` of short-lived objects: tried on a busy worker, ids came back with other labels within seconds, so
values landed under wrong labels and its memory grew for ever. This one keeps nothing but instruments, by name.
"""

from __future__ import annotations

import asyncio
import logging
from types import TracebackType
from typing import Self

from opentelemetry.metrics import Counter, Histogram, Meter, MeterProvider
from opentelemetry.metrics import _Gauge as Gauge
from temporalio.runtime import (
    BUFFERED_METRIC_KIND_COUNTER,
    BUFFERED_METRIC_KIND_GAUGE,
    BUFFERED_METRIC_KIND_HISTOGRAM,
    BufferedMetric,
    BufferedMetricUpdate,
    LogForwardingConfig,
    LoggingConfig,
    MetricBuffer,
    MetricBufferDurationFormat,
    Runtime,
    TelemetryConfig,
    TelemetryFilter,
)

BUFFERED = 65_536  # updates; about 50 come with one workflow of one activity
DRAIN_EVERY = 1.0  # seconds

log = logging.getLogger("workers.metrics")


class SdkTelemetry:
    """``runtime`` is what the client must be connected with; ``async with`` carries its metrics over meanwhile.

    Args:
        provider: gets the SDK's instruments (``RecoveryMetrics.provider``). Counters appear as
            ``temporal_..._total``, durations as ``temporal_..._seconds``.
        core_level: least level of the SDK core's log lines, which go to the logger ``temporalio.core``.
    """

    def __init__(self, provider: MeterProvider, *, core_level: str = "WARN", drain_every: float = DRAIN_EVERY) -> None:
        self._meter: Meter = provider.get_meter("temporalio")
        self._drain_every = drain_every
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._histograms: dict[str, Histogram] = {}
        self._buffer = MetricBuffer(BUFFERED, MetricBufferDurationFormat.SECONDS)
        self.runtime = Runtime(
            telemetry=TelemetryConfig(
                metrics=self._buffer,
                logging=LoggingConfig(
                    filter=TelemetryFilter(core_level=core_level, other_level="ERROR"),
                    forwarding=LogForwardingConfig(logger=logging.getLogger("temporalio.core")),
                ),
            )
        )
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._drain_regularly(), name="temporal-sdk-metrics")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self.drain()  # what was recorded right before the end counts too

    async def _drain_regularly(self) -> None:
        while True:
            await asyncio.sleep(self._drain_every)
            try:
                self.drain()
            except Exception:
                # One value that the SDK or OpenTelemetry cannot take must not end all metrics of a worker.
                log.exception("metrics of the Temporal SDK could not be carried over")

    def drain(self) -> None:
        """Carries over everything that was recorded since the last time."""
        for update in self._buffer.retrieve_updates():
            self._apply(update)

    def _apply(self, update: BufferedMetricUpdate) -> None:
        labels = dict(update.attributes)
        metric, kind = update.metric, update.metric.kind
        if kind == BUFFERED_METRIC_KIND_COUNTER:
            self._counter(metric).add(update.value, labels)
        elif kind == BUFFERED_METRIC_KIND_GAUGE:
            self._gauge(metric).set(update.value, labels)
        elif kind == BUFFERED_METRIC_KIND_HISTOGRAM:
            self._histogram(metric).record(update.value, labels)
        else:
            raise ValueError(f"metric {metric.name} is of unknown kind {kind}")

    def _counter(self, metric: BufferedMetric) -> Counter:
        if metric.name not in self._counters:
            self._counters[metric.name] = self._meter.create_counter(
                metric.name, metric.unit or "", metric.description or ""
            )
        return self._counters[metric.name]

    def _gauge(self, metric: BufferedMetric) -> Gauge:
        if metric.name not in self._gauges:
            self._gauges[metric.name] = self._meter.create_gauge(
                metric.name, metric.unit or "", metric.description or ""
            )
        return self._gauges[metric.name]

    def _histogram(self, metric: BufferedMetric) -> Histogram:
        if metric.name not in self._histograms:
            self._histograms[metric.name] = self._meter.create_histogram(
                metric.name, metric.unit or "", metric.description or ""
            )
        return self._histograms[metric.name]
