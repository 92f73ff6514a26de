"""The steps of failover, switchover and reprotect: what they ask, what they refuse, what they say of losses."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

import activities.standbys as serving
from activities.choosing import ChoosingSteps
from activities.guarding import GuardingSteps
from activities.looking import Look
from activities.ownership import Ownership
from activities.reprotecting import ReprotectSteps
from activities.standbys import StandbySteps
from recovery.domain.group import GroupSnapshot
from recovery.domain.guarding import StoreRole
from recovery.domain.handover import StoreDivergence
from recovery.domain.ownership import FenceProof, FenceRequest, OwnershipRecord, Phase, Pivot, Strength
from recovery.domain.plan import Facts, PlanContext, PlanRequest, StepOutcome
from recovery.errors import Unreachable
from tests.fakes.handover import NOW, FakeGuards, FakeHandover, FakeProbe, group_of, state
from tests.fakes.ownership import FakeOwnershipStore
from workflows.plans.conditions import MAY_MOVE

STANDBY, PRIMARY, STALE = StoreRole.STANDBY, StoreRole.PRIMARY, StoreRole.STALE
HELD = OwnershipRecord(
    group="shop", region="a", epoch=7, phase=Phase.RUNNING, run="run-1", workflow_id="recovery/shop",
    plan="Failover", changed_at=NOW,
)  # fmt: skip
PROOF = FenceProof(epoch=7, region="a", how="demotion-confirmed", by="b/1", at=NOW, run="run-1")
Step = Callable[[PlanContext], Awaitable[StepOutcome]]


class Opened:
    """``recovery.ports.recovery_points.Restores``, as far as it is asked here."""

    def __init__(self) -> None:
        self.opened: list[str] = []

    async def open_writes(self, group: GroupSnapshot, restored: object) -> None:
        self.opened.append(group.name)


@dataclass
class Site:
    """One group in regions a, b and c, a the owner."""

    group: GroupSnapshot = field(default_factory=lambda: group_of("a", "b", "c"))
    record: OwnershipRecord = HELD

    def __post_init__(self) -> None:
        self.ownership = FakeOwnershipStore()
        self.ownership.records["shop"] = (self.record, "1")
        self.guards = FakeGuards(self.ownership)
        self.guards.states = {"a": [state(PRIMARY)], "b": [state(STANDBY)], "c": [state(STANDBY, "0/3FFFFFF")]}
        self.handover = FakeHandover()
        look = Look(self.guards, self.handover, self.ownership, FakeProbe())
        self.choosing, self.serving, self.reprotecting = ChoosingSteps(look), StandbySteps(look), ReprotectSteps(look)
        self.restores = Opened()
        self.guarding = GuardingSteps(self.guards, self.guards, self.ownership, self.restores)  # type: ignore[arg-type]

    def context(self, plan: str = "Failover", step: str = "a-step", **more: object) -> PlanContext:
        request = {key: more.pop(key) for key in list(more) if key in PlanRequest.model_fields}
        facts = {"group": self.group, "source_region": "a", "target_region": "b", "ownership_before": HELD, **more}
        return PlanContext(
            plan=plan, run_id="run-1", first_run_id="run-1", workflow_id="recovery/shop", step=step,
            request=PlanRequest.model_validate({"group": "shop", **request}), facts=Facts.model_validate(facts),
            started_at=NOW,
        )  # fmt: skip

    async def run(self, method: Step, plan: str = "Failover", **more: Any) -> StepOutcome:
        outcome = await ActivityEnvironment().run(method, self.context(plan, **more))
        assert isinstance(outcome, StepOutcome)
        return outcome

    async def refused(self, method: Step, plan: str = "Failover", **more: Any) -> ApplicationError:
        with pytest.raises(ApplicationError) as caught:
            await self.run(method, plan, **more)
        return caught.value


@pytest.fixture
def site() -> Site:
    return Site()


# Choosing.


async def test_a_lost_owner_is_not_waited_for(site: Site) -> None:
    del site.guards.states["a"]
    outcome = await site.run(site.choosing.choose_target)
    assert outcome.facts.target_region == "b"
    assert outcome.facts.incident_id and outcome.facts.outage_began_at == NOW
    rejected = {each.region: each.rejected for each in outcome.facts.candidates or []}
    assert rejected == {"b": "", "c": "b is more advanced, by 1 B"}


async def test_a_failover_stays_at_the_site_where_a_local_replica_has_everything(site: Site) -> None:
    regions = [
        region.model_copy(update={"site": "a", "priority": 95} if region.name == "c" else {"priority": 90})
        for region in site.group.regions
    ]
    site.group = site.group.model_copy(update={"regions": regions})
    site.guards.states["c"] = [state(STANDBY)]
    del site.guards.states["a"]
    outcome = await site.run(site.choosing.choose_target)
    assert outcome.facts.target_region == "c"
    assert outcome.summary.startswith("c at 0/4000000, 0.0 s behind, at the same site (b: c has the higher priority)")


async def test_a_run_that_a_monitor_started_asks_a_person_while_a_store_has_no_fence(site: Site) -> None:
    """Whatever the monitor knew of it: the guards are asked again."""
    del site.guards.states["a"]
    site.guards.states["b"] += [state(STANDBY, "1", "redis", strength=Strength.MANUAL, detail="it starts a primary")]
    site.guards.states["c"] += [state(STANDBY, "1", "redis", strength=Strength.GUARD)]
    outcome = await site.run(site.choosing.choose_target, automatic=True)
    assert outcome.facts.unfenced == ["redis in b (it starts a primary)"]
    assert "nothing but a person's word keeps redis in b" in outcome.warnings[-1]
    unfenced = outcome.facts.unfenced
    asks, because = MAY_MOVE.asks, MAY_MOVE.because
    assert asks(site.context(automatic=True, unfenced=unfenced))
    assert "redis in b (it starts a primary)" in because(site.context(automatic=True, unfenced=unfenced))
    assert not asks(site.context(unfenced=unfenced)), "whoever starts it by hand decided"
    assert not asks(site.context(automatic=True, unfenced=[])) and because(site.context(automatic=True)) == ""


async def test_what_costs_data_is_a_question_and_what_is_impossible_is_not(site: Site) -> None:
    del site.guards.states["a"]
    site.guards.states |= {"b": [state(STANDBY, lag_seconds=99.0)], "c": [state(STALE)]}
    costly = await site.refused(site.choosing.choose_target)
    assert costly.type == "DataLoss" and "b would cost about 1 m 39 s" in costly.message
    accepted = await site.run(site.choosing.choose_target, accept_data_loss=True, reason="it burnt down")
    assert accepted.facts.target_region == "b" and "may be lost" in accepted.warnings[0]
    site.guards.states["b"] = [state(STALE)]
    assert (await site.refused(site.choosing.choose_target)).type == "Refused"


@pytest.mark.parametrize("option", ["accept_data_loss", "force", "confirm_fence"])
async def test_what_costs_data_or_safety_needs_a_reason(site: Site, option: str) -> None:
    refusal = await site.refused(site.choosing.choose_target, "Failover", **{option: True})
    assert f"--{option.replace('_', '-')} needs a reason" in refusal.message


async def test_a_failover_to_the_owner_is_refused(site: Site) -> None:
    assert "owns shop already" in (await site.refused(site.choosing.choose_target, region="a")).message


async def test_the_lineage_of_the_record_tells_a_stranger(site: Site) -> None:
    del site.guards.states["a"]
    lineage = "7301000000000000001: 1@0/3000000, 2"
    site.ownership.records["shop"] = (HELD.model_copy(update={"lineage": lineage}), "1")
    refusal = await site.refused(site.choosing.choose_target)  # both went on with timeline 1 after its end
    assert "0/3000000" in refusal.message


async def test_a_switchover_needs_a_target_that_is_ready_and_a_failover_only_its_database(site: Site) -> None:
    redis = [state(STANDBY), state(StoreRole.STOPPED, "1", "redis")]
    site.group = site.group.model_copy(
        update={"regions": [region.model_copy(update={"redis": "r:6379"}) for region in site.group.regions]}
    )
    site.guards.states["b"] = redis
    failover = await site.run(site.choosing.precheck)
    assert failover.warnings == ["redis role: stopped"]
    assert (await site.refused(site.choosing.precheck, "Switchover")).type == "Unreachable"
    site.handover.failing["b"] = {"postgres connectivity"}
    assert "postgres connectivity" in (await site.refused(site.choosing.precheck)).message
    forced = await site.run(site.choosing.precheck, force=True, reason="known")
    assert "postgres connectivity: broken" in forced.warnings


# Positions.


async def test_equal_final_positions_prove_that_nothing_is_lost(site: Site) -> None:
    proof = PROOF.model_copy(update={"positions": {"postgres": "0/4000000"}})
    outcome = await site.run(site.choosing.compare_positions, "Switchover", fence=proof)
    assert [(loss.store, loss.lost, loss.proven_zero) for loss in outcome.facts.losses or []] == [("postgres", 0, True)]


async def test_an_unknown_final_position_proves_nothing(site: Site) -> None:
    refusal = await site.refused(site.choosing.compare_positions, "Switchover", fence=PROOF)
    assert refusal.type == "Refused" and "cannot be shown" in refusal.message
    accepted = await site.run(
        site.choosing.compare_positions, "Switchover", fence=PROOF, accept_data_loss=True, reason="old guard"
    )
    assert [loss.proven_zero for loss in accepted.facts.losses or []] == [False]


# Fencing and promotion.


async def test_each_attempt_fences_the_epoch_of_the_record(site: Site) -> None:
    """The old primary's guard began a new epoch since the run took its lock: it was restarted."""
    site.ownership.records["shop"] = (HELD.model_copy(update={"epoch": 8}), "2")
    outcome = await site.run(site.guarding.fence)
    assert [(what, order.epoch, order.planned) for what, order in site.guards.orders] == [("fence", 8, False)]
    assert outcome.facts.fence is not None and outcome.facts.fence.epoch == 8


