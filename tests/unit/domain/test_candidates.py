"""Which standby takes over, and why the others do not."""

from __future__ import annotations

from datetime import timedelta

import pytest

from recovery.domain.candidates import Choice, Seen, Wish, choose, waits_for_lease
from recovery.domain.group import (
    GroupSnapshot,
    Objectives,
    PostgresAt,
    RegionPlan,
    ReplicaRule,
    ReplicationRule,
)
from recovery.domain.guarding import StoreRole, StoreState
from recovery.domain.positions import position_number

OURS = "7301000000000000001"
FIRST = f"{OURS}: 1"
PROMOTED = f"{OURS}: 1@0/3000000, 2"


def group(**replication: object) -> GroupSnapshot:
    regions = [
        RegionPlan(name=name, task_queue=name, priority=priority, guard="http://guard", postgres=PostgresAt(host=name))
        for name, priority in (("a", 100), ("b", 90), ("c", 80))
    ]
    return GroupSnapshot(
        name="shop",
        objectives=Objectives(tier="critical", rto=timedelta(minutes=15), rpo=timedelta(minutes=5)),
        home_region="a",
        regions=regions,
        replication=ReplicationRule.model_validate({"streaming": True, **replication}),
    )


def standby(position: str = "0/4000000", lag: float | None = 0.0, history: str | None = FIRST, **more: object) -> Seen:
    state = {
        "store": "postgres", "role": StoreRole.STANDBY, "position": position, "order": position_number(position),
        "lag_seconds": lag, "history": history, **more,
    }  # fmt: skip
    return Seen(states=[StoreState.model_validate(state)], holds_lease=True)


def primary(position: str = "0/4000000", history: str | None = FIRST) -> Seen:
    return standby(position, None, history, role=StoreRole.PRIMARY)


LOST = Seen(unreachable="connection refused")


def chosen(
    seen: dict[str, Seen], wish: Wish | None = None, lineage: str | None = FIRST, **replication: object
) -> Choice:
    return choose(group(**replication), "a", seen, wish or Wish(), lineage)


def reasons(choice: Choice) -> dict[str, str]:
    return {candidate.region: candidate.rejected for candidate in choice.candidates}


def test_the_most_advanced_is_taken_before_the_one_of_higher_priority() -> None:
    choice = chosen({"a": LOST, "b": standby("0/4000000"), "c": standby("0/4000001")})
    assert choice.target == "c"
    assert reasons(choice)["b"] == "c is more advanced, by 1 B"


def test_of_equals_the_one_of_higher_priority_is_taken() -> None:
    choice = chosen({"a": LOST, "b": standby(), "c": standby()})
    assert choice.target == "b"
    assert reasons(choice)["c"] == "b has the higher priority"


def at_site(site: str, *names: str, **priorities: int) -> GroupSnapshot:
    """The group with some of its regions at one site, and other priorities."""
    regions = [
        region.model_copy(
            update={
                "site": site if region.name in names else None,
                "priority": priorities.get(region.name, region.priority),
            }
        )
        for region in group().regions
    ]
    return group().model_copy(update={"regions": regions})


def test_a_local_replica_of_higher_priority_is_taken() -> None:
    seen = {"a": LOST, "b": standby(), "c": standby()}
    choice = choose(at_site("a", "c", b=90, c=95), "a", seen, Wish(), FIRST)
    assert choice.target == "c"
    assert reasons(choice)["b"] == "c has the higher priority"
    assert [(each.region, each.site, each.is_local) for each in choice.candidates] == [
        ("b", None, False),
        ("c", "a", True),
    ]


def test_of_equals_the_local_one_is_taken() -> None:
    seen = {"a": LOST, "b": standby(), "c": standby()}
    near = choose(at_site("a", "a", "b", b=90, c=90), "a", seen, Wish(), FIRST)
    assert near.target == "b"
    assert reasons(near)["c"] == "b is at the lost primary's own site"


