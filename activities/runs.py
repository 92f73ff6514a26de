"""Steps that start other plans as runs of their own, and wait for them.

Top-level runs, started by an activity: a child would be cancelled with its parent.
"""

from __future__ import annotations

import asyncio
import contextlib

from temporalio import activity
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError, WorkflowHandle
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from activities.boundary import StepProgress, report_progress, step
from activities.recovery_points import GROUP_MEMO
from recovery.domain.plan import Facts, PlanContext, PlanRequest, StepOutcome
from recovery.domain.report import RunReport, RunState
from recovery.errors import Permanent, Refused, Unreachable

LOOK_EVERY = 0.5


class RunFailed(Permanent):
    """The run that this step started did not complete; the message says why. It has told people itself, as far as they
    have to know: nobody repeats it."""


class RunCutOff(Permanent):
    """The run that this step started was ended from outside, and could tell nobody."""


class RunSteps:
    @step("runs.start_base_backup")
    async def start_base_backup(self, context: PlanContext) -> StepOutcome:
        """Starts a backup of the new primary as a run of its own: a promotion begins a history of its own."""
        group, request = (
            context.group,
            PlanRequest(
                group=context.group.name,
                region=context.facts.target_region,
                reason=f"after {context.plan} {context.incident_id}",
                requested_by=context.workflow_id,
            ),
        )
        if not any(region.postgres for region in group.regions) or not group.locations:
            return StepOutcome(summary="the group has no PostgreSQL, or no location for backups")
        workflow_id = f"backup/{group.name}/after-{context.effect_id}"
        handle = await self._start("Backup", workflow_id, request)
        return StepOutcome(summary=f"started {handle.id}", facts=_noted(context, "base backup", handle.id))

    @step("runs.reprotect_home")
    async def reprotect_home(self, context: PlanContext) -> StepOutcome:
        """Has the home region reprotected by a run of its own, where it does not follow yet."""
        request = self._request(context)
        report = await self._to_its_end("Reprotect", f"reprotect/{request.group}", request)
        return StepOutcome(
            summary=f"{report.target_region} follows {report.source_region}",
            facts=_noted(context, "reprotect", report.run_id).model_copy(
                update={"divergences": report.divergences or None}
            ),
            warnings=report.warnings[:5],
        )

    @step("runs.switch_home")
    async def switch_home(self, context: PlanContext) -> StepOutcome:
        """Has the group switched over to its home region by a run of its own."""
        request = self._request(context)
        report = await self._to_its_end("Switchover", f"recovery/{request.group}", request)
        facts = _noted(context, "switchover", report.run_id).model_copy(
            update={
                "losses": report.losses or None,
                "write_pause": report.write_pause,
                "fence": report.fence,
                "returned": report.returned or None,
            }
        )
        if report.returned:
            raise RunFailed(f"the switchover home was taken back: {'; '.join(report.warnings[:3])}")
        return StepOutcome(
            summary=f"{report.target_region} serves {report.group} again", facts=facts, warnings=report.warnings[:5]
        )

    @step("runs.stop_started")
    async def stop_started(self, context: PlanContext) -> StepOutcome:
        """Undo of a run that was started: it is cancelled, and undoes itself as far as its own rules allow."""
        group = context.group.name
        workflow_id = f"reprotect/{group}" if context.step == "reprotect-home" else f"recovery/{group}"
        handle: WorkflowHandle[object, RunReport] = activity.client().get_workflow_handle(
            workflow_id, result_type=RunReport
        )
        try:
            if (await handle.describe()).status is not WorkflowExecutionStatus.RUNNING:
                return StepOutcome(summary=f"{workflow_id} had ended")
            if await _asked_by(handle) != context.workflow_id:
                return StepOutcome(summary=f"{workflow_id} is not a run of this one")
            await handle.cancel()
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return StepOutcome(summary=f"{workflow_id} was never started")
            raise
        await _ended(handle)
        return StepOutcome(summary=f"{workflow_id} was cancelled")

    @staticmethod
    def _request(context: PlanContext) -> PlanRequest:
        return PlanRequest(
            group=context.group.name,
            region=context.group.home_region,
            reason=context.request.reason or f"failback of {context.group.name}",
            requested_by=context.workflow_id,
            approve=context.request.approve,
            accept_data_loss=context.request.accept_data_loss,
            confirm_fence=context.request.confirm_fence,
            second_person=context.request.second_person,
        )

    async def _to_its_end(self, plan: str, workflow_id: str, request: PlanRequest) -> RunReport:
        """Starts the run, or goes on waiting for the one that an earlier attempt started, and returns its report."""
        handle = await self._start(plan, workflow_id, request)
        if (running := (await handle.describe()).workflow_type) != plan:
            raise Refused(f"{running} runs as {workflow_id}: wait for it, and start again")
        ended = asyncio.create_task(_ended(handle))
        try:
            while not ended.done():
                await asyncio.wait([ended], timeout=LOOK_EVERY)
                report_progress(StepProgress(note=await _news(handle)))
        finally:
            ended.cancel()
        report = ended.result()
        if report is None:
            raise Unreachable(f"{workflow_id} ended without a report")
        if report.ended_at is None:
            was = f"{plan} ({workflow_id}) was ended from outside while it was {report.state.value}"
            raise RunCutOff(f"{was}, and told nobody: look at what it left")
        if report.state is not RunState.COMPLETED:
            raise RunFailed(f"{plan} ({workflow_id}) ended as {report.state.value}: {report.error}")
        return report

    @staticmethod
    async def _start(plan: str, workflow_id: str, request: PlanRequest) -> WorkflowHandle[object, RunReport]:
        handle: WorkflowHandle[object, RunReport] = await activity.client().start_workflow(
            plan,
            request,
            id=workflow_id,
            task_queue=activity.info().task_queue,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
            result_type=RunReport,
            memo={GROUP_MEMO: request.group},
            static_summary=f"{plan} of {request.group}",
            static_details=f"Requested by {request.requested_by}: {request.reason}",
        )
        return handle


async def _ended(handle: WorkflowHandle[object, RunReport]) -> RunReport | None:
    try:
        return await handle.result()
    except WorkflowFailureError as failure:
        if isinstance(failure.cause, ApplicationError) and failure.cause.details:
            return RunReport.model_validate(failure.cause.details[0])
        with contextlib.suppress(RPCError, TimeoutError):
            async with asyncio.timeout(5):
                found: RunReport = await handle.query("progress", result_type=RunReport)
                return found
        return None


async def _news(handle: WorkflowHandle[object, RunReport]) -> str:
    """What the run does now, for whoever watches this one."""
    try:
        async with asyncio.timeout(2):
            report: RunReport = await handle.query("progress", result_type=RunReport)
    except (RPCError, TimeoutError):
        return f"{handle.id} does not answer now"
    if report.hold_choices:
        return f"{handle.id} is held: {report.hold_choices[0]}"
    at = [record.name for record in report.steps if record.started_at and not record.ended_at]
    return f"{handle.id}: {', '.join(at) or report.state.value}"


async def _asked_by(handle: WorkflowHandle[object, RunReport]) -> str:
    report: RunReport = await handle.query("progress", result_type=RunReport)
    return report.requested_by


def _noted(context: PlanContext, purpose: str, run: str) -> Facts:
    return Facts(further_runs={**(context.facts.further_runs or {}), purpose: run})
