"""A monitor that began under a version that did not ask the guards how strong their fences are goes on as it began.

``earlier/HealthMonitor.json`` was recorded by that version: it starts a failover, follows it, and tells people. A new
recording would be of today's code, and prove nothing.
"""

from __future__ import annotations

import json
from pathlib import Path

from temporalio.client import WorkflowHistory
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Replayer

from workflows.health_monitor import MONITORS

RECORDED = Path(__file__).parent / "earlier" / "HealthMonitor.json"


async def test_a_monitor_of_before_replays() -> None:
    text = RECORDED.read_text()
    assert "monitoring.start_plan" in text and "monitoring.look_at_fences" not in text
    started = json.loads(text)["events"][0]["workflowExecutionStartedEventAttributes"]
    replayer = Replayer(workflows=MONITORS, data_converter=pydantic_data_converter)
    await replayer.replay_workflow(
        WorkflowHistory.from_json(started["workflowId"], text)
    )  # by which it knows its group
