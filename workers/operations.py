"""What operators do to plans, as calls: start, follow, answer, list."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime

from pydantic import ValidationError
from temporalio.client import (
    Client,
    WorkflowExecution,
    WorkflowExecutionDescription,
    WorkflowExecutionStatus,
    WorkflowFailureError,
    WorkflowHandle,
    WorkflowQueryFailedError,
    WorkflowQueryRejectedError,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
)
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.exceptions import ApplicationError, WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from activities.boundary import StepProgress
from activities.monitoring import enclosed_report
from activities.recovery_points import GROUP_MEMO
from recovery.config import Config
from recovery.domain.plan import PlanRequest
from recovery.domain.report import RunReport
from recovery.domain.report_text import is_finished
from recovery.errors import NotFound, Permanent, Refused, Unreachable
from workflows.control import OperatorCommand
from workflows.plans import PLANS

ANSWER_SECONDS = 15.0
"""A worker that lives takes an operator's answer within a second."""
FOLLOW_SECONDS = 3.0
"""A follower that heard nothing for so long says so, and asks again."""
OUTAGE_SECONDS = 60.0
"""So long a follower waits for a Temporal server that stopped answering."""
Handle = WorkflowHandle[object, RunReport]

_SILENT = (RPCStatusCode.UNAVAILABLE, RPCStatusCode.DEADLINE_EXCEEDED, RPCStatusCode.CANCELLED)
_WHAT_IS_ASKED = (
    "region", "point_id", "set_id", "kind", "store", "streams", "replicas", "way", "append_only", "search", "take_over",
    "target_database", "target_directory", "target_port", "target_instance", "since", "target",
)  # fmt: skip


class EndedAbruptly(Permanent):
    """The run was terminated or timed out in Temporal itself: nothing was undone, and nobody released its group."""


@dataclass(frozen=True)
class RunLine:
    """A run as Temporal lists it. ``status`` is Temporal's word in lower case; ``group`` is "" where it is unknown."""

    workflow_id: str
    run_id: str
    plan: str
    status: str
    started_at: datetime
    ended_at: datetime | None
    group: str = ""


def workflow_id(plan: str, request: PlanRequest) -> str:
    """The id is the first lock: plans that change a group share one, a backup has one per group and kind or store."""
    table = PLANS[plan]
    if table.locks_group:
        return f"recovery/{request.group}"
    parts = ["validate" if plan == "BackupValidation" else table.key, request.group]
    if request.kind is not None:
        parts.append(request.kind)
    elif request.store is not None:
        parts.append(request.store)
    if request.point_id is not None:
        parts.append(request.point_id)
    return "/".join(parts)


async def start(client: Client, config: Config, plan: str, request: PlanRequest) -> tuple[Handle, bool]:
    """Starts a plan, or attaches to the same plan that is running already (then the second value is False).

    Raises:
        NotFound: the configuration has no such group or region.
        Refused: another plan is changing the group, or the same plan runs and was asked for something else.
    """
    snapshot = config.snapshot(request.group)
    if request.region is not None and request.region not in (known := [region.name for region in snapshot.regions]):
        config.region(request.region)
        raise NotFound(f"group {request.group} has no region {request.region!r}: it has {', '.join(known)}")
    wanted = workflow_id(plan, request)
    try:
        handle: Handle = await client.start_workflow(
            plan,
            request,
            id=wanted,
            task_queue=config.temporal.control_queue,
            id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
            result_type=RunReport,
            memo={GROUP_MEMO: request.group},
            static_summary=f"{plan} of {request.group}",
            static_details=f"Requested by {request.requested_by or 'unknown'}: {request.reason or 'no reason given'}",
        )
        return handle, True
    except WorkflowAlreadyStartedError:
        return await _attach(client, plan, request, wanted), False


async def _attach(client: Client, plan: str, request: PlanRequest, wanted: str) -> Handle:
    running = await client.get_workflow_handle(wanted).describe()
    watch = f"watch it with drctl status {wanted} --watch"
    if running.workflow_type != plan:
        raise Refused(
            f"group {request.group} is being changed by {running.workflow_type} (run {running.run_id}): {watch}"
        )
    handle: Handle = client.get_workflow_handle(wanted, run_id=running.run_id, result_type=RunReport)
    theirs = await _request_of(client, handle)
    for name in _WHAT_IS_ASKED if theirs is not None else ():
        ours, other = getattr(request, name), getattr(theirs, name)
        if ours is not None and ours != other:
            raise Refused(
                f"{plan} of {request.group} runs already with {name} {other or 'left to the plan'}, and not with "
                f"{ours}: {watch}, or end it with drctl abort {wanted}"
            )
    return handle