async def test_a_region_that_nobody_heard_of_may_have_acknowledged_more_and_the_report_says_so(site: Site) -> None:
    assert (await site.run(site.guarding.fence)).warnings == []
    site.guards.how = "lease-broken"
    (warning,) = (await site.run(site.guarding.fence)).warnings
    assert "before its lease ended" in warning and "drctl reprotect" in warning


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
    outcome = await site.run(site.guarding.promote_postgres, fence=PROOF)
    ((_, order),) = site.guards.orders
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


# Reprotect.


async def test_the_region_that_does_not_follow_is_reprotected(site: Site) -> None:
    site.guards.states |= {"b": [state(STALE)], "c": [state(STANDBY)]}
    assert (await site.run(site.reprotecting.find_returned, "Reprotect")).facts.target_region == "b"
    site.guards.states["c"] = [state(STALE)]
    assert "say which" in (await site.refused(site.reprotecting.find_returned, "Reprotect")).message
    assert (await site.run(site.reprotecting.find_returned, "Reprotect", region="c")).facts.target_region == "c"
    owner = await site.refused(site.reprotecting.find_returned, "Reprotect", region="a")
    assert "a owns shop" in owner.message


async def test_what_only_the_returned_side_has_is_said_aloud(site: Site) -> None:
    site.handover.divergences = [
        StoreDivergence(
            store="postgres", region="b", transactions=3, bytes=512, files=["/x/1"], detail="3 transactions"
        )
    ]
    outcome = await site.run(site.reprotecting.save_divergence, "Reprotect")
    assert "3 transactions; saved as /x/1" in outcome.warnings[0]


