"""Cron expressions of five fields (minute, hour, day of month, month, day of week; UTC): checked and measured."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, time, timedelta

# The words that the two lines of every crontab begin with. Weekly and quarterly are the hours at which
# rehearsals disturb least: 02:00 UTC on Sunday, and on the first day of a quarter.
WORDS = {
    "hourly": "0 * * * *",
    "daily": "0 2 * * *",
    "weekly": "0 2 * * SUN",
    "monthly": "0 2 1 * *",
    "quarterly": "0 2 1 */3 *",
    "yearly": "0 2 1 1 *",
}

_MONTHS = {
    name: number
    for number, name in enumerate(
        ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"], start=1
    )
}
_DAYS = {name: number for number, name in enumerate(["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"])}

EXAMPLES = '"0 */6 * * *" (every six hours), daily or weekly'


@dataclass(frozen=True)
class _Field:
    name: str
    low: int
    high: int
    words: dict[str, int]


_FIELDS = (
    _Field("minute", 0, 59, {}),
    _Field("hour", 0, 23, {}),
    _Field("day of month", 1, 31, {}),
    _Field("month", 1, 12, _MONTHS),
    _Field("day of week", 0, 7, _DAYS),
)


@dataclass(frozen=True)
class Cron:
    """The moments of an expression: the values that each field allows. Day of week counts from Sunday = 0."""

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]

    @classmethod
    def parse(cls, text: str) -> Cron:
        """Raises ValueError with a sentence that names the field which is wrong."""
        parts = text.split()
        if len(parts) != len(_FIELDS):
            raise ValueError(
                f"it has {len(parts)} fields instead of 5 (minute, hour, day of month, month, day of week)"
            )
        values = [_values(part, field) for part, field in zip(parts, _FIELDS, strict=True)]
        if parts[2] != "*" and parts[4] != "*":
            # cron takes either day, a Temporal Schedule only days that are both.
            raise ValueError("day of month and day of week are both set, which schedulers understand differently")
        cron = cls(values[0], values[1], values[2], values[3], frozenset(value % 7 for value in values[4]))
        if not any(cron._matches(date(2024, 1, 1) + timedelta(days=ahead)) for ahead in range(366)):
            raise ValueError("no day of any year fits it")
        return cron

    def _matches(self, day: date) -> bool:
        return day.day in self.days and day.month in self.months and day.isoweekday() % 7 in self.weekdays

    def longest_gap(self) -> timedelta:
        """The longest time between two moments within two years (of which one is a leap year)."""
        times = [time(hour, minute) for hour in sorted(self.hours) for minute in sorted(self.minutes)]
        longest, previous = timedelta(), None
        for ahead in range(731):
            day = date(2024, 1, 1) + timedelta(days=ahead)
            if not self._matches(day):
                continue
            moments = [datetime.combine(day, at) for at in times]
            for moment in moments:
                if previous is not None:
                    longest = max(longest, moment - previous)
                previous = moment
        return longest


def _values(text: str, field: _Field) -> frozenset[int]:
    found: set[int] = set()
    for item in text.split(","):
        span, slash, step = item.partition("/")
        if slash and not (step.isdecimal() and int(step) > 0):
            raise ValueError(f"the step {step!r} in the {field.name} is not a positive number")
        low, high = _span(span, field, bool(slash))
        found.update(range(low, high + 1, int(step) if slash else 1))
    return frozenset(found)


def _span(text: str, field: _Field, stepped: bool) -> tuple[int, int]:
    if text == "*":
        return field.low, field.high
    first, dash, last = text.partition("-")
    low = _number(first, field)
    high = _number(last, field) if dash else (field.high if stepped else low)
    if low > high:
        raise ValueError(f"the range {text!r} in the {field.name} runs backwards")
    return low, high


def _number(text: str, field: _Field) -> int:
    if text.upper() in field.words:
        return field.words[text.upper()]
    if text.isdecimal() and field.low <= int(text) <= field.high:
        return int(text)
    raise ValueError(f"{text!r} is no {field.name} ({field.low} to {field.high})")