async def find(client: Client, name: str, *, to_answer: bool = False) -> Handle:
    """The run of a workflow id, a run id, a recovery point's id, or a group's name.

    Of a group's runs the one that changes the group comes first while it runs, then the newest; ``to_answer`` leaves
    out what has ended.

    Raises:
        NotFound: there is none; the newest runs are listed.
    """
    exact = await _described(client, name)
    if exact is not None and exact.workflow_type in PLANS:
        return client.get_workflow_handle(name, run_id=exact.run_id, result_type=RunReport)
    lines = [line async for line in runs(client, limit=200)]
    found = [line for line in lines if name in (line.run_id, line.group) or name in line.workflow_id.split("/")]
    if to_answer:
        found = [line for line in found if line.status == "running" or line.run_id == name]
    if found:
        line = min(found, key=lambda line: (line.status != "running", not PLANS[line.plan].locks_group))
        return client.get_workflow_handle(line.workflow_id, run_id=line.run_id, result_type=RunReport)
    known = ", ".join(dict.fromkeys(line.workflow_id for line in lines[:10])) or "none yet"
    what = "no run that is still going on" if to_answer else "no run"
    raise NotFound(f"{what} is called {name!r}. The newest are: {known}")


async def runs(client: Client, *, group: str | None = None, limit: int = 20) -> AsyncIterator[RunLine]:
    """Runs of our plans: those that go on first, then the newest."""
    types = ", ".join(f"'{plan}'" for plan in PLANS)
    shown = 0
    async for run in client.list_workflows(f"WorkflowType IN ({types})"):
        its_group = await _group_of(client, run)
        if group is not None and group != its_group:
            continue
        yield RunLine(
            workflow_id=run.id,
            run_id=run.run_id,
            plan=run.workflow_type,
            status=run.status.name.lower() if run.status is not None else "unknown",
            started_at=run.start_time,
            ended_at=run.close_time,
            group=its_group,
        )
        shown += 1
        if shown >= limit:
            return


async def report(handle: Handle, *, patience: float = 10.0) -> RunReport:
    """The report as it stands, of a running or an ended run.

    Raises:
        NotFound: there is no such run.
        Unreachable: no worker answers the query; a plan that ended still has its stored report.
    """
    try:
        async with asyncio.timeout(patience):
            found: RunReport = await handle.query("progress", result_type=RunReport)
            return found
    except (TimeoutError, WorkflowQueryRejectedError):
        reason = "is one running? drctl worker --region ..."
    except WorkflowQueryFailedError as error:
        reason = str(error)
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            raise NotFound(f"there is no run {handle.id}") from error
        if error.status not in (*_SILENT, RPCStatusCode.FAILED_PRECONDITION):
            raise
        reason = "is one running? drctl worker --region ..."
    raise Unreachable(f"no worker answers for {handle.id}: {reason}")


async def latest(handle: Handle) -> RunReport:
    """As ``report``, and for an ended run without the help of a worker, where Temporal kept its result.

    Raises:
        NotFound, Unreachable: as ``report``.
    """
    description = await handle.describe()
    return await _as_it_stands(handle, description.status)


async def progress_of(handle: Handle) -> dict[str, StepProgress]:
    """How far the steps are that run now, by activity name."""
    return await _progress(handle, await handle.describe())


async def follow(
    handle: Handle, *, every: float = 0.5, silent: Callable[[str], None] | None = None
) -> AsyncIterator[tuple[RunReport, dict[str, StepProgress]]]:
    """The report and the running steps' progress, again and again until the run has ended; the last is final.

    Args:
        silent: hears what is wrong while no worker, or no Temporal server, answers.

    Raises:
        EndedAbruptly: after the last report, where Temporal ended the run without the plan's knowledge.
        Unreachable: Temporal did not answer for a minute.
    """
    tell = silent or (lambda reason: None)
    answered = time.monotonic()
    while True:
        try:
            description = await handle.describe()
            current = await _as_it_stands(handle, description.status, patience=FOLLOW_SECONDS)
            progress = await _progress(handle, description)
        except RPCError as error:
            if error.status not in _SILENT:
                raise
            if time.monotonic() - answered > OUTAGE_SECONDS:
                raise Unreachable(f"Temporal does not answer any more: {error}") from error
            tell(f"Temporal does not answer: {error}")
            await asyncio.sleep(every)
            continue
        except Unreachable as error:
            if description.status is not WorkflowExecutionStatus.RUNNING:
                raise
            answered = time.monotonic()
            tell(str(error))  # its worker was lost: another one takes over within seconds
            await asyncio.sleep(every)
            continue
        answered = time.monotonic()
        yield current, progress
        if description.status is not WorkflowExecutionStatus.RUNNING:
            if not is_finished(current):
                raise EndedAbruptly(_abrupt(handle, description, current))
            return
        await asyncio.sleep(every)


async def result(handle: Handle) -> RunReport:
    """Waits for the end and returns the report, however the run ended.

    Raises:
        EndedAbruptly: it was terminated, or ended in a way that leaves no report.
    """
    try:
        return await handle.result()
    except WorkflowFailureError as failure:
        found = enclosed_report(failure)
        if found is None:
            found = await report(handle)
        if not is_finished(found):
            raise EndedAbruptly(_abrupt(handle, await handle.describe(), found)) from failure
        return found


