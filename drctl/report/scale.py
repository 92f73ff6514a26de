"""From moments to places on the chart. Long stretches in which nothing ran are shown short, and marked as such."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from datetime import datetime, timedelta

from recovery.domain import words

Span = tuple[datetime, datetime]

_NICE_SECONDS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400)
_LONGEST_IDLE = 0.4  # of the busy time: longer gaps are squeezed
_SQUEEZED = 0.12  # of the busy time: what a squeezed gap takes
_LEAST_GAP = timedelta(seconds=20)
_TICKS = 6


@dataclass(frozen=True)
class Tick:
    x: float  # percent of the width
    label: str
    anchor: str


@dataclass(frozen=True)
class Break:
    """A squeezed gap."""

    left: float
    right: float
    label: str


class Scale:
    """Piecewise linear from the run's start (0 %) to its end (100 %)."""

    def __init__(self, start: datetime, end: datetime, busy: list[Span]) -> None:
        self._start = start
        self._end = max(end, start + timedelta(milliseconds=100))
        gaps = _long_gaps(self._start, self._end, busy)
        idle = sum(((b - a) for a, b in gaps), timedelta())
        active = (self._end - self._start) - idle
        total = active + len(gaps) * _SQUEEZED * active
        self._knots: list[tuple[datetime, float]] = [(self._start, 0.0)]
        for gap_start, gap_end in gaps:
            last, x = self._knots[-1]
            x += (gap_start - last) / total * 100
            self._knots.append((gap_start, x))
            self._knots.append((gap_end, x + _SQUEEZED * active / total * 100))
        self._knots.append((self._end, 100.0))
        self._active = active
        self._gaps = gaps

    def at(self, moment: datetime) -> float:
        """Percent of the width; moments outside the run are put at its ends."""
        if moment <= self._start:
            return 0.0
        if moment >= self._end:
            return 100.0
        index = bisect_right([knot[0] for knot in self._knots], moment)
        (t0, x0), (t1, x1) = self._knots[index - 1], self._knots[index]
        return x0 + (x1 - x0) * ((moment - t0) / (t1 - t0))

    def breaks(self) -> list[Break]:
        return [Break(self.at(a), self.at(b), words.duration(b - a)) for a, b in self._gaps]

    def ticks(self) -> list[Tick]:
        """Round offsets from the start (times of day where gaps were squeezed), with room between their labels."""
        wanted = self._active.total_seconds() / _TICKS
        step = next((nice for nice in _NICE_SECONDS if nice >= wanted), _NICE_SECONDS[-1])
        ticks: list[Tick] = [Tick(0.0, self._tick_label(timedelta()), "start")]
        length = (self._end - self._start).total_seconds()
        count = min(int(length / step), 5_000)
        for number in range(1, count + 1):
            moment = self._start + timedelta(seconds=number * step)
            if any(a < moment < b for a, b in self._gaps):
                continue
            x = self.at(moment)
            if x - ticks[-1].x >= 10:
                label = self._tick_label(timedelta(seconds=number * step))
                ticks.append(Tick(x, label, "end" if x > 95 else "middle"))
        return ticks

    def _tick_label(self, offset: timedelta) -> str:
        # After hours of waiting every offset reads "8 h": there the time of day tells more.
        return words.clock(self._start + offset) if self._gaps else words.duration(offset)


def _long_gaps(start: datetime, end: datetime, busy: list[Span]) -> list[Span]:
    clipped = [(max(a, start), min(b, end)) for a, b in busy]
    merged = _merged([(a, b) for a, b in clipped if b >= a])
    active = sum(((b - a) for a, b in merged), timedelta())
    if not active:
        return []
    edges = [start, *(moment for span in merged for moment in span), end]
    idle = [(edges[i], edges[i + 1]) for i in range(0, len(edges), 2)]
    return [(a, b) for a, b in idle if b - a > _LEAST_GAP and (b - a) > _LONGEST_IDLE * active]


def _merged(spans: list[Span]) -> list[Span]:
    merged: list[Span] = []
    for a, b in sorted(spans):
        if merged and a <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], b))
        else:
            merged.append((a, b))
    return merged
