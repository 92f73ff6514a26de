"""A worker process: takes workflows and steps of its regions until it is told to stop."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta

import structlog
from temporalio.client import Client
from temporalio.worker import Worker

from activities.drift import ConfigurationDrift
from activities.lock import LockGuard
from activities.monitoring import Monitoring
from recovery.adapters.secrets import Secrets
from recovery.config import Config
from recovery.domain.recovery_counts import TYPES, counted
from recovery.errors import BadInput, NotFound, RecoveryError
from recovery.telemetry.metrics import RecoveryMetrics
from workers.client import connect
from workers.heap import return_large_buffers
from workers.masking import Masking
from workers.metrics import SdkTelemetry
from workers.monitor import WorkerWatch, keep_watching
from workers.options import worker_options
from workers.registry import activities_of
from workers.tracing import Tracing
from workers.wal import archived_groups, keep_archiving, wal_archiving, wal_sockets
from workers.wiring import Activities, Wiring
from workflows.definitions import WORKFLOWS
from workflows.health_monitor import MONITORS
from workflows.wal_archive import WalArchive

log = structlog.get_logger("recovery.workers")

GRACE = timedelta(seconds=5)
"""A step that is running when its worker is told to stop gets this long to end; then it goes on elsewhere."""

REPORTS_TO_LEARN_FROM = 50
"""Of each plan that recovers something."""

STEPS_AT_ONCE = 100
"""Besides the sessions of WAL archives, each of which takes a place for hours."""


@dataclass(frozen=True)
class WorkerPlan:
    """What one process takes: the steps of ``regions`` and, with ``control``, workflows and steps of no region."""

    config: Config
    regions: Sequence[str]
    metrics_host: str
    metrics_port: int
    address: str | None = None
    control: bool = True


async def run_worker(plan: WorkerPlan, *, ready: Callable[[str], None], stop: asyncio.Event | None = None) -> None:
    """Works until ``stop`` is set, or SIGTERM, SIGINT or SIGHUP comes. ``ready`` is called once with a sentence.

    Raises:
        Unreachable: no Temporal server answers.
        NotFound: a region is not in the configuration; the known ones are listed.
        BadInput: there is nothing for the process to take.
    """
    if not plan.regions and not plan.control:
        raise BadInput("a worker without control steps needs a region: give --region, or leave --no-control out")
    for region in plan.regions:
        if region not in plan.config.regions:
            raise NotFound(
                f"there is no region {region!r} in the configuration: it has {', '.join(plan.config.regions)}"
            )
    return_large_buffers()
    stop = stop or stop_on_signals()
    secrets = Secrets()
    metrics = RecoveryMetrics()
    telemetry = SdkTelemetry(metrics.provider)
    async with AsyncExitStack() as stack:
        stack.callback(secrets.close)
        stack.callback(metrics.close)
        tracing = await stack.enter_async_context(Tracing(plan.config.monitoring.traces))
        client = await connect(
            plan.config,
            secrets,
            address=plan.address,
            runtime=telemetry.runtime,
            interceptors=tracing.interceptors,
        )
        await stack.enter_async_context(telemetry)
        wiring = await stack.enter_async_context(Wiring(plan.config, secrets, metrics))
        endpoint = stack.enter_context(metrics.serve(plan.metrics_host, plan.metrics_port))
        activities = await wiring.activities()
        for worker in await _workers(client, plan, wiring, activities):
            await stack.enter_async_context(worker)
        await keep_watching(client, plan.config, plan.regions)
        await keep_archiving(client, plan.config, plan.regions)
        for socket in await wal_sockets(plan.config, activities.archives, plan.regions):
            await socket.open()
            stack.push_async_callback(socket.close)
        learning = asyncio.create_task(_learn(plan.config, wiring, metrics))
        stack.callback(learning.cancel)
        regions = ", ".join(plan.regions) or "no region"
        ready(
            f"worker of {regions} is ready: {plan.address or plan.config.temporal.address}, metrics at {endpoint.url}"
        )
        await stop.wait()
        log.info("worker is stopping")


async def _learn(config: Config, wiring: Wiring, metrics: RecoveryMetrics) -> None:
    """What earlier processes measured, so that a restart loses neither compliance nor the age of valid points."""
    for name in config.groups:
        try:
            reports = await wiring.reports()
            history = [each for plan in TYPES for each in await reports.recent(name, REPORTS_TO_LEARN_FROM, plan)]
            metrics.learn_compliance(recovery for report in history if (recovery := counted(report)) is not None)
            group = config.snapshot(name)
            for point in await (await wiring.catalogue(group)).points(name) if group.locations else []:
                if point.is_valid:
                    metrics.newest_valid_point(name, point.manifest.kind, point.manifest.finished_at)
        except RecoveryError as error:
            # Gauges start empty then; work does not wait for them.
            log.warning("earlier measurements could not be read", group=name, error=str(error))


async def _workers(client: Client, plan: WorkerPlan, wiring: Wiring, activities: Activities) -> list[Worker]:
    """One for workflows and control steps, and one for each region.

    Where the keys that open recovery points are here, also one for validations, and one for each region's restores.
    """
    witness = await wiring.witness()
    monitoring = Monitoring(plan.config, witness, WorkerWatch(plan.config, wiring, client), await wiring.guards())
    archiving = await wal_archiving(plan.config, wiring, activities.archives)
    interceptors = [Masking(), LockGuard(witness), ConfigurationDrift(plan.config)]
    control = plan.config.temporal.control_queue
    queues: dict[str, list[type]] = {control: [*WORKFLOWS, *MONITORS, WalArchive]} if plan.control else {}
    queues |= {plan.config.region_queue(region): [] for region in plan.regions}
    if activities.opens_points:
        queues[plan.config.validation_queue] = []
        queues |= {plan.config.restore_queue(region): [] for region in plan.regions}
    return [
        Worker(
            client,
            task_queue=queue,
            workflows=workflows,
            activities=[*activities.methods, *activities_of(monitoring, archiving)],
            interceptors=interceptors,
            graceful_shutdown_timeout=GRACE,
            max_concurrent_activities=STEPS_AT_ONCE + len(archived_groups(plan.config)),
            **worker_options(),
        )
        for queue, workflows in queues.items()
    ]


def stop_on_signals() -> asyncio.Event:
    """An event that SIGTERM, SIGINT and SIGHUP (a closed terminal) set."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    return stop
