"""Long waits, on a server whose clock jumps over them: approvals, holds, budgets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from temporalio import workflow
from temporalio.api.enums.v1 import EventType
from temporalio.api.sdk.v1 import WorkflowMetadata
from temporalio.client import WorkflowFailureError, WorkflowHistory
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Replayer, UnsandboxedWorkflowRunner

from recovery.domain.report import BY_SILENCE, RunState, StepState
from recovery.errors import Refused, Unreachable
from tests.workflows.conftest import Rig
from tests.workflows.rehearsal import Crossing
from workflows.control import OperatorCommand
from workflows.plans import PLANS
from workflows.steps import Silence

SILENCE = "silence undoes no recovery"
ANA = OperatorCommand(actor="ana", reason="checked by hand")


@pytest.fixture
async def patient(skipping: WorkflowEnvironment) -> AsyncIterator[Rig]:
    rig = Rig(skipping.client)
    async with rig.worker():
        yield rig


def asking(rig: Rig, default: str = "decline", hold: timedelta | None = None) -> None:
    rig.world.group = rig.world.group.model_copy(
        update={
            "require_approval": True,
            "approval_timeout": timedelta(hours=24),
            "approval_default": default,
            "hold_timeout": hold,
        }
    )


async def test_nobody_answers_and_the_default_is_to_decline(patient: Rig) -> None:
    asking(patient)
    handle = await patient.start()
    with pytest.raises(WorkflowFailureError) as caught:
        await handle.result()
    report = await patient.report(handle)
    assert report.state is RunState.ROLLED_BACK
    assert "nobody approved within 1 d" in str(caught.value.cause)
    assert [(action.action, action.actor) for action in report.actions] == [("declined", "timeout")]
    assert patient.world.present == {"tell", "check"}
    gated = next(step for step in report.steps if step.name == "gated")
    assert gated.state is StepState.FAILED and patient.world.calls["gated"] == 0
    assert report.ended_at is not None and report.ended_at - report.started_at > timedelta(hours=24)


async def test_nobody_answers_and_the_default_is_to_approve(patient: Rig) -> None:
    asking(patient, default="approve")
    report = await (await patient.start()).result()
    assert report.state is RunState.COMPLETED
    assert [(action.action, action.actor) for action in report.actions] == [("approved", "timeout")]


async def test_who_approved_beforehand_is_not_asked(patient: Rig) -> None:
    asking(patient)
    report = await (await patient.start(approve=True, requested_by="ana")).result()
    assert report.state is RunState.COMPLETED
    assert [(action.action, action.actor) for action in report.actions] == [("approve", "ana")]


@pytest.mark.parametrize("answer", ["approve", "decline", "abort"])
async def test_a_person_answers(patient: Rig, skipping: WorkflowEnvironment, answer: str) -> None:
    asking(patient)
    with skipping.with_time_skipping_disabled():
        handle = await patient.start()
        await patient.until_state(handle, RunState.WAITING)
        await handle.execute_update(answer, ANA)
        if answer == "approve":
            assert (await handle.result()).state is RunState.COMPLETED
        else:
            with pytest.raises(WorkflowFailureError):
                await handle.result()
        report = await patient.report(handle)
    assert [(action.action, action.actor) for action in report.actions] == [(answer, "ana")]
    assert report.state is (RunState.COMPLETED if answer == "approve" else RunState.ROLLED_BACK)
    assert not [step.name for step in report.steps if step.state is StepState.WAITING]


async def test_a_hold_waits_for_days(patient: Rig, skipping: WorkflowEnvironment) -> None:
    patient.world.fail_before["check"] = [Refused("odd")]
    handle = await patient.start()
    await patient.until_state(handle, RunState.HELD)
    await skipping.fast_forward(handle, timedelta(days=5))
    assert (await patient.report(handle)).state is RunState.HELD
    await handle.execute_update("retry", ANA)
    report = await handle.result()
    assert report.state is RunState.COMPLETED
    check = next(step for step in report.steps if step.name == "check")
    assert check.waited >= timedelta(days=5)


async def test_a_hold_that_nobody_answers_in_time_rolls_back_where_that_is_configured(patient: Rig) -> None:
    patient.world.group = patient.world.group.model_copy(update={"hold_timeout": timedelta(hours=4)})
    patient.world.fail_before["check"] = [Refused("odd")]
    handle = await patient.start()
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    report = await patient.report(handle)
    assert report.state is RunState.ROLLED_BACK and patient.world.present == {"tell"}
    assert [(action.action, action.actor) for action in report.actions] == [("abort", "timeout")]
    assert report.actions[0].reason == "nobody answered within 4 h"


async def test_a_hold_that_nobody_answers_is_skipped_where_the_step_says_so(patient: Rig) -> None:
    patient.world.group = patient.world.group.model_copy(update={"hold_timeout": timedelta(hours=4)})
    patient.world.fail_before["held"] = [Refused("the place is full")]
    report = await (await patient.start(plan="Crossing")).result()
    assert report.state is RunState.COMPLETED
    assert patient.world.present == {"first", "fails", "holds", "warns", "last"}
    (action,) = report.actions
    assert (action.action, action.actor, action.step) == ("skip", BY_SILENCE, "held")
    held = next(step for step in report.steps if step.name == "held")
    assert (held.state, held.summary) == (StepState.SKIPPED, "skipped: nobody answered within 4 h")
    assert report.warnings == ["held: skipped: nobody answered within 4 h. the place is full"]


async def test_a_hold_that_neither_way_is_right_for_waits_on_for_a_person(
    patient: Rig, skipping: WorkflowEnvironment
) -> None:
    patient.world.group = patient.world.group.model_copy(update={"hold_timeout": timedelta(hours=4)})
    patient.world.fail_before["holds"] = [Refused("a key is missing")]
    handle = await patient.start(plan="Crossing")
    await patient.until_state(handle, RunState.HELD)
    await skipping.fast_forward(handle, timedelta(days=2))
    report = await patient.report(handle)
    assert (report.state, report.actions) == (RunState.HELD, [])
    await handle.execute_update("skip", ANA)
    report = await handle.result()
    holds = next(step for step in report.steps if step.name == "holds")
    assert (holds.state, holds.summary) == (StepState.SKIPPED, "skipped by the operator")
    assert [(action.action, action.actor) for action in report.actions] == [("skip", "ana")]
    assert holds.waited >= timedelta(days=2) and report.warnings == []


def test_silence_undoes_no_recovery_for_a_store_beside_its_database_and_opens_no_data_that_failed_their_check() -> None:
    means = {step.name: step.silence for step in PLANS["FullRecovery"].steps() if step.silence is not Silence.ABORT}
    assert means == {
        "restore-streams": Silence.SKIP, "restore-redis": Silence.SKIP, "restore-search": Silence.SKIP,
        "verify-stores": Silence.WAIT,
    }  # fmt: skip


@pytest.mark.parametrize("at", ["held", "holds"])
async def test_a_run_that_silence_undid_under_an_earlier_version_replays(
    skipping: WorkflowEnvironment, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    rig, patched = Rig(skipping.client), workflow.patched
    rig.world.group = rig.world.group.model_copy(update={"hold_timeout": timedelta(hours=4)})
    rig.world.fail_before[at] = [Refused("odd")]
    with monkeypatch.context() as earlier:
        earlier.setattr(workflow, "patched", lambda name: name != SILENCE and patched(name))
        async with rig.worker(workflow_runner=UnsandboxedWorkflowRunner()):
            handle = await rig.start(plan="Crossing")
            with pytest.raises(WorkflowFailureError):
                await handle.result()
            assert (await rig.report(handle)).actions[0].action == "abort"
    history = await handle.fetch_history()
    assert await _replayed(history) is None
    monkeypatch.setattr(workflow, "patched", lambda name: name == SILENCE or patched(name))
    assert "nondeterminism" in str(await _replayed(history)).lower(), "it is the patch that it goes on by"


async def _replayed(history: WorkflowHistory) -> Exception | None:
    replayer = Replayer(
        workflows=[Crossing],
        data_converter=pydantic_data_converter,
        workflow_runner=UnsandboxedWorkflowRunner(),  # the sandbox would not see what a test changes
    )
    return (await replayer.replay_workflow(history, raise_on_replay_failure=False)).replay_failure


async def test_a_hold_after_the_pivot_never_ends_by_itself(patient: Rig, skipping: WorkflowEnvironment) -> None:
    patient.world.group = patient.world.group.model_copy(update={"hold_timeout": timedelta(hours=4)})
    patient.world.fail_before["after"] = [Refused("broken")]
    handle = await patient.start()
    await patient.until_state(handle, RunState.HELD)
    events = [event.event_type async for event in handle.fetch_history_events()]
    assert EventType.EVENT_TYPE_TIMER_STARTED not in events, "nothing may ever end this hold but the operator"
    await skipping.fast_forward(handle, timedelta(days=2))
    assert (await patient.report(handle)).state is RunState.HELD
    await handle.execute_update("retry", ANA)
    report = await handle.result()
    assert report.state is RunState.COMPLETED
    assert [(action.action, action.actor) for action in report.actions] == [("retry", "ana")]


async def test_a_budget_bounds_all_tries_together(patient: Rig) -> None:
    patient.world.group = patient.world.group.model_copy(update={"budgets": {"Rehearsal.prepare": 12.0}})
    patient.world.fail_before["prepare"] = [Unreachable("no answer")] * 100_000
    handle = await patient.start()
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    report = await patient.report(handle)
    prepare = next(step for step in report.steps if step.name == "prepare")
    assert report.state is RunState.ROLLED_BACK
    assert prepare.started_at is not None and prepare.ended_at is not None
    assert timedelta(seconds=9) < prepare.ended_at - prepare.started_at < timedelta(seconds=20)
    assert prepare.attempts > 5 and "no answer" in prepare.error


async def test_durations_are_learned_and_shown_as_an_expected_end(patient: Rig, skipping: WorkflowEnvironment) -> None:
    await (await patient.start()).result()
    with skipping.with_time_skipping_disabled():
        patient.world.fail_before["check"] = [Refused("odd")]
        handle = await patient.start()
        report = await patient.until_state(handle, RunState.HELD)
        assert report.eta is not None and report.eta > report.started_at
        assert all(step.expected is not None for step in report.steps[1:])
        await handle.execute_update("retry", ANA)
        await handle.result()


async def test_a_run_that_outlasts_its_rto_says_so_where_it_is_looked_at(patient: Rig) -> None:
    goals = patient.world.group.objectives.model_copy(update={"rto": timedelta(seconds=8)})
    patient.world.group = patient.world.group.model_copy(
        update={"objectives": goals, "budgets": {"Rehearsal.check": 12.0}}
    )
    patient.world.fail_before["check"] = [Unreachable("no answer")] * 100_000
    handle = await patient.start()
    report = await patient.until_state(handle, RunState.HELD)
    assert report.rto_ends_at == report.started_at + timedelta(seconds=8)
    details = (await handle.query("__temporal_workflow_metadata", result_type=WorkflowMetadata)).current_details
    assert (
        f"**RTO**: it is not confirmed yet that the service answers; its RTO ended at {report.rto_ends_at:%H:%M:%S} UTC"
        in details
    )
    patient.world.fail_before["check"].clear()
    await handle.execute_update("retry", ANA)
    assert (await handle.result()).rto_ends_at is None
