"""What a request looks like on its way to Temporal."""

from __future__ import annotations

from recovery.domain.plan import PlanRequest


def test_a_request_says_only_what_was_asked() -> None:
    """An earlier version's worker refuses fields that it does not know."""
    assert PlanRequest(group="shop").model_dump() == {"group": "shop"}
    assert PlanRequest(group="shop", graceful=False).model_dump() == {"group": "shop", "graceful": False}


def test_nothing_that_was_asked_is_lost_on_the_way() -> None:
    request = PlanRequest.model_validate({"group": "shop", "approve": True, "no such field": 1})
    assert PlanRequest.model_validate_json(request.model_dump_json()) == request