async def act(handle: Handle, action: str, actor: str, reason: str, step: str | None = None) -> str:
    """Sends an operator's answer; returns what the run made of it.

    Raises:
        Refused: the run does not accept it now, in its words.
        Unreachable: no worker took it in time.
    """
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            answer: str = await handle.execute_update(
                action, OperatorCommand(actor=actor, reason=reason, step=step), result_type=str
            )
            return answer
    except WorkflowUpdateFailedError as failure:
        cause = failure.cause
        raise Refused(cause.message if isinstance(cause, ApplicationError) else str(cause)) from failure
    except (TimeoutError, WorkflowUpdateRPCTimeoutOrCancelledError) as error:
        raise Unreachable(
            f"no worker took the {action} of {handle.id} within {ANSWER_SECONDS:.0f} s: is one running? It may still "
            "take it when it comes back: look with drctl status before you repeat it"
        ) from error
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            raise Refused(f"{handle.id} has ended: nothing can be changed any more") from error
        raise


async def is_running(client: Client, workflow_id: str, run_id: str) -> bool:
    """Whether this run, or one that it was reset to, is still open. A run that Temporal does not know has ended."""
    newest = await _described(client, workflow_id)
    if newest is None or newest.status is not WorkflowExecutionStatus.RUNNING:
        return False
    return run_id in (newest.run_id, newest.raw_info.first_run_id) or not newest.raw_info.first_run_id


async def _as_it_stands(handle: Handle, status: WorkflowExecutionStatus | None, *, patience: float = 10.0) -> RunReport:
    if status in (WorkflowExecutionStatus.COMPLETED, WorkflowExecutionStatus.FAILED):
        try:
            return await handle.result()
        except WorkflowFailureError as failure:
            found = enclosed_report(failure)
            if found is not None:
                return found
    return await report(handle, patience=patience)


def _abrupt(handle: Handle, description: WorkflowExecutionDescription, last: RunReport) -> str:
    how = description.status.name.lower().replace("_", " ") if description.status else "ended"
    at = [step.name for step in last.steps if step.started_at is not None and step.ended_at is None]
    where = f" at {', '.join(at)}" if at else ""
    return (
        f"{handle.id} was {how} in Temporal itself{where}: nothing was undone. Look at the real state of the group; "
        f"where it is still marked as being changed, free it with drctl release {last.group} --reason ..."
    )


async def _described(client: Client, workflow_id: str) -> WorkflowExecutionDescription | None:
    try:
        return await client.get_workflow_handle(workflow_id).describe()
    except RPCError as error:
        if error.status in (RPCStatusCode.NOT_FOUND, RPCStatusCode.INVALID_ARGUMENT):
            return None
        raise


async def _group_of(client: Client, run: WorkflowExecution) -> str:
    """From the memo; a run that was started in the Temporal UI has none, and its input is read."""
    named = (await run.memo()).get(GROUP_MEMO)
    if named is not None:
        return str(named)
    try:
        request = await _request_of(client, client.get_workflow_handle(run.id, run_id=run.run_id))
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return ""  # its history was removed meanwhile
        raise
    return request.group if request is not None else ""


async def _request_of(client: Client, handle: WorkflowHandle[object, object]) -> PlanRequest | None:
    """What the run was started with; None where that is no request."""
    async for event in handle.fetch_history_events(page_size=1):
        payloads = list(event.workflow_execution_started_event_attributes.input.payloads)
        try:
            found = (await client.data_converter.decode(payloads, [PlanRequest]))[0]
        except (ValidationError, RuntimeError, ValueError, TypeError, IndexError):
            return None
        return found if isinstance(found, PlanRequest) else None
    return None


async def _progress(handle: Handle, description: WorkflowExecutionDescription) -> dict[str, StepProgress]:
    """What the heartbeats of the running steps carry, by activity name; and the last error of those that try again."""
    found: dict[str, StepProgress] = {}
    for pending in description.raw_description.pending_activities:
        progress = StepProgress()
        if pending.HasField("heartbeat_details") and pending.heartbeat_details.payloads:
            payloads = list(pending.heartbeat_details.payloads)
            try:
                values = await handle._client.data_converter.decode(payloads, [StepProgress])
                progress = values[0] if values and isinstance(values[0], StepProgress) else progress
            except (ValidationError, RuntimeError):
                pass  # another activity's heartbeat has another form
        if pending.attempt > 1 and pending.HasField("last_failure"):
            tried = f"attempt {pending.attempt}, after: {pending.last_failure.message}"
            progress = progress.model_copy(update={"note": f"{progress.note}; {tried}" if progress.note else tried})
        if progress != StepProgress():
            found[pending.activity_type.name] = progress
    return found
