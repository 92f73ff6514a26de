"""What operators do to plans, as calls: start, follow, answer, list."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime

from pydantic import ValidationError
from temporalio.client import (
    Client,
    WorkflowExecutionStatus,
    WorkflowFailureError,
    WorkflowHandle,
    WorkflowUpdateFailedError,
)
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.exceptions import ApplicationError, WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from activities.boundary import StepProgress
from recovery.config import Config
from recovery.domain.plan import PlanRequest
from recovery.domain.report import RunReport, RunState
from recovery.errors import NotFound, Refused, Unreachable
from workflows.control import OperatorCommand
from workflows.plans import PLANS

ACTIONS = ("approve", "decline", "pause", "resume", "retry", "skip", "abort")
Handle = WorkflowHandle[object, RunReport]


@dataclass(frozen=True)
class RunLine:
    """A run as Temporal lists it."""

    workflow_id: str
    run_id: str
    plan: str
    status: str
    started_at: datetime
    ended_at: datetime | None


def workflow_id(plan: str, request: PlanRequest) -> str:
    """The id is the first lock: plans that change a group share one, a backup has one per group and kind."""
    table = PLANS[plan]
    if table.locks_group:
        return f"recovery/{request.group}"
    parts = [table.key, request.group]
    if request.kind is not None:
        parts.append(request.kind)
    if request.point_id is not None:
        parts.append(request.point_id)
    return "/".join(parts)


async def start(client: Client, config: Config, plan: str, request: PlanRequest) -> tuple[Handle, bool]:
    """Starts a plan, or attaches to the same plan that is running already (then the second value is False).

    Raises:
        NotFound: the configuration has no such group or region.
        Refused: another plan is changing the group; its id is named.
    """
    config.snapshot(request.group)
    if request.region is not None:
        config.region(request.region)
    wanted = workflow_id(plan, request)
    try:
        handle: Handle = await client.start_workflow(
            plan,
            request,
            id=wanted,
            task_queue=config.temporal.control_queue,
            id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
            result_type=RunReport,
            static_summary=f"{plan} of {request.group}",
            static_details=f"Requested by {request.requested_by or 'unknown'}: {request.reason or 'no reason given'}",
        )
        return handle, True
    except WorkflowAlreadyStartedError:
        running = await client.get_workflow_handle(wanted).describe()
        if running.workflow_type != plan:
            raise Refused(
                f"group {request.group} is being changed by {running.workflow_type} (run {running.run_id}): "
                f"watch it with drctl status --watch {wanted}"
            ) from None
        return client.get_workflow_handle(wanted, run_id=running.run_id, result_type=RunReport), False


async def find(client: Client, name: str) -> Handle:
    """The run of a workflow id, a run id, or a group's name (its newest run).

    Raises:
        NotFound: there is none; the newest runs are listed.
    """
    lines = [line async for line in runs(client, limit=200)]
    for line in lines:
        if name in (line.workflow_id, line.run_id) or name == line.workflow_id.split("/")[-1]:
            return client.get_workflow_handle(line.workflow_id, run_id=line.run_id, result_type=RunReport)
    known = ", ".join(dict.fromkeys(line.workflow_id for line in lines[:10])) or "none yet"
    raise NotFound(f"no run is called {name!r}. The newest are: {known}")


async def runs(client: Client, *, group: str | None = None, limit: int = 20) -> AsyncIterator[RunLine]:
    """Runs of our plans, newest first."""
    types = ", ".join(f"'{plan}'" for plan in PLANS)
    shown = 0
    async for run in client.list_workflows(f"WorkflowType IN ({types})"):
        if group is not None and group not in run.id.split("/"):
            continue
        yield RunLine(
            workflow_id=run.id,
            run_id=run.run_id,
            plan=run.workflow_type,
            status=run.status.name.lower() if run.status is not None else "unknown",
            started_at=run.start_time,
            ended_at=run.close_time,
        )
        shown += 1
        if shown >= limit:
            return


async def report(handle: Handle, *, patience: float = 10.0) -> RunReport:
    """The report as it stands, of a running or an ended run.

    Raises:
        Unreachable: no worker answers the query; a plan that ended still has its stored report.
    """
    try:
        async with asyncio.timeout(patience):
            found: RunReport = await handle.query("progress", result_type=RunReport)
            return found
    except TimeoutError:
        pass
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            raise NotFound(f"there is no run {handle.id}") from error
        if error.status not in (
            RPCStatusCode.DEADLINE_EXCEEDED,
            RPCStatusCode.UNAVAILABLE,
            RPCStatusCode.FAILED_PRECONDITION,
        ):
            raise
    raise Unreachable(f"no worker answers for {handle.id}: is one running? drctl worker --region ...")


async def follow(handle: Handle, *, every: float = 0.5) -> AsyncIterator[tuple[RunReport, dict[str, StepProgress]]]:
    """The report and the running steps' progress, again and again until the run has ended; the last is final."""
    while True:
        description = await handle.describe()
        try:
            current = await report(handle)
        except Unreachable:
            if description.status is not WorkflowExecutionStatus.RUNNING:
                raise
            await asyncio.sleep(every)  # its worker was lost: another one takes over within seconds
            continue
        yield current, await _progress(handle, description)
        if description.status is not WorkflowExecutionStatus.RUNNING:
            return
        await asyncio.sleep(every)


async def result(handle: Handle) -> RunReport:
    """Waits for the end and returns the report, however the run ended.

    Raises:
        Refused: it was terminated, or ended in a way that leaves no report.
    """
    try:
        return await handle.result()
    except WorkflowFailureError as failure:
        if isinstance(failure.cause, ApplicationError) and failure.cause.details:
            return RunReport.model_validate(failure.cause.details[0])
        final = await report(handle)
        if final.state is RunState.RUNNING:
            raise Refused(f"{handle.id} ended without a report: {failure.cause or failure}") from failure
        return final


async def act(handle: Handle, action: str, actor: str, reason: str, step: str | None = None) -> str:
    """Sends an operator's answer; returns what the run made of it.

    Raises:
        Refused: the run does not accept it now, in its words.
    """
    try:
        answer: str = await handle.execute_update(
            action, OperatorCommand(actor=actor, reason=reason, step=step), result_type=str
        )
        return answer
    except WorkflowUpdateFailedError as failure:
        cause = failure.cause
        raise Refused(cause.message if isinstance(cause, ApplicationError) else str(cause)) from failure
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            raise Refused(f"{handle.id} has ended: nothing can be changed any more") from error
        raise


async def _progress(handle: Handle, description: object) -> dict[str, StepProgress]:
    """What the heartbeats of the running steps carry, by activity name."""
    found: dict[str, StepProgress] = {}
    raw = getattr(description, "raw_description", None)
    for pending in raw.pending_activities if raw is not None else ():
        if not pending.HasField("heartbeat_details") or not pending.heartbeat_details.payloads:
            continue
        converter = handle._client.data_converter
        payloads = list(pending.heartbeat_details.payloads)
        try:
            values = await converter.decode(payloads, [StepProgress])
        except (ValidationError, RuntimeError):
            continue  # another activity's heartbeat has another form
        if values and isinstance(values[0], StepProgress):
            found[pending.activity_type.name] = values[0]
    return found
