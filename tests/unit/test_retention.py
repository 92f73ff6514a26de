"""Retention: what may go, and what never does."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recovery.domain.group import RetentionRule
from recovery.domain.point_order import newest_first
from recovery.domain.recovery_point import BackupKind, RecoveryPoint, VerdictState
from recovery.domain.retention import RetentionPlan, plan_retention
from recovery.domain.search import SearchProduct, SearchServer, SearchSource
from recovery.errors import BadInput
from tests.fakes.points import NOW, point
from tests.fakes.redis import redis_source

LOGICAL, PHYSICAL = BackupKind.LOGICAL, BackupKind.PHYSICAL
VALID, CORRUPT = VerdictState.VALID, VerdictState.CORRUPT


def _plan(
    points: list[RecoveryPoint], rule: RetentionRule, now: datetime, stored: dict[str, datetime] | None = None
) -> RetentionPlan:
    """``stored``: by the clocks of the locations, which say what the points say where it is left out."""
    honest = {entry.point_id: entry.manifest.finished_at for entry in points}
    return plan_retention(points, rule, now, honest if stored is None else stored)


def _days(number: int, **fields: object) -> RecoveryPoint:
    fields.setdefault("state", VALID)
    return point(number, age=timedelta(days=number), lsn=f"0/{100 - number:X}", **fields)  # type: ignore[arg-type]


def _kept(points: list[RecoveryPoint], **rule: int) -> list[str]:
    return sorted(_plan(points, RetentionRule(**rule), NOW).keep)


def _named(*numbers: int) -> list[str]:
    return sorted(f"point-{number}" for number in numbers)


def test_count_keeps_the_newest() -> None:
    assert _kept([_days(number) for number in range(6)], count=3) == _named(0, 1, 2)


def test_days_keep_what_is_young_enough_to_the_day() -> None:
    assert _kept([_days(number) for number in range(6)], days=2) == _named(0, 1, 2)


def test_either_rule_keeps() -> None:
    points = [_days(number) for number in range(6)]
    assert _kept(points, count=2, days=3) == _named(0, 1, 2, 3)
    assert _kept(points, count=5, days=1) == _named(0, 1, 2, 3, 4)


def test_without_a_rule_everything_stays() -> None:
    plan = _plan([_days(number) for number in range(4)], RetentionRule(), NOW)
    assert plan.remove == []
    assert plan.reasons["point-3"] == "no retention is configured"


def test_the_last_validated_point_stays_however_old() -> None:
    points = [_days(0, state=None), _days(1, state=CORRUPT), _days(50), _days(60)]
    assert _kept(points, count=1, days=1) == _named(0, 1, 50)


def test_the_newest_point_stays_even_when_it_is_bad() -> None:
    assert _kept([_days(0, state=CORRUPT), _days(1)], count=0) == _named(0, 1)


def test_the_newest_unvalidated_point_stays_behind_newer_validated_ones() -> None:
    assert _kept([_days(0), _days(1), _days(2, state=None), _days(3, state=None)], count=1) == _named(0, 2)


def test_bad_points_take_no_place_of_good_ones() -> None:
    points = [_days(0), _days(1, state=CORRUPT), _days(2, state=VerdictState.RESTORE_FAILED), _days(3), _days(4)]
    assert _kept(points, count=2) == _named(0, 1, 2, 3)


def test_kinds_and_clusters_are_counted_apart() -> None:
    points = [_days(number, kind=kind) for number, kind in enumerate([PHYSICAL, LOGICAL, PHYSICAL, LOGICAL])]
    points += [_days(number, system_identifier="other") for number in (10, 11)]
    assert _kept(points, count=1) == _named(0, 1, 10)


def test_when_backups_stopped_nothing_expires_by_days() -> None:
    points = [_days(number) for number in (100, 101, 102)]
    assert _kept(points, days=5) == _named(100, 101, 102)


def test_a_clock_that_runs_ahead_expires_nothing() -> None:
    points = [_days(number) for number in range(4)]
    plan = _plan(points, RetentionRule(days=5), NOW + timedelta(days=5000))
    assert plan.remove == []


def test_a_point_of_a_worker_whose_clock_runs_ahead_expires_nothing() -> None:
    """Its stamp and ``now`` are of the same clock, which is 30 days ahead; the location's is not."""
    honest, wrong = [_days(number) for number in (1, 2, 3, 4)], _days(-30, state=VALID)
    stored = {entry.point_id: entry.manifest.finished_at for entry in honest} | {wrong.point_id: NOW}
    for rule in (RetentionRule(days=5), RetentionRule(monthly=1, daily=2, days=5)):
        plan = _plan([*honest, wrong], rule, NOW + timedelta(days=30), stored)
        assert plan.remove == []
    assert plan.reasons["point-4"] == "not older than 5 days by the clock of its location"
    (warning,) = plan.warnings
    assert "1 of 5 physical points are stamped later" in warning
    assert "(point--30: 2026-12-22 10:15 against 2026-11-22 10:15 UTC)" in warning


