"""What a collector hears of a plan."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from temporalio.client import Client
from temporalio.worker import Worker

from tests.integration.measured_plan import MeasuredPlan, measured_step
from workers.tracing import Tracing


class Collector(HTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Listening)
        self.spans: list[Span] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1/traces"


class Listening(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        asked = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.spans += [
            span for resource in asked.resource_spans for scope in resource.scope_spans for span in scope.spans
        ]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing on the terminal."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


async def one_plan(temporal: Client, tracing: Tracing) -> int:
    config = temporal.config()
    config["interceptors"] = tracing.interceptors
    queue = f"traced-{uuid.uuid4()}"
    client = Client(**config)
    async with Worker(client, task_queue=queue, workflows=[MeasuredPlan], activities=[measured_step]):
        answer: int = await client.execute_workflow(MeasuredPlan.run, 7, id=queue, task_queue=queue)
    return answer


async def test_a_plan_is_one_trace_with_its_steps(temporal: Client, collector: Collector) -> None:
    async with Tracing(collector.endpoint) as tracing:
        assert await one_plan(temporal, tracing) == 7
    spans = {span.name: span for span in collector.spans}
    assert {"RunWorkflow:MeasuredPlan", "StartActivity:measured_step", "RunActivity:measured_step"} <= set(spans)
    assert len({span.trace_id for span in collector.spans}) == 1
    assert spans["RunActivity:measured_step"].parent_span_id == spans["StartActivity:measured_step"].span_id


async def test_a_collector_that_is_away_holds_no_plan_up(temporal: Client, collector: Collector) -> None:
    gone = collector.endpoint
    await asyncio.to_thread(collector.server_close)
    async with Tracing(gone) as tracing:
        assert await one_plan(temporal, tracing) == 7
    assert collector.spans == []


async def test_without_a_collector_nothing_is_traced(temporal: Client) -> None:
    async with Tracing(None) as tracing:
        assert tracing.interceptors == []
