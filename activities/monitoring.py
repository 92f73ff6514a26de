"""What monitors do outside: watch from a vantage point, start a plan, wait for its end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Literal, TypeVar

import structlog
from pydantic import ValidationError
from temporalio import activity
from temporalio.client import WorkflowFailureError, WorkflowHandle
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import ApplicationError, WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from activities.boundary import service
from activities.recovery_points import GROUP_MEMO
from recovery.domain.base import Recorded
from recovery.domain.group import GroupSnapshot
from recovery.domain.guarding import Unfenced, unfenced
from recovery.domain.plan import MONITOR, PlanRequest
from recovery.domain.report import Achieved, RunReport, RunState, StepState
from recovery.errors import RecoveryError
from recovery.ports.configuration import Configuration
from recovery.ports.guard import Guards
from recovery.ports.health import OwnershipReader

ANNOUNCED, NOT_DELIVERED = "notifications.announce_end", "alert not delivered"
WATCH_FOR = timedelta(hours=23)
"""One attempt of the long activity; less than its start-to-close timeout."""
INCIDENT_MEMO = "recovery-plans.incident"

GUARD_SECONDS = 4.0
"""For a guard's word about its stores; one of a lost region never comes."""
AT_ONCE = timedelta(milliseconds=1)
Result = TypeVar("Result")
Watch = Callable[[str, datetime], Awaitable[bool]]
"""Runs the probe loop of a vantage point until it is cancelled; False where it has nothing to watch.

Takes the moment at which this life of the loop was ordered, by the one clock of Temporal's server.
"""

log = structlog.get_logger("recovery.monitoring")


class StartOrder(Recorded):
    """A plan that is to start because ``region``, the owner under ``epoch``, is lost."""

    group: str
    plan: str
    region: str
    epoch: int
    reason: str
    outage_began_at: datetime
    incident: str
    approved: bool = False  # by a person
    by_silence: bool = False  # nobody answered the monitor's question, and the default is to approve


class Started(Recorded):
    """``busy``: another run is changing the group. ``moved``: the owner is not the lost region any more.

    ``plan``: what runs, which is not what was ordered where an attempt of which nobody heard had begun another plan.
    """

    outcome: Literal["started", "busy", "moved"]
    workflow_id: str = ""
    run_id: str = ""
    plan: str = ""
    detail: str = ""
    owner: str | None = None
    epoch: int = 0


class PlanEnd(Recorded):
    """How a run ended, and who owns the group after it."""

    completed: bool
    owner: str | None = None
    epoch: int = 0
    state: str
    step: str = ""
    error: str = ""
    source: str | None = None
    target: str | None = None
    took: timedelta | None = None
    achieved: Achieved = Achieved()
    told: bool = False  # the run itself has said how it ended, and the message was delivered


class FencesSeen(Recorded):
    """What the guards that answered say of their stores."""

    answered: list[str]  # regions
    unfenced: list[Unfenced]


