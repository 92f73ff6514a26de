"""Chains of base backups: what the next one builds on, how they are listed, and what retention keeps of them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recovery.domain.chains import POSTGRES_MANIFEST, as_trees, bases_of, bytes_to_restore, judged_as_chains, next_base
from recovery.domain.group import RetentionRule
from recovery.domain.recovery_point import Artefact, BackupKind, RecoveryPoint, VerdictState
from recovery.domain.retention import plan_retention
from tests.fakes.points import NOW, point

SYSTEM = "7300000000000000001"
CORRUPT, VALID = VerdictState.CORRUPT, VerdictState.VALID


def member(number: int, *needed: int, readable: bool = True, **fields: Any) -> RecoveryPoint:
    """Point ``number`` (newer ones have greater numbers), incremental to those that it names."""
    made = point(number, age=timedelta(days=100 - number), lsn=f"0/{number:X}000000", **fields)
    bases = [f"point-{each}" for each in needed]
    source = made.manifest.postgres.model_copy(update={"bases": bases, "canary": f"canary-{number}"})
    own = Artefact(name=POSTGRES_MANIFEST, objects=[], sealed=not readable)
    manifest = made.manifest.model_copy(update={"source": source, "artefacts": [*made.manifest.artefacts, own]})
    return made.model_copy(update={"manifest": manifest, "locations": ["a", "b"]})


def chosen(points: list[RecoveryPoint], **wanted: Any) -> tuple[str | None, str]:
    rule: dict[str, Any] = {
        "system_identifier": SYSTEM,
        "timeline": 1,
        "incrementals": 3,
        "locations": ["a", "b"],
        "canaries": {f"canary-{number}" for number in range(10)},
    } | wanted
    found, reason = next_base(points, **rule)
    return found.point_id if found else None, reason


CHAIN = [member(1), member(2, 1), member(3, 1, 2)]


def test_the_next_one_builds_on_the_newest() -> None:
    assert chosen([member(1)]) == ("point-1", "")
    assert chosen(CHAIN) == ("point-3", "")
    assert chosen([*CHAIN, point(9, kind=BackupKind.LOGICAL)]) == ("point-3", "")
    assert chosen([*CHAIN, member(4, system_identifier="8")]) == ("point-3", "")


@pytest.mark.parametrize(
    ("points", "wanted", "why"),
    [
        ([], {}, "there is none of this cluster yet"),
        (CHAIN, {"system_identifier": "8"}, "there is none of this cluster yet"),
        (CHAIN, {"incrementals": 2}, "point-3 ends a chain of 2 incremental ones"),
        (CHAIN, {"timeline": 2}, "point-3 is of timeline 1, and the server is on 2"),
        (CHAIN[1:], {}, "point-3 needs point-1, which is missing"),
        (CHAIN, {"locations": ["a", "c"]}, "point-1 is not at c"),
        ([member(1, readable=False)], {}, "PostgreSQL's manifest of point-1 is encrypted"),
        ([member(1, state=CORRUPT), member(2, 1, state=VALID)], {}, "point-1 is CORRUPT"),
        ([member(1, state=VALID), member(2, 1, state=VerdictState.RESTORE_FAILED)], {}, "point-2 is RESTORE_FAILED"),
    ],
)
def test_a_full_one_is_taken_and_the_reason_said(
    points: list[RecoveryPoint], wanted: dict[str, object], why: str
) -> None:
    assert chosen(points, **wanted) == (None, why)


def test_the_next_one_builds_on_nothing_of_an_abandoned_life() -> None:
    """Two recoveries of one cluster took timeline 2, and the second one is the server now."""
    abandoned, own = member(5, timeline=2), member(4, timeline=2)
    assert chosen([abandoned, own], timeline=2, canaries={"canary-4"}) == ("point-4", "")
    found, why = chosen([abandoned, own], timeline=2, canaries=set())
    assert found is None
    assert why.startswith("the server has no canary of point-5, nor of an earlier one")


def test_without_a_canary_nothing_tells_whose_life_a_point_is_of() -> None:
    made = member(1)
    unknown = made.manifest.model_copy(update={"source": made.manifest.postgres.model_copy(update={"canary": None})})
    assert chosen([made.model_copy(update={"manifest": unknown})])[0] is None


def test_a_failed_validation_says_nothing_of_the_chain() -> None:
    assert chosen([member(1, state=VerdictState.FAILED)]) == ("point-1", "")


def _at(point: RecoveryPoint, hours: int) -> RecoveryPoint:
    assert point.verdict is not None
    verdict = point.verdict.model_copy(update={"validated_at": NOW + timedelta(hours=hours)})
    return point.model_copy(update={"verdict": verdict})


def test_what_builds_on_a_bad_point_counts_no_more() -> None:
    last = _at(member(3, 1, 2, state=VALID), 1)
    fresh = member(4, 1, 2, 3)
    for hours, states in ((2, [VALID, CORRUPT, CORRUPT, None]), (0, [VALID, CORRUPT, VALID, None])):
        listed = [_at(member(1, state=VALID), 0), _at(member(2, 1, state=CORRUPT), hours), last, fresh]
        judged = judged_as_chains(listed)
        assert [entry.verdict.state if entry.verdict else None for entry in judged] == states
        assert judged[:2] == listed[:2]
    found = judged_as_chains([_at(member(2, 1, state=CORRUPT), 2), last])[1].verdict
    assert found is not None
    assert found.reason.startswith("point-2, which it builds on, is CORRUPT")


def test_chains_are_listed_as_trees() -> None:
    other = point(7, kind=BackupKind.LOGICAL)
    listed = as_trees([member(4), other, *reversed(CHAIN)])
    assert [(depth, entry.point_id) for depth, entry in listed] == [
        (0, "point-4"), (0, "point-7"), (0, "point-1"), (1, "point-2"), (2, "point-3"),
    ]  # fmt: skip
    broken = as_trees(CHAIN[1:])
    assert [entry.point_id for _, entry in broken] == ["point-2", "point-3"], "nothing is hidden"


def test_a_chain_needs_room_for_its_members_and_for_the_whole() -> None:
    manifests = [entry.manifest for entry in CHAIN]
    assert bytes_to_restore(manifests[:1]) == manifests[0].plain_bytes == 1
    assert bytes_to_restore(manifests) == 3 + 1
    grown = manifests[2].postgres.model_copy(update={"cluster_bytes": 50})
    assert bytes_to_restore([*manifests[:2], manifests[2].model_copy(update={"source": grown})]) == 3 + 50


def test_retention_keeps_what_a_kept_point_builds_on() -> None:
    plan = plan_retention(CHAIN, RetentionRule(count=1), NOW, {})
    assert plan.keep == ["point-3", "point-2", "point-1"]
    assert plan.reasons["point-1"] == "point-3, which is kept, builds on it"
    plan = plan_retention([*CHAIN, member(4, state=VALID), member(5, 4, state=VALID)], RetentionRule(count=1), NOW, {})
    assert plan.keep[:2] == ["point-5", "point-4"]
    plan = plan_retention(
        [entry.model_copy(update={"verdict": member(1, state=VALID).verdict}) for entry in CHAIN]
        + [member(4, state=VALID), member(5, 4, state=VALID)],
        RetentionRule(count=1),
        NOW,
        {},
    )
    assert plan.remove == ["point-3", "point-2", "point-1"], "newest first: nothing is left without its base"


def test_retention_keeps_what_can_be_recovered_from_beside_what_lacks_its_base() -> None:
    """The base may be gone, or at a location that does not answer."""
    listed = [member(1, state=VALID), member(2, state=VALID), member(4, 3, state=VALID), member(5)]
    plan = plan_retention(listed, RetentionRule(count=1), NOW, {})
    assert (plan.keep, plan.remove) == (["point-5", "point-4", "point-2"], ["point-1"])


@given(
    st.lists(
        st.tuples(st.booleans(), st.sampled_from([None, VALID, CORRUPT, VerdictState.FAILED])), min_size=1, max_size=12
    ),
    st.integers(0, 4),
    st.integers(0, 4),
)
def test_no_kept_point_ever_lacks_its_chain(
    made: list[tuple[bool, VerdictState | None]], count: int, days: int
) -> None:
    points: list[RecoveryPoint] = []
    chain: list[int] = []
    for number, (incremental, state) in enumerate(made, 1):
        chain = chain if incremental else []
        points.append(member(number, *chain, state=state))
        chain = [*chain, number]
    stored = {entry.point_id: entry.manifest.finished_at for entry in points}
    plan = plan_retention(points, RetentionRule(count=count, days=days), NOW, stored)
    kept = set(plan.keep)
    assert all(set(bases_of(entry)) <= kept for entry in points if entry.point_id in kept)
    assert kept | set(plan.remove) == {entry.point_id for entry in points}
