"""The steps that choose where a group goes, and say what that would cost."""

from __future__ import annotations

import pytest

from recovery.domain.guarding import StoreRole
from recovery.domain.health_answer import ExpectedCapacity
from recovery.domain.ownership import Strength
from recovery.domain.search import SearchRule
from tests.fakes.handover import NOW, state
from tests.unit.activities.moved import HELD, PROOF, STALE, STANDBY, Site
from workflows.plans.conditions import MAY_MOVE


async def test_a_lost_owner_is_not_waited_for(site: Site) -> None:
    del site.guards.states["a"]
    outcome = await site.run(site.choosing.choose_target)
    assert outcome.facts.target_region == "b"
    assert outcome.facts.incident_id and outcome.facts.outage_began_at == NOW
    rejected = {each.region: each.rejected for each in outcome.facts.candidates or []}
    assert rejected == {"b": "", "c": "b is more advanced, by 1 B"}


async def test_guards_that_take_their_leases_after_the_witness_returned_are_asked_again(site: Site) -> None:
    del site.guards.states["a"]
    site.guards.leaseless |= {"b", "c"}
    failed = await site.refused(site.choosing.choose_target)
    assert (failed.type, failed.non_retryable) == ("Unreachable", False) and "its guard holds no lease" in str(failed)
    site.guards.states["c"] = [state(STANDBY, lag_seconds=600.0)]
    site.guards.leaseless -= {"c"}
    failed = await site.refused(site.choosing.choose_target)
    assert failed.type == "DataLoss", "a person may accept the loss, and is asked at once"
    site.guards.states["b"] = site.guards.states["c"] = [state(StoreRole.STALE)]
    failed = await site.refused(site.choosing.choose_target)
    assert (failed.type, failed.non_retryable) == ("Refused", True), "a lease would not help"


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
    by_silence = site.context(automatic=True, approve=True, unfenced=unfenced)
    assert not MAY_MOVE.given(by_silence), "silence vouches for no fence"
    assert MAY_MOVE.given(site.context(automatic=True, approve=True, unfenced=[]))
    assert MAY_MOVE.given(site.context(approve=True, unfenced=unfenced)), "a person did"
    assert not asks(site.context(automatic=True, unfenced=[])) and because(site.context(automatic=True)) == ""


async def test_a_search_engine_that_stays_behind_is_asked_about_and_stands_in_the_record(site: Site) -> None:
    regions = [region.model_copy(update={"search": f"https://{region.name}:9200"}) for region in site.group.regions]
    site.group = site.group.model_copy(update={"search": SearchRule(), "regions": regions})
    outcome = await site.run(site.choosing.choose_target, automatic=True)
    assert outcome.facts.unfenced is not None and MAY_MOVE.asks(
        site.context(automatic=True, unfenced=outcome.facts.unfenced)
    )
    assert "keeps search in a, b and c (no failover moves or fences it" in outcome.warnings[-1]
    site.group = site.group.model_copy(update={"search": SearchRule(derived=True)})
    outcome = await site.run(site.choosing.choose_target, automatic=True)
    assert outcome.facts.unfenced == [] and outcome.warnings == []


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


async def test_a_target_whose_application_is_too_small_is_said_and_taken_all_the_same(site: Site) -> None:
    site.guards.states["b"] = [state(STANDBY)]
    roomy = ExpectedCapacity(field="workers.ready", at_least=3)
    site.group = site.group.model_copy(
        update={
            "capacity": roomy,
            "regions": [
                region.model_copy(update={"capacity_url": f"http://{region.name}/capacity"})
                for region in site.group.regions
            ],
        }
    )
    site.probe.answers["http://b/capacity"] = b'{"workers": {"ready": 2}}'
    outcome = await site.run(site.choosing.precheck)
    assert outcome.warnings == ["capacity at http://b/capacity: workers.ready is 2, and 3 is the least"]
    site.probe.answers["http://b/capacity"] = b'{"workers": {"ready": ["one", "two", "three"]}}'
    outcome = await site.run(site.choosing.precheck)
    assert outcome.warnings == [] and outcome.checks[-1].name == "capacity at http://b/capacity"


@pytest.mark.parametrize(
    ("status", "body", "wrong"),
    [
        (200, b'{"ready": 3}', ""),
        (200, b'{"ready": 2.5}', "ready is 2.5, and 3 is the least"),
        (200, b'{"ready": true}', "the answer has no number 'ready'"),
        (200, b'{"other": 3}', "the answer has no number 'ready'"),
        (200, b"[]", "the answer has no number 'ready'"),
        (200, b"<html>", "the answer is no JSON"),
        (200, b"\xff", "the answer is no JSON"),
        (503, b'{"ready": 3}', "HTTP 503, expected 200"),
    ],
)
def test_what_an_application_says_of_its_capacity(status: int, body: bytes, wrong: str) -> None:
    assert ExpectedCapacity(field="ready", at_least=3).wrong(status, body, 0.1) == wrong


# Positions.


async def test_equal_final_positions_prove_that_nothing_is_lost(site: Site) -> None:
    proof = PROOF.model_copy(update={"positions": {"postgres": "0/4000000"}})
    outcome = await site.run(site.choosing.compare_positions, "Switchover", fence=proof)
    assert [(loss.store, loss.lost, loss.proven_zero) for loss in outcome.facts.losses or []] == [("postgres", 0, True)]


async def test_one_that_hands_over_in_order_is_not_compared_beforehand(site: Site) -> None:
    """It serves until it is replaced, so there is no final position yet; and that nothing is lost is not claimed."""
    proof = PROOF.model_copy(update={"hands_over": True})
    outcome = await site.run(site.choosing.compare_positions, "Switchover", fence=proof)
    assert "hands over in order" in outcome.summary
    assert [(loss.store, loss.proven_zero) for loss in outcome.facts.losses or []] == [("postgres", False)]


async def test_an_unknown_final_position_proves_nothing(site: Site) -> None:
    refusal = await site.refused(site.choosing.compare_positions, "Switchover", fence=PROOF)
    assert refusal.type == "Refused" and "cannot be shown" in refusal.message
    accepted = await site.run(
        site.choosing.compare_positions, "Switchover", fence=PROOF, accept_data_loss=True, reason="old guard"
    )
    assert [loss.proven_zero for loss in accepted.facts.losses or []] == [False]
