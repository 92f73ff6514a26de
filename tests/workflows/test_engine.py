"""The rules of the engine (design, section 4), each against a real Temporal server."""

from __future__ import annotations

import asyncio

import pytest
from temporalio.api.sdk.v1 import WorkflowMetadata
from temporalio.client import WorkflowFailureError, WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError, CancelledError

from recovery.domain.ownership import Phase
from recovery.domain.report import RunState, StepState
from recovery.errors import Refused, Unreachable
from tests.workflows.conftest import Rig
from workflows.control import OperatorCommand

ANA = OperatorCommand(actor="ana", reason="checked by hand")
UNDO_ORDER = ["gated", "right", "left", "prepare", "claim"]


async def rolled_back(handle) -> str:
    with pytest.raises(WorkflowFailureError) as caught:
        await handle.result()
    assert isinstance(caught.value.cause, ApplicationError) and caught.value.cause.type is not None
    return caught.value.cause.type


async def test_a_plan_runs_all_its_rows_and_ends_in_a_report(rig: Rig):
    handle = await rig.start()
    report = await handle.result()
    assert report.state is RunState.COMPLETED
    assert [step.state for step in report.steps] == [StepState.DONE] * 11
    assert rig.world.log[0] == "do prepare" and rig.world.log[-1] == "do after"
    record = rig.ownership.records["shop"][0]
    assert (record.phase, record.run) == (Phase.STEADY, None)
    assert rig.reports.reports[report.run_id].state is RunState.COMPLETED


async def test_a_failure_undoes_in_reverse_order(rig: Rig):
    rig.world.fail_before["gated"] = [Refused("no")]
    handle = await rig.start()
    assert await rolled_back(handle) == "RolledBack"
    report = await rig.report(handle)
    assert report.undo_order == UNDO_ORDER
    assert report.failed_step == "gated" and report.error == "no"
    assert rig.world.present == {"tell", "check"}
    record = rig.ownership.records["shop"][0]
    assert record.run is None


async def test_a_step_that_failed_after_its_effect_is_undone_too(rig: Rig):
    rig.world.fail_after["left"] = [Refused("timed out, but had worked")]
    handle = await rig.start()
    assert await rolled_back(handle) == "RolledBack"
    assert rig.world.present == {"tell"}
    assert "undo left" in rig.world.log


async def test_a_transient_error_is_tried_again(rig: Rig):
    rig.world.fail_before["prepare"] = [Unreachable("no answer"), Unreachable("no answer")]
    report = await (await rig.start()).result()
    assert report.state is RunState.COMPLETED
    assert next(step for step in report.steps if step.name == "prepare").attempts == 3


async def test_warn_goes_on(rig: Rig):
    rig.world.fail_before["tell"] = [Refused("nobody there")]
    report = await (await rig.start()).result()
    assert report.state is RunState.COMPLETED
    assert "tell: nobody there" in report.warnings


async def test_a_failing_undo_is_reported_and_does_not_stop_the_others(rig: Rig):
    rig.world.fail_before["gated"] = [Refused("no")]
    rig.world.fail_undo["right"] = [Refused("cannot undo")]
    handle = await rig.start()
    assert await rolled_back(handle) == "RollbackIncomplete"
    report = await rig.report(handle)
    assert report.undo_order == UNDO_ORDER
    states = {step.name: step.state for step in report.steps}
    assert states["right"] is StepState.UNDO_FAILED
    assert states["left"] is states["prepare"] is StepState.UNDONE
    assert any("could not be undone" in sent.title for sent in rig.notifier.sent)


@pytest.mark.parametrize("choice", ["retry", "skip", "abort"])
async def test_a_hold_waits_for_the_operator(rig: Rig, choice: str):
    rig.world.fail_before["check"] = [Refused("odd")]
    handle = await rig.start()
    report = await rig.until_state(handle, RunState.HELD)
    assert "odd" in report.hold_choices[0]
    await handle.execute_update(choice, ANA)
    if choice == "abort":
        assert await rolled_back(handle) == "RolledBack"
        assert rig.world.present == {"tell"}
    else:
        report = await handle.result()
        assert report.state is RunState.COMPLETED
        assert ("check" in rig.world.present) is (choice == "retry")
    report = await rig.report(handle)
    assert [(action.action, action.actor, action.reason) for action in report.actions] == [
        (choice, "ana", "checked by hand")
    ]


async def shown(handle) -> str:
    """What the Temporal UI shows of a run: it asks this query."""
    metadata = await handle.query("__temporal_workflow_metadata", result_type=WorkflowMetadata)
    return str(metadata.current_details)


async def test_the_temporal_ui_shows_the_table_of_a_held_and_of_a_finished_run(rig: Rig):
    rig.world.fail_before["check"] = [Refused("odd")]
    handle = await rig.start()
    await rig.until_state(handle, RunState.HELD)
    held = await shown(handle)
    assert held.startswith("**Held for the operator**: Rehearsal of shop")
    assert "| ✓ | prepare | done | 1 |" in held and "| ‖ | check | held for the operator |" in held
    assert "| · | pivot (pivot) | pending |" in held and "**Choices**\n- check: odd Choose retry, skip, abort." in held
    await handle.execute_update("retry", ANA)
    await handle.result()
    finished = await shown(handle)
    assert finished.startswith("**Completed**: Rehearsal of shop") and "took" in finished.splitlines()[0]
    assert "**Choices**" not in finished
    rows = [line.split(" | ")[1:3] for line in finished.splitlines() if line.startswith(("| ✓", "| ·", "| ‖"))]
    assert len(rows) == 11 and {state for _, state in rows} == {"done"}


