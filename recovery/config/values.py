"""Quantities as people write them: durations, sizes, percentages, schedules, thresholds.

Each type reads its own output again, so that ``drctl config show`` prints a configuration that loads.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema
from pydantic_core import PydanticCustomError

from recovery.config.cron import EXAMPLES, WORDS, Cron

_SECONDS: dict[str, float] = {}
for _names, _length in (
    (("ms", "millisecond", "milliseconds"), 0.001),
    (("s", "sec", "secs", "second", "seconds"), 1),
    (("m", "min", "mins", "minute", "minutes"), 60),
    (("h", "hr", "hrs", "hour", "hours"), 3600),
    (("d", "day", "days"), 86400),
    (("w", "week", "weeks"), 604800),
):
    _SECONDS.update(dict.fromkeys(_names, _length))

_BYTES = {"B": 1, "": 0}
for _power, _prefix in enumerate("KMGT", start=1):
    _BYTES[f"{_prefix}B"] = 1000**_power
    _BYTES[f"{_prefix}iB"] = 1024**_power
_BYTES["kB"] = 1000

_PART = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*")
_LONGEST = timedelta(days=36500)


def expected(what: str) -> PydanticCustomError:
    """An error whose message is the whole sentence up to what was found."""
    return PydanticCustomError("expected", "expected {what}", {"what": what})


def withheld(what: str) -> PydanticCustomError:
    """As :func:`expected`, for a value that may be a secret and is therefore not repeated in the error."""
    return PydanticCustomError("withheld", "expected {what}", {"what": what})


DURATION = "a duration with its unit (ms, s, m, h, d, w), for example 30s, 15m, 1h30m or 7d"


def duration(value: object) -> timedelta:
    """``15m``, ``15min``, ``1hour``, ``4hours``, ``30s``, ``1h30m``, ``7d``, ``900s`` or 0."""
    if isinstance(value, timedelta):
        return value
    if value == 0 and not isinstance(value, bool):
        return timedelta()
    if not isinstance(value, str):
        raise expected(DURATION)
    text = value.strip()
    if text == "0":
        return timedelta()
    seconds, position = 0.0, 0
    while position < len(text):
        part = _PART.match(text, position)
        if part is None or part[2].lower() not in _SECONDS or len(part[1]) > 12:
            raise expected(DURATION)
        seconds += float(part[1]) * _SECONDS[part[2].lower()]
        position = part.end()
    if position == 0 or seconds > _LONGEST.total_seconds():
        raise expected(f"{DURATION}, at most {_LONGEST.days}d")
    return timedelta(seconds=seconds)


def duration_text(value: timedelta) -> str:
    """Shortest exact form: ``15m``, ``1h30m``, ``7d``, ``1.5s``."""
    milliseconds = round(value / timedelta(milliseconds=1))
    if milliseconds == 0:
        return "0s"
    text = ""
    for unit, length in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, milliseconds = divmod(milliseconds, length)
        text += f"{count}{unit}" if count else ""
    return text


SIZE = "a size with its unit (B, kB, MB, GB, KiB, MiB, GiB, TiB), for example 16MB or 5GiB"


def size(value: object) -> int:
    """Bytes of ``5GiB``, ``16MB`` or ``900B``; MB is a million bytes, MiB is 1024 * 1024."""
    part = _PART.fullmatch(value) if isinstance(value, str) else None
    if value == 0 and not isinstance(value, bool):
        return 0
    if part is None or not _BYTES.get(part[2]) or len(part[1]) > 15:
        raise expected(SIZE)
    return round(float(part[1]) * _BYTES[part[2]])


def size_text(value: int) -> str:
    """Largest unit that is exact: ``8MiB``, ``16MB``, ``900B``."""
    for unit, length in sorted(_BYTES.items(), key=lambda item: -item[1]):
        if length and value and value % length == 0:
            return f"{value // length}{unit}"
    return f"{value}B"


def percentage(value: object) -> float:
    """``99.9`` or ``99.9%``, between 0 and 100."""
    text = value.strip().removesuffix("%").strip() if isinstance(value, str) else value
    try:
        number = float(text) if isinstance(text, (str, int, float)) and not isinstance(text, bool) else -1.0
    except ValueError:
        number = -1.0
    if not 0 <= number <= 100:
        raise expected("a percentage between 0 and 100, for example 99.9%")
    return number


def cron(value: object) -> str:
    """A cron expression of five fields, or one of the words of :data:`recovery.config.cron.WORDS`."""
    if not isinstance(value, str):
        raise expected(f"a cron expression of five fields, for example {EXAMPLES}")
    text = WORDS.get(value.strip().lower(), " ".join(value.split()))
    try:
        Cron.parse(text)
    except ValueError as error:
        raise expected(f"a cron expression of five fields, for example {EXAMPLES}; {error}") from None
    return text


def threshold(value: object) -> timedelta | int:
    """A duration (``60s``) or a count (``2``), as the alert needs it."""
    if isinstance(value, bool) or (isinstance(value, int) and value < 0):
        raise expected("a duration or a count, for example 60s or 2")
    if isinstance(value, int):
        return value
    try:
        return duration(value)
    except PydanticCustomError:
        raise expected("a duration or a count, for example 60s or 2") from None


def switch(value: object) -> bool:
    """on/off, yes/no or true/false: PostgreSQL's own way of writing it is welcome."""
    words = {"on": True, "yes": True, "true": True, "off": False, "no": False, "false": False}
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in words:
        return words[value.strip().lower()]
    raise expected("on or off")


def between(low: timedelta, high: timedelta) -> Callable[[timedelta], timedelta]:
    """An ``AfterValidator`` for a duration with limits."""

    def check(value: timedelta) -> timedelta:
        if not low <= value <= high:
            span = f"{duration_text(low)} to {duration_text(high)}"
            raise expected(
                f"a duration of {span}, for example {duration_text(max(low, min(high, timedelta(hours=1))))}"
            )
        return value

    return check


def size_between(low: int, high: int) -> Callable[[int], int]:
    """An ``AfterValidator`` for a size with limits, in bytes."""

    def check(value: int) -> int:
        if not low <= value <= high:
            raise expected(f"a size of {size_text(low)} to {size_text(high)}, for example {size_text(low)}")
        return value

    return check


def _threshold_text(value: timedelta | int) -> str | int:
    return duration_text(value) if isinstance(value, timedelta) else value


def _text(pattern: str, description: str, *examples: Any) -> WithJsonSchema:
    return WithJsonSchema(
        {"type": "string", "pattern": pattern, "description": description, "examples": list(examples)}
    )


Duration = Annotated[
    timedelta,
    BeforeValidator(duration),
    PlainSerializer(duration_text, return_type=str),
    _text(r"^(0|(\s*\d+(\.\d+)?\s*[A-Za-z]+\s*)+)$", DURATION, "15m", "1h30m"),
]
Size = Annotated[
    int,
    BeforeValidator(size),
    PlainSerializer(size_text, return_type=str),
    _text(r"^\s*\d+(\.\d+)?\s*[KMGTk]?i?B\s*$", SIZE, "8MiB", "16MB"),
]
Percentage = Annotated[float, BeforeValidator(percentage)]
CronText = Annotated[str, BeforeValidator(cron)]
Switch = Annotated[bool, BeforeValidator(switch)]
Threshold = Annotated[
    timedelta | int,
    BeforeValidator(threshold),
    PlainSerializer(_threshold_text),
    WithJsonSchema({"type": ["string", "integer"], "description": "A duration (60s) or a count (2)."}),
]