def _dump(number: int, at: datetime) -> RecoveryPoint:
    """VALID, and of a Redis: it names no position."""
    taken = point(number, age=NOW - at, kind=BackupKind.RDB, state=VALID)
    update = {"store": "redis", "source": redis_source()}
    return taken.model_copy(update={"manifest": taken.manifest.model_copy(update=update)})


def test_dumps_of_a_worker_whose_clock_ran_ahead_push_out_none_that_is_newer() -> None:
    """Three of 10, 9 and 8 days ago are stamped a year ahead; then the clock was mended, and five followed."""
    taken = {f"point-{number}": NOW - timedelta(days=number) for number in (10, 9, 8, 4, 3, 2, 1, 0)}
    wrong = [_dump(number, NOW + timedelta(days=365 - number)) for number in (10, 9, 8)]
    right = [_dump(number, NOW - timedelta(days=number)) for number in (4, 3, 2, 1, 0)]
    plan = _plan([*wrong, *right], RetentionRule(count=3), NOW, taken)
    assert plan.keep == [f"point-{number}" for number in (8, 9, 10, 0, 1, 2)]
    assert plan.reasons["point-8"] == "the newest validated point"
    assert plan.reasons["point-0"] == "the newest validated point by the clock of its location"
    assert plan.reasons["point-2"] == "one of the last 3 by the clock of its location"
    assert plan.reasons["point-3"] == "not one of the last 3"
    assert "3 of 8 rdb points are stamped later than their location stored them" in plan.warnings[0]


def test_a_dump_stays_that_no_location_tells_the_age_of() -> None:
    dumps = [_dump(number, NOW - timedelta(days=number)) for number in (0, 1, 2)]
    plan = _plan(dumps, RetentionRule(count=1), NOW, {"point-0": NOW, "point-1": NOW - timedelta(days=1)})
    assert plan.remove == ["point-1"]
    assert plan.reasons["point-2"] == "no location says when it was stored"


def test_snapshots_of_a_search_engine_whose_clock_ran_ahead_push_out_none_that_is_newer() -> None:
    """Their position is a time of that clock."""
    taken = {f"point-{number}": NOW - timedelta(days=number) for number in range(4)}
    points = []
    for number in range(4):
        at = NOW - timedelta(days=number - 365 * (number > 1))
        listed = point(number, age=NOW - at, kind=BackupKind.SEARCH, state=VALID)
        source = SearchSource(
            server=SearchServer(
                product=SearchProduct.OPENSEARCH, version="2.19.1", cluster="shop's", cluster_uuid="uuid-1"
            ),
            repository="backups", snapshot=f"point-{number}", snapshot_uuid=f"uuid-{number}", patterns=["*"],
            global_state=False, indices=[], shards=0, bytes=1, new_bytes=1, began_at=at, finished_at=at,
        )  # fmt: skip
        update = {"store": "search", "source": source}
        points.append(listed.model_copy(update={"manifest": listed.manifest.model_copy(update=update)}))
    plan = _plan(points, RetentionRule(count=2), NOW, taken)
    assert plan.remove == []
    assert _plan(points, RetentionRule(count=1), NOW, taken).keep == ["point-2", "point-0"]


def test_the_stamp_of_one_wrong_point_pushes_no_month_out() -> None:
    newest, older = _days(1), _days(35)
    wrong = point(2, age=timedelta(days=-30), lsn="0/60", state=VALID)  # taken between the two
    stored = {entry.point_id: entry.manifest.finished_at for entry in (newest, older)}
    plan = _plan([newest, wrong, older], RetentionRule(monthly=2), NOW, stored | {"point-2": NOW - timedelta(days=3)})
    assert plan.remove == []
    assert plan.reasons["point-2"] == "the last of the month 2026-12"
    assert plan.reasons["point-35"] == "the last of the month 2026-10 by the clock of its location"


def test_the_clock_of_a_location_alone_expires_nothing() -> None:
    points = [_days(number) for number in range(5)]
    stored = {entry.point_id: entry.manifest.finished_at - timedelta(days=300) for entry in points}
    stored["point-0"] = NOW
    assert _plan(points, RetentionRule(days=5), NOW, stored).remove == []


