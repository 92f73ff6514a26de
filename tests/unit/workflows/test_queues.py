"""Which queue a step is put on: the regions', and of what needs a private key those of its holders."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import cast

import pytest

from recovery.domain.group import GroupSnapshot, Objectives, RegionPlan
from recovery.domain.plan import Facts, PlanRequest
from workflows import calls
from workflows.calls import Calls
from workflows.failures import StepFailed
from workflows.journal import Journal
from workflows.plans import PLANS
from workflows.steps import Where

RUN = SimpleNamespace(run_id="run", first_execution_run_id="run", workflow_id="recovery/shop")


def group(**of_each: object) -> GroupSnapshot:
    return GroupSnapshot(
        name="shop",
        objectives=Objectives(tier="critical", rto=timedelta(minutes=15), rpo=timedelta(minutes=5)),
        home_region="a",
        regions=[RegionPlan.model_validate({"name": name, "task_queue": name, **of_each}) for name in ("a", "b")],
        validation_queue="validation",
    )


def queue(monkeypatch: pytest.MonkeyPatch, where: Where, group: GroupSnapshot, target: str = "b") -> str | None:
    monkeypatch.setattr(calls.workflow, "info", lambda: RUN)  # type: ignore[attr-defined]
    facts = Facts(group=group, source_region="a", target_region=target)
    journal = cast(Journal, SimpleNamespace(facts=facts, started_at=datetime.now(UTC)))
    step = PLANS["FullRecovery"].first()
    return Calls(PLANS["FullRecovery"], PlanRequest(group="shop"), journal).queue(step, where)


@pytest.mark.parametrize(
    ("where", "wanted"),
    [
        (Where.CONTROL, None),
        (Where.SOURCE, "a"),
        (Where.TARGET, "b"),
        (Where.VALIDATION, "validation"),
        (Where.KEYHOLDER, "b-with-keys"),
    ],
)
def test_each_place_has_its_queue(monkeypatch: pytest.MonkeyPatch, where: Where, wanted: str | None) -> None:
    assert queue(monkeypatch, where, group(restore_queue="b-with-keys")) == wanted


def test_a_run_that_an_earlier_version_began_goes_on_with_the_regions_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    assert queue(monkeypatch, Where.KEYHOLDER, group()) == "b"


def test_a_region_that_the_run_does_not_know_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StepFailed, match="has a, b, and not mars"):
        queue(monkeypatch, Where.KEYHOLDER, group(restore_queue="keys"), target="mars")


OPENING = {
    "RestoreSteps.verify_infrastructure": Where.KEYHOLDER,
    "RestoreSteps.restore_database": Where.KEYHOLDER,
    "ValidationSteps.validate": Where.VALIDATION,
    "ValidationSteps.prove_again": Where.VALIDATION,
    "ValidationSteps.read_back_wal": Where.VALIDATION,
}


def test_whatever_opens_a_recovery_point_is_asked_of_keyholders() -> None:
    steps = [step for plan in PLANS.values() for step in plan.steps() if step.activity.__qualname__ in OPENING]
    assert {step.activity.__qualname__ for step in steps} == set(OPENING)
    assert all(step.where is OPENING[step.activity.__qualname__] for step in steps)


def test_where_there_is_no_keyholder_it_is_not_waited_for_until_the_budget_ends() -> None:
    for plan in (PLANS["Restore"], PLANS["FullRecovery"]):
        (first, *_) = [step for step in plan.steps() if step.where is Where.KEYHOLDER]
        assert first.undo is None, "nothing has been changed by then that would have to wait for a key to be undone"
        assert first.start_within is not None
        assert first.start_within < first.budget
