"""What requests and contexts look like on their way through Temporal, between workers of different versions."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError
from temporalio.api.common.v1 import Payload
from temporalio.contrib.pydantic import pydantic_data_converter

from recovery.domain.group import GroupSnapshot, Objectives, RegionPlan
from recovery.domain.guarding import GuardOrder
from recovery.domain.plan import Facts, PlanContext, PlanRequest, StepOutcome
from recovery.domain.recovery_target import RecoveryTarget
from recovery.domain.search import SearchChoice, SearchRule
from tests.fakes.points import NOW

MINUTE = timedelta(minutes=1)
CONVERTER = pydantic_data_converter.payload_converter


def test_a_request_says_only_what_was_asked() -> None:
    """An earlier version's worker refuses fields that it does not know."""
    assert PlanRequest(group="shop").model_dump() == {"group": "shop"}
    assert PlanRequest(group="shop", graceful=False).model_dump() == {"group": "shop", "graceful": False}


def test_nothing_that_was_asked_is_lost_on_the_way() -> None:
    request = PlanRequest.model_validate({"group": "shop", "approve": True, "no such field": 1})
    assert PlanRequest.model_validate_json(request.model_dump_json()) == request


def context() -> PlanContext:
    group = GroupSnapshot(
        name="shop", objectives=Objectives(tier="critical", rto=MINUTE, rpo=MINUTE), home_region="region-a",
        regions=[RegionPlan(name="region-a", task_queue="a")], search=SearchRule(repository="ours"),
    )  # fmt: skip
    request = PlanRequest(group="shop", target=RecoveryTarget(latest=True), search=SearchChoice(aliases=False))
    return PlanContext(
        plan="Failover", run_id="r", workflow_id="w", step="s", request=request, started_at=NOW,
        facts=Facts(group=group, point_id="p"),
    )  # fmt: skip


def payload(value: object) -> Payload:
    return Payload(metadata={"encoding": b"json/plain"}, data=json.dumps(value).encode())


def plain(value: object) -> Any:
    return json.loads(CONVERTER.to_payload(value).data)


def test_what_a_newer_worker_adds_to_a_context_is_passed_over() -> None:
    sent = plain(context())
    for part in (sent, sent["facts"], *(sent["facts"]["group"][each] for each in ("search", "objectives"))):
        part["of_the_next_version"] = {"a": 1}
    sent["facts"]["group"]["regions"][0]["of_the_next_version"] = None
    assert CONVERTER.from_payload(payload(sent), PlanContext) == context()
    outcome = {"summary": "done", "facts": {"of_the_next_version": 1, "point_id": "p"}, "of_the_next_version": 1}
    assert CONVERTER.from_payload(payload(outcome), StepOutcome) == StepOutcome(
        summary="done", facts=Facts(point_id="p")
    )


def test_what_nobody_has_learned_or_asked_for_does_not_travel() -> None:
    sent = plain(context())
    assert set(sent["facts"]) == {"group", "point_id"}
    assert sent["request"] == {"group": "shop", "target": {"latest": True}, "search": {"aliases": False}}


@pytest.mark.parametrize("part", ["target", "search"])
def test_a_slip_of_the_pen_within_a_request_is_refused(part: str) -> None:
    typed = plain(context().request)
    typed[part]["aliasse"] = True
    with pytest.raises(ValidationError, match="aliasse"):
        CONVERTER.from_payload(payload(typed), PlanRequest)


def test_no_guard_follows_an_order_that_it_understands_in_part() -> None:
    order = GuardOrder(group="shop", run="r", epoch=1, source="region-a", target="region-b", effect_id="e")
    assert GuardOrder.model_validate_json(order.model_dump_json()) == order
    with pytest.raises(ValidationError, match="unless"):
        GuardOrder.model_validate(order.model_dump() | {"unless": "the moon is full"})
