"""Who acknowledges commits: what it proves, and that the record never claims more than PostgreSQL waits for."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recovery.domain.ownership import AcknowledgingSet
from recovery.guard.synchronous import (
    CatchUp,
    Keep,
    Observed,
    OnStandbyLoss,
    Proven,
    Receiver,
    SetServer,
    Unproven,
    Weaker,
    WriteRecord,
    implies,
    judge,
    least_stopped,
    next_change,
    parse_names,
    voids,
    wanted,
)

NAMES = ("b", "c", "d", "e")


def acks(wait_for: int, *members: str) -> AcknowledgingSet:
    return AcknowledgingSet(members=list(members), wait_for=wait_for)


def receiver(name: str, **changed: object) -> Receiver:
    usual = Receiver(name, f"user_{name}", streaming=True, replays=True, flushed=100, acknowledges=True)
    return replace(usual, **changed)  # type: ignore[arg-type]


sets = st.one_of(
    st.none(),
    st.sets(st.sampled_from(NAMES), min_size=1).flatmap(
        lambda names: st.integers(1, len(names)).map(lambda count: acks(count, *sorted(names)))
    ),
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        ("*", None),
        ("ANY 1 (*)", None),
        ("b", acks(1, "b")),
        ("b, c", acks(1, "b", "c")),
        ('ANY 2 ("dr ""b""", c, d)', acks(2, 'dr "b"', "c", "d")),
        ("first 1 (b,c)", acks(1, "b", "c")),
        ("2 (b, c, d)", acks(2, "b", "c", "d")),
    ],
)
def test_what_postgresql_is_set_to_wait_for_is_understood(text: str, expected: AcknowledgingSet | None) -> None:
    assert parse_names(text) == expected


def test_a_setting_that_postgresql_would_not_take_is_named() -> None:
    with pytest.raises(ValueError, match=r"synchronous_standby_names is 'ANY 1 \(b c\)'"):
        parse_names("ANY 1 (b c)")


@given(sets, sets)
def test_a_set_implies_another_exactly_when_every_quorum_of_it_holds_one_of_the_other(
    server: AcknowledgingSet | None, claimed: AcknowledgingSet | None
) -> None:
    quorums = list(combinations(server.members, server.wait_for)) if server else [()]
    truth = claimed is None or all(len(set(one) & set(claimed.members)) >= claimed.wait_for for one in quorums)
    assert implies(server, claimed) == truth


@given(st.integers(1, 4).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))), st.data())
def test_the_members_that_stopped_meet_every_quorum(size: tuple[int, int], data: st.DataObject) -> None:
    """R + W > N: nothing is acknowledged any more, and one of those that stopped has whatever was."""
    total, wait_for = size
    members = NAMES[:total]
    count = least_stopped(acks(wait_for, *members))
    stopped = set(data.draw(st.permutations(members))[:count])
    assert len(set(members) - stopped) < wait_for
    assert all(set(quorum) & stopped for quorum in combinations(members, wait_for))


def test_zero_loss_needs_enough_members_and_as_much_as_the_most_advanced_of_them() -> None:
    two_of_three = acks(2, "b", "c", "d")
    assert judge(two_of_three, {"b": 7, "c": 9}, 9) == Proven(9)
    assert judge(two_of_three, {"B": 9, "c": 7}, 9) == Proven(9), "PostgreSQL compares names without case"
    assert judge(two_of_three, {"b": 7, "c": 9}, 7) == CatchUp("c", 9)
    assert judge(two_of_three, {"b": 7, "c": 9}, 11) == Proven(9), "whoever has more, a member or not, lacks nothing"
    assert judge(two_of_three, {"b": 7, "c": 9}, None) == CatchUp("c", 9)
    few = judge(two_of_three, {"b": 9, "stranger": 9}, 9)
    assert few == Unproven("1 of b, c, d confirmed that they receive nothing more, 2 have to")
    assert judge(acks(1, "b", "c"), {"c": 9}, 9) == Unproven(
        "1 of b, c confirmed that they receive nothing more, 2 have to"
    )
    assert judge(None, {"b": 9}, 9) == Unproven("the record names no acknowledging set")
    assert isinstance(judge(acks(0, "b"), {"b": 9}, 9), Unproven)


