"""The steps of failover and switchover: what they ask, what they refuse, what they say of losses."""

from __future__ import annotations

from datetime import timedelta

import pytest

import activities.standbys as serving
from activities.ownership import Ownership
from recovery.domain.guarding import StoreRole
from recovery.domain.ownership import FenceRequest, OwnershipRecord, Pivot, Strength
from tests.fakes.handover import NOW, state
from tests.unit.activities.moved import HELD, PRIMARY, PROOF, STALE, STANDBY, Site

# Fencing and promotion.


async def test_each_attempt_fences_the_epoch_of_the_record(site: Site) -> None:
    """The old primary's guard began a new epoch since the run took its lock: it was restarted."""
    site.ownership.records["shop"] = (HELD.model_copy(update={"epoch": 8}), "2")
    outcome = await site.run(site.guarding.fence)
    assert [(what, order.epoch, order.planned) for what, order in site.guards.orders] == [("fence", 8, False)]
    assert outcome.facts.fence is not None and outcome.facts.fence.epoch == 8


async def test_a_region_that_nobody_heard_of_may_have_acknowledged_more_and_the_report_says_so(site: Site) -> None:
    assert (await site.run(site.guarding.fence)).warnings == []
    silent = Site()
    silent.guards.how = "lease-broken"
    (warning,) = (await silent.run(silent.guarding.fence)).warnings
    assert "before its lease ended" in warning and "drctl reprotect" in warning


async def test_the_record_states_the_strengths_per_store_or_that_they_are_not_known(site: Site) -> None:
    assert (await site.run(site.guarding.fence)).summary.endswith("strengths of its fences: not known")
    known = Site()
    known.guards.strengths = {"redis": Strength.MANUAL, "postgres": Strength.WATCHDOG}
    said = (await known.run(known.guarding.fence)).summary
    assert said.endswith("strengths of its fences: postgres watchdog, redis manual")


async def test_a_switchover_fences_in_order_until_an_operator_says_otherwise(site: Site) -> None:
    outcome = await site.run(site.guarding.fence, "Switchover")
    assert outcome.facts.outage_began_at is not None, "clients wait from here on"
    await site.run(site.guarding.fence, "Switchover", graceful=False)
    assert [order.planned for _, order in site.guards.orders] == [True, False]


@pytest.mark.parametrize(
    "record",
    [
        HELD.model_copy(update={"run": "another"}),
        HELD.model_copy(update={"region": "c"}),
        HELD.model_copy(update={"pivot": Pivot(run_id="run-1", step="promote-postgres", at=NOW)}),
    ],
    ids=["another run's", "another owner's", "past its pivot"],
)
async def test_a_fence_is_not_asked_for_a_group_that_is_not_this_runs_to_move(
    site: Site, record: OwnershipRecord
) -> None:
    site.ownership.records["shop"] = (record, "2")
    await site.refused(site.guarding.fence, step="fence-primary")
    assert site.guards.orders == []


async def test_nothing_is_promoted_without_a_proof(site: Site) -> None:
    refusal = await site.refused(site.guarding.promote_postgres)
    assert "nothing is promoted without it" in refusal.message and site.guards.orders == []


async def test_a_promotion_is_of_the_epoch_that_the_proof_is_about(site: Site) -> None:
    proof = (await site.run(site.guarding.fence)).facts.fence
    outcome = await site.run(site.guarding.promote_postgres, fence=proof)
    (_, order) = site.guards.orders[-1]
    assert (order.epoch, order.store, order.source, order.target) == (7, "postgres", "a", "b")
    assert outcome.facts.ownership is not None and (outcome.facts.ownership.region, outcome.facts.ownership.epoch) == (
        "b",
        8,
    )
    assert outcome.facts.promoted_postgres is not None and outcome.facts.promoted_postgres.record is None


@pytest.mark.parametrize(
    ("owner", "role", "present"), [("b", PRIMARY, True), ("b", STANDBY, False), ("a", PRIMARY, False)]
)
async def test_a_pivot_is_observed_by_owner_and_role(site: Site, owner: str, role: StoreRole, present: bool) -> None:
    epoch = 8 if owner == "b" else 7
    site.ownership.records["shop"] = (HELD.model_copy(update={"region": owner, "epoch": epoch}), "2")
    site.guards.states["b"] = [state(role)]
    outcome = await site.run(site.guarding.observe_promotion, fence=PROOF)
    assert outcome.effect_present is present


async def test_an_undone_fence_names_its_own_epoch(site: Site) -> None:
    await site.run(site.guarding.unfence, fence=PROOF)
    assert [(what, order.epoch) for what, order in site.guards.orders] == [("unfence", 7)]


