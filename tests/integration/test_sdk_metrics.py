"""The SDK's metrics and ours on one endpoint, from a worker on a real Temporal server."""

from __future__ import annotations

import asyncio
import logging
import sys
import urllib.request
import uuid
from pathlib import Path

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from recovery.telemetry.metrics import Endpoint, RecoveryMetrics
from tests.integration.measured_plan import MeasuredPlan, measured_step
from workers.metrics import SdkTelemetry

QUEUES = ("region-a", "region-b")
RUNS = 5


def scrape(endpoint: Endpoint) -> dict[str, Metric]:
    with urllib.request.urlopen(endpoint.url, timeout=5) as answer:
        return {family.name: family for family in text_string_to_metric_families(answer.read().decode())}


async def run_plans(client: Client) -> None:
    """The same number of runs on each queue, interleaved, with drains in between."""
    workers = [
        Worker(client, task_queue=queue, workflows=[MeasuredPlan], activities=[measured_step]) for queue in QUEUES
    ]
    async with workers[0], workers[1]:
        for number in range(RUNS):
            for queue in QUEUES:
                await client.execute_workflow(MeasuredPlan.run, number, id=f"plan-{uuid.uuid4()}", task_queue=queue)
            await asyncio.sleep(0.05)


@pytest.mark.timeout(120)
async def test_sdk_metrics_appear_beside_ours_under_their_own_labels(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "temporalio.core")
    metrics = RecoveryMetrics()
    metrics.health_checked("region-a", True)
    async with (
        await WorkflowEnvironment.start_local(
            dev_server_existing_path=str(Path(sys.executable).parent / "temporal")
        ) as environment,
        SdkTelemetry(metrics.provider, drain_every=0.02, core_level="DEBUG") as telemetry,
    ):
        address = environment.client.service_client.config.target_host
        await run_plans(await Client.connect(address, runtime=telemetry.runtime))
    with metrics.serve() as endpoint:
        found = await asyncio.to_thread(scrape, endpoint)
        await asyncio.to_thread(endpoint.close)

    assert found["dr_health_check"].samples
    completed = {
        sample.labels["task_queue"]: sample.value
        for sample in found["temporal_workflow_completed"].samples
        if sample.name.endswith("_total")
    }
    assert completed == dict.fromkeys(QUEUES, RUNS)
    latency = found["temporal_activity_execution_latency_seconds"]
    assert latency.type == "histogram"
    counts = {s.labels["task_queue"]: s.value for s in latency.samples if s.name.endswith("_count")}
    assert counts == dict.fromkeys(QUEUES, RUNS)
    assert {s.labels["activity_type"] for s in latency.samples} == {"measured_step"}
    below_a_minute = [s for s in latency.samples if s.labels.get("le") == "60.0"]
    assert [s.value for s in below_a_minute] == [RUNS, RUNS]
    slots = found["temporal_worker_task_slots_available"]
    assert slots.type == "gauge"
    assert {s.labels["task_queue"] for s in slots.samples} >= set(QUEUES)
    # The core's own log lines arrived at the standard library's loggers, where ours are.
    assert any(record.name.startswith("temporalio.core") for record in caplog.records)