def test_what_no_location_tells_the_age_of_stays() -> None:
    points = [_days(number) for number in (0, 20)]
    plan = _plan(points, RetentionRule(days=5), NOW, {"point-0": NOW})
    assert plan.reasons["point-20"] == "no location says when it was stored"
    assert _plan(points, RetentionRule(count=1), NOW, {}).remove == ["point-20"], "a count asks no clock"


def test_a_copy_that_was_filled_later_keeps_its_point_until_it_is_as_old() -> None:
    points = [_days(number) for number in (0, 20)]
    stored = {"point-0": NOW, "point-20": NOW - timedelta(days=3)}
    assert _plan(points, RetentionRule(days=5), NOW, stored).remove == []
    assert _plan(points, RetentionRule(days=2), NOW, stored).remove == ["point-20"]
    assert _plan(points, RetentionRule(days=2), NOW, stored).warnings == []


def test_reasons_are_said_for_all() -> None:
    plan = _plan([_days(number) for number in range(4)], RetentionRule(count=2, days=2), NOW)
    assert plan.reasons == {
        "point-0": "the newest validated point",
        "point-1": "one of the last 2",
        "point-2": "not older than 2 days",
        "point-3": "not one of the last 2 and older than 2 days",
    }


GRANDFATHERED = {
    "point-0": "the newest validated point",
    "point-1": "the last of the day 2026-11-21",
    "point-2": "the last of the day 2026-11-20",
    "point-7": "the last of the week 2026-W46",
    "point-14": "the last of the week 2026-W45",
    "point-22": "the last of the month 2026-10",
    "point-53": "the last of the month 2026-09",
    "point-326": "the last of the year 2025",
}


def test_grandfather_father_and_son() -> None:
    """NOW is a Sunday, 2026-11-22 (see the fakes); a point for each day of two years."""
    plan = _plan([_days(number) for number in range(730)], RetentionRule(daily=3, weekly=3, monthly=3, yearly=2), NOW)
    assert {point_id: plan.reasons[point_id] for point_id in plan.keep} == GRANDFATHERED


def test_only_days_that_have_a_point_are_counted() -> None:
    assert _kept([_days(number) for number in (0, 1, 40, 41, 42)], daily=4) == _named(0, 1, 40, 41)


def test_a_days_last_validated_point_stands_for_it() -> None:
    hours = [
        point(number, age=timedelta(days=1, hours=number), lsn=f"0/{100 - number:X}", state=state)
        for number, state in enumerate([CORRUPT, None, VALID, VALID], start=1)
    ]
    assert _kept([_days(0), *hours], daily=2) == _named(0, 2, 3)  # 2 is the newest that is not validated yet


def test_a_period_of_bad_points_takes_no_place() -> None:
    points = [_days(0), _days(1, state=CORRUPT), _days(2), _days(3)]
    assert _kept(points, daily=2) == _named(0, 2)


def test_what_no_period_keeps_is_said() -> None:
    plan = _plan([_days(number) for number in range(3)], RetentionRule(count=1, daily=1, weekly=1), NOW)
    assert plan.reasons["point-2"] == "not one of the last 1 and the last of no day or week that is kept"


@pytest.mark.parametrize("part", RetentionRule.model_fields)
def test_a_negative_rule_is_refused(part: str) -> None:
    with pytest.raises(ValueError, match="negative"):
        _plan([], RetentionRule(**{part: -1}), NOW)


POINTS = st.lists(
    st.tuples(
        st.integers(0, 60),
        st.sampled_from([PHYSICAL, LOGICAL]),
        st.sampled_from(["1", "2"]),
        st.sampled_from([None, *VerdictState]),
        st.sampled_from([None, "0/1", "0/2", "1/0"]),
    ),
    max_size=14,
).map(
    lambda rows: [
        point(number, age=timedelta(days=age), kind=kind, system_identifier=source, state=state, lsn=lsn)
        for number, (age, kind, source, state, lsn) in enumerate(rows)
    ]
)
RULES = st.builds(
    RetentionRule,
    count=st.none() | st.integers(0, 6),
    days=st.none() | st.integers(0, 40),
    daily=st.none() | st.integers(0, 5),
    weekly=st.none() | st.integers(0, 5),
    monthly=st.none() | st.integers(0, 3),
    yearly=st.none() | st.integers(0, 2),
)


