"""A step that starts another plan and waits for it knows whether that plan has told people how it ended."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import replace
from typing import Any

import pytest
from temporalio import workflow
from temporalio.client import Client, WorkflowHandle
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError
from temporalio.testing import ActivityEnvironment
from temporalio.worker import Worker

with workflow.unsafe.imports_passed_through():
    from activities.runs import RunCutOff, RunFailed, RunSteps
    from recovery.domain.plan import Facts, PlanContext, PlanRequest
    from recovery.domain.report import RunReport, RunState
    from tests.fakes.handover import NOW, group_of

from workers.options import worker_options


@workflow.defn(name="Switchover")
class PretendedSwitchover:
    """Waits to be refused."""

    def __init__(self) -> None:
        self.refused = False

    @workflow.run
    async def run(self, request: RawValue) -> RunReport:
        await workflow.wait_condition(lambda: self.refused)
        raise ApplicationError("refused", self.progress(), type="RolledBack", non_retryable=True)

    @workflow.signal
    def refuse(self) -> None:
        self.refused = True

    @workflow.query
    def progress(self) -> RunReport:
        return RunReport(
            plan="Switchover", group="shop", run_id="run-2", workflow_id=workflow.info().workflow_id, steps=[],
            state=RunState.ROLLED_BACK if self.refused else RunState.RUNNING, started_at=NOW,
            ended_at=NOW if self.refused else None, error="the standby is behind" if self.refused else "",
        )  # fmt: skip


@pytest.mark.parametrize(
    ("ending", "kind", "words"),
    [
        ("refuse", RunFailed, "ended as rolled-back: the standby is behind"),
        ("terminate", RunCutOff, "was ended from outside while it was running, and told nobody"),
    ],
)
async def test_a_run_that_ended_itself_is_told_from_one_that_was_ended(
    temporal: Client, ending: str, kind: type[Exception], words: str
) -> None:
    queue, group = f"further-{uuid.uuid4()}", group_of("a", "b").model_copy(update={"name": f"shop-{uuid.uuid4().hex}"})
    environment = ActivityEnvironment(temporal)
    environment.info = replace(environment.info, task_queue=queue)
    context = PlanContext(
        plan="Failback", run_id="run-1", workflow_id="failback/shop", step="switch-home",
        request=PlanRequest(group=group.name), facts=Facts(group=group), started_at=NOW,
    )  # fmt: skip
    async with Worker(temporal, task_queue=queue, workflows=[PretendedSwitchover], **worker_options()):
        waiting = asyncio.ensure_future(environment.run(RunSteps().switch_home, context))
        handle = temporal.get_workflow_handle(f"recovery/{group.name}")
        async with asyncio.timeout(20):
            while not waiting.done() and not await _answers(handle):
                await asyncio.sleep(0.05)
            await (handle.signal("refuse") if ending == "refuse" else handle.terminate())
            with pytest.raises(ApplicationError) as caught:
                await waiting
    assert caught.value.type == kind.__name__ and words in caught.value.message


async def _answers(handle: WorkflowHandle[Any, Any]) -> bool:
    """Whether its first task is done: a run that is ended before that has no report."""
    try:
        await handle.query("progress")
    except RPCError:
        return False
    return True
