"""Which recovery point and which timelines lead to a moment."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from recovery.domain.plan import PlanRequest
from recovery.domain.recovery_target import RecoveryTarget, Window, choose, farthest, likeliest
from recovery.domain.wal_archive import WalRange
from recovery.errors import NotFound, Refused, SeveralTimelines

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def window(point: str, first: str, last: str, **more: Any) -> Window:
    usual: dict[str, Any] = {
        "system_identifier": "7000", "point_timeline": 1, "timeline": 1, "first_time": NOON,
        "last_time": NOON + timedelta(hours=2),
    }  # fmt: skip
    return Window(point_id=point, first=first, last=last, **{**usual, **more})


def test_the_least_wal_is_replayed() -> None:
    old, new = (
        window("old", "0/1000", "0/9000"),
        window("new", "0/5000", "0/9000", first_time=NOON + timedelta(hours=1)),
    )
    assert choose(RecoveryTarget(latest=True), [new, old])[0].point_id == "new"
    assert choose(RecoveryTarget(lsn="0/4FFF"), [new, old])[0].point_id == "old"
    at, chosen = choose(RecoveryTarget(lsn="0/5000"), [new, old])
    assert (at.point_id, chosen.until, chosen.start) == ("new", "0/5000", "0/5000")
    assert choose(RecoveryTarget(time=NOON + timedelta(minutes=59)), [new, old])[0].point_id == "old"
    later, chosen = choose(RecoveryTarget(time=NOON + timedelta(minutes=61)), [new, old])
    assert (later.point_id, chosen.until) == ("new", "0/9000"), "PostgreSQL itself stops at a time"


@pytest.mark.parametrize(
    "target",
    [
        RecoveryTarget(lsn="0/FFF"),
        RecoveryTarget(lsn="0/9001"),
        RecoveryTarget(time=NOON - timedelta(seconds=1)),
        RecoveryTarget(time=NOON + timedelta(hours=3)),
    ],
)
def test_what_lies_outside_is_refused_with_the_window(target: RecoveryTarget) -> None:
    with pytest.raises(Refused) as caught:
        choose(target, [window("p", "0/1000", "0/9000")])
    said = str(caught.value)
    assert "timeline 1 from 0/1000 (2026-11-22 12:00:00 UTC, p) to 0/9000 (2026-11-22 14:00:00 UTC)" in said


def test_without_a_point_in_archived_wal_nothing_can_be_reached() -> None:
    with pytest.raises(NotFound, match="drctl backup run --kind physical"):
        choose(RecoveryTarget(latest=True), [])


def test_a_target_before_the_fork_is_read_on_the_older_timeline() -> None:
    both = window("p", "0/1000", "0/9000", timeline=2, forks=[(1, "0/5000")])
    assert choose(RecoveryTarget(lsn="0/5001"), [both])[1].timeline == 2
    chosen = choose(RecoveryTarget(lsn="0/5000"), [both])[1]
    assert (chosen.timeline, chosen.forks) == (1, []), "its last byte was written before the promotion"


def test_a_time_before_the_fork_is_read_on_the_older_timeline() -> None:
    """PostgreSQL would write a history in which timeline 2 ends before it began."""
    fork = NOON + timedelta(hours=1)
    both = window("p", "0/1000", "0/9000", timeline=2, forks=[(1, "0/5000")], fork_times=[fork])
    before = choose(RecoveryTarget(time=fork - timedelta(minutes=1)), [both])[1]
    assert (before.timeline, before.until) == (1, "0/5000")
    after = choose(RecoveryTarget(time=fork + timedelta(minutes=1)), [both])[1]
    assert (after.timeline, after.until) == (2, "0/9000")


def test_of_two_branches_somebody_chooses() -> None:
    two = window("p", "0/1000", "0/9000", timeline=2, forks=[(1, "0/5000")])
    three = window("p", "0/1000", "0/8000", timeline=3, forks=[(1, "0/4000")])
    with pytest.raises(SeveralTimelines, match="exists on several timelines .* --timeline") as caught:
        choose(RecoveryTarget(latest=True), [two, three])
    assert caught.value.timelines == [2, 3]
    assert choose(RecoveryTarget(latest=True, timeline=3), [two, three])[1].timeline == 3
    assert choose(RecoveryTarget(lsn="0/3000"), [two, three])[1].timeline == 1, "both have the same WAL there"
    with pytest.raises(Refused, match="timeline 9 cannot be reached"):
        choose(RecoveryTarget(latest=True, timeline=9), [two, three])


@pytest.mark.parametrize(
    ("lineage", "meant"),
    [
        (None, (3, "which was begun last")),
        ("7000: 1@0/5000, 2", (2, "which the group is on")),
        ("7000: 1", (3, "which was begun last")),
        ("of a later version", (3, "which was begun last")),
    ],
)
def test_where_nobody_can_be_asked_the_groups_own_timeline_is_meant(
    lineage: str | None, meant: tuple[int, str]
) -> None:
    assert likeliest([2, 3], lineage) == meant


def test_only_the_newest_servers_wal_is_meant() -> None:
    new, old = window("n", "0/1000", "0/2000", system_identifier="2"), window("o", "0/1000", "0/9000")
    assert choose(RecoveryTarget(latest=True), [new, old])[1].system_identifier == "2"
    with pytest.raises(Refused, match="lies outside"):
        choose(RecoveryTarget(lsn="0/8000"), [new, old])


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"latest": True, "lsn": "0/1"},
        {"time": "2026-11-22T10:00:00"},
        {"lsn": "nonsense"},
        {"xid": 2},
        {"name": ""},
    ],
)
def test_a_target_is_exactly_one_moment(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        RecoveryTarget.model_validate(given)


def test_a_request_carries_it_and_one_without_is_as_before() -> None:
    asked = PlanRequest.model_validate({"group": "shop", "target": {"lsn": "0/5000"}})
    assert PlanRequest.model_validate_json(asked.model_dump_json()).target == RecoveryTarget(lsn="0/5000")
    assert "target" not in PlanRequest(group="shop").model_dump()


def test_where_one_location_ends_another_goes_on_from_the_files_begin() -> None:
    near, far = [WalRange(0, 150)], [WalRange(100, 300)]
    assert farthest([near], 20, 100) == 150
    assert farthest([near, far], 20, 100) == 300, "the file from 100 on is whole at the other location"
    assert farthest([near, [WalRange(120, 300)]], 20, 100) == 150, "it has not the file's begin"
    assert farthest([[WalRange(30, 150)]], 40, 100) == 40, "the first file is needed from its begin"
    assert farthest([], 40, 100) == 40
