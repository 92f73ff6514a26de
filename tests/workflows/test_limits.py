"""Nothing that a step, a worker or an operator says can jam a run."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest
from temporalio.client import WorkflowFailureError, WorkflowUpdateFailedError
from temporalio.service import RPCError

from recovery.domain.recovery_point import CheckResult
from recovery.domain.report import RunState, StepState
from recovery.errors import Refused, Unreachable
from tests.workflows.conftest import KnownConfiguration, Rig
from workflows.control import LONGEST_REASON, OperatorCommand

ANA = OperatorCommand(actor="ana", reason="checked by hand")


async def test_steps_that_say_very_much_do_not_jam_the_run(rig: Rig) -> None:
    rig.world.saying = "x" * 200_000
    rig.world.checks = [CheckResult(name=f"table {n}", passed=n % 7 != 0, detail="y" * 900) for n in range(5_000)]
    report = await (await rig.start()).result()
    assert report.state is RunState.COMPLETED
    assert len(report.model_dump_json()) < 1024 * 1024
    assert any(not check.passed for check in report.checks)


async def test_a_failure_that_says_very_much_ends_the_run_in_order(rig: Rig) -> None:
    rig.world.fail_before["gated"] = [Refused("z" * 1_000_000)]
    handle = await rig.start()
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    report = await rig.report(handle)
    assert report.state is RunState.ROLLED_BACK and len(report.error) < 10_000


async def test_an_operator_who_says_too_much_is_asked_to_be_brief(rig: Rig) -> None:
    rig.world.fail_before["check"] = [Refused("odd")]
    handle = await rig.start()
    await rig.until_state(handle, RunState.HELD)
    with pytest.raises(WorkflowUpdateFailedError) as caught:
        await handle.execute_update("retry", OperatorCommand(actor="ana", reason="x" * (LONGEST_REASON + 1)))
    assert "say it shorter" in str(caught.value.cause)
    with pytest.raises(WorkflowUpdateFailedError):
        await handle.execute_update("retry", {"actor": {"no": "name"}})
    await handle.execute_update("retry", ANA)
    assert (await handle.result()).state is RunState.COMPLETED


async def test_an_answer_that_comes_when_the_run_is_ending_is_refused_and_harms_nothing(rig: Rig) -> None:
    refused = 0
    for _ in range(5):
        handle = await rig.start()
        result = asyncio.create_task(handle.result())
        while not result.done():
            try:
                await handle.execute_update("skip", ANA)
            except (WorkflowUpdateFailedError, RPCError):
                refused += 1
        assert (await result).state is RunState.COMPLETED
        assert (await result).actions == []
    assert refused


async def test_a_pause_in_the_last_moment_does_not_lose_the_end(rig: Rig) -> None:
    handle = await rig.start()
    await rig.until(handle, lambda report: report.steps[-2].state is StepState.DONE)
    try:
        await handle.execute_update("pause", ANA)
        await handle.execute_update("resume", ANA)
    except (WorkflowUpdateFailedError, RPCError):
        pass  # it had ended before
    assert (await handle.result()).state is RunState.COMPLETED


async def test_a_worker_with_another_configuration_says_so_once(rig: Rig) -> None:
    edited = rig.world.group.model_copy(update={"config_hash": "f" * 64})
    rig.drifted.world = dataclasses.replace(rig.world, group=edited)
    assert isinstance(rig.drifted, KnownConfiguration)
    report = await (await rig.start()).result()
    assert report.state is RunState.COMPLETED
    said = [warning for warning in report.warnings if "has configuration ffffffffffff" in warning]
    assert len(said) == 1 and "this run goes by 000000000000" in said[0]


async def test_workers_that_agree_say_nothing(rig: Rig) -> None:
    report = await (await rig.start()).result()
    assert report.warnings == []


async def test_a_region_that_left_the_configuration_is_named_and_the_run_does_not_jam(rig: Rig) -> None:
    rig.world.target = "region-z"
    handle = await rig.start()
    with pytest.raises(WorkflowFailureError) as caught:
        await handle.result()
    assert "the configuration of the run has region-a, region-b, and not region-z" in str(caught.value.cause)
    assert (await rig.report(handle)).state is RunState.ROLLED_BACK


async def test_a_used_up_budget_still_says_why_and_how_often(rig: Rig) -> None:
    """The server cuts the failures of attempts at 4 KiB: reason and number of attempts have to survive that."""
    rig.world.group = rig.world.group.model_copy(update={"budgets": {"Rehearsal.prepare": 3.0}})
    rig.world.fail_before["prepare"] = [Unreachable("no answer from the store, " + "which is sad " * 500)] * 1_000
    handle = await rig.start()
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    prepare = next(step for step in (await rig.report(handle)).steps if step.name == "prepare")
    assert "no answer from the store" in prepare.error
    assert prepare.attempts == rig.world.calls["prepare"] > 2
