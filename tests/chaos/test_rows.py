"""The matrix is of every step: one that no rehearsal asks for would be tested by nobody."""

from __future__ import annotations

import pytest

from tests.chaos.cases import SIDES, faults_in_undo, forward_kills
from workflows.plans import PLANS
from workflows.steps import Plan

KILLS = [case for case in [*forward_kills(), *faults_in_undo()] if case.faults[-1].kind == "kill"]


@pytest.mark.parametrize("plan", PLANS.values(), ids=lambda plan: plan.name)
def test_workers_are_killed_at_every_row_and_every_undo(plan: Plan) -> None:
    struck = {(case.faults[-1].at, case.faults[-1].side) for case in KILLS if case.plan == plan.name}
    rows = {step.name for step in plan.steps()} | {f"undo {step.name}" for step in plan.steps() if step.undo}
    assert {(row, side) for row in rows for side in SIDES} - struck == set()


def test_every_case_has_a_name_of_its_own() -> None:
    assert len({case.name for case in KILLS}) == len(KILLS)
