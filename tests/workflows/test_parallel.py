"""A parallel row in which one step fails, one is held and one goes on."""

from __future__ import annotations

import asyncio

import pytest
from temporalio.client import WorkflowFailureError

from recovery.domain.report import RunState, StepState
from recovery.errors import Refused
from tests.workflows.conftest import Rig
from workflows.control import OperatorCommand


def ana(step: str | None = None) -> OperatorCommand:
    return OperatorCommand(actor="ana", reason="checked by hand", step=step)


async def test_a_failure_ends_the_hold_beside_it(rig: Rig) -> None:
    rig.world.fail_before["held"] = [Refused("odd")]
    rig.world.block["before fails"] = asyncio.Event()
    rig.world.fail_before["fails"] = [Refused("no")]
    handle = await rig.start(plan="Crossing")
    await rig.until_state(handle, RunState.HELD)
    rig.world.block["before fails"].set()
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    report = await rig.report(handle)
    assert report.state is RunState.ROLLED_BACK and report.failed_step == "fails"
    assert report.undo_order == ["holds", "held", "fails", "first"]
    assert rig.world.present <= {"warns"}
    assert not [step.name for step in report.steps if step.state in (StepState.HELD, StepState.WAITING)]


async def test_a_cancellation_ends_the_hold_and_the_running_step(rig: Rig) -> None:
    rig.world.fail_before["held"] = [Refused("odd")]
    rig.world.block["after holds"] = asyncio.Event()
    handle = await rig.start(plan="Crossing")
    await rig.until_state(handle, RunState.HELD)
    await rig.world.until("after holds")
    await handle.cancel()
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    report = await rig.report(handle)
    assert report.state is RunState.ROLLED_BACK
    assert report.undo_order == ["holds", "held", "fails", "first"]
    assert rig.world.present <= {"warns"}


async def test_two_holds_are_answered_one_by_one(rig: Rig) -> None:
    rig.world.fail_before["held"] = [Refused("odd")]
    rig.world.fail_before["holds"] = [Refused("odd too")]
    handle = await rig.start(plan="Crossing")
    await rig.until(handle, lambda report: len(report.hold_choices) == 2)
    await handle.execute_update("retry", ana("held"))
    report = await rig.until(handle, lambda report: len(report.hold_choices) == 1)
    assert report.state is RunState.HELD, "the other question is still open"
    await handle.execute_update("skip", ana())
    report = await handle.result()
    assert report.state is RunState.COMPLETED
    states = {step.name: step.state for step in report.steps}
    assert (states["held"], states["holds"]) == (StepState.DONE, StepState.SKIPPED)


async def test_the_time_that_people_took_is_not_learned(rig: Rig) -> None:
    rig.world.fail_before["held"] = [Refused("odd")]
    handle = await rig.start(plan="Crossing")
    await rig.until_state(handle, RunState.HELD)
    await asyncio.sleep(1.2)  # the time that the operator takes
    await handle.execute_update("retry", ana())
    held = next(step for step in (await handle.result()).steps if step.name == "held")
    assert held.started_at is not None and held.ended_at is not None
    assert held.waited.total_seconds() > 1
    assert (held.ended_at - held.started_at - held.waited).total_seconds() < 1


async def test_a_rollback_is_neither_paused_nor_aborted(rig: Rig) -> None:
    rig.world.fail_before["fails"] = [Refused("no")]
    rig.world.block["undo first"] = asyncio.Event()
    handle = await rig.start(plan="Crossing")
    await rig.world.until("undo first")
    for update in ("pause", "abort"):
        with pytest.raises(Exception) as caught:
            await handle.execute_update(update, ana())
        assert "rolling back already" in str(caught.value.__cause__)
    rig.world.block["undo first"].set()
    with pytest.raises(WorkflowFailureError):
        await handle.result()
