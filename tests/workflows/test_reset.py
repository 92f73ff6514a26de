"""``temporal workflow reset`` must not make a run forget its point of no return (engine rule 10)."""

from __future__ import annotations

import uuid

import pytest
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest
from temporalio.client import WorkflowFailureError, WorkflowHandle

from recovery.domain.ownership import Phase
from recovery.domain.report import RunReport, RunState
from recovery.errors import Refused
from tests.workflows.conftest import Rig
from tests.workflows.rehearsal import Rehearsal
from workflows.control import OperatorCommand

ANA = OperatorCommand(actor="ana", reason="looked at both regions")
Handle = WorkflowHandle[Rehearsal, RunReport]


async def reset(rig: Rig, handle: Handle, before: str | None) -> Handle:
    """Back to the workflow task that scheduled the activity ``before``; None: to the very first task."""
    events = (await handle.fetch_history()).events
    finished = 0
    for event in events:
        if event.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED:
            finished = event.event_id
            if before is None:
                break
        scheduled = event.activity_task_scheduled_event_attributes
        if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED and scheduled.activity_id == before:
            break
    answer = await rig.client.workflow_service.reset_workflow_execution(
        ResetWorkflowExecutionRequest(
            namespace=rig.client.namespace,
            workflow_execution=WorkflowExecution(workflow_id=handle.id, run_id=handle.result_run_id or ""),
            reason="an operator wants to go back",
            workflow_task_finish_event_id=finished,
            request_id=str(uuid.uuid4()),
        )
    )
    return rig.client.get_workflow_handle(handle.id, run_id=answer.run_id, result_type=RunReport)


def undone(rig: Rig) -> list[str]:
    return [line for line in rig.world.log if line.startswith("undo")]


@pytest.mark.parametrize("before", [None, "claim", "prepare", "gated"])
async def test_a_run_that_is_held_after_its_pivot_and_reset_undoes_nothing(rig: Rig, before: str | None) -> None:
    rig.world.fail_before["after"] = [Refused("broken")]
    handle = await rig.start()
    await rig.until_state(handle, RunState.HELD)
    present = set(rig.world.present)
    again = await reset(rig, handle, before)
    report = await rig.until_state(again, RunState.HELD)
    assert report.hold_choices
    assert undone(rig) == [] and rig.world.present == present
    record, _ = await rig.ownership.read("shop")  # type: ignore[misc]
    assert record.phase is Phase.PIVOTED and record.pivot is not None
    await again.execute_update("abort", ANA)
    with pytest.raises(WorkflowFailureError):
        await again.result()
    assert undone(rig) == [] and rig.world.present == present


async def test_a_run_that_is_reset_to_its_pivot_goes_forward(rig: Rig) -> None:
    rig.world.fail_before["after"] = [Refused("broken")]
    handle = await rig.start()
    await rig.until_state(handle, RunState.HELD)
    again = await reset(rig, handle, "record pivot")
    assert (await again.result()).state is RunState.COMPLETED
    assert undone(rig) == [] and rig.world.log.count("do pivot") == 1


@pytest.mark.parametrize("before", ["prepare", "gated", "record pivot", "pivot", "after"])
async def test_a_completed_run_that_is_reset_undoes_nothing(rig: Rig, before: str) -> None:
    """Its lock is released and its pivot forgotten; but what it made is what clients use."""
    handle = await rig.start()
    await handle.result()
    present, calls = set(rig.world.present), rig.world.calls.copy()
    again = await reset(rig, handle, before)
    report = await rig.until_state(again, RunState.HELD)
    assert "held by nobody, not by this run" in report.hold_choices[0]
    await again.execute_update("abort", ANA)
    with pytest.raises(WorkflowFailureError):
        await again.result()
    assert undone(rig) == [] and rig.world.present == present
    assert [name for name in ("prepare", "gated", "pivot") if rig.world.calls[name] > calls[name]] == []


async def test_a_run_that_is_reset_before_its_pivot_goes_on_with_its_lock(rig: Rig) -> None:
    rig.world.fail_before["check"] = [Refused("odd")]
    handle = await rig.start()
    await rig.until_state(handle, RunState.HELD)
    again = await reset(rig, handle, "prepare")
    report = await again.result()
    assert report.state is RunState.COMPLETED
    assert rig.world.log.count("do prepare") == 1


async def test_a_run_that_is_reset_keeps_its_lock_against_another(rig: Rig) -> None:
    rig.world.fail_before["check"] = [Refused("odd"), Refused("odd")]
    handle = await rig.start()
    await rig.until_state(handle, RunState.HELD)
    again = await reset(rig, handle, "prepare")
    await rig.until_state(again, RunState.HELD)
    with pytest.raises(WorkflowFailureError) as caught:
        await (await rig.start()).result()
    assert handle.id in str(caught.value.cause)
    await again.execute_update("retry", ANA)
    assert (await again.result()).state is RunState.COMPLETED


async def test_a_run_that_is_reset_keeps_the_names_of_what_it_made(rig: Rig) -> None:
    rig.world.fail_before["check"] = [Refused("odd"), Refused("odd")]
    handle = await rig.start()
    await rig.until_state(handle, RunState.HELD)
    again = await reset(rig, handle, None)
    await rig.until_state(again, RunState.HELD)
    assert len(rig.world.effect_ids) == 1
    await again.execute_update("skip", ANA)
    await again.result()
