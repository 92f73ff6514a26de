"""A whole guarded installation in one object, for tests of faults.

Two regions, guards, workers, a third vantage point, a client that buys through the name, and a checker that writes to
both regions all the time::

    async with guarded_site() as site:
        await site.kill(site.active)
        await site.service_back()
        site.never_two_writers()

Which region is active changes from test to test; ``reset`` mends what a test broke and lets the other region follow.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest
from temporalio.client import Client
from temporalio.service import RPCError

from drctl.demo.guarded import FailoverTimes
from drctl.demo.installation import GROUP
from lab import Lab
from lab.readiness import log_tail
from lab.two_writers import Verdict, lost_writes
from lab.workload import LossReport, Pause, Workload, first_after, lost_commits, pauses
from lab.writers import Writers
from recovery.adapters.witness import WitnessStore
from recovery.config import Config
from recovery.domain.guarding import GuardStatus, StoreRole
from recovery.domain.ownership import OwnershipRecord
from recovery.domain.plan import PlanRequest
from recovery.domain.report import RunReport, RunState
from recovery.errors import RecoveryError, Unreachable
from recovery.ports.guard import Guards
from tests.integration.armed_site import ArmedInstallation
from tests.integration.guarded_reset import reset
from tests.integration.waiting import eventually
from workers import operations
from workers.operations import Handle
from workers.wiring import Wiring
from workflows.health_state import HealthView

WITNESS_SECONDS = 40.0
PLAN_SECONDS = 150.0
FOLLOWED = """
SELECT status = 'streaming' AND sender_host = $1 AND sender_port = $2::int FROM pg_stat_wal_receiver
"""
LOG_NAMES = ("guard", "worker", "monitor")


@dataclass
class GuardedSite:
    """See above. Times are unix seconds."""

    lab: Lab
    folder: Path
    installation: ArmedInstallation
    config: Config
    client: Client
    wiring: Wiring
    guards: Guards
    workload: Workload
    writers: Writers
    active: str
    since: float = 0.0

    @property
    def times(self) -> FailoverTimes:
        return self.installation.times

    @property
    def other(self) -> str:
        """The first region that is not active, as of the last ``reset`` or ``became_active``."""
        return self.others[0]

    @property
    def others(self) -> list[str]:
        """As ``other``: all of them, in the order of their priority."""
        return [region for region in self.installation.regions if region != self.active]

    # -- what is so -------------------------------------------------------------------------------------------------

    async def witness(self) -> WitnessStore:
        return await self.wiring.witness()

    async def record(self) -> OwnershipRecord:
        """Asked again while the witness does not answer, for a while: it is restarted, or the machine is busy."""
        witness, until = await self.witness(), time.monotonic() + WITNESS_SECONDS
        while True:
            try:
                found = await witness.read(GROUP)
            except Unreachable:
                if time.monotonic() > until:
                    raise
                await asyncio.sleep(0.2)
                continue
            assert found is not None, "nobody ever claimed the group"
            return found[0]

    async def owner(self) -> str:
        return (await self.record()).region

    async def status(self, region: str) -> GuardStatus | None:
        """What the region's guard says; None: it does not answer."""
        try:
            return await self.guards.status(region, GROUP)
        except RecoveryError:
            return None

    async def role(self, region: str) -> str:
        """Of the region's PostgreSQL, asked directly: primary, standby or off."""
        try:
            connection = await asyncpg.connect(self.lab.postgres(region).dsn(), timeout=2)
            try:
                return "standby" if await connection.fetchval("SELECT pg_is_in_recovery()", timeout=2) else "primary"
            finally:
                connection.terminate()
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
            return "off"

    async def follows(self, region: str) -> bool:
        """Whether every store of a region follows the active one's."""
        status = await self.status(region)
        states = [store for group in status.groups for store in group.stores] if status else []
        return bool(states) and all(store.role is StoreRole.STANDBY for store in states) and await self.streams(region)

    async def streams(self, region: str) -> bool:
        """Whether a region's PostgreSQL follows the active one's."""
        upstream = self.lab.seen_from(region, self.active, "postgres")
        try:
            connection = await asyncpg.connect(self.lab.postgres(region).dsn(), timeout=2)
            try:
                followed = await connection.fetchval(FOLLOWED, *upstream, timeout=2)
            finally:
                connection.terminate()
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return False
        return bool(followed)

    async def health(self) -> HealthView | None:
        handle = self.client.get_workflow_handle(f"health/{GROUP}")
        try:
            async with asyncio.timeout(5):
                found: HealthView = await handle.query("health", result_type=HealthView)
                return found
        except (RPCError, TimeoutError):
            return None

    def logs(self) -> str:
        """The ends of the logs, for the message of a failed assertion."""
        named = [s for s in self.lab.describe().servers if s.service in LOG_NAMES]
        return "\n".join(f"== {x.name} {x.state} {x.exit_code}\n{log_tail(x.log_file)}" for x in named)

    # -- faults -----------------------------------------------------------------------------------------------------

    async def kill(self, region: str, service: str | None = None, *, with_disks: bool = False) -> float:
        """Returns when it was done."""
        await self.lab.kill(region, service, with_disks=with_disks)
        return time.time()

    async def freeze(self, region: str, *services: str) -> float:
        """Without services the whole region. Returns when it was done."""
        for service in services or (None,):
            await self.lab.freeze(region, service)
        return time.time()

    async def thaw(self, region: str, *services: str) -> float:
        at = time.time()
        for service in services or (None,):
            await self.lab.thaw(region, service)
        return at

    async def frozen_for(self, ttls: float, region: str, *services: str) -> tuple[float, float]:
        """Freezes them for so many ttl. Returns when they froze and thawed, once service is back and all is at rest."""
        frozen = await self.freeze(region, *services)
        await asyncio.sleep(ttls * self.times.ttl)
        thawed = await self.thaw(region, *services)
        await self.service_back(thawed)
        await self.settled()
        return frozen, thawed

    async def isolate(self, region: str, *keep: str) -> float:
        """Drops every packet between a region and all other places but ``keep``. Returns when it was done."""
        await self.lab.isolate(region, keep=keep)
        return time.time()

    # -- plans ------------------------------------------------------------------------------------------------------

    async def start(self, plan: str, **request: Any) -> Handle:
        wanted = PlanRequest.model_validate({"group": GROUP, "reason": "a test", "requested_by": "pytest", **request})
        handle, new = await operations.start(self.client, self.config, plan, wanted)
        assert new, f"{handle.id} was running already: an earlier test left it"
        return handle

    async def run(self, plan: str, **request: Any) -> RunReport:
        return await self.ended(await self.start(plan, **request))

    async def ended(self, handle: Handle) -> RunReport:
        """Its report. Raises AssertionError with where it stands when it takes too long."""
        try:
            async with asyncio.timeout(PLAN_SECONDS):
                return await operations.result(handle)
        except TimeoutError:
            where = told(await operations.latest(handle))
            raise AssertionError(f"{handle.id} did not end in {PLAN_SECONDS:g} s: {where}\n{self.logs()}") from None

    async def start_or_join(self, plan: str, **request: Any) -> Handle:
        """As ``start``; a run that goes on already is joined."""
        wanted = PlanRequest.model_validate({"group": GROUP, "reason": "a test", "requested_by": "pytest", **request})
        return (await operations.start(self.client, self.config, plan, wanted))[0]

    async def reset_run(self, workflow_id: str) -> Handle:
        """Resets a run to its first workflow task, as an operator could by mistake; returns the new one."""
        description = await self.client.get_workflow_handle(workflow_id).describe()
        execution = WorkflowExecution(workflow_id=workflow_id, run_id=description.run_id)
        history = await self.client.get_workflow_handle(workflow_id).fetch_history()
        done = next(e for e in history.events if e.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED)
        request = ResetWorkflowExecutionRequest(
            namespace=self.client.namespace,
            workflow_execution=execution,
            reason="a test",
            workflow_task_finish_event_id=done.event_id,
            request_id=str(uuid.uuid4()),
        )
        answer = await self.client.workflow_service.reset_workflow_execution(request)
        return self.client.get_workflow_handle(workflow_id, run_id=answer.run_id, result_type=RunReport)

    async def failover(self, seconds: float = 40.0, *, operator: str = "") -> RunReport:
        """Waits for the failover that the monitors start, and for its end.

        ``operator``: who answers each hold with "retry"; else a held run fails the test.
        """
        epoch = (await self.record()).epoch

        async def begun() -> Handle | None:
            view = await self.health()
            run = view.run if view is not None else None
            if run is None or run.started_at.timestamp() < self.since:
                return None
            return await operations.find(self.client, run.workflow_id)

        handle = await self.eventually(begun, seconds, f"no failover began (epoch {epoch})")
        answering = asyncio.create_task(self._retries(handle, operator)) if operator else None
        try:
            report = await self.ended(handle)
        finally:
            if answering is not None:
                answering.cancel()
        assert report.state is RunState.COMPLETED, f"{told(report)}\n{self.logs()}"
        return report

    async def _retries(self, handle: Handle, operator: str) -> None:
        while True:
            with contextlib.suppress(RecoveryError):  # it went on meanwhile
                if (await operations.latest(handle)).hold_choices:
                    await operations.act(handle, "retry", operator, "the region is well again")
            await asyncio.sleep(1)

    async def failovers(self) -> list[RunReport]:
        """The reports of the failovers that ran to their end since the last ``reset``, oldest first."""
        await self.no_plans()
        since = datetime.fromtimestamp(self.since, UTC)
        ran = [line async for line in operations.runs(self.client, group=GROUP, limit=40) if line.plan == "Failover"]
        handles = [await operations.find(self.client, line.run_id) for line in ran if line.started_at >= since]
        reports = [await operations.latest(handle) for handle in handles]
        return sorted((x for x in reports if x.state is RunState.COMPLETED), key=lambda report: report.started_at)

    async def primaries(self, region: str) -> list[str]:
        """The region's stores that accept writes, as its guard sees them; none while it does not answer."""
        status = await self.status(region)
        states = [store for group in status.groups for store in group.stores] if status else []
        return [state.store for state in states if state.role is StoreRole.PRIMARY]

    async def no_plan(self, seconds: float) -> None:
        """For this long no plan starts and the owner stays. Raises AssertionError as soon as one does."""
        owner, until = await self.owner(), time.time() + seconds
        while time.time() < until:
            running = [run.id async for run in self.client.list_workflows("ExecutionStatus = 'Running'")]
            plans = [name for name in running if name.startswith("recovery/")]
            assert not plans, f"{plans} runs\n{self.logs()}"
            await asyncio.sleep(0.5)
        assert await self.owner() == owner

    # -- service and losses -----------------------------------------------------------------------------------------

    async def eventually(self, question: Callable[[], Awaitable[Any]], seconds: float = 30.0, what: str = "") -> Any:
        """As ``waiting.eventually``, and tells where plans stand, and the logs."""
        try:
            return await eventually(question, seconds, every=0.1)
        except TimeoutError:
            pass
        stand = "\n".join([what or "it did not become true", *[told(report) for report in await self._standing()]])
        raise AssertionError(f"within {seconds:g} s: {stand}\n{self.logs()}")

    async def _standing(self) -> list[RunReport]:
        """What plans of this test have done so far, oldest first; nothing while Temporal is silent."""
        since = datetime.fromtimestamp(self.since, UTC)
        with contextlib.suppress(RPCError, RecoveryError, TimeoutError):
            async with asyncio.timeout(10):
                ran = [line async for line in operations.runs(self.client, group=GROUP, limit=10)]
                handles = [await operations.find(self.client, x.run_id) for x in ran if x.started_at >= since]
                return [await operations.latest(handle) for handle in reversed(handles)]
        return []

    async def service_back(self, after: float, seconds: float = 40.0) -> float:
        """Waits for the first acknowledged commit through the name after a moment; returns its time."""

        async def bought() -> float | None:
            return await asyncio.to_thread(first_after, self.workload.file, after)

        return float(await self.eventually(bought, seconds, "the client could not buy again"))

    async def became_active(self, region: str, seconds: float = 40.0) -> None:
        """Waits until a region owns the group, is a primary, and no plan holds the group."""

        async def so() -> bool:
            record = await self.record()
            return record.region == region and record.run is None and await self.role(region) == "primary"

        await self.eventually(so, seconds, f"{region} did not become active")
        self.active = region

    async def settled(self) -> None:
        """Waits until no plan holds the group and its owner's PostgreSQL is the primary."""
        await self.no_plans()
        await self.became_active(await self.owner())

    def verdict(self) -> Verdict:
        """What the checker saw since the last ``reset``."""
        return self.writers.verdict(self.since)

    def never_two_writers(self) -> Verdict:
        """Asserts that no two regions accepted writes at once, and nobody past its ownership."""
        verdict = self.verdict()
        assert not verdict.two_writers, verdict.overlaps
        assert verdict.unowned == {}, verdict
        return verdict

    def pauses(self) -> list[Pause]:
        """Of the client, since the last ``reset``."""
        return [pause for pause in pauses(self.workload.file, 0.5) if pause.end >= self.since]

    async def losses(self) -> LossReport:
        """The client's acknowledged commits compared with what the active region has. All of them, from the start."""
        return await lost_commits(self.workload.file, self.lab.postgres(self.active).dsn(), listed=1_000_000)

    async def lost_since(self, moment: float) -> list[float]:
        """When, after a moment, what the active region does not have was acknowledged: the client's, the checker's."""
        report = await self.losses()
        bought = [number / 1e6 for number in report.lost_ids if number / 1e6 >= moment]
        written = await lost_writes(self.writers.file, self.lab.postgres(self.active).dsn())
        return sorted(bought + [write.acknowledged for write in written if write.acknowledged >= moment])

    # -- back to a beginning ----------------------------------------------------------------------------------------

    async def reset(self) -> None:
        """See ``guarded_reset``."""
        await reset(self)
        self.since = time.time()

    async def no_plans(self) -> None:
        """Waits until no plan that moves the group runs."""

        async def idle() -> bool:
            names = [run.id async for run in self.client.list_workflows("ExecutionStatus = 'Running'")]
            return not [name for name in names if name.startswith("recovery/")]

        await self.eventually(idle, PLAN_SECONDS, "a plan did not end")


def told(report: RunReport) -> str:
    """What went wrong in a run, or where it stands."""
    steps = [
        f"{step.name} {step.state} {step.error or step.summary}" for step in report.steps if step.state != "pending"
    ]
    return "\n".join([f"{report.plan} {report.state} {report.error} {report.hold_choices}", *steps])