async def test_a_run_that_ends_leaves_no_fence_behind() -> None:
    """However it ends: else the old primary's guard would wait for ever."""
    asked = FenceRequest(epoch=7, target="b", run="run-1", at=NOW)
    fenced = Site(record=HELD.model_copy(update={"fencing": asked, "fence": PROOF}))
    await fenced.run(Ownership(fenced.ownership).release_run)
    record = fenced.ownership.records["shop"][0]
    assert (record.run, record.fencing, record.fence, record.epoch) == (None, None, None, 8)
    moved = Site(record=HELD.model_copy(update={"fence": PROOF, "region": "b", "epoch": 8}))
    await moved.run(Ownership(moved.ownership).release_run)
    assert moved.ownership.records["shop"][0].fence == PROOF, "the proof of a promotion stays"


async def test_a_lost_region_is_reported_as_not_following(site: Site) -> None:
    del site.guards.states["c"]
    site.ownership.records["shop"] = (HELD.model_copy(update={"region": "b", "epoch": 8}), "2")
    site.guards.states["a"] = [state(STALE, detail="it was a primary")]
    outcome = await site.run(site.guarding.repoint_standbys)
    assert outcome.facts.stale_regions == ["a", "c"]
    assert "drctl reprotect" in outcome.warnings[0]


# After the promotion.


async def test_a_failed_verification_takes_the_switchover_back(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "VERIFY_SECONDS", 0.0)
    site.ownership.records["shop"] = (HELD.model_copy(update={"region": "b", "epoch": 8}), "2")
    site.guards.states |= {"a": [state(STANDBY)], "b": [state(PRIMARY)]}
    site.handover.failing["b"] = {"postgres accepts writes"}
    outcome = await site.run(site.serving.verify_switchover, "Switchover")
    assert outcome.facts.verification_failed == "postgres accepts writes: broken"
    assert {check.name: check.passed for check in site.measurements.checks}["postgres accepts writes"] is False
    site.guards.states["a"] = [state(STANDBY, lag_seconds=99.0)]
    refusal = await site.refused(site.serving.verify_switchover, "Switchover")
    assert refusal.type == "RestoreFailed" and "not in sync" in refusal.message
    site.guards.states["a"] = [state(STALE)]
    assert "No way back" in (await site.refused(site.serving.verify_switchover, "Switchover")).message
    site.guards.states["a"] = [state(STANDBY)]
    assert "ungraceful" in (await site.refused(site.serving.verify_switchover, "Switchover", graceful=False)).message


async def test_a_switchover_is_taken_back_with_a_further_epoch(site: Site) -> None:
    site.ownership.records["shop"] = (HELD.model_copy(update={"region": "b", "epoch": 8}), "2")
    fenced = await site.run(site.guarding.fence_target, "Switchover")
    outcome = await site.run(site.guarding.promote_source, "Switchover", fence=fenced.facts.fence)
    orders = [(what, order.source, order.target, order.epoch) for what, order in site.guards.orders]
    assert orders == [("fence", "b", "a", 8), ("promote", "b", "a", 8)]
    assert outcome.facts.returned and site.ownership.records["shop"][0].region == "a"


async def test_a_loss_is_told_from_both_sides_positions(site: Site) -> None:
    site.handover.last = NOW - timedelta(seconds=3)
    chosen = (await site.run(site.choosing.choose_target)).facts.candidates
    outcome = await site.run(site.serving.measure_loss, candidates=chosen, fence=PROOF)
    (loss,) = outcome.facts.losses or []
    assert (loss.lost, loss.proven_zero) == (0, False), "the owner's last word is no proof"
    assert outcome.facts.last_recovered_commit_at == NOW - timedelta(seconds=3)


async def test_an_acknowledging_set_proves_zero_loss_of_postgres_alone(site: Site) -> None:
    site.group = site.group.model_copy(
        update={"regions": [region.model_copy(update={"redis": "r:6379"}) for region in site.group.regions]}
    )
    outcome = await site.run(site.serving.measure_loss, fence=PROOF.model_copy(update={"zero_loss": True}))
    assert {loss.store: loss.proven_zero for loss in outcome.facts.losses or []} == {"postgres": True, "redis": False}


async def test_the_new_history_is_noted_in_the_record(site: Site) -> None:
    site.ownership.records["shop"] = (HELD.model_copy(update={"region": "b"}), "0")
    site.guards.states["b"] = [state(PRIMARY, history="7301000000000000001: 1@0/4000000, 2")]
    await site.run(site.serving.move_archive)
    assert site.ownership.records["shop"][0].lineage == "7301000000000000001: 1@0/4000000, 2"
