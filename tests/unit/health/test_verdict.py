"""Streaks: so many failures in a row over so long a time, so many successes, and what a freeze does to them."""

from __future__ import annotations

import itertools
import random
from datetime import UTC, datetime, timedelta

import pytest

from recovery.domain.health import Verdict
from recovery.health.verdict import Outcome, Streak, Thresholds

START = datetime(2026, 11, 22, tzinfo=UTC)


def outcome(passed: bool, at: float) -> Outcome:
    return Outcome(passed, at, START + timedelta(seconds=at))


def fed(streak: Streak, *outcomes: tuple[bool, float]) -> list[Verdict]:
    verdicts = []
    for passed, at in outcomes:
        streak.observe(outcome(passed, at), START + timedelta(seconds=at))
        verdicts.append(streak.verdict)
    return verdicts


SECOND = Thresholds(failures=3, recoveries=2, interval=1.0)


def test_the_third_failure_in_a_row_is_a_loss_since_the_first() -> None:
    streak = Streak(SECOND)
    verdicts = fed(streak, (True, 0), (False, 1), (False, 2), (False, 3))
    assert verdicts == [Verdict.HEALTHY, Verdict.HEALTHY, Verdict.HEALTHY, Verdict.LOST]
    assert streak.failing_since == START + timedelta(seconds=1)


def test_a_probe_that_takes_long_is_one_failure_however_long() -> None:
    assert fed(Streak(SECOND), (True, 0), (False, 1), (False, 9))[-1] is Verdict.HEALTHY


def test_a_success_between_failures_starts_the_count_anew() -> None:
    assert Verdict.LOST not in fed(
        Streak(SECOND), (False, 0), (False, 1), (True, 2), (False, 3), (False, 4), (True, 5), (False, 6)
    )


def test_a_loss_ends_with_the_second_success_in_a_row() -> None:
    streak = Streak(SECOND)
    lost = [(False, float(at)) for at in range(3)]
    assert fed(streak, *lost, (True, 3), (False, 4), (True, 5), (True, 6))[3:] == [
        Verdict.LOST, Verdict.LOST, Verdict.LOST, Verdict.HEALTHY,
    ]  # fmt: skip


def test_probes_that_come_more_often_make_nobody_hasty() -> None:
    streak = Streak(Thresholds(failures=3, interval=30.0))
    seen = fed(streak, *((False, at * 5.0) for at in range(14)))
    first = next(index * 5.0 for index, verdict in enumerate(seen) if verdict is Verdict.LOST)
    assert 0.85 * 60 <= first <= 60


def test_a_failure_that_began_before_the_last_success_is_none() -> None:
    streak = Streak(SECOND)
    fed(streak, (True, 5))
    assert fed(streak, (False, 1), (False, 2), (False, 3), (False, 4)) == [Verdict.HEALTHY] * 4
    assert streak.failures == 0


def test_a_reset_forgets_and_outcomes_from_before_it_do_not_count() -> None:
    streak = Streak(SECOND)
    fed(streak, (False, 1), (False, 2), (False, 3))
    assert streak.reset(10.0)
    assert streak.verdict is Verdict.UNKNOWN and streak.failing_since is None
    assert fed(streak, (False, 8), (False, 9)) == [Verdict.UNKNOWN] * 2
    assert streak.failures == 0
    assert fed(streak, (False, 10), (False, 11), (False, 12))[-1] is Verdict.LOST


def test_a_doubt_costs_the_failures_that_were_under_way() -> None:
    streak = Streak(SECOND)
    fed(streak, (True, 0), (False, 1))
    streak.doubt(10.0)
    assert fed(streak, (False, 7), (False, 8), (False, 9)) == [Verdict.HEALTHY] * 3
    assert streak.failures == 1
    assert fed(streak, (True, 9.5))[-1] is Verdict.HEALTHY, "an answer that came is one"
    assert fed(streak, (False, 10), (False, 11), (False, 12))[-1] is Verdict.LOST


def test_flapping_every_ten_seconds_for_five_minutes_is_no_loss() -> None:
    """With probes that come more often while a loss is suspected, as the loop does."""
    for interval, seed in itertools.product((6.0, 10.0, 30.0), range(200)):
        dice = random.Random(seed)
        streak, at, offset = Streak(Thresholds(failures=3, interval=interval)), 0.0, dice.random() * 20
        while at < 300:
            is_up = (at + offset) % 20 < 10
            streak.observe(outcome(is_up, at), START)
            assert streak.verdict is not Verdict.LOST, (interval, seed, at)
            usual = min(interval, max(interval / 6, 1.0)) if streak.is_suspected else interval
            at += usual * dice.uniform(0.9, 1.0)


@pytest.mark.parametrize("interval", [0.25, 1.0, 5.0, 30.0])
def test_a_dead_region_is_lost_within_threshold_times_interval_and_two_seconds(interval: float) -> None:
    """Every phase of the probes to the moment of death; each failed probe takes the connect limit of the loop."""
    limit = min(max(interval, 0.5), 1.5)
    for seed in range(300):
        dice = random.Random(seed)
        streak, at, died = (
            Streak(Thresholds(failures=3, interval=interval)),
            0.0,
            interval * 3 + dice.random() * interval,
        )
        while streak.verdict is not Verdict.LOST:
            is_up = at < died
            told = at if is_up else at + limit
            streak.observe(outcome(is_up, at), START)
            usual = min(interval, max(interval / 6, 1.0)) if streak.is_suspected else interval
            at += usual * dice.uniform(0.9, 1.0)
        assert told - died <= 3 * interval + 2.0, (seed, told - died)