@settings(max_examples=300)
@given(sets, sets, sets, st.data())
def test_the_record_never_claims_more_than_postgresql_waits_for(
    record: AcknowledgingSet | None,
    server: AcknowledgingSet | None,
    target: AcknowledgingSet | None,
    data: st.DataObject,
) -> None:
    """Whatever is there, changes lead to the target, and each keeps the claim true that was true."""
    receivers = [receiver(name) for name in NAMES]
    was_true = implies(server, record)
    for _ in range(6):
        step = next_change(record, server, target, receivers, floor=100)
        if isinstance(step, WriteRecord):
            record = step.acknowledging
        elif isinstance(step, SetServer):
            server = step.acknowledging
        else:
            break
        assert implies(server, record) or not was_true
        was_true = implies(server, record)
    assert isinstance(next_change(record, server, target, receivers, floor=100), Keep)
    assert (record, server) == (target, target)


def test_strengthening_waits_for_standbys_and_claims_only_after_they_caught_up() -> None:
    one = acks(1, "b")
    assert next_change(None, None, one, [], floor=None) == Keep("0 of b stream, 1 have to")
    assert isinstance(next_change(None, None, one, [receiver("b", acknowledges=False)], floor=None), SetServer)
    assert isinstance(next_change(None, one, one, [receiver("b")], floor=None), Keep)
    assert isinstance(next_change(None, one, one, [receiver("b", flushed=99)], floor=100), Keep)
    assert isinstance(next_change(None, one, one, [receiver("b", acknowledges=False)], floor=100), Keep)
    assert isinstance(next_change(None, one, one, [receiver("b", replays=False)], floor=100), Keep)
    assert next_change(None, one, one, [receiver("b")], floor=100) == WriteRecord(one, "all commits wait for this set")


def test_weakening_writes_the_record_first() -> None:
    two, one = acks(2, "b", "c"), wanted(acks(2, "b", "c"), ["c"], OnStandbyLoss.WEAKEN)
    assert one == acks(1, "c")
    assert isinstance(next_change(two, two, one, [receiver("c")], floor=100), WriteRecord)
    assert next_change(one, two, one, [receiver("c")], floor=100) == SetServer(one, "the set is changed")
    assert wanted(two, [], OnStandbyLoss.WEAKEN) is None
    assert next_change(two, two, None, [], floor=100) == WriteRecord(None, "the set is weakened: the record first")
    assert next_change(None, two, None, [], floor=100) == SetServer(None, "the set is changed")
    assert wanted(two, [], OnStandbyLoss.WAIT) == two
    assert isinstance(next_change(two, two, two, [], floor=100), Keep)


def test_a_server_that_was_changed_behind_our_back_ends_the_claim_at_once() -> None:
    one = acks(1, "b")
    assert next_change(one, None, one, [receiver("b")], floor=100) == WriteRecord(
        None, "PostgreSQL waits for less than the record claims"
    )


def test_what_voids_the_claim_is_said() -> None:
    one = acks(1, "b")
    assert voids(Observed("b", receivers=[receiver("b"), receiver("c")]), one) == []
    assert voids(Observed("b", weaker=[Weaker("off", role="batch")]), None) == []

    def only(**observed: object) -> str:
        found = voids(Observed("b", **observed), one)  # type: ignore[arg-type]
        assert len(found) == 1, found
        assert isinstance(next_change(one, one, one, [receiver("b")], found, floor=1), WriteRecord)
        return found[0]

    assert only(weaker=[Weaker("off", role="batch")]) == "synchronous_commit is off for role batch"
    assert "database shop" in only(weaker=[Weaker("local", database="shop")])
    assert "postgresql.conf" in only(weaker=[Weaker("remote_write", source="postgresql.conf")])
    assert "fsync" in only(fsync=False)
    assert "archiver" in only(receivers=[receiver("b", replays=False)])
    assert "2 connections call themselves b" in only(receivers=[receiver("b"), receiver("B")])
    assert "share the credentials of user_b" in only(receivers=[receiver("b"), receiver("x", user="user_b")])