@given(POINTS, RULES, st.integers(-100, 1000))
@settings(max_examples=300, deadline=None)
def test_invariants(points: list[RecoveryPoint], rule: RetentionRule, clock_error: int) -> None:
    plan = _plan(points, rule, NOW + timedelta(days=clock_error))
    everything = {entry.point_id for entry in points}
    assert set(plan.keep) | set(plan.remove) == everything == set(plan.reasons)
    assert not set(plan.keep) & set(plan.remove)
    series: dict[tuple[str, BackupKind], list[RecoveryPoint]] = {}
    for entry in newest_first(points):
        series.setdefault((entry.manifest.postgres.system_identifier, entry.manifest.kind), []).append(entry)
    for members in series.values():
        kept = [entry for entry in members if entry.point_id in plan.keep]
        assert kept[0] is members[0]
        valid = [entry for entry in members if entry.is_valid]
        assert not valid or valid[0] in kept
        good = [entry for entry in members if entry.verdict is None or entry.verdict.state in (VALID, "FAILED")]
        assert all(entry in kept for entry in good[: rule.count or 0])


@given(
    POINTS,
    RULES,
    st.lists(st.just(0) | st.integers(-400, 400), min_size=14, max_size=14),
    st.integers(-100, 1000),
    st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_no_clock_alone_makes_a_point_expire(
    points: list[RecoveryPoint], rule: RetentionRule, errors: list[int], clock_error: int, locations_err: bool
) -> None:
    """Whatever one of the two clocks says of any points, what goes would go by the other one, too."""
    now = NOW + timedelta(days=clock_error)
    honest = {entry.point_id: entry.manifest.finished_at for entry in points}
    wrong = {name: at + timedelta(days=error) for (name, at), error in zip(honest.items(), errors, strict=False)}
    stamped = wrong if not locations_err else honest
    told = [
        entry.model_copy(
            update={"manifest": entry.manifest.model_copy(update={"finished_at": stamped[entry.point_id]})}
        )
        for entry in points
    ]
    plan = _plan(told, rule, now, wrong if locations_err else honest)
    assert set(plan.remove) <= set(_plan(points, rule, now).remove)


@given(POINTS, RULES)
@settings(max_examples=100, deadline=None)
def test_applying_the_plan_twice_removes_nothing_more(points: list[RecoveryPoint], rule: RetentionRule) -> None:
    kept = set(_plan(points, rule, NOW).keep)
    rest = [entry for entry in points if entry.point_id in kept]
    assert _plan(rest, rule, NOW).remove == []


def test_order_is_by_log_position_not_by_clock() -> None:
    older_clock = point(1, age=timedelta(days=3), lsn="1/0")
    newer_clock = point(2, age=timedelta(days=1), lsn="0/FFFFFFFF")
    new_timeline = point(3, age=timedelta(days=2), lsn="0/1", timeline=2)
    ordered = newest_first([newer_clock, older_clock, new_timeline])
    assert [entry.point_id for entry in ordered] == ["point-3", "point-1", "point-2"]


def test_dumps_stand_among_base_backups_by_the_lsn_of_their_snapshot() -> None:
    """Most groups take both kinds: a clock that is wrong must not decide there, either."""
    late = point(1, age=timedelta(days=1), kind=PHYSICAL, lsn="0/5000000")
    early = point(2, age=timedelta(), kind=PHYSICAL, lsn="0/3000000")  # its worker's clock runs ahead
    dump = point(3, age=timedelta(days=2), kind=LOGICAL, lsn=None)
    source = dump.manifest.postgres.model_copy(update={"start_lsn": "0/4000000"})
    dump = dump.model_copy(update={"manifest": dump.manifest.model_copy(update={"source": source})})
    assert [entry.point_id for entry in newest_first([early, dump, late])] == ["point-1", "point-3", "point-2"]


def test_a_point_that_names_no_lsn_changes_the_order_of_no_others() -> None:
    late, early = point(1, age=timedelta(days=1), lsn="0/2"), point(2, age=timedelta(), lsn="0/1")
    nameless = point(3, age=timedelta(), lsn=None)
    assert [entry.point_id for entry in newest_first([early, nameless, late])] == ["point-1", "point-2", "point-3"]


def test_the_cluster_with_the_youngest_point_comes_first() -> None:
    points = [
        point(1, age=timedelta(days=2), system_identifier="old", lsn="9/0"),
        point(2, age=timedelta(days=1), system_identifier="new", lsn="0/1"),
    ]
    assert [entry.point_id for entry in newest_first(points)] == ["point-2", "point-1"]


@pytest.mark.parametrize("text", ["17", "x/y"])
def test_what_is_no_lsn_is_said(text: str) -> None:
    with pytest.raises(BadInput, match="is no WAL position"):
        newest_first([point(1, lsn=text)])
