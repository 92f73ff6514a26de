"""What failovers and switchovers ask of the engine: steps beside the plan, accepted losses, changed requests."""

from __future__ import annotations

import asyncio

import pytest
from temporalio.client import WorkflowFailureError

from recovery.domain.report import RunState, StepState
from recovery.errors import DataLoss, Refused, Unreachable
from tests.workflows.conftest import Rig
from workflows.control import OperatorCommand
from workflows.steps import CONTROL, HOLD, PROBE, WARN, Step, parallel, plan, s

ANA = OperatorCommand(actor="ana", reason="looked at both regions")
BEN = OperatorCommand(actor="Ben", reason="agreed")


async def test_the_plan_goes_on_beside_a_slow_step_and_ends_with_it(rig: Rig) -> None:
    rig.world.block["before tell"] = asyncio.Event()
    handle = await rig.start(plan="Handing")
    report = await rig.until(handle, lambda report: report.steps[-1].state is StepState.DONE)
    assert report.state is RunState.RUNNING and "tell" not in rig.world.present
    rig.world.block["before tell"].set()
    report = await handle.result()
    assert report.state is RunState.COMPLETED and "tell" in rig.world.present


async def test_what_runs_beside_the_plan_only_warns(rig: Rig) -> None:
    rig.world.fail_before["tell"] = [Unreachable("no channel answers")]
    report = await (await rig.start(plan="Handing")).result()
    assert report.state is RunState.COMPLETED
    assert report.warnings == ["tell: no channel answers"]


async def test_a_plan_that_rolls_back_ends_what_runs_beside_it(rig: Rig) -> None:
    rig.world.block["before tell"] = asyncio.Event()
    rig.world.fail_before["fence"] = [Refused("no")]
    handle = await rig.start(plan="Handing")
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    report = await rig.report(handle)
    tell = next(step for step in report.steps if step.name == "tell")
    assert (report.state, tell.state) == (RunState.ROLLED_BACK, StepState.CANCELLED)
    assert rig.world.present == {"choose", "orderly"}


async def test_a_loss_is_asked_about_and_accepted(rig: Rig) -> None:
    rig.world.fail_before["choose"] = [DataLoss("region-b would cost about 45 s")]
    handle = await rig.start(plan="Handing")
    report = await rig.until_state(handle, RunState.HELD)
    assert report.hold_choices == ["choose: region-b would cost about 45 s Choose retry, accept-loss, abort."]
    await handle.execute_update("accept-loss", ANA)
    await rig.until_state(handle, RunState.WAITING)  # data may be lost now: the gate before the fence asks
    await handle.execute_update("approve", ANA)
    report = await handle.result()
    assert report.state is RunState.COMPLETED and report.accepted_data_loss
    chosen = [request.accept_data_loss for name, request in rig.world.requests if name == "choose"]
    assert chosen == [False, True]
    assert [(action.action, action.actor) for action in report.actions] == [("accept-loss", "ana"), ("approve", "ana")]


async def test_another_failure_of_that_step_is_no_question(rig: Rig) -> None:
    rig.world.fail_before["choose"] = [Refused("no region can take over")]
    handle = await rig.start(plan="Handing")
    with pytest.raises(WorkflowFailureError) as caught:
        await handle.result()
    assert "no region can take over" in str(caught.value.cause)
    assert (await rig.report(handle)).failed_step == "choose"


async def test_a_loss_needs_a_second_person_where_the_group_says_so(rig: Rig) -> None:
    rig.world.group = rig.world.group.model_copy(update={"second_person": True})
    rig.world.fail_before["choose"] = [DataLoss("costs 45 s")]
    handle = await rig.start(plan="Handing", requested_by="Ana")
    await rig.until_state(handle, RunState.HELD)
    with pytest.raises(Exception) as caught:
        await handle.execute_update("accept-loss", ANA)
    assert "second person" in str(caught.value.__cause__)
    await handle.execute_update("accept-loss", BEN)
    await rig.until_state(handle, RunState.WAITING)
    with pytest.raises(Exception) as caught:
        await handle.execute_update("approve", ANA)
    assert "second person" in str(caught.value.__cause__)
    await handle.execute_update("approve", BEN)
    assert (await handle.result()).state is RunState.COMPLETED


async def test_what_was_approved_beforehand_is_no_second_person(rig: Rig) -> None:
    rig.world.group = rig.world.group.model_copy(update={"second_person": True})
    handle = await rig.start(plan="Handing", requested_by="ana", accept_data_loss=True, approve=True, reason="lost")
    await rig.until_state(handle, RunState.WAITING)
    await handle.execute_update("decline", ANA)
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    assert "fence" not in rig.world.present


@pytest.mark.parametrize("where", ["orderly", "fence"])
async def test_an_orderly_step_begins_again_when_the_run_becomes_ungraceful(rig: Rig, where: str) -> None:
    blocked = rig.world.block[f"before {where}"] = asyncio.Event()
    handle = await rig.start(plan="Handing")
    await rig.world.until(f"before {where}")
    asking = asyncio.create_task(handle.execute_update("ungraceful", ANA))
    await asking
    if where == "fence":
        await rig.until(handle, lambda report: rig.world.calls["fence"] == 2)
        blocked.set()
    report = await handle.result()
    assert report.state is RunState.COMPLETED
    graceful = [request.graceful for name, request in rig.world.requests if name == "fence"]
    assert graceful == ([True, False] if where == "fence" else [False])
    orderly = next(step for step in report.steps if step.name == "orderly")
    assert orderly.state is (StepState.DONE if where == "fence" else StepState.SKIPPED)
    assert [(action.action, action.actor) for action in report.actions] == [("ungraceful", "ana")]


async def test_a_run_is_made_ungraceful_once_and_only_before_its_pivot(rig: Rig) -> None:
    rig.world.fail_before["pivot"] = [Refused("odd")]
    handle = await rig.start(plan="Handing", graceful=False)
    await rig.until_state(handle, RunState.HELD)
    with pytest.raises(Exception) as caught:
        await handle.execute_update("ungraceful", ANA)
    assert "too late" in str(caught.value.__cause__)
    await handle.execute_update("retry", ANA)
    await handle.result()
    other = await rig.start()
    with pytest.raises(Exception) as caught:
        await other.execute_update("ungraceful", ANA)
    assert "no orderly part" in str(caught.value.__cause__) or "ended" in str(caught.value.__cause__)


async def act(self: object, context: object) -> object:
    raise AssertionError("only referenced")


@pytest.mark.parametrize(
    "row",
    [
        parallel(Step("one", act, CONTROL, s(1), s(1), PROBE, beside=True)),  # type: ignore[arg-type]
        parallel(Step("one", act, CONTROL, s(1), s(1), PROBE, beside=True, on_failure=HOLD)),  # type: ignore[arg-type]
        Step("one", act, CONTROL, s(1), s(1), PROBE, beside=True, on_failure=WARN),  # type: ignore[arg-type]
    ],
    ids=["it would undo", "it would hold", "alone in its row"],
)
def test_a_table_says_what_may_run_beside_it(row: Step) -> None:
    with pytest.raises(ValueError, match="beside"):
        plan("Odd", "a table with a mistake", row)
