"""People hear of every run that did not complete, unless one of them chose that end."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from unittest.mock import patch

import pytest

from activities.notifications import Alert
from activities.runs import RunCutOff, RunFailed
from recovery.domain.plan import Facts, PlanRequest, StepOutcome
from recovery.domain.report import RunState
from recovery.errors import Refused, Unreachable
from recovery.ports.notify import Severity
from tests.fakes.handover import group_of
from tests.unit.workflows.harness import Script, temporal, until
from workflows.calls import Calls
from workflows.control import OperatorCommand
from workflows.engine import Engine
from workflows.plans import PLANS

ANA = OperatorCommand(actor="ana", reason="not tonight")
QUIET = ["Backup", "BackupValidation", "Restore", "Reprotect", "Failback", "Retention"]
LESS = {"Backup", "Retention", "Restore", "Reprotect"}
"""No client waits for them: the next backup is not far, and repeated failures have a rule of their own; a person starts
the others, whose failure leaves what serves as it was."""
Struck = Callable[[Engine], object]


class Loaded(Script):
    async def call(self, name: str) -> StepOutcome:
        outcome = await super().call(name)
        known = Facts(group=group_of("a", "b")) if name == "load-configuration" else Facts()
        return outcome.model_copy(update={"facts": known})


def told(plan: str, *failing: str, struck: Struck | None = None, error: str = "") -> tuple[RunState, list[Alert]]:
    """How a run ends in which these steps fail (by errors of this kind), or which is struck once it has its
    configuration; and what people are told."""
    table = PLANS[plan]
    second = list(table.steps())[1].name
    outside = Loaded(defaultdict(int, {second: 50}), dict.fromkeys(failing, "before"), set(), error=error)
    alerts: list[Alert] = []

    async def alert(self: Calls, alert: Alert) -> None:
        alerts.append(alert)

    async def run() -> RunState:
        engine = Engine(table, PlanRequest(group="shop"))
        task = asyncio.create_task(engine.run())
        if struck is not None:
            await until(lambda: second in outside.started)
            struck(engine)
        await asyncio.gather(task, return_exceptions=True)
        return engine.journal.report().state

    with temporal(outside), patch.object(Calls, "alert", alert):
        return asyncio.run(run()), alerts


@pytest.mark.parametrize("plan", QUIET)
def test_a_failed_end_is_told_once_and_as_loud_as_it_matters(plan: str) -> None:
    failing = list(PLANS[plan].steps())[1].name
    state, (alert,) = told(plan, failing)
    assert state is RunState.ROLLED_BACK
    assert alert.title == f"{plan} of shop failed at {failing}" and "told to fail" in alert.body
    assert alert.severity is (Severity.WARNING if plan in LESS else Severity.CRITICAL)


@pytest.mark.parametrize("plan", QUIET)
@pytest.mark.parametrize(
    "struck",
    [lambda engine: engine.stop("the run was cancelled"), lambda engine: engine.abort(ANA)],
    ids=["cancelled", "aborted"],
)
def test_who_ended_a_run_is_not_told_that_it_ended(plan: str, struck: Struck) -> None:
    assert told(plan, struck=struck) == (RunState.ROLLED_BACK, [])


def test_a_verdict_that_was_announced_is_not_told_again() -> None:
    assert told("BackupValidation", "judge") == (RunState.ROLLED_BACK, [])
    _, alerts = told("BackupValidation", "judge", "announce-verdict")
    assert [alert.title for alert in alerts] == ["BackupValidation of shop failed at judge"]


def test_what_a_run_of_its_own_has_told_a_failback_does_not_tell_again() -> None:
    """That run has, unless somebody chose its end."""
    assert told("Failback", "switch-home", error=RunFailed.__name__) == (RunState.ROLLED_BACK, [])
    for error in (RunCutOff, Refused, Unreachable):  # nobody heard of those
        _, (alert,) = told("Failback", "switch-home", error=error.__name__)
        assert alert.title == "Failback of shop failed at switch-home"


@pytest.mark.parametrize("plan", sorted(set(PLANS) - set(QUIET)))
def test_the_end_of_a_plan_that_moves_its_group_is_told_also_when_somebody_chose_it(plan: str) -> None:
    assert PLANS[plan].locks_group
    _, alerts = told(plan, struck=lambda engine: engine.stop("the run was cancelled"))
    assert [alert.title for alert in alerts] == [f"{plan} of shop failed"]
