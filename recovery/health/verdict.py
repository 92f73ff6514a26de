"""From single probes to a verdict: so many failures in a row, so many successes in a row. Pure; times are handed in."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from recovery.domain.health import Verdict

JITTERED = 0.85
"""Share of the whole time that must lie between the first and the last failure: probes come up to a tenth early."""


@dataclass(frozen=True)
class Thresholds:
    """``interval``: seconds between two ordinary probes; ``failures`` and ``recoveries``: so many in a row."""

    failures: int = 3
    recoveries: int = 2
    interval: float = 30.0

    @property
    def shortest_loss(self) -> float:
        """Seconds that must lie between the first and the last failure of a lost region.

        While a loss is suspected the loop probes more often. That must not make it hasty: it is there to see the
        success between two failures that the ordinary interval would have missed.
        """
        return (self.failures - 1) * self.interval * JITTERED


@dataclass(frozen=True)
class Outcome:
    """One probe. ``began`` is CLOCK_BOOTTIME in seconds, ``began_at`` the same on the wall clock."""

    passed: bool
    began: float
    began_at: datetime


@dataclass
class Streak:
    """The verdict on one region from one vantage point.

    Outcomes may come out of order, for probes overlap: a failure that began before the last success is none.
    """

    thresholds: Thresholds
    verdict: Verdict = Verdict.UNKNOWN
    since: datetime | None = None
    failures: int = 0
    successes: int = 0
    failing_since: datetime | None = None
    _first_failure: float = field(default=0.0, repr=False)
    _last_success: float = field(default=float("-inf"), repr=False)
    _valid_from: float = field(default=float("-inf"), repr=False)

    def observe(self, outcome: Outcome, now: datetime) -> bool:
        """Returns whether the verdict changed."""
        if outcome.began < self._valid_from:
            return False
        if outcome.passed:
            return self._passed(outcome, now)
        if outcome.began < self._last_success:
            return False
        return self._failed(outcome, now)

    @property
    def is_suspected(self) -> bool:
        """Whether it fails and is not lost yet."""
        return self.failures > 0 and self.verdict is not Verdict.LOST

    def reset(self, since: float) -> bool:
        """Forgets everything seen before ``since``, a moment of CLOCK_BOOTTIME: no verdict until enough is seen anew.

        Returns whether the verdict changed.
        """
        changed = self.verdict is not Verdict.UNKNOWN
        self.verdict, self.since, self.failing_since = Verdict.UNKNOWN, None, None
        self.failures = self.successes = 0
        self._last_success, self._valid_from = float("-inf"), since
        return changed

    def doubt(self, since: float) -> None:
        """Failures of probes that began before ``since`` are not counted: nobody was there to take their answers."""
        self._last_success = max(self._last_success, since)

    def _passed(self, outcome: Outcome, now: datetime) -> bool:
        self._last_success = max(self._last_success, outcome.began)
        self.failures, self.failing_since = 0, None
        self.successes += 1
        if self.verdict is Verdict.HEALTHY:
            return False
        if self.verdict is Verdict.LOST and self.successes < self.thresholds.recoveries:
            return False
        self.verdict, self.since = Verdict.HEALTHY, now
        return True

    def _failed(self, outcome: Outcome, now: datetime) -> bool:
        self.successes = 0
        self.failures += 1
        if self.failures == 1:
            self._first_failure, self.failing_since = outcome.began, outcome.began_at
        lasted = outcome.began - self._first_failure
        if self.verdict is Verdict.LOST or self.failures < self.thresholds.failures:
            return False
        if lasted < self.thresholds.shortest_loss:
            return False
        self.verdict, self.since = Verdict.LOST, now
        return True