def test_a_local_replica_is_not_worth_data() -> None:
    """What it lacks would be lost, and the more advanced one would have to be rewound."""
    seen = {"a": LOST, "b": standby("0/4000008"), "c": standby()}
    choice = choose(at_site("a", "c", b=10, c=95), "a", seen, Wish(), FIRST)
    assert choice.target == "b"
    assert reasons(choice)["c"] == "b is more advanced, by 8 B"


def test_a_lost_site_is_no_hindrance() -> None:
    seen = {"a": LOST, "b": standby(), "c": LOST}
    assert choose(at_site("a", "c", b=10, c=95), "a", seen, Wish(), FIRST).target == "b"


def test_a_rule_for_a_zone_counts_for_its_region() -> None:
    rules = [
        ReplicaRule(region="bb", lag_limit=timedelta(seconds=5), priority=20),
        ReplicaRule(region="ca", lag_limit=timedelta(seconds=40), priority=70),
        ReplicaRule(region="cb", lag_limit=timedelta(seconds=9), priority=60),
    ]
    choice = chosen({"a": LOST, "b": standby(), "c": standby(lag=39.0)}, replicas=rules)
    assert choice.target == "c"
    assert {each.region: (each.priority, each.lag_limit) for each in choice.candidates} == {
        "b": (20, 5.0),
        "c": (70, 40.0),
    }


def test_a_standby_of_priority_0_is_only_taken_when_it_is_named() -> None:
    rules = [ReplicaRule(region="b", lag_limit=timedelta(seconds=5), priority=0)]
    seen = {"a": LOST, "b": standby("0/5000000"), "c": standby()}
    assert chosen(seen, replicas=rules).target == "c"
    assert "its priority is 0" in reasons(chosen(seen, replicas=rules))["b"]
    assert chosen(seen, Wish(region="b"), replicas=rules).target == "b"


def test_each_standby_has_its_own_lag_limit() -> None:
    rules = [
        ReplicaRule(region="b", lag_limit=timedelta(seconds=5), priority=10),
        ReplicaRule(region="c", lag_limit=timedelta(minutes=5), priority=1),
    ]
    seen = {"a": LOST, "b": standby("0/5000000", 6.0), "c": standby("0/4000000", 200.0)}
    choice = chosen(seen, replicas=rules)
    assert choice.target == "c"
    assert reasons(choice)["b"] == "it is 6 s behind, and 5 s is its limit"


def test_when_all_exceed_the_limit_the_operator_hears_what_each_would_cost() -> None:
    seen = {"a": primary("0/4100000"), "b": standby("0/4000000", 45.0), "c": standby("0/3F00000", 60.0)}
    choice = chosen(seen)
    assert choice.target is None and choice.acceptable
    assert "b would cost about 45 s and 1 MiB and c would cost about 1 min and 2 MiB" in choice.reason
    accepted = chosen(seen, Wish(accept_loss=True))
    assert accepted.target == "b"


@pytest.mark.parametrize("lag", [None])
def test_a_lag_that_nobody_knows_is_beyond_every_limit(lag: float | None) -> None:
    choice = chosen({"a": LOST, "b": standby(lag=lag), "c": LOST})
    assert choice.target is None and choice.acceptable


def test_time_without_a_word_is_lag_only_as_far_as_the_owner_still_worked() -> None:
    """b lost its link ten minutes before the owner was lost; c heard of it until the end."""
    b, c = standby("0/5000000", heard_seconds_ago=600.0), standby("0/4000000", heard_seconds_ago=8.0)
    choice = chosen({"a": LOST, "b": b, "c": c})
    assert choice.target == "c"
    assert "9 m 52 s behind" in reasons(choice)["b"]
    assert chosen({"a": LOST, "b": b, "c": LOST}, Wish(outage_age=10)).target is None
    assert chosen({"a": LOST, "b": b, "c": LOST}, Wish(outage_age=590)).target == "b"


def test_without_a_word_from_an_owner_that_works_is_lag_all_of_it() -> None:
    """A switchover: nothing was lost, so there is no outage in which a standby could have heard nothing."""
    late = standby(heard_seconds_ago=600.0)
    assert "10 min behind" in reasons(chosen({"a": primary(), "b": late, "c": standby()}))["b"]
    assert chosen({"a": primary(), "b": late, "c": LOST}).target is None
    assert chosen({"a": LOST, "b": late, "c": LOST}).target == "b"


