"""One group as one vantage point sees it: probes of all its regions, their streaks, and who owns it."""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

import structlog

from recovery.domain.group import GroupSnapshot
from recovery.domain.health import Finding, Part, RegionReport, Sighting, Verdict
from recovery.domain.ownership import OwnershipRecord
from recovery.health.verdict import Outcome, Streak, Thresholds
from recovery.ports.health import HealthMeasurements, RegionProbe, ReplicationProbe

MOST_IN_FLIGHT = 6
WATCHED_MORE_OFTEN = 5  # times, after a failover
SUSPECTED_MORE_OFTEN = 6  # times, while a loss is suspected
SHORTEST_BY_ITSELF = 1.0  # seconds; a shorter interval is never chosen but by configuration
SHOWN, LONGEST = 5, 200  # failing checks of a region, characters of each

log = structlog.get_logger("recovery.health")


@dataclass(frozen=True)
class WatchedGroup:
    """``probes``: one for each of the group's regions."""

    snapshot: GroupSnapshot
    probes: Mapping[str, RegionProbe]
    replication: ReplicationProbe | None = None


@dataclass
class _Seen:
    """One region: its streak, and what the last round found."""

    streak: Streak
    last: Sighting | None = None
    last_began: float = float("-inf")
    mistakes: int = 0  # of the probe itself, in a row
    in_flight: set[asyncio.Task[None]] = field(default_factory=set)


