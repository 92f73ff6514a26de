"""A trace of each plan and its steps, through the SDK's interceptor, to a collector that speaks OTLP over HTTP."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from temporalio.client import Interceptor
from temporalio.contrib.opentelemetry import TracingInterceptor

SEND_SECONDS = 5.0


class Tracing:
    """What a worker's client is connected with. Spans wait in memory (2,048 at most) and are sent by a thread: a
    collector that does not answer costs spans, and no plan waits for it."""

    def __init__(self, endpoint: str | None, *, service: str = "recovery-plans") -> None:
        """``endpoint``: the collector's address, with its path; None traces nothing."""
        self._provider: TracerProvider | None = None
        self.interceptors: list[Interceptor] = []
        if endpoint is None:
            return
        self._provider = TracerProvider(resource=Resource.create({"service.name": service}), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint, timeout=SEND_SECONDS)))
        self.interceptors.append(TracingInterceptor(self._provider.get_tracer(service)))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Sends what is left, within ``SEND_SECONDS``."""
        if self._provider is not None:
            await asyncio.to_thread(self._provider.shutdown)
