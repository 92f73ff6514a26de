"""Durations and sizes as people say them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recovery.domain import words

UNITS = {"ms": 0.001, "s": 1, "m": 60, "min": 60, "h": 3_600, "d": 86_400}


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 s"),
        (0.0003, "0 s"),
        (0.034, "34 ms"),
        (0.0996, "0.1 s"),
        (0.4, "0.4 s"),
        (9.96, "10 s"),
        (42, "42 s"),
        (59.6, "1 min"),
        (83, "1 m 23 s"),
        (900, "15 min"),
        (3_599.7, "1 h"),
        (7_500, "2 h 5 m"),
        (86_399, "1 d"),
        (273_600, "3 d 4 h"),
        (-83, "-1 m 23 s"),
        (-0.01, "-10 ms"),
    ],
)
def test_durations(seconds: float, said: str) -> None:
    assert words.duration(timedelta(seconds=seconds)) == said


@given(st.floats(min_value=0, max_value=10**8))
def test_what_is_said_is_close_to_what_is_meant(seconds: float) -> None:
    said = words.duration(timedelta(seconds=seconds))
    parts = re.findall(r"([\d.]+) (\w+)", said)
    assert 1 <= len(parts) <= 2
    value = sum(float(number) * UNITS[unit] for number, unit in parts)
    smallest = 0.1 if seconds < 9.9 else 1 if seconds < 3_599 else 60 if seconds < 86_000 else 3_600
    assert abs(value - seconds) <= smallest / 2 + 1e-6


@given(st.floats(min_value=0, max_value=10**7), st.floats(min_value=0, max_value=10**7))
def test_no_unit_overflows(a: float, b: float) -> None:
    for seconds in (a, b):
        said = words.duration(timedelta(seconds=seconds))
        assert "60 s" not in said.split(" m ")[-1]
        assert not re.search(r"\b60 m\b|\b24 h\b|\b60 min\b", said)


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, "0 B"),
        (1_023, "1023 B"),
        (1_434, "1.4 KiB"),
        (1_048_550, "1 MiB"),
        (23 * 2**20, "23 MiB"),
        (2**31, "2 GiB"),
        (2**70, "1024 EiB"),
        (None, "–"),
    ],
)
def test_sizes(count: int | None, said: str) -> None:
    assert words.size(count) == said


def test_moments_are_utc() -> None:
    at = datetime(2026, 11, 22, 6, 54, 16, tzinfo=timezone(timedelta(hours=2)))
    assert words.moment(at) == "2026-11-22 04:54:16 UTC"
    assert words.clock(at) == "04:54:16"
    assert words.moment(datetime(2026, 1, 1, tzinfo=UTC)) == "2026-01-01 00:00:00 UTC"
    assert words.moment(None) == words.clock(None) == words.duration(None) == "–"


def test_small_words() -> None:
    assert words.plural(1, "step") == "1 step"
    assert words.plural(3_000, "retry", "retries") == "3,000 retries"
    assert words.listed([]) == ""
    assert words.listed(["a"]) == "a"
    assert words.listed(["a", "b", "c"]) == "a, b and c"
    assert words.rate(100 * 2**20, timedelta(seconds=2)) == "50 MiB/s"
    assert words.rate(5, timedelta()) == "–"