class Monitoring:
    def __init__(self, configuration: Configuration, ownership: OwnershipReader, watch: Watch, guards: Guards) -> None:
        self._configuration = configuration
        self._ownership = ownership
        self._watch = watch
        self._guards = guards

    @service("monitoring.load_group")
    async def load_group(self, group: str) -> GroupSnapshot:
        """The group's rules, as this worker's configuration has them."""
        return self._configuration.snapshot(group)

    @service("monitoring.look_at_fences")
    async def look_at_fences(self, group: str) -> FencesSeen:
        """Which stores no guard keeps from a second primary, as the guards of all regions say now."""
        regions = [region.name for region in self._configuration.snapshot(group).regions]
        answers = await asyncio.gather(*(self._unfenced(region, group) for region in regions))
        known = {region: found for region, found in zip(regions, answers, strict=True) if found is not None}
        return FencesSeen(answered=list(known), unfenced=[one for found in known.values() for one in found])

    async def _unfenced(self, region: str, group: str) -> list[Unfenced] | None:
        try:
            async with asyncio.timeout(GUARD_SECONDS):
                status = await self._guards.status(region, group)
        except (RecoveryError, TimeoutError) as error:
            log.info("a guard does not say how its stores are fenced", region=region, group=group, why=str(error))
            return None
        return unfenced(region, [state for found in status.groups if found.group == group for state in found.stores])

    @service("monitoring.watch")
    async def watch(self, vantage: str) -> bool:
        """Looks at all groups that name this vantage point, for hours; another worker takes over where this one ends.

        Returns False where there is nothing to watch.
        """
        try:
            async with asyncio.timeout(WATCH_FOR.total_seconds()):
                return await while_worker_stays(self._watch(vantage, activity.info().current_attempt_scheduled_time))
        except TimeoutError:
            return True

    @service("monitoring.start_plan")
    async def start_plan(self, order: StartOrder) -> Started:
        """Starts the plan as a run of its own, after a last look at who owns the group and whether a run changes it."""
        if (own := await self._own_run(order)) is not None:
            return own
        found = await self._ownership.read(order.group)
        if found is not None:
            record = found[0]
            if (record.region, record.epoch) != (order.region, order.epoch):
                words = f"{record.region} owns the group with epoch {record.epoch}"
                return Started(outcome="moved", detail=words, owner=record.region, epoch=record.epoch)
            if record.run is not None:
                return Started(outcome="busy", detail=f"{record.plan or 'a run'} {record.run} is changing the group")
        return await self._start(order)

    async def _start(self, order: StartOrder) -> Started:
        workflow_id = f"recovery/{order.group}"  # the lock of all plans that change a group
        request = PlanRequest(
            group=order.group,
            reason=order.reason,
            requested_by=MONITOR,
            outage_began_at=order.outage_began_at,
            approve=order.approved or order.by_silence,
            automatic=not order.approved,
            incident_id=order.incident,
        )
        try:
            handle: WorkflowHandle[object, object] = await activity.client().start_workflow(
                order.plan,
                request,
                id=workflow_id,
                task_queue=activity.info().task_queue,
                id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
                id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
                memo={GROUP_MEMO: order.group, INCIDENT_MEMO: order.incident},
                static_summary=f"{order.plan} of {order.group}",
                static_details=f"Requested by {MONITOR}: {order.reason}",
            )
            run_id = handle.first_execution_run_id or handle.result_run_id or ""
        except WorkflowAlreadyStartedError as error:
            busy = Started(outcome="busy", detail=f"run {error.run_id} of {workflow_id} is changing the group")
            return await self._own_run(order) or busy
        return Started(outcome="started", workflow_id=workflow_id, run_id=run_id, plan=order.plan)

    @staticmethod
    async def _own_run(order: StartOrder) -> Started | None:
        """The run that an earlier attempt of this very order began, whether or not it has ended.

        A run of another plan that this outage began with counts only while it goes on. Where it has ended and the
        region is still the owner, it was of no use, and what is ordered instead begins.
        """
        workflow_id = f"recovery/{order.group}"
        try:
            described = await activity.client().get_workflow_handle(workflow_id).describe()
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return None
            raise
        try:
            memo = await described.memo()
        except (RecoveryError, KeyError, RuntimeError) as error:  # the last two: nothing here knows its encoding
            log.warning("the last run's memo cannot be read, so it is not ours", run=described.run_id, error=str(error))
            return None
        if memo.get(INCIDENT_MEMO) != order.incident:
            return None
        plan, has_ended = described.workflow_type, described.close_time is not None
        if plan != order.plan and has_ended:
            return None
        return Started(outcome="started", workflow_id=workflow_id, run_id=described.run_id, plan=plan)

    @service("monitoring.follow_plan")
    async def follow_plan(self, group: str, run: Started) -> PlanEnd:
        """Waits for the end of a run, however long people take, and reads who owns the group then."""
        end = await self._end_of(run)
        try:
            found = await self._ownership.read(group)
        except RecoveryError as error:
            log.warning("who owns the group now could not be read", group=group, error=str(error))
            return end
        return end if found is None else end.model_copy(update={"owner": found[0].region, "epoch": found[0].epoch})

    async def _end_of(self, run: Started) -> PlanEnd:
        handle: WorkflowHandle[object, RunReport] = activity.client().get_workflow_handle(
            run.workflow_id, run_id=run.run_id, result_type=RunReport
        )
        try:
            report = await while_worker_stays(handle.result())
        except WorkflowFailureError as failure:
            found = enclosed_report(failure)
            if found is None:
                return PlanEnd(completed=False, state="ended", error=str(failure.cause))
            report = found
        return PlanEnd(
            completed=report.state is RunState.COMPLETED,
            state=report.state.value,
            step=report.failed_step or "",
            error=report.error,
            source=report.source_region,
            target=report.target_region,
            took=report.ended_at - report.started_at if report.ended_at is not None else None,
            achieved=report.achieved,
            told=was_told(report),
        )


def was_told(report: RunReport) -> bool:
    """Whether people heard from the run itself how it ended: else its monitor says it."""
    if report.state is not RunState.COMPLETED:
        return not any(warning.startswith(NOT_DELIVERED) for warning in report.warnings)
    return any(step.activity == ANNOUNCED and step.state is StepState.DONE for step in report.steps)


async def while_worker_stays(work: Awaitable[Result]) -> Result:
    """A worker that stops hands long work over at once, instead of giving it the time that short steps get to end."""
    working = asyncio.ensure_future(work)
    stopping = asyncio.ensure_future(activity.wait_for_worker_shutdown())
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ApplicationError("this worker is stopping", type="WorkerStops", next_retry_delay=AT_ONCE)
        return await working
    finally:
        for task in (working, stopping):
            task.cancel()
        await asyncio.gather(working, stopping, return_exceptions=True)


def enclosed_report(failure: WorkflowFailureError) -> RunReport | None:
    """The report that a plan which ended badly sends with its error."""
    if not isinstance(failure.cause, ApplicationError) or not failure.cause.details:
        return None
    try:
        return RunReport.model_validate(failure.cause.details[0])
    except ValidationError:
        return None
