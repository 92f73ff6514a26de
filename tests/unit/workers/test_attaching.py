"""A command attaches to a run that is under way only when that run does what is asked for."""

from __future__ import annotations

from recovery.domain.plan import PlanRequest
from workers.operations import _WHAT_IS_ASKED

SAID_BESIDE = {
    "group",  # it is in the run's id
    "reason", "requested_by", "second_person", "incident_id", "automatic", "outage_began_at",  # who asks, and why
    "approve", "accept_data_loss", "force", "confirm_fence", "graceful",  # a run asks for these, or is told them
    "target_stream", "replace",  # of streams that are compared; a stream keeps its name
    "unreadable",
}  # fmt: skip


def test_all_that_is_asked_of_a_run_is_compared() -> None:
    fields = set(PlanRequest.model_fields)
    assert fields - set(_WHAT_IS_ASKED) - SAID_BESIDE == set(), "compare it, or a command attaches to another recovery"
    assert set(_WHAT_IS_ASKED) <= fields - SAID_BESIDE
