"""Cancellations at awkward and at random moments, with caches that forget every run in between."""

from __future__ import annotations

import asyncio
import random

import pytest
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError
from temporalio.exceptions import ApplicationError, CancelledError

from recovery.domain.report import RunState
from recovery.errors import Refused
from tests.workflows.conftest import Rig, hosting
from workflows.control import OperatorCommand

ANA = OperatorCommand(actor="ana", reason="checked by hand")


async def test_a_cancellation_that_comes_while_the_pivot_is_recorded_withdraws_it(rig: Rig) -> None:
    rig.ownership.pause_writes_of["pivoted"] = asyncio.Event()
    handle = await rig.start()
    await rig.ownership.paused.wait()
    await handle.cancel()
    rig.ownership.pause_writes_of.pop("pivoted").set()
    with pytest.raises(WorkflowFailureError) as caught:
        await handle.result()
    assert isinstance(caught.value.cause, CancelledError)
    report = await rig.report(handle)
    assert report.state is RunState.ROLLED_BACK and report.undo_order == ["gated", "right", "left", "prepare", "claim"]
    assert "pivot" not in rig.world.log and rig.world.present == {"tell", "check"}
    record, _ = await rig.ownership.read("shop")  # type: ignore[misc]
    assert (record.run, record.pivot) == (None, None)


async def test_a_cancelled_run_that_could_not_be_undone_does_not_end_as_if_it_were(rig: Rig) -> None:
    rig.world.block["after left"] = asyncio.Event()
    rig.world.fail_undo["prepare"] = [Refused("cannot")]
    handle = await rig.start()
    await rig.world.until("after left")
    await handle.cancel()
    with pytest.raises(WorkflowFailureError) as caught:
        await handle.result()
    assert isinstance(caught.value.cause, ApplicationError) and caught.value.cause.type == "RollbackIncomplete"


async def test_a_cancelled_run_that_was_left_as_it_is_does_not_end_as_if_it_were_undone(rig: Rig) -> None:
    rig.world.block["after pivot"] = asyncio.Event()
    handle = await rig.start()
    await rig.world.until("after pivot")
    await handle.cancel()
    rig.world.block["after pivot"].set()
    await rig.until_state(handle, RunState.HELD)
    await handle.execute_update("abort", ANA)
    with pytest.raises(WorkflowFailureError) as caught:
        await handle.result()
    assert isinstance(caught.value.cause, ApplicationError) and caught.value.cause.type == "StoppedAfterPivot"


@pytest.mark.parametrize("stop", ["abort", "cancel"])
@pytest.mark.parametrize("answer", ["resume", "abort"])
async def test_who_stops_a_paused_run_after_its_pivot_is_asked_at_once(rig: Rig, stop: str, answer: str) -> None:
    rig.world.block["after pivot"] = asyncio.Event()
    handle = await rig.start()
    await rig.world.until("after pivot")
    await handle.execute_update("pause", ANA)
    rig.world.block["after pivot"].set()
    await rig.until_state(handle, RunState.PAUSED)
    await (handle.cancel() if stop == "cancel" else handle.execute_update("abort", ANA))
    report = await rig.until_state(handle, RunState.HELD)
    assert "point of no return" in report.hold_choices[0] and "after" not in rig.world.present
    await handle.execute_update(answer, ANA)
    if answer == "resume":
        assert (await handle.result()).state is RunState.COMPLETED
    else:
        with pytest.raises(WorkflowFailureError) as caught:
            await handle.result()
        assert isinstance(caught.value.cause, ApplicationError) and caught.value.cause.type == "StoppedAfterPivot"
    assert not [line for line in rig.world.log if line.startswith("undo")]


async def test_a_second_abort_ends_a_pause_that_came_after_the_first(rig: Rig) -> None:
    rig.world.block["after pivot"] = asyncio.Event()
    handle = await rig.start()
    await rig.world.until("after pivot")
    await handle.execute_update("abort", ANA)
    await handle.execute_update("pause", ANA)
    rig.world.block["after pivot"].set()
    await rig.until_state(handle, RunState.PAUSED)
    await handle.execute_update("abort", ANA)
    await rig.until_state(handle, RunState.HELD)
    await handle.execute_update("resume", ANA)
    assert (await handle.result()).state is RunState.COMPLETED


@pytest.mark.parametrize("step", ["tell", "check"], ids=["that only warns", "that would be held"])
async def test_a_cancellation_in_a_step_is_no_failure_of_the_step(rig: Rig, step: str) -> None:
    rig.world.block[f"after {step}"] = asyncio.Event()
    handle = await rig.start()
    await rig.world.until(f"after {step}")
    await handle.cancel()
    with pytest.raises(WorkflowFailureError) as caught:
        await handle.result()
    assert isinstance(caught.value.cause, CancelledError)
    report = await rig.report(handle)
    assert report.warnings == [] and report.state is RunState.ROLLED_BACK
    assert rig.world.calls["gated"] == 0


async def test_of_two_runs_that_start_at_once_one_gets_the_group(rig: Rig) -> None:
    runs = await asyncio.gather(*(rig.start() for _ in range(4)))
    ends = await asyncio.gather(*(handle.result() for handle in runs), return_exceptions=True)
    done = [handle.id for handle, end in zip(runs, ends, strict=True) if not isinstance(end, BaseException)]
    refused = [str(end.cause) for end in ends if isinstance(end, WorkflowFailureError)]
    assert done and len(done) + len(refused) == 4
    for sentence in refused:
        assert "nothing had been changed" in sentence or "everything was undone" in sentence
        assert "rehearsal-" in sentence, "the run that holds the group is named"


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("cached", [0, 1], ids=["no cache", "a cache of one"])
async def test_no_undo_is_lost_when_caches_forget_and_cancels_come_at_random(temporal, cached: int, seed: int) -> None:
    dice = random.Random(seed)
    rigs = [Rig(temporal) for _ in range(3)]
    async with hosting(rigs, max_cached_workflows=cached):
        ends = await asyncio.gather(*(_cancelled_at_random(rig, dice.uniform(0.05, 1.5)) for rig in rigs))
    assert set(ends) <= {"undone", "completed", "held"}


async def _cancelled_at_random(rig: Rig, after: float) -> str:
    rig.world.fail_undo["left"] = []
    handle = await rig.start()
    await asyncio.sleep(after)  # the moment is the dice's
    await handle.cancel()
    async with asyncio.timeout(60):
        while True:
            report = await rig.report(handle)
            if report.hold_choices:
                await handle.execute_update("resume", ANA)
                await handle.result()
                return "held"
            status = (await handle.describe()).status
            if status is not WorkflowExecutionStatus.RUNNING:
                break
            await asyncio.sleep(0.1)
    report = await rig.report(handle)
    if report.state is RunState.COMPLETED:
        return "completed"
    assert report.state is RunState.ROLLED_BACK
    with_undo = [step.name for step in report.steps if step.has_undo]
    assert report.undo_order == [name for name in reversed(with_undo) if name in report.undo_order]
    assert rig.world.present.isdisjoint(with_undo)
    found = await rig.ownership.read("shop")
    assert found is None or found[0].run is None
    return "undone"
