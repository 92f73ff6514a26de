"""What vantage points see of a group's regions, and what they tell the group's monitor.

Moments are the vantage point's own wall clock, for people and for measuring; no decision compares two machines' clocks.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum

from pydantic import Field

from recovery.domain.base import Model, Recorded


class Part(StrEnum):
    """What is expected of a region: the owner serves writes, any other one stands by."""

    OWNER = "owner"
    STANDBY = "standby"


class Verdict(StrEnum):
    UNKNOWN = "unknown"  # too little was seen since the loop began, or since it was frozen: no vote
    HEALTHY = "healthy"
    LOST = "lost"  # the threshold of failures in a row was reached


class Finding(Model):
    """One question to one server. ``vital``: its failure is the region's."""

    check: str  # postgres, redis, nats, dns, or an address
    passed: bool
    vital: bool = True
    detail: str = ""
    seconds: float = 0.0
    is_standby: bool | None = None  # PostgreSQL: in recovery, and so a candidate; None where this was not learned
    lag_seconds: float | None = None  # behind its primary, as the standby itself knows it


class Sighting(Model):
    """One round of questions to one region."""

    findings: list[Finding] = Field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether everything vital answered as it should."""
        return all(finding.passed for finding in self.findings if finding.vital)

    @property
    def is_alive(self) -> bool:
        """Whether anything at all answered as it should."""
        return any(finding.passed for finding in self.findings)


class RegionReport(Recorded):
    """One region as one vantage point sees it now."""

    verdict: Verdict = Verdict.UNKNOWN
    since: datetime | None = None  # of the verdict
    failing_since: datetime | None = None  # when the first failed probe of the present streak began
    failures: int = 0  # in a row
    successes: int = 0  # in a row
    failing: list[str] = Field(default_factory=list)  # checks that fail, with their reasons
    is_alive: bool = False  # something in it answered in the last round
    is_standby: bool = False  # its PostgreSQL follows, and so may be promoted
    lag_seconds: float | None = None
    interval: float = 0.0  # seconds between two probes, as it is now


class Report(Recorded):
    """What a vantage point tells the group's monitor: on every change, and slowly in between.

    ``source`` keeps the loop inside a worker apart from the plain process of the same vantage point; ``generation``
    orders the lives of such a loop, ``serial`` its reports.
    """

    group: str
    vantage: str
    source: str  # worker or process
    generation: int
    serial: int
    beat: float  # seconds until the next report at the latest
    config_hash: str = ""
    owner: str | None = None  # as the ownership record said when this was seen; None while it was never read
    epoch: int = 0  # of that record; 0 for a group that was never claimed
    regions: dict[str, RegionReport] = Field(default_factory=dict)
    frozen_for: float | None = None  # the loop itself stood still for so many seconds: its streaks began anew
    watched_until: datetime | None = None  # the owner is probed at a shorter interval since a failover
    leaving: bool = False  # ends in order: its votes end with it


class ReplicaLag(Recorded):
    """One replica of one store, as its source, or the replica itself, knows it. LSNs as PostgreSQL writes them."""

    store: str  # postgres, redis or nats
    source: str  # region
    name: str  # application_name, address, or stream
    target: str | None = None  # region; None where the configuration names no such replica
    address: str | None = None
    connected: bool = True
    state: str = ""  # in the store's own words
    sent: str | None = None
    written: str | None = None
    flushed: str | None = None
    replayed: str | None = None
    lag_bytes: int | None = None  # between what the source has written and what the replica has replayed
    lag_seconds: float | None = None
    lag_entries: int | None = None  # messages of a stream that its mirror lacks
    limit: timedelta | None = None
    priority: int | None = None
    synchronous: str = ""
    slot: str | None = None
    slot_active: bool | None = None
    slot_state: str | None = None
    retained_bytes: int | None = None

    @property
    def is_late(self) -> bool:
        """Whether it is known to be further behind than its limit allows, or not to follow at all."""
        if not self.connected:
            return self.limit is not None  # one that the configuration counts on
        return self.limit is not None and self.lag_seconds is not None and self.lag_seconds > self.limit.total_seconds()