async def test_updates_without_actor_or_without_an_open_question_are_rejected(rig: Rig):
    rig.world.block["before prepare"] = asyncio.Event()
    handle = await rig.start()
    await rig.world.until("before prepare")
    for update, command in [("pause", OperatorCommand()), ("skip", ANA), ("approve", ANA), ("resume", ANA)]:
        with pytest.raises(WorkflowUpdateFailedError):
            await handle.execute_update(update, command)
    rig.world.block["before prepare"].set()
    report = await handle.result()
    assert report.actions == []


async def test_pause_starts_no_further_step(rig: Rig):
    rig.world.block["before prepare"] = asyncio.Event()
    handle = await rig.start()
    await rig.world.until("before prepare")
    await handle.execute_update("pause", ANA)
    rig.world.block["before prepare"].set()
    await rig.until_state(handle, RunState.PAUSED)
    assert rig.world.present == {"prepare"}
    await handle.execute_update("resume", ANA)
    assert (await handle.result()).state is RunState.COMPLETED


async def test_cancel_in_mid_step_undoes_all(rig: Rig):
    rig.world.block["after left"] = asyncio.Event()
    handle = await rig.start()
    await rig.world.until("after left")
    started = asyncio.get_running_loop().time()
    await handle.cancel()
    with pytest.raises(WorkflowFailureError) as caught:
        await handle.result()
    assert isinstance(caught.value.cause, CancelledError)
    assert rig.world.present == {"tell"}
    assert asyncio.get_running_loop().time() - started < 30  # the step would never have ended by itself
    assert (await rig.report(handle)).state is RunState.ROLLED_BACK


async def test_cancel_in_mid_undo_does_not_stop_it(rig: Rig):
    rig.world.fail_before["gated"] = [Refused("no")]
    rig.world.block["undo right"] = asyncio.Event()
    handle = await rig.start()
    await rig.world.until("undo right")
    await handle.cancel()
    await asyncio.sleep(0.5)  # time for the cancellation to arrive while the undo is blocked
    rig.world.block["undo right"].set()
    with pytest.raises(WorkflowFailureError) as caught:
        await handle.result()
    assert isinstance(caught.value.cause, CancelledError)
    assert rig.world.present == {"tell", "check"}
    assert (await rig.report(handle)).undo_order == UNDO_ORDER


async def test_after_a_pivot_nothing_is_undone_and_the_operator_decides(rig: Rig):
    rig.world.fail_before["after"] = [Refused("broken"), Refused("broken")]
    handle = await rig.start()
    report = await rig.until_state(handle, RunState.HELD)
    assert report.undo_order == []
    record = rig.ownership.records["shop"][0]
    assert record.phase is Phase.PIVOTED and record.pivot is not None and record.pivot.step == "pivot"
    await handle.execute_update("abort", ANA)
    assert await rolled_back(handle) == "StoppedAfterPivot"
    assert {"pivot", "gated", "prepare"} <= rig.world.present
    assert not [line for line in rig.world.log if line.startswith("undo")]


async def test_a_pivot_that_failed_but_took_effect_goes_forward(rig: Rig):
    rig.world.fail_after["pivot"] = [Refused("answer lost")]
    report = await (await rig.start()).result()
    assert report.state is RunState.COMPLETED
    assert any("took effect" in warning for warning in report.warnings)


async def test_a_pivot_that_failed_without_effect_holds(rig: Rig):
    rig.world.fail_before["pivot"] = [Refused("refused")]
    handle = await rig.start()
    await rig.until_state(handle, RunState.HELD)
    await handle.execute_update("retry", ANA)
    assert (await handle.result()).state is RunState.COMPLETED


async def test_cancel_after_a_pivot_holds_and_can_be_taken_back(rig: Rig):
    rig.world.block["after pivot"] = asyncio.Event()
    handle = await rig.start()
    await rig.world.until("after pivot")
    await handle.cancel()
    await asyncio.sleep(0.5)  # time for the cancellation to arrive while the pivot is blocked
    rig.world.block["after pivot"].set()
    report = await rig.until_state(handle, RunState.HELD)
    assert "point of no return" in report.hold_choices[0]
    await handle.execute_update("resume", ANA)
    assert (await handle.result()).state is RunState.COMPLETED
    assert not [line for line in rig.world.log if line.startswith("undo")]


async def test_a_second_run_is_refused_with_the_id_of_the_first(rig: Rig):
    rig.world.block["before prepare"] = asyncio.Event()
    first = await rig.start()
    await rig.world.until("before prepare")
    second = await rig.start()
    with pytest.raises(WorkflowFailureError) as caught:
        await second.result()
    assert first.id in str(caught.value.cause)
    rig.world.block["before prepare"].set()
    assert (await first.result()).state is RunState.COMPLETED


async def test_a_terminated_run_leaves_a_lock_that_the_next_one_takes_over(rig: Rig):
    rig.world.block["before prepare"] = asyncio.Event()
    first = await rig.start()
    await rig.world.until("before prepare")
    await first.terminate()
    rig.world.block["before prepare"].set()
    report = await (await rig.start()).result()
    assert report.state is RunState.COMPLETED
    assert any("taken over" in warning for warning in report.warnings)


async def test_unknown_input_fields_are_refused_in_a_sentence(rig: Rig):
    handle = await rig.start(grup="shop")
    with pytest.raises(WorkflowFailureError) as caught:
        await handle.result()
    assert "unknown fields: grup" in str(caught.value.cause)
