"""Spans and moments on a command line."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import typer

from drctl.times import moment_or_span_ago, span


def test_a_span_is_what_the_configuration_takes() -> None:
    assert span("1h30m") == timedelta(minutes=90)
    with pytest.raises(typer.BadParameter, match="expected a duration"):
        span("soon")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2025-11-22T10:15:00Z", datetime(2025, 11, 22, 10, 15, tzinfo=UTC)),
        ("2025-11-22 10:15", datetime(2025, 11, 22, 10, 15, tzinfo=UTC)),
        ("2025-11-22T10:15:00+02:00", datetime(2025, 11, 22, 8, 15, tzinfo=UTC)),
    ],
)
def test_a_moment_without_a_zone_is_utc(text: str, expected: datetime) -> None:
    assert moment_or_span_ago(text) == expected


def test_how_long_ago() -> None:
    before = datetime.now(UTC)
    found = moment_or_span_ago("12m")
    assert before <= found + timedelta(minutes=12) <= datetime.now(UTC)


@pytest.mark.parametrize("text", ["2999-01-01T00:00:00Z", "noon", ""])
def test_a_future_or_unreadable_moment_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        moment_or_span_ago(text)
