"""Durations, sizes and moments as people say them. Pure, so that workflow code may use it too."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

_MINUTE, _HOUR, _DAY = 60, 3_600, 86_400
_SIZES = ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
NOTHING = "–"
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def duration(value: timedelta | None) -> str:
    """``34 ms``, ``0.4 s``, ``42 s``, ``15 min``, ``1 m 23 s``, ``2 h 5 m``, ``3 d 4 h``: never more than two units.

    Rounded to what one reads at that length: a millisecond below a tenth of a second, that below 10 s, a second below
    an hour, a minute below a day, an hour above. ``None`` gives a dash.
    """
    if value is None:
        return NOTHING
    seconds = value.total_seconds()
    sign = "-" if seconds <= -0.0005 else ""
    seconds = abs(seconds)
    if 0 < (milliseconds := round(seconds * 1000)) < 100:
        return f"{sign}{milliseconds} ms"
    if (tenths := round(seconds, 1)) < 10:
        return f"{sign}{tenths:g} s"
    if (whole := round(seconds)) < _MINUTE:
        return f"{sign}{whole} s"
    if whole < _HOUR:
        return sign + _two_units(whole, _MINUTE, ("min", "m"), 1, "s")
    minutes = round(seconds / _MINUTE)
    if minutes * _MINUTE < _DAY:
        return sign + _two_units(minutes * _MINUTE, _HOUR, ("h", "h"), _MINUTE, "m")
    return sign + _two_units(round(seconds / _HOUR) * _HOUR, _DAY, ("d", "d"), _HOUR, "h")


def _two_units(seconds: int, large: int, large_words: tuple[str, str], small: int, small_word: str) -> str:
    count, rest = divmod(seconds, large)
    alone, beside = large_words
    return f"{count} {beside} {rest // small} {small_word}" if rest else f"{count} {alone}"


def size(count: int | float | None) -> str:
    """Bytes in binary units with three figures at most: ``812 B``, ``1.4 KiB``, ``23 MiB``, ``2 GiB``."""
    if count is None:
        return NOTHING
    if abs(count) < 1024:
        return f"{count:.0f} B"
    value = float(count)
    for unit in _SIZES:
        value /= 1024
        # Compare what will be printed: 1023.97 KiB must become 1 MiB, not 1024 KiB.
        if abs(round(value)) < 1024 or unit == _SIZES[-1]:
            figures = f"{value:.1f}" if abs(value) < 9.95 else f"{value:.0f}"
            return f"{figures.removesuffix('.0')} {unit}"
    raise AssertionError("unreachable: the last unit always returns")


def rate(count: int | float, taken: timedelta) -> str:
    """Bytes per second: ``52 MiB/s``; a dash when no time has passed."""
    seconds = taken.total_seconds()
    return f"{size(count / seconds)}/s" if seconds > 0 else NOTHING


def moment(at: datetime | None) -> str:
    """``2026-11-22 04:54:16 UTC``. A moment without a time zone is taken as UTC."""
    return f"{_utc(at):%Y-%m-%d %H:%M:%S} UTC" if at else NOTHING


def clock(at: datetime | None) -> str:
    """The time of day alone, in UTC: ``04:54:16``."""
    return f"{_utc(at):%H:%M:%S}" if at else NOTHING


def plural(count: int, one: str, many: str | None = None) -> str:
    """``1 step``, ``3 steps``, ``2 retries``."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def listed(words: list[str], last: str = "and") -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} {last} {words[-1]}"


def printable(text: str) -> str:
    """The text with every control character but newline and tab replaced: it may come from a server, and a terminal
    would obey an escape sequence.
    """
    return _CONTROL.sub("\ufffd", text)


def _utc(at: datetime) -> datetime:
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
