"""What a run achieved, from what it measured."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from recovery.domain.group import GroupSnapshot, Objectives
from recovery.domain.handover import StoreLoss
from recovery.domain.objectives import achieved
from recovery.domain.ownership import FenceProof
from recovery.domain.plan import Facts

BEGAN = datetime(2026, 11, 22, 10, tzinfo=UTC)
SECOND = timedelta(seconds=1)
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
