"""Recorded runs replay on today's tables and engine (engine rule 9)."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from temporalio.client import WorkflowHistory
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Replayer, UnsandboxedWorkflowRunner

from tests.chaos.cases import TABLES
from tests.replay.commands import commands
from tests.replay.monitors import SCENES
from workflows.definitions import WORKFLOWS
from workflows.health_monitor import MONITORS
from workflows.plans import PLANS
from workflows.runs.full_recovery import FullRecovery
from workflows.steps import Plan

HERE = Path(__file__).parent
HISTORIES = sorted((HERE / "histories").glob("*.json"))


def history(path: Path) -> WorkflowHistory:
    """Under the id that it had: a monitor knows its group by it."""
    text = path.read_text()
    started = json.loads(text)["events"][0]["workflowExecutionStartedEventAttributes"]
    return WorkflowHistory.from_json(started["workflowId"], text)


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
async def test_a_recorded_run_replays(path: Path) -> None:
    replayer = Replayer(workflows=[*WORKFLOWS, *MONITORS], data_converter=pydantic_data_converter)
    await replayer.replay_workflow(history(path))


def test_every_plan_has_its_recordings() -> None:
    recorded = {path.stem for path in HISTORIES}
    for name, plan in PLANS.items():
        assert {f"{name} completed", f"{name} refused"} <= recorded
        if any(step.undo for step in plan.steps()):
            assert {f"{name} rolled back", f"{name} cancelled"} <= recorded
        if any(step.pivot for step in plan.steps()):
            assert f"{name} stopped after its pivot" in recorded


def test_every_scene_of_the_monitors_is_recorded() -> None:
    names = {monitor.__name__ for monitor in MONITORS}
    recorded = {path.stem for path in HISTORIES if path.stem.partition(" ")[0] in names}
    assert recorded == set(SCENES)


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
def test_the_fingerprints_are_those_of_the_recordings(path: Path) -> None:
    committed = json.loads((HERE / "fingerprints.json").read_text())
    assert commands(history(path)) == committed[path.stem]


@pytest.mark.parametrize("name", PLANS)
def test_a_completed_run_calls_the_table_in_its_order(name: str) -> None:
    """The recording is of today's table: whoever edits a table is told here, and records again or patches."""
    path = HERE / "histories" / f"{name} completed.json"
    called = [line.partition(" (")[0] for line in commands(history(path)) if "(record " not in line]
    asked_for = TABLES[name].steps
    rows = [[_activity(step.activity) for step in steps if step in asked_for] for _, steps in PLANS[name].groups()]
    for row in rows:  # steps of one row begin in any order
        assert sorted(called[: len(row)]) == sorted(row)
        del called[: len(row)]
    assert called == ["reports.store", "complete"]


def _activity(method: object) -> str:
    return str(vars(method)["__temporal_activity_definition"].name)


def without(plan: Plan, step: str) -> Plan:
    return dataclasses.replace(plan, rows=tuple(row for row in plan.rows if getattr(row, "name", None) != step))


def swapped(plan: Plan, one: str, other: str) -> Plan:
    rows = list(plan.rows)
    names = [getattr(row, "name", None) for row in rows]
    first, second = names.index(one), names.index(other)
    rows[first], rows[second] = rows[second], rows[first]
    return dataclasses.replace(plan, rows=tuple(rows))


@pytest.mark.parametrize(
    "changed",
    [
        without(PLANS["FullRecovery"], "verify-services"),
        swapped(PLANS["FullRecovery"], "take-ownership", "switch-dns"),
    ],
    ids=["a step less", "two steps swapped"],
)
async def test_a_changed_table_is_caught(monkeypatch: pytest.MonkeyPatch, changed: Plan) -> None:
    monkeypatch.setattr(FullRecovery, "plan", changed)
    replayer = Replayer(
        workflows=[FullRecovery],
        data_converter=pydantic_data_converter,
        workflow_runner=UnsandboxedWorkflowRunner(),  # the sandbox would read the unchanged table again
    )
    path = HERE / "histories" / "FullRecovery completed.json"
    result = await replayer.replay_workflow(history(path), raise_on_replay_failure=False)
    assert result.replay_failure is not None
    assert "nondeterminism" in str(result.replay_failure).lower()
