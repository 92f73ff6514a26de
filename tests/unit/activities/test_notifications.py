"""People hear once that a recovery begins, and once how it ended, whoever started it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from temporalio.testing import ActivityEnvironment

from activities.monitoring import was_told
from activities.notifications import Notifications
from recovery.adapters.incident_text import TemplateIncidentWriter
from recovery.domain.guarding import Promotion
from recovery.domain.plan import MONITOR, Facts, PlanContext, PlanRequest
from recovery.domain.recovery_point import DataStore
from recovery.domain.recovery_set import ChosenSet, SetPart
from recovery.domain.report import RunState, StepState
from recovery.ports.notify import Severity
from tests.fakes.handover import group_of
from tests.fakes.notifier import FakeNotifier, Sent
from tests.unit.activities.moved import PROOF
from tests.unit.report import samples

BEGAN = datetime.now(UTC) - timedelta(seconds=42)


async def sent(step: str, *, requested_by: str = "ana", plan: str = "Failover", **facts: Any) -> list[Sent]:
    notifier = FakeNotifier()
    steps = Notifications(notifier, TemplateIncidentWriter())
    context = PlanContext(
        plan=plan, run_id="run-1", workflow_id="recovery/shop", step=step, started_at=BEGAN,
        request=PlanRequest(group="shop", reason="a is dark", requested_by=requested_by),
        facts=Facts(group=group_of("a", "b"), source_region="a", target_region="b", **facts),
    )  # fmt: skip
    await ActivityEnvironment().run(getattr(steps, step), context)
    return notifier.sent


async def test_a_run_of_a_persons_says_that_it_begins() -> None:
    (message,) = await sent("announce_start")
    assert message.severity is Severity.CRITICAL and "from a to b" in message.body and "a is dark" in message.body


async def test_a_run_of_the_monitors_does_not_repeat_it() -> None:
    assert await sent("announce_start", requested_by=MONITOR) == []


@pytest.mark.parametrize("requested_by", ["ana", MONITOR])
async def test_the_end_has_everything_that_is_asked_of_it(requested_by: str) -> None:
    promoted = Promotion(store="postgres", epoch=8, at=BEGAN)
    (message,) = await sent(
        "announce_end", requested_by=requested_by, promoted_postgres=promoted, outage_began_at=BEGAN,
        service_restored_at=BEGAN + timedelta(seconds=9), last_recovered_commit_at=BEGAN - timedelta(seconds=2),
    )  # fmt: skip
    for wanted in (
        "From a to b in ", "a is dark", "new primary in b, epoch 8", "Achieved RTO 9 s", "achieved RPO 2 s",
    ):  # fmt: skip
        assert wanted in message.body, message.body
    assert message.severity is Severity.CRITICAL, "whoever was woken by the beginning hears of the end"


async def test_the_end_says_between_which_bounds_the_loss_lies() -> None:
    proof = PROOF.model_copy(update={"how": "lease-broken", "at": BEGAN + timedelta(seconds=5)})
    (message,) = await sent(
        "announce_end", outage_began_at=BEGAN, service_restored_at=BEGAN + timedelta(seconds=9),
        last_recovered_commit_at=BEGAN - timedelta(seconds=2), fence=proof,
    )  # fmt: skip
    assert "achieved RPO 2 s to 7 s (objective" in message.body


async def test_the_end_names_the_stores_that_were_left() -> None:
    parts = [SetPart(store=DataStore.REDIS, left="it holds 7 keys")]
    (message,) = await sent("announce_end", plan="FullRecovery", chosen_set=ChosenSet(set_id="set-1", parts=parts))
    assert "redis: not restored: it holds 7 keys" in message.body


async def test_plans_that_nobody_was_woken_for_end_quietly() -> None:
    (message,) = await sent("announce_end", plan="Reprotect")
    assert message.severity is Severity.INFO


def test_the_monitor_says_it_only_where_the_run_could_not() -> None:
    whole = samples.completed()
    assert was_told(whole)
    steps = [
        step.model_copy(update={"state": StepState.WARNED}) if step.name == "notify-stakeholders" else step
        for step in whole.steps
    ]
    assert not was_told(whole.model_copy(update={"steps": steps}))
    failed = whole.model_copy(update={"state": RunState.ROLLED_BACK, "warnings": ["something else"]})
    assert was_told(failed)
    unheard = ["alert not delivered (Failover of shop failed at fence-primary): no channel took it"]
    assert not was_told(failed.model_copy(update={"warnings": unheard}))
