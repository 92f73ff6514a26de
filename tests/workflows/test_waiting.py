"""Long waits, on a server whose clock jumps over them: approvals, holds, budgets."""

from __future__ import annotations

import asyncio
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
from recovery.domain.words import duration
from recovery.errors import Refused, Unreachable
from recovery.ports.notify import Severity
from tests.workflows.conftest import Rig
from tests.workflows.rehearsal import Crossing
from workflows.control import OperatorCommand
from workflows.plans import PLANS
from workflows.steps import Silence

TIMER = EventType.EVENT_TYPE_TIMER_STARTED
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
    patient.world.fail_after["held"] = [Refused("the place is full")]
    report = await (await patient.start(plan="Crossing")).result()
    assert report.state is RunState.COMPLETED
    assert patient.world.present == {"first", "fails", "holds", "warns", "last"}, "what it had done is undone"
    assert [line for line in patient.world.log if "held" in line] == ["do held", "undo held"]
    (action,) = report.actions
    assert (action.action, action.actor, action.step) == ("skip", BY_SILENCE, "held")
    held = next(step for step in report.steps if step.name == "held")
    assert (held.state, held.summary) == (StepState.SKIPPED, "skipped: nobody answered within 4 h")
    assert report.warnings == ["held: skipped: nobody answered within 4 h; undone: undid held. the place is full"]
    assert (held.undo_summary, report.undo_order) == ("undid held", []), "the run itself is not rolled back"
    assert "Where nobody answers within 4 h, that is undone" in patient.notifier.sent[0].body


async def test_what_silence_skipped_is_not_undone_again_when_the_run_rolls_back(patient: Rig) -> None:
    patient.world.group = patient.world.group.model_copy(update={"hold_timeout": timedelta(hours=4)})
    patient.world.fail_after["held"] = [Refused("the place is full")]
    patient.world.fail_before["last"] = [Refused("no")]
    handle = await patient.start(plan="Crossing")
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    report = await patient.report(handle)
    assert (report.state, report.undo_order) == (RunState.ROLLED_BACK, ["holds", "fails", "first"])
    assert next(step for step in report.steps if step.name == "held").state is StepState.SKIPPED


async def test_what_silence_cannot_undo_stays_held_and_is_tried_again(patient: Rig) -> None:
    patient.world.group = patient.world.group.model_copy(update={"hold_timeout": timedelta(hours=4)})
    patient.world.fail_after["held"] = [Refused("the place is full")]
    patient.world.fail_undo["held"] = [Refused("no way in")] * 2
    handle = await patient.start(plan="Crossing")
    report = await handle.result()
    assert report.state is RunState.COMPLETED and "held" not in patient.world.present
    assert await _replayed(await handle.fetch_history()) is None
    held = next(step for step in report.steps if step.name == "held")
    assert (held.state, held.undo_summary) == (StepState.SKIPPED, "undid held")
    assert timedelta(hours=12) <= held.waited < timedelta(hours=13)
    assert [sent.title for sent in patient.notifier.sent] == [
        "Crossing of shop is held at held", *["Crossing of shop is still held at held"] * 2
    ]  # fmt: skip
    assert "what the step had done could not be undone: no way in" in patient.notifier.sent[-1].body
    assert [warning for warning in report.warnings if "no way in" in warning] == report.warnings[:1], "said once"


@pytest.mark.parametrize("how", ["cancel", "abort"])
async def test_a_stop_ends_what_silence_undoes_and_the_rollback_undoes_it(patient: Rig, how: str) -> None:
    patient.world.group = patient.world.group.model_copy(update={"hold_timeout": timedelta(hours=4)})
    patient.world.fail_after["held"] = [Refused("the place is full")]
    patient.world.block["undo held"] = asyncio.Event()
    handle = await patient.start(plan="Crossing")
    await patient.world.until("undo held")
    await (handle.cancel() if how == "cancel" else handle.execute_update("abort", ANA))
    patient.world.block["undo held"].set()
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    report = await patient.report(handle)
    assert (report.state, report.undo_order) == (RunState.ROLLED_BACK, ["holds", "held", "fails", "first"])
    assert patient.world.present == {"warns"}


async def test_what_a_person_skips_stays_as_it_is(patient: Rig, skipping: WorkflowEnvironment) -> None:
    patient.world.fail_after["held"] = [Refused("no answer at the end")]
    with skipping.with_time_skipping_disabled():
        handle = await patient.start(plan="Crossing")
        report = await patient.until_state(handle, RunState.HELD)
        assert report.hold_choices[0].endswith("abort. A skip leaves in place what the step has done so far.")
        await handle.execute_update("skip", ANA)
        report = await handle.result()
    assert report.state is RunState.COMPLETED and "held" in patient.world.present
    assert report.warnings == [
        "held: skipped by the operator: what it did before it failed stays in place. no answer at the end"
    ]


@pytest.mark.parametrize(
    ("patience", "timers"),
    [(timedelta(hours=4), [4.0, 4.0, 4.0]), (timedelta(minutes=10), [1 / 6, 1.0, 1.0]), (timedelta(), [1.0, 1.0])],
    ids=["4 h", "10 min, and then hourly", "hourly"],
)
async def test_a_hold_that_neither_way_is_right_for_waits_on_for_a_person_and_says_so_again(
    patient: Rig, patience: timedelta, timers: list[float]
) -> None:
    """A history bears only so many messages: after the first, one an hour at the most."""
    patient.world.group = patient.world.group.model_copy(update={"hold_timeout": patience})
    patient.world.fail_before["holds"] = [Refused("a key is missing")]
    handle = await patient.start(plan="Crossing")
    async with asyncio.timeout(30):  # the server's clock jumps from each message to the next
        while len(patient.notifier.sent) < 4:
            await asyncio.sleep(0.02)
    report = await patient.report(handle)
    assert (report.state, report.actions) == (RunState.HELD, [])
    await handle.execute_update("skip", ANA)
    report = await handle.result()
    first, *again = patient.notifier.sent
    assert first.title == "Crossing of shop is held at holds"
    assert {(sent.severity, sent.title) for sent in again} == {
        (Severity.CRITICAL, "Crossing of shop is still held at holds")
    }
    silent = f"obody answered within {duration(patience)}"
    assert again[0].body.startswith(f"N{silent}. a key is missing Choose retry, skip, abort")
    events = [event async for event in handle.fetch_history_events()]
    started = [event.timer_started_event_attributes for event in events if event.event_type == TIMER]
    assert [each.start_to_fire_timeout.ToSeconds() / 3600 for each in started][: len(timers)] == timers
    holds = next(step for step in report.steps if step.name == "holds")
    assert (holds.state, holds.summary) == (StepState.SKIPPED, "skipped by the operator")
    assert [(action.action, action.actor) for action in report.actions] == [("skip", "ana")]
    assert holds.waited >= sum(timers[:2]) * timedelta(hours=1)
    assert report.warnings == [
        f"holds: n{silent}; it stays held, and people are told every {duration(timers[1] * timedelta(hours=1))}",
        "holds: skipped by the operator: what it did before it failed stays in place. a key is missing",
    ]


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
    assert TIMER not in events, "nothing may ever end this hold but the operator"
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