async def test_what_a_guard_saved_before_its_store_followed_is_said_aloud_too(site: Site) -> None:
    tail = StoreDivergence(store="nats", region="", messages=7, files=["/x/events.jsonl"], detail="7 messages")
    wal = StoreDivergence(store="postgres", region="b", transactions=3, detail="3 transactions")
    streams = state(STANDBY, "events=9", "nats", divergence=tail)
    site.guards.states["b"] = [state(STANDBY), streams]
    site.group = site.group.model_copy(update={"streams": ["events"]})
    site.group = site.group.model_copy(
        update={"regions": [each.model_copy(update={"nats": f"{each.name}:4222"}) for each in site.group.regions]}
    )
    outcome = await site.run(site.guarding.start_following, "Reprotect", divergences=[wal])
    assert outcome.facts.divergences == [wal, tail.model_copy(update={"region": "b"})]
    assert "nats of b had acknowledged what a does not have: 7 messages" in outcome.warnings[0]


@pytest.mark.parametrize(
    "record", [HELD.model_copy(update={"run": "a failover"}), HELD.model_copy(update={"region": "b"})]
)
async def test_nothing_is_rewound_that_another_run_may_have_made_the_owner(site: Site, record: OwnershipRecord) -> None:
    assert (await site.run(site.reprotecting.rejoin, "Reprotect")).summary == "rewound"
    site.ownership.records["shop"] = (record, "2")
    await site.refused(site.reprotecting.rejoin, "Reprotect")
    assert site.handover.done == ["rejoin b to a"]


