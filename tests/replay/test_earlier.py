"""Runs that began under an earlier version go on as they began.

``earlier/`` was recorded by those versions, and is never recorded anew: a new recording would be of today's code, and
prove nothing.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from temporalio import workflow
from temporalio.client import WorkflowHistory
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Replayer, UnsandboxedWorkflowRunner

from tests.replay.commands import commands
from workflows.definitions import WORKFLOWS
from workflows.health_monitor import MONITORS
from workflows.health_state import HealthView

EARLIER = Path(__file__).parent / "earlier"


def _history(name: str) -> WorkflowHistory:
    """Under the id that it had, by which a monitor knows its group."""
    text = (EARLIER / f"{name}.json").read_text()
    started = json.loads(text)["events"][0]["workflowExecutionStartedEventAttributes"]
    return WorkflowHistory.from_json(started["workflowId"], text)


async def _replayed(name: str) -> Exception | None:
    replayer = Replayer(
        workflows=[*WORKFLOWS, *MONITORS],
        data_converter=pydantic_data_converter,
        workflow_runner=UnsandboxedWorkflowRunner(),  # the sandbox would not see what a test changes
    )
    return (await replayer.replay_workflow(_history(name), raise_on_replay_failure=False)).replay_failure


@pytest.mark.parametrize("name", sorted(path.stem for path in EARLIER.glob("*.json")))
async def test_a_run_of_before_replays(name: str) -> None:
    assert await _replayed(name) is None


@pytest.mark.parametrize(
    ("name", "patch"),
    [
        ("HealthMonitor", "strengths-at-run-time"),
        ("HealthMonitor went by silence", "silence vouches for no fence"),
        ("HealthMonitor beside a search engine", "a search engine is left behind"),
        ("HealthMonitor silent about a search engine", "people are told of a search engine that is left behind"),
        ("HealthMonitor asked once", "people are asked about each plan of an outage"),
        ("HealthMonitor declined in vain", "a question outlives the lack of a fence"),
        ("FullRecovery stopped in its pause", "a stop ends a pause"),
        ("Backup rolled back in silence", "every failed end is told"),
        ("Reprotect refused in silence", "every failed end is told"),
        ("FullRecovery cancelled while announcing", "announced beside the plan"),
        ("DatabaseFailover cancelled while announcing", "announced beside the plan"),
    ],
)
async def test_it_goes_on_by_its_patch(monkeypatch: pytest.MonkeyPatch, name: str, patch: str) -> None:
    patched = workflow.patched  # the recorded version has asked for some already, and their markers are in its history
    monkeypatch.setattr(workflow, "patched", lambda asked: asked == patch or patched(asked))
    assert "nondeterminism" in str(await _replayed(name)).lower()


async def test_its_stores_were_checked_beside_the_infrastructure(monkeypatch: pytest.MonkeyPatch) -> None:
    name, patched = "FullRecovery cancelled while checking its stores", workflow.patched
    asked = commands(_history(name))
    at = asked.index("restores.verify_infrastructure (verify-infrastructure)")
    assert asked[at + 1 : at + 3] == ["set_restores.check_stores (check-stores)", "cancel an activity"]
    patch = "stores are checked after the approval"
    monkeypatch.setattr(workflow, "patched", lambda name: name == patch or patched(name))
    assert "nondeterminism" in str(await _replayed(name)).lower()


async def test_it_shows_the_policy_by_which_it_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that leaves search engines out of account starts a failover by itself, and does not say that it asks."""
    shown: list[HealthView] = []

    def kept(view: HealthView) -> str:
        shown.append(view)
        return ""

    monkeypatch.setattr("workflows.health_monitor.details", kept)
    assert await _replayed("HealthMonitor beside a search engine") is None
    assert shown[-1].run is not None and {(view.policy, view.policy_note) for view in shown} == {("automatic", "")}
    shown.clear()
    assert await _replayed("HealthMonitor silent about a search engine") is None
    assert shown[-1].policy == "approve" and "search in region-a and region-b" in shown[-1].policy_note


def test_the_monitor_did_not_ask_the_guards_how_strong_their_fences_are() -> None:
    """It starts a failover, follows it, and tells people."""
    asked = " ".join(commands(_history("HealthMonitor")))
    assert "monitoring.start_plan" in asked and "monitoring.look_at_fences" not in asked


def test_the_stop_did_not_end_the_pause() -> None:
    """The abort came in a pause after the pivot; nothing happened until the resume, and only then was it held."""
    asked = commands(_history("FullRecovery stopped in its pause"))
    at = asked.index("accept abort")
    assert asked[at - 1 : at + 2] == ["accept pause", "accept abort", "accept resume"], asked
    assert "notifications.alert" in asked[at + 2]
