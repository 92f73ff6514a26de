"""Whose word counts, and when silence does: gates, losses, second persons, names and reasons."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from temporalio.exceptions import ApplicationError

from recovery.domain.group import FailoverRule
from recovery.domain.plan import Facts, PlanContext, PlanRequest, StepOutcome
from recovery.domain.report import RunReport, RunState
from recovery.errors import DataLoss
from tests.fakes.handover import group_of
from tests.unit.workflows.harness import Script, temporal, until
from workflows.control import Choice, Consent, OperatorCommand
from workflows.engine import Engine
from workflows.plans.conditions import MAY_MOVE
from workflows.steps import CONTROL, PROBE, Gate, Step, plan, s

ANA = OperatorCommand(actor="Ana", reason="looked at both regions")
BEN = OperatorCommand(actor="ben", reason="agreed")


async def act(self: Any, context: PlanContext) -> StepOutcome:
    raise AssertionError("only referenced")


def always(context: PlanContext) -> bool:
    return True


def engine_of(
    gate: Gate | None = None, *, loses: str = "", group: dict[str, object] | None = None
) -> tuple[Any, Script]:
    script = Script(ticks={"fence": 0}, fails={"fence": loses} if loses else {}, undo_fails=set())
    table = plan("Any", "any table", Step("fence", act, CONTROL, s(1), s(1), PROBE, gate=gate, costs_data=bool(loses)))

    def build(**request: object) -> Engine:
        engine = Engine(table, PlanRequest.model_validate({"group": "shop", "requested_by": "ana", **request}))
        known = group_of("region-a", "region-b").model_copy(update=group or {})
        engine.journal.facts = Facts(group=known)
        return engine

    return build, script


async def ended(engine: Engine, meanwhile: Callable[[], Awaitable[None]] | None = None) -> RunReport:
    task = asyncio.create_task(engine.run())
    try:
        if meanwhile is not None:
            await meanwhile()
    except BaseException:
        engine.abort(ANA)  # a run whose question nobody answers would never end
        raise
    finally:
        await asyncio.gather(task, return_exceptions=True)
    return engine.journal.report()


async def test_a_gate_that_is_declined_ends_the_run() -> None:
    build, script = engine_of(Gate("May it begin?", asks=always))
    with temporal(script):
        engine = build()

        async def decline() -> None:
            await until(lambda: bool(engine.control.gates))
            engine.control.consent(Consent.DECLINED, ANA)

        report = await ended(engine, decline)
    assert (report.state, script.started) == (RunState.ROLLED_BACK, [])


@pytest.mark.parametrize("only_persons", [False, True])
async def test_silence_is_no_consent_where_only_a_persons_word_is(only_persons: bool) -> None:
    build, script = engine_of(
        Gate("Is it off?", asks=always, only_persons=only_persons), group={"approval_default": "approve"}
    )
    with temporal(script):
        report = await ended(build())
    assert script.started == ([] if only_persons else ["fence"])
    assert [action.action for action in report.actions] == ["declined" if only_persons else "approved"]


async def test_silence_is_no_consent_to_what_a_monitor_started() -> None:
    build, script = engine_of(Gate("May it begin?", asks=always), group={"approval_default": "approve"})
    with temporal(script):
        await ended(build(automatic=True))
    assert script.started == []


@pytest.mark.parametrize("open_ones", [[], ["redis in region-a"]])
async def test_a_default_that_stood_for_a_silent_person_vouches_for_no_fence(open_ones: list[str]) -> None:
    """The monitor asked, and nobody answered: that is enough where nothing but the policy asked."""
    build, script = engine_of(
        MAY_MOVE, group={"approval_default": "approve", "failover": FailoverRule(policy="approve")}
    )
    with temporal(script):
        engine = build(automatic=True, approve=True)
        engine.journal.facts = engine.journal.facts.model_copy(update={"unfenced": open_ones})
        await ended(engine)
    assert script.started == ([] if open_ones else ["fence"])


async def test_where_two_persons_are_asked_for_the_first_is_not_the_second() -> None:
    build, script = engine_of(Gate("May data be lost?", asks=always, two_persons=always))
    with temporal(script):
        engine = build(approve=True)  # that it was approved beforehand is the first person's word, too

        async def consent() -> None:
            await until(lambda: bool(engine.control.gates))
            with pytest.raises(ApplicationError, match="needs the consent of a second person"):
                engine.control.check("approve", ANA)
            engine.control.check("approve", BEN)
            assert script.started == []
            engine.control.consent(Consent.APPROVED, BEN)

        report = await ended(engine, consent)
    assert report.state is RunState.COMPLETED
    assert [(action.action, action.actor) for action in report.actions] == [("approve", "ben")]


async def test_a_loss_is_not_accepted_by_whoever_started_the_run() -> None:
    build, script = engine_of(loses="before", group={"second_person": True})
    script.error = DataLoss.__name__
    with temporal(script):
        engine = build()

        async def accept() -> None:
            await until(lambda: bool(engine.control.holds))
            with pytest.raises(ApplicationError, match="needs a second person"):
                engine.check_accept_loss(ANA)
            engine.check_accept_loss(BEN)
            script.fails.clear()
            engine.accept_loss(BEN)

        report = await ended(engine, accept)
    assert (report.state, report.accepted_data_loss) == (RunState.COMPLETED, True)


@pytest.mark.parametrize("command", [OperatorCommand(), OperatorCommand(actor="ana"), OperatorCommand(reason="why")])
async def test_nothing_is_done_without_a_name_and_a_reason(command: OperatorCommand) -> None:
    build, script = engine_of()
    with temporal(script), pytest.raises(ApplicationError, match="needs who and why"):
        build().control.check("pause", command)


async def test_what_a_hold_does_not_offer_is_refused() -> None:
    build, script = engine_of(loses="before")
    script.error = DataLoss.__name__
    with temporal(script):
        engine = build()

        async def skip() -> None:
            await until(lambda: bool(engine.control.holds))
            with pytest.raises(ApplicationError, match="not with skip"):
                engine.control.check(Choice.SKIP, ANA)
            engine.abort(ANA)

        report = await ended(engine, skip)
    assert report.state is RunState.ROLLED_BACK