class GroupWatch:
    """``run`` probes one region until it is cancelled; ``changed`` is set when somebody should be told.

    Args:
        checked: asked before an outcome counts; it calls ``forget`` when the loop stood still.
        limit: of probes at the same time, over all groups.
    """

    def __init__(
        self,
        vantage: str,
        group: WatchedGroup,
        measurements: HealthMeasurements,
        checked: Callable[[], Awaitable[None]],
        limit: asyncio.Semaphore,
        *,
        clock: Callable[[], float],
    ) -> None:
        self.vantage = vantage
        self.group = group
        self.owner: str | None = None
        self.epoch = 0
        self.watched_until: datetime | None = None
        self.frozen_for: float | None = None
        self.changed = asyncio.Event()
        self._measurements = measurements
        self._checked = checked
        self._limit = limit
        self._clock = clock
        self._rule = group.snapshot.failover
        self._seen = {name: _Seen(Streak(self._thresholds(name))) for name in group.probes}

    @property
    def regions(self) -> list[str]:
        return list(self._seen)

    @property
    def owner_verdict(self) -> Verdict:
        return self._seen[self.owner].streak.verdict if self.owner in self._seen else Verdict.UNKNOWN

    @property
    def owner_failing_since(self) -> datetime | None:
        return self._seen[self.owner].streak.failing_since if self.owner in self._seen else None

    async def run(self, region: str) -> None:
        """Probes overlap where one takes longer than the interval, so that a silent server is noticed as soon."""
        seen = self._seen[region]
        most = min(MOST_IN_FLIGHT, math.ceil(self._rule.timeout.total_seconds() / self.interval(region)) + 1)
        await asyncio.sleep(random.random() * self.interval(region))
        async with asyncio.TaskGroup() as probes:
            while True:
                began = self._clock()
                if len(seen.in_flight) < most and self.owner is not None:
                    task = probes.create_task(self._look(region))
                    seen.in_flight.add(task)
                    task.add_done_callback(seen.in_flight.discard)
                pause = self.interval(region) * random.uniform(0.9, 1.0)
                await asyncio.sleep(max(began + pause - self._clock(), 0.01))

    def interval(self, region: str) -> float:
        """Seconds between two probes, as it is now: shorter for a suspected owner, and for a new one."""
        usual = self._base_interval(region)
        if region == self.owner and self._seen[region].streak.is_suspected:
            return min(usual, max(usual / SUSPECTED_MORE_OFTEN, SHORTEST_BY_ITSELF))
        return usual

    def _base_interval(self, region: str) -> float:
        usual = self._rule.interval.total_seconds()
        if region == self.owner and self.watched_until is not None and datetime.now(UTC) < self.watched_until:
            return min(usual, max(usual / WATCHED_MORE_OFTEN, SHORTEST_BY_ITSELF))
        return usual

    def _thresholds(self, region: str) -> Thresholds:
        return Thresholds(self._rule.failure_threshold, self._rule.recovery_threshold, self._base_interval(region))

    async def _look(self, region: str) -> None:
        async with self._limit:
            began, began_at = self._clock(), datetime.now(UTC)
            part = Part.OWNER if region == self.owner else Part.STANDBY
            try:
                sighting = await self.group.probes[region].look(part)
            except Exception:
                # A mistake in a probe must neither end the watch over all groups nor count as an outage.
                log.exception("a probe failed by itself", group=self.group.snapshot.name, region=region)
                self._mistaken(region)
                return
        self._seen[region].mistakes = 0
        await self._checked()
        self._observe(region, sighting, Outcome(sighting.passed, began, began_at))

    def _mistaken(self, region: str) -> None:
        """Whoever cannot look does not know: an old verdict must not go on voting."""
        seen = self._seen[region]
        seen.mistakes += 1
        if seen.mistakes >= self._rule.failure_threshold and seen.streak.reset(self._clock()):
            self.changed.set()

    def _observe(self, region: str, sighting: Sighting, outcome: Outcome) -> None:
        seen = self._seen[region]
        if outcome.began > seen.last_began:
            seen.last, seen.last_began = sighting, outcome.began
        seen.streak.thresholds = self._thresholds(region)
        failures = seen.streak.failures
        if seen.streak.observe(outcome, datetime.now(UTC)):
            log.log(
                logging.WARNING if seen.streak.verdict is Verdict.LOST else logging.INFO,
                "verdict",
                group=self.group.snapshot.name, region=region, vantage=self.vantage,
                verdict=seen.streak.verdict.value, failing="; ".join(_failing(seen.last)),
            )  # fmt: skip
            self.changed.set()
        elif failures == 0 and seen.streak.failures == 1 and seen.streak.verdict is not Verdict.LOST:
            log.info("a probe failed", group=self.group.snapshot.name, region=region, why="; ".join(_failing(sighting)))
        self._measure(region, sighting)

    def _measure(self, region: str, sighting: Sighting) -> None:
        name, verdict = self.group.snapshot.name, self._seen[region].streak.verdict
        self._measurements.health_checked(region, sighting.passed)
        for finding in sighting.findings:
            self._measurements.probed(name, region, finding.check, passed=finding.passed, seconds=finding.seconds)
        lost = None if verdict is Verdict.UNKNOWN else verdict is Verdict.LOST
        self._measurements.region_judged(name, region, self.vantage, lost=lost)

    def forget(self, now: float, *, frozen_for: float | None = None) -> None:
        """Nothing seen before ``now`` (CLOCK_BOOTTIME) counts any more."""
        for seen in self._seen.values():
            seen.streak.reset(now)
        self.frozen_for = frozen_for
        self.changed.set()

    def doubt(self, now: float) -> None:
        """What is under way now may fail for a reason of our own."""
        for seen in self._seen.values():
            seen.streak.doubt(now)

    def owned(self, record: OwnershipRecord | None, now: datetime) -> None:
        """What the witness says. Where the owner changed, each region is judged anew by its new part."""
        owner = record.region if record is not None else self.group.snapshot.home_region
        epoch = record.epoch if record is not None else 0
        if (owner, epoch) == (self.owner, self.epoch):
            return
        moved = self.owner is not None and owner != self.owner
        if record is not None and (moved or (self.owner is None and _was_promoted(record))):
            self.watched_until = (now if moved else record.changed_at) + self._rule.watch_for
        for region in {self.owner, owner} & set(self._seen) if moved else ():
            assert region is not None
            self._seen[region].streak.reset(self._clock())
        self.owner, self.epoch = owner, epoch
        self.changed.set()

    def reports(self) -> dict[str, RegionReport]:
        return {region: self._report(region, seen) for region, seen in self._seen.items()}

    def _report(self, region: str, seen: _Seen) -> RegionReport:
        streak, last = seen.streak, seen.last
        findings: list[Finding] = last.findings if last is not None else []
        lags = [finding.lag_seconds for finding in findings if finding.lag_seconds is not None]
        return RegionReport(
            verdict=streak.verdict,
            since=streak.since,
            failing_since=streak.failing_since,
            failures=streak.failures,
            successes=streak.successes,
            failing=_failing(last),
            is_alive=last.is_alive if last is not None else False,
            is_standby=any(finding.is_standby and finding.passed for finding in findings),
            lag_seconds=max(lags, default=None),
            interval=round(self._base_interval(region), 3),
        )


def _failing(sighting: Sighting | None) -> list[str]:
    if sighting is None:
        return []
    failed = sorted((finding for finding in sighting.findings if not finding.passed), key=lambda found: not found.vital)
    return [f"{finding.check}: {finding.detail}"[:LONGEST] for finding in failed[:SHOWN]]


def _was_promoted(record: OwnershipRecord) -> bool:
    """Whether the record's region became the owner by a fence."""
    return record.fence is not None and record.fence.region != record.region