async def test_a_reprotect_gives_way_to_a_failover_and_to_nothing_else() -> None:
    site = Site(record=HELD.model_copy(update={"run": "old", "workflow_id": "reprotect/shop", "plan": "Reprotect"}))

    async def goes_on(workflow_id: str, holder: str) -> bool:
        return False

    lock = Ownership(site.ownership, goes_on)
    assert "is being changed by" in (await site.refused(lock.claim_run, "Switchover", ownership_before=None)).message
    outcome = await site.run(lock.claim_run, "Failover", ownership_before=None)
    assert "gave way" in outcome.warnings[0] and site.ownership.records["shop"][0].plan == "Failover"


async def test_the_way_home(site: Site) -> None:
    assert "owns it already" in (await site.refused(site.choosing.find_way_home, "Failback")).message
    site.ownership.records["shop"] = (HELD.model_copy(update={"region": "b"}), "0")
    site.guards.states["a"] = [state(STALE)]
    outcome = await site.run(site.choosing.find_way_home, "Failback")
    assert (outcome.facts.source_region, outcome.facts.target_region, outcome.facts.stale_regions) == ("b", "a", ["a"])
    del site.guards.states["a"]
    assert (await site.refused(site.choosing.find_way_home, "Failback")).type == Unreachable.__name__


# Connections and slots that are left.


async def test_draining_says_what_it_could_not_do(site: Site) -> None:
    again = await site.run(site.serving.drain)
    assert again.summary == "a owns shop again: its clients stay"
    site.ownership.records["shop"] = (HELD.model_copy(update={"region": "b"}), "2")
    well = await site.run(site.serving.drain)
    assert well.summary == "2 connections found, 1 terminated, 0 left; new ones were refused" and well.warnings == []
    site.handover.why_not_refused, site.handover.clinging = "it runs on another machine", 3
    badly = await site.run(site.serving.drain)
    assert badly.warnings == [
        "new connections to a were not refused meanwhile: it runs on another machine",
        "3 connections to a did not end",
    ]
    assert "refused" not in badly.summary


async def test_old_slots_are_dropped_wherever_the_owner_is_followed(site: Site) -> None:
    site.handover.failing["c"] = {"slots"}
    site.ownership.records["shop"] = (HELD.model_copy(update={"region": "b"}), "2")
    outcome = await site.run(site.serving.drop_old_slots, "Reprotect")
    assert outcome.summary == "dropped standby_b in a"
    assert site.handover.done == ["old slots in a, b owns"]
    assert outcome.warnings == ["old slots in c were not looked at: c does not answer"]
