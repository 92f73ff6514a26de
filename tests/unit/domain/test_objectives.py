"""What a run achieved, from what it measured."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from recovery.domain.group import GroupSnapshot, Objectives
from recovery.domain.guarding import Promotion
from recovery.domain.handover import StoreLoss
from recovery.domain.objectives import achieved, rto_end, rto_outlook
from recovery.domain.ownership import FenceProof
from recovery.domain.plan import Facts
from recovery.domain.report import Achieved, RunReport, RunState, StepRecord, StepState
from recovery.domain.report_text import objective_sentences

BEGAN = datetime(2026, 11, 22, 10, tzinfo=UTC)
SECOND = timedelta(seconds=1)
MINUTE = 60 * SECOND
GROUP = GroupSnapshot(
    name="shop",
    objectives=Objectives(tier="critical", rto=timedelta(minutes=15), rpo=timedelta(minutes=5)),
    home_region="region-a",
    regions=[],
)
MEASURED = Facts(
    group=GROUP,
    outage_began_at=BEGAN,
    last_recovered_commit_at=BEGAN - SECOND,
    service_restored_at=BEGAN + 8 * SECOND,
)
PROOF = FenceProof(epoch=1, region="region-a", how="lease-broken", by="region-b/1", at=BEGAN, run="r1")


def test_times_run_from_the_moment_at_which_the_outage_began() -> None:
    result = achieved(MEASURED, BEGAN + 3 * SECOND)
    assert (result.rto, result.rpo) == (8 * SECOND, SECOND)


@pytest.mark.parametrize(
    ("how", "at", "served_until", "figures"),
    [
        ("lease-broken", BEGAN + 7 * SECOND, BEGAN + 6 * SECOND, (7 * SECOND, SECOND)),
        ("lease-broken", BEGAN + 7 * SECOND, None, (8 * SECOND, SECOND)),  # of an earlier version
        ("demotion-confirmed", BEGAN + 7 * SECOND, BEGAN + 2 * SECOND, (3 * SECOND, SECOND)),
        ("person", BEGAN + 600 * SECOND, None, (601 * SECOND, SECOND)),
        ("never-served", BEGAN + 7 * SECOND, None, (SECOND, None)),
        ("lease-broken", BEGAN, BEGAN - 5 * SECOND, (SECOND, None)),  # it was seen to be served after that
    ],
)
def test_a_region_that_is_cut_off_may_have_served_until_its_fence(
    how: str, at: datetime, served_until: datetime | None, figures: tuple[timedelta, timedelta | None]
) -> None:
    """Whoever lost sight of it cannot know what it acknowledged to others: the loss lies between two bounds."""
    proof = PROOF.model_copy(update={"how": how, "at": at, "served_until": served_until})
    result = achieved(MEASURED.model_copy(update={"fence": proof}), BEGAN)
    assert (result.rpo, result.rpo_least) == figures


def test_one_that_hands_over_serves_until_another_is_promoted() -> None:
    proof = PROOF.model_copy(update={"how": "managed", "at": BEGAN, "hands_over": True})
    before = MEASURED.model_copy(update={"fence": proof})
    assert achieved(before, BEGAN).rpo == SECOND
    promoted = Promotion(store="postgres", epoch=2, at=BEGAN + 9 * SECOND)
    after = before.model_copy(update={"promoted_postgres": promoted})
    assert (achieved(after, BEGAN).rpo, achieved(after, BEGAN).rpo_least) == (10 * SECOND, SECOND)


def test_the_objective_is_met_by_the_greater_bound_only() -> None:
    late = PROOF.model_copy(update={"at": BEGAN + 5 * MINUTE})
    result = achieved(MEASURED.model_copy(update={"fence": late}), BEGAN)
    assert result.rpo_met is False
    assert objective_sentences(result)[1] == "RPO 1 s to 5 m 1 s of 5 min, not surely met, over by up to 1 s"
    later = result.model_copy(update={"rpo_least": 6 * MINUTE, "rpo": 7 * MINUTE})
    assert objective_sentences(later)[1] == "RPO 6 min to 7 min of 5 min, missed by 2 min"


@pytest.mark.parametrize(
    ("facts", "rpo"),
    [
        ({"fence": PROOF}, SECOND),
        ({"fence": PROOF.model_copy(update={"zero_loss": True})}, timedelta()),
        ({"losses": [StoreLoss(store="postgres", unit="bytes", proven_zero=True)]}, timedelta()),
        ({"losses": [StoreLoss(store="postgres", unit="bytes", lost=0)]}, SECOND),
    ],
)
def test_a_loss_is_zero_where_it_is_proven(facts: dict[str, object], rpo: timedelta) -> None:
    """The last commit before the outage may be old: nobody bought anything, and nothing is missing."""
    assert achieved(MEASURED.model_copy(update=facts), BEGAN).rpo == rpo


ENDS = BEGAN + 15 * MINUTE
UNCONFIRMED = "it is not confirmed yet that the service answers; its RTO ended at 10:15:00 UTC"
STARTED = BEGAN + 4 * MINUTE  # somebody had to notice


def test_the_rto_ends_so_long_after_the_outage_began_until_the_service_answers() -> None:
    lost = MEASURED.model_copy(update={"service_restored_at": None})
    assert rto_end(lost, STARTED) == ENDS
    assert rto_end(lost.model_copy(update={"outage_began_at": None}), STARTED) == STARTED + 15 * MINUTE
    assert rto_end(MEASURED, STARTED) is None
    assert rto_end(Facts(), STARTED) is None


def under_way(**more: object) -> RunReport:
    """One step is done, one has run for a minute of five, two more run beside each other after it."""
    rows = [("check", 0, 1, StepState.DONE), ("restore", 1, 5, StepState.RUNNING), ("one", 2, 2, StepState.PENDING),
            ("other", 2, 3, StepState.PENDING)]  # fmt: skip
    steps = [
        StepRecord(
            name=name, activity="a", where="target", group=group, budget=minutes * MINUTE, state=state,
            started_at=None if state is StepState.PENDING else STARTED,
        )
        for name, group, minutes, state in rows
    ]  # fmt: skip
    values = {
        "plan": "FullRecovery", "group": "shop", "run_id": "run-1", "workflow_id": "w", "state": RunState.RUNNING,
        "steps": steps, "started_at": STARTED, "rto_ends_at": ENDS, "critical_path": 9 * MINUTE,
        "achieved": Achieved(rto_objective=15 * MINUTE), **more,
    }  # fmt: skip
    return RunReport.model_validate(values)


@pytest.mark.parametrize(
    ("at", "more", "words"),
    [
        (STARTED + MINUTE, {}, ""),
        (STARTED + 4 * MINUTE, {}, ""),  # one minute of its budget and the longer of the others: in time
        (STARTED + 9 * MINUTE, {}, "the steps that are left may take 3 min, and the RTO ends at 10:15:00 UTC"),
        (STARTED + 9 * MINUTE, {"critical_path": 16 * MINUTE}, ""),
        (STARTED + 9 * MINUTE, {"eta": ENDS}, ""),
        (STARTED + MINUTE, {"eta": ENDS + MINUTE}, "expected to end at 10:16:00 UTC, and the RTO ends at 10:15:00 UTC"),
        (ENDS, {"eta": ENDS}, ""),
        (ENDS + SECOND, {"eta": ENDS}, UNCONFIRMED),
        (ENDS + SECOND, {"critical_path": 16 * MINUTE}, UNCONFIRMED),
        (ENDS + SECOND, {"ended_at": ENDS}, ""),
        (ENDS + SECOND, {"rto_ends_at": None}, ""),
    ],
)
def test_a_run_is_held_against_its_rto_while_it_runs(at: datetime, more: dict[str, object], words: str) -> None:
    said = rto_outlook(under_way(**more), at)
    assert words in said if words else said == ""
