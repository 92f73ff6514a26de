"""Quantities as people write them."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import PydanticCustomError

from recovery.config import values
from recovery.config.cron import WORDS, Cron


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("15m", 900),
        ("15min", 900),
        ("15 min", 900),
        ("1hour", 3600),
        ("4hours", 14400),
        ("30s", 30),
        ("1h30m", 5400),
        ("2 h 5 m", 7500),
        ("7d", 604800),
        ("2w", 1209600),
        ("900s", 900),
        ("0.5s", 0.5),
        ("250ms", 0.25),
        ("0", 0),
        (0, 0),
    ],
)
def test_durations_are_read_as_people_write_them(text: object, seconds: float) -> None:
    assert values.duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text", ["15", 15, "15x", "m", "", "-5m", "1h-30m", True, False, None, [], "9" * 30 + "d", "1e3s"]
)
def test_what_is_no_duration_is_refused(text: object) -> None:
    with pytest.raises(PydanticCustomError, match="for example 30s"):
        values.duration(text)


@given(st.integers(min_value=0, max_value=3_000_000_000_000))
def test_a_duration_reads_what_it_wrote(milliseconds: int) -> None:
    value = timedelta(milliseconds=milliseconds)
    assert values.duration(values.duration_text(value)) == value


@pytest.mark.parametrize(
    ("text", "count"),
    [("5GiB", 5 * 1024**3), ("16MB", 16_000_000), ("8MiB", 8 * 1024**2), ("900B", 900), ("64kB", 64_000), (0, 0)],
)
def test_sizes_are_read_as_people_write_them(text: object, count: int) -> None:
    assert values.size(text) == count


@pytest.mark.parametrize("text", ["5", 5, "5G", "5gib", "GiB", "-5GiB", True, None])
def test_what_is_no_size_is_refused(text: object) -> None:
    with pytest.raises(PydanticCustomError, match="for example 16MB"):
        values.size(text)


@given(st.integers(min_value=0, max_value=10**15))
def test_a_size_reads_what_it_wrote(count: int) -> None:
    assert values.size(values.size_text(count)) == count


@pytest.mark.parametrize(("found", "number"), [(99.9, 99.9), ("99.9%", 99.9), ("99.9 %", 99.9), (0, 0), ("100", 100)])
def test_percentages(found: object, number: float) -> None:
    assert values.percentage(found) == number


@pytest.mark.parametrize("found", [100.1, -1, "many", None, True, "nan", float("nan")])
def test_what_is_no_percentage_is_refused(found: object) -> None:
    with pytest.raises(PydanticCustomError, match="between 0 and 100"):
        values.percentage(found)


@pytest.mark.parametrize(
    "text",
    ["0 */6 * * *", "0 2 * * SUN", "0 2 1 */3 *", "*/5 8-18 * * MON-FRI", "0,30 * * * *", "0 0 29 2 *", "0 0 * * 7"],
)
def test_cron_expressions_of_five_fields_are_accepted(text: str) -> None:
    assert values.cron(text) == text


@pytest.mark.parametrize("word", sorted(WORDS))
def test_words_become_cron_expressions(word: str) -> None:
    Cron.parse(values.cron(word))


def test_weekly_and_quarterly_are_the_hours_of_the_drills() -> None:
    assert values.cron("weekly") == "0 2 * * SUN"
    assert values.cron("quarterly") == "0 2 1 */3 *"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("0 6 * *", "4 fields instead of 5"),
        ("0 0 6 * * *", "6 fields instead of 5"),
        ("61 * * * *", "'61' is no minute"),
        ("0 24 * * *", "'24' is no hour"),
        ("0 0 0 * *", "'0' is no day of month"),
        ("0 0 * * FUN", "'FUN' is no day of week"),
        ("*/0 * * * *", "step '0'"),
        ("0 8-6 * * *", "runs backwards"),
        ("0 0 1 * MON", "understand differently"),
        ("0 0 31 2 *", "no day of any year"),
        ("fortnightly", "1 fields"),
    ],
)
def test_a_wrong_cron_expression_says_which_field(text: str, reason: str) -> None:
    with pytest.raises(PydanticCustomError, match="for example") as caught:
        values.cron(text)
    assert reason in caught.value.message()


@pytest.mark.parametrize(
    ("text", "gap"),
    [
        ("0 */6 * * *", timedelta(hours=6)),
        ("0 */5 * * *", timedelta(hours=5)),
        ("*/7 * * * *", timedelta(minutes=7)),
        ("0 2 * * SUN", timedelta(days=7)),
        ("0 8-18 * * MON-FRI", timedelta(days=2, hours=14)),
        ("0 2 1 */3 *", timedelta(days=92)),
    ],
)
def test_the_longest_gap_of_a_schedule(text: str, gap: timedelta) -> None:
    assert Cron.parse(text).longest_gap() == gap


@pytest.mark.parametrize(("found", "value"), [("60s", timedelta(seconds=60)), (2, 2), ("900s", timedelta(minutes=15))])
def test_thresholds_are_durations_or_counts(found: object, value: object) -> None:
    assert values.threshold(found) == value


@pytest.mark.parametrize(("found", "value"), [("on", True), ("off", False), ("Yes", True), (False, False)])
def test_switches_take_postgresql_words(found: object, value: bool) -> None:
    assert values.switch(found) is value