@pytest.mark.parametrize("unknown", [{"history": None}, {"position": None}])
def test_a_standby_whose_history_nobody_knows_may_be_another_clusters(unknown: dict[str, None]) -> None:
    seen = standby()
    doubtful = Seen(states=[seen.states[0].model_copy(update=unknown)], holds_lease=True)
    choice = chosen({"a": LOST, "b": doubtful, "c": standby()})
    assert choice.target == "c" and "may be another cluster's" in reasons(choice)["b"]


def test_another_cluster_with_equal_numbers_is_no_standby() -> None:
    stranger = standby("0/9000000", history="7301000000000000002: 1")
    choice = chosen({"a": LOST, "b": stranger, "c": standby()})
    assert choice.target == "c" and "another initdb" in reasons(choice)["b"]


def test_a_timeline_of_the_same_number_that_began_elsewhere_is_another_one() -> None:
    diverged = standby("0/9000000", history=f"{OURS}: 1@0/2000000, 2")
    choice = chosen({"a": LOST, "b": diverged, "c": standby(history=PROMOTED)}, lineage=PROMOTED)
    assert choice.target == "c" and reasons(choice)["b"]


def test_a_standby_that_went_past_the_fork_is_none() -> None:
    late = standby("0/3000001", history=FIRST)
    early = standby("0/2FFFFFF", history=FIRST)
    assert chosen({"a": LOST, "b": late, "c": LOST}, lineage=PROMOTED).target is None
    assert chosen({"a": LOST, "b": early, "c": LOST}, lineage=PROMOTED).target == "b"


def test_standbys_that_contradict_each_other_are_not_chosen_between() -> None:
    one, other = standby(history=f"{OURS}: 1@0/2000000, 2"), standby(history=PROMOTED)
    choice = chosen({"a": LOST, "b": one, "c": other}, lineage=None)
    assert choice.target is None and not choice.acceptable
    assert "contradicts" in reasons(choice)["b"] and "contradicts" in reasons(choice)["c"]
    assert chosen({"a": LOST, "b": one, "c": LOST}, lineage=None).target == "b"


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (LOST, "it does not answer: connection refused"),
        (Seen(holds_lease=True), "it has no postgres of this group"),
        (standby(role=StoreRole.STALE), "reprotect it first"),
        (standby(role=StoreRole.STOPPED), "it is stopped"),
        (standby(role=StoreRole.PRIMARY), "does not own the group"),
        (Seen(states=standby().states, holds_lease=False), "holds no lease"),
    ],
)
def test_every_rejected_region_has_its_reason(seen: Seen, words: str) -> None:
    choice = chosen({"a": LOST, "b": seen, "c": standby()})
    assert choice.target == "c" and words in reasons(choice)["b"]
    nothing_left = chosen({"a": LOST, "b": seen, "c": LOST})
    assert nothing_left.target is None and not nothing_left.acceptable and "no region can take" in nothing_left.reason


def test_a_guard_without_a_lease_is_waited_for_where_nothing_else_speaks_against_its_region() -> None:
    ready = Seen(states=standby().states, holds_lease=False)
    behind = Seen(states=standby(lag=600.0).states, holds_lease=False)
    for seen, waits in ((ready, True), (behind, False), (LOST, False)):
        assert waits_for_lease(group(), "a", {"a": LOST, "b": seen, "c": LOST}, Wish(), FIRST) is waits


def test_only_the_named_region_is_taken() -> None:
    choice = chosen({"a": LOST, "b": standby("0/9000000"), "c": standby()}, Wish(region="c"))
    assert choice.target == "c" and reasons(choice)["b"] == "c was asked for"


@pytest.mark.parametrize(
    ("text", "number"),
    [("16/B374D848", 0x16B374D848), ("182", 182), ("EVENTS=10, ORDERS=32", 42), ("", None), (None, None), ("x", None)],
)
def test_positions_of_every_store_are_numbers_that_grow(text: str | None, number: int | None) -> None:
    assert position_number(text) == number
