"""A vantage point: the probes of all groups that name it, and whom its loop tells. In a worker, or as a process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

import structlog
from temporalio.client import Client
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.runtime import Runtime
from temporalio.service import RPCError

from recovery.adapters.probes import (
    DnsProbe,
    HttpEndpointProbe,
    Limits,
    NatsProbe,
    PostgresProbe,
    ProbesOfRegion,
    RedisProbe,
    TcpProbe,
)
from recovery.adapters.probes.replicas import Replicas
from recovery.adapters.secrets import Secrets
from recovery.config import Config
from recovery.config.names import split_address
from recovery.domain.addresses import address_of
from recovery.domain.group import GroupSnapshot, RegionPlan
from recovery.domain.health import Report
from recovery.errors import BadInput, NotFound, Unreachable
from recovery.health.loop import MonitorLoop, Surroundings
from recovery.health.watch import WatchedGroup
from recovery.ports.health import HealthMeasurements, ReportSink, StoreProbe
from recovery.telemetry.health_metrics import HealthMetrics
from recovery.telemetry.metrics import RecoveryMetrics
from workers.client import connect
from workers.replicas import StoreLogins
from workers.wiring import Wiring
from workflows.health_monitor import HealthMonitor
from workflows.vantage_monitor import VantageMonitor, VantageOrder

Probe = TypeVar("Probe", PostgresProbe, NatsProbe, HttpEndpointProbe)

WORKER, PROCESS = "worker", "process"
DNS_PORT = 53

log = structlog.get_logger("recovery.monitor")


def groups_of(config: Config, vantage: str) -> list[GroupSnapshot]:
    """The groups that name the vantage point."""
    found = (config.snapshot(name) for name in config.groups)
    return [group for group in found if vantage in group.failover.vantage_points]


def vantage_points(config: Config) -> list[str]:
    """All that any group names, each once."""
    names = (name for group in config.groups.values() for name in group.failover.vantage_points)
    return list(dict.fromkeys(names))


class TemporalSink:
    """Reports as signals to ``health/<group>``, whose run they start where there is none."""

    def __init__(self, client: Callable[[], Client | None], config: Config) -> None:
        self._client = client
        self._queue = config.temporal.control_queue

    async def send(self, report: Report) -> None:
        """See ``recovery.ports.health.ReportSink``."""
        client = self._client()
        if client is None:
            raise Unreachable("no Temporal server has answered yet")
        try:
            await client.start_workflow(
                HealthMonitor.run,
                id=f"health/{report.group}",
                task_queue=self._queue,
                start_signal="report",
                start_signal_args=[report],
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                static_summary=f"health of {report.group}",
            )
        except (RPCError, RuntimeError) as error:
            raise Unreachable(f"Temporal did not take the report: {error}") from error


@dataclass
class Vantage:
    """Builds the loop of one vantage point. ``close`` it after the loop has ended."""

    config: Config
    wiring: Wiring
    measurements: HealthMeasurements
    name: str

    def __post_init__(self) -> None:
        self._open = AsyncExitStack()

    async def close(self) -> None:
        await self._open.aclose()

    async def loop(
        self,
        source: str,
        sink: ReportSink,
        *,
        patience: float,
        progress: Callable[[], None] = lambda: None,
        ordered_at: datetime | None = None,
    ) -> MonitorLoop:
        """Raises BadInput where a group names no such vantage point; the known ones are listed."""
        groups = groups_of(self.config, self.name)
        if not groups:
            known = ", ".join(vantage_points(self.config)) or "none at all"
            raise BadInput(
                f"no group names the vantage point {self.name!r}: set failover.vantage_points. Configured: {known}"
            )
        watched = [
            WatchedGroup(
                group, await self._probes(group), Replicas(group, await StoreLogins(self.wiring, group).places())
            )
            for group in groups
        ]
        around = Surroundings(
            sink, await self.wiring.witness(), self.measurements, await self.wiring.notifier(), patience
        )
        return MonitorLoop(self.name, source, watched, around, progress=progress, ordered_at=ordered_at)

    async def _probes(self, group: GroupSnapshot) -> dict[str, ProbesOfRegion]:
        rule = group.failover
        limits = Limits.of(rule.timeout.total_seconds(), rule.interval.total_seconds())
        return {
            region.name: ProbesOfRegion(
                [
                    *await self._postgres(group, region, limits),
                    *await self._redis(group, region, limits),
                    *await self._nats(group, region, limits),
                    *self._http(group, region, limits),
                    *self._dns(group, region, limits),
                ],
                limits.connect,
            )
            for region in group.regions
        }

    async def _postgres(self, group: GroupSnapshot, region: RegionPlan, limits: Limits) -> Sequence[StoreProbe]:
        if region.postgres is None:
            return []
        try:
            login = await StoreLogins(self.wiring, group).postgres(region.name)
        except (NotFound, BadInput) as error:
            return _reached("postgres", address_of(region.postgres.host, region.postgres.port), limits, error)
        return [self._kept(PostgresProbe(login, self.name, limits))] if login is not None else []

    async def _redis(self, group: GroupSnapshot, region: RegionPlan, limits: Limits) -> Sequence[StoreProbe]:
        try:
            server = await StoreLogins(self.wiring, group).redis(region.name)
        except (NotFound, BadInput) as error:
            return _reached("redis", region.redis, limits, error)
        return [RedisProbe(server, limits)] if server is not None else []

    async def _nats(self, group: GroupSnapshot, region: RegionPlan, limits: Limits) -> Sequence[StoreProbe]:
        try:
            login = await StoreLogins(self.wiring, group).nats(region.name)
        except (NotFound, BadInput) as error:
            return _reached("nats", region.nats, limits, error)
        return [self._kept(NatsProbe(login, group.chosen_streams, limits))] if login is not None else []

    def _kept(self, probe: Probe) -> Probe:
        self._open.push_async_callback(probe.close)
        return probe

    def _http(self, group: GroupSnapshot, region: RegionPlan, limits: Limits) -> Sequence[StoreProbe]:
        if not region.health_urls:
            return []
        longest = min(limits.answer, group.health_timeout.total_seconds())
        limits = Limits(longest, min(limits.connect, longest))
        return [self._kept(HttpEndpointProbe(region.health_urls, group.health_answer, limits))]

    def _dns(self, group: GroupSnapshot, region: RegionPlan, limits: Limits) -> Sequence[StoreProbe]:
        configured = self.config.group(group.name).dns
        if configured is None or region.dns_value is None or region.dns_alias_zone is not None:
            return []  # an alias resolves to whatever its target does
        server = None
        if configured.server is not None:
            host, port = split_address(configured.server)
            server = (host, port or DNS_PORT)
        return [DnsProbe(group.records, region.dns_value, limits.answer, server)]


def _reached(store: str, address: str | None, limits: Limits, why: Exception) -> Sequence[StoreProbe]:
    """A store whose login is not on this machine: at least its port is tried."""
    if address is None:
        return []
    log.warning("a store is only reached for, not asked", store=store, address=address, reason=str(why))
    host, port = split_address(address)
    assert port is not None, "a snapshot's address has a port"
    return [TcpProbe(store, host, port, limits, "its login is not on this machine")]


class WorkerWatch:
    """The loop inside a worker, for the activity ``monitoring.watch``."""

    def __init__(self, config: Config, wiring: Wiring, client: Client) -> None:
        self._config, self._wiring, self._client = config, wiring, client
        assert isinstance(wiring.measurements, RecoveryMetrics), "a worker's measurements are metrics"
        self._measurements = HealthMetrics(wiring.measurements)

    async def __call__(self, vantage: str, ordered_at: datetime) -> bool:
        """See ``activities.monitoring.Watch``."""
        if not groups_of(self._config, vantage):
            return False
        built = Vantage(self._config, self._wiring, self._measurements, vantage)
        try:
            sink = TemporalSink(lambda: self._client, self._config)
            loop = await built.loop(WORKER, sink, patience=PATIENCE, ordered_at=ordered_at)
            await loop.run()
        finally:
            await built.close()
        return True


PATIENCE = 60.0
"""Seconds for which nobody can be told what a vantage point sees, before it tells people itself."""


async def keep_watching(client: Client, config: Config, regions: Sequence[str]) -> None:
    """Starts ``monitor/<region>`` for each region that is a vantage point, where it does not run yet."""
    for region in regions:
        if groups_of(config, region):
            order = VantageOrder(vantage=region, queue=config.region_queue(region))
            await client.start_workflow(
                VantageMonitor.run,
                order,
                id=f"monitor/{region}",
                task_queue=config.temporal.control_queue,
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                static_summary=f"the vantage point {region}",
            )


@dataclass(frozen=True)
class MonitorPlan:
    """What ``drctl monitor`` runs."""

    config: Config
    vantage: str
    metrics_host: str
    metrics_port: int
    address: str | None = None
    patience: float = PATIENCE


async def run_monitor(plan: MonitorPlan, *, ready: Callable[[str], None], stop: asyncio.Event) -> None:
    """Looks from a vantage point until ``stop`` is set, whether or not Temporal answers.

    Raises:
        BadInput: no group names the vantage point.
    """
    secrets, metrics = Secrets(), RecoveryMetrics()
    connection = _Connection(plan, secrets)
    async with AsyncExitStack() as stack:
        stack.callback(secrets.close)
        stack.callback(metrics.close)
        wiring = await stack.enter_async_context(Wiring(plan.config, secrets, metrics))
        vantage = Vantage(plan.config, wiring, HealthMetrics(metrics), plan.vantage)
        stack.push_async_callback(vantage.close)
        loop = await vantage.loop(PROCESS, TemporalSink(connection.current, plan.config), patience=plan.patience)
        endpoint = stack.enter_context(metrics.serve(plan.metrics_host, plan.metrics_port))
        connecting = asyncio.create_task(connection.run())
        running = asyncio.create_task(loop.run())
        stopping = asyncio.create_task(stop.wait())
        names = ", ".join(watch.group.snapshot.name for watch in loop.watches)
        ready(f"monitor {plan.vantage} looks at {names}, metrics at {endpoint.url}")
        try:
            await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                running.result()
        finally:
            for task in (running, stopping, connecting):
                task.cancel()
            await asyncio.gather(running, stopping, connecting, return_exceptions=True)


class _Connection:
    """The client, as soon as a server answers; after that it reconnects by itself."""

    def __init__(self, plan: MonitorPlan, secrets: Secrets, runtime: Runtime | None = None) -> None:
        self._plan, self._secrets, self._runtime = plan, secrets, runtime
        self._client: Client | None = None

    def current(self) -> Client | None:
        return self._client

    async def run(self) -> None:
        pause = 0.5
        while self._client is None:
            try:
                self._client = await connect(
                    self._plan.config, self._secrets, address=self._plan.address, runtime=self._runtime
                )
            except Unreachable as error:
                log.warning("Temporal cannot be reached: looking goes on", reason=str(error))
                await asyncio.sleep(pause)
                pause = min(pause * 2, 5.0)
