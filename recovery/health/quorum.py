"""What a group's vantage points agree on, and what follows from it. Pure: the workflow hands in its own time.

Only fresh reports vote, only under the epoch that is known, and only those of configured vantage points; a majority of
the *configured* ones decides, so that silence counts for the region.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from enum import StrEnum

from pydantic import Field

from recovery.domain.base import Recorded
from recovery.domain.group import GroupSnapshot
from recovery.domain.health import RegionReport, Report, Verdict

BEATS_TO_STALE = 3
SLACK = timedelta(seconds=1)
MOST_SOURCES = 8  # reports that are kept of one vantage point
MOST_STRANGERS = 16  # vantage points that are kept though no configuration names them
AUTOMATIC_NEEDS = 3  # vantage points
REMEMBERED = timedelta(minutes=10)
SETTLING = 2  # losses within that time that are followed at once; further ones have to last
LONGEST_SETTLING = timedelta(minutes=10)


class Heard(Recorded):
    """A report and when it arrived, by the workflow's clock."""

    report: Report
    at: datetime

    def is_fresh(self, now: datetime) -> bool:
        return now < self.stale_at

    @property
    def stale_at(self) -> datetime:
        return self.at + timedelta(seconds=self.report.beat) * BEATS_TO_STALE + SLACK


class Outage(Recorded):
    """The owner is lost, as a majority sees it."""

    region: str
    epoch: int
    began_at: datetime  # first failed probe of those that voted, as a majority saw it
    agreed_at: datetime
    voters: list[str]
    failing: list[str] = Field(default_factory=list)


class Vote(StrEnum):
    LOST = "lost"
    HEALTHY = "healthy"
    NONE = "none"  # unknown yet, stale, under another epoch, or never heard


class Ballot(Recorded):
    """One vantage point as it counts now, and why it does not where it does not."""

    vantage: str
    vote: Vote
    why: str = ""
    heard_at: datetime | None = None
    is_configured: bool = True
    regions: dict[str, RegionReport] = Field(default_factory=dict)
    frozen_for: float | None = None


class Votes(Recorded):
    """Everybody's ballot on the owner."""

    owner: str | None
    epoch: int
    needed: int  # votes for lost that decide
    ballots: list[Ballot]

    @property
    def lost(self) -> list[Ballot]:
        return [ballot for ballot in self.ballots if ballot.is_configured and ballot.vote is Vote.LOST]

    @property
    def agreed(self) -> bool:
        return self.needed > 0 and len(self.lost) >= self.needed


def majority(configured: int) -> int:
    """Of the configured vantage points; 0 where there are none, which never agree."""
    return configured // 2 + 1 if configured else 0


def kept(heard: dict[str, dict[str, Heard]], report: Report, now: datetime) -> dict[str, dict[str, Heard]]:
    """With the report put in its place. One that is older than what is known of its loop changes nothing."""
    sources = dict(heard.get(report.vantage, {}))
    known = sources.get(report.source)
    if known is not None and _order(known.report) >= _order(report):
        return heard
    sources[report.source] = Heard(report=report, at=now)
    if len(sources) > MOST_SOURCES:
        del sources[min(sources, key=lambda source: sources[source].at)]
    return {**heard, report.vantage: sources}


def pruned(heard: dict[str, dict[str, Heard]], configured: list[str]) -> dict[str, dict[str, Heard]]:
    """Without the oldest of those that no configuration names, where they are many."""
    strangers = sorted(
        (name for name in heard if name not in configured),
        key=lambda name: max(entry.at for entry in heard[name].values()),
    )
    dropped = set(strangers[: max(len(strangers) - MOST_STRANGERS, 0)])
    return {name: sources for name, sources in heard.items() if name not in dropped}


def newest_owner(heard: dict[str, dict[str, Heard]], known: tuple[str | None, int]) -> tuple[str | None, int]:
    """Owner and epoch of the highest epoch that anybody reported."""
    best = known
    for sources in heard.values():
        for entry in sources.values():
            report = entry.report
            if report.owner is not None and (best[0] is None or report.epoch > best[1]):
                best = report.owner, report.epoch
    return best


def count(
    heard: dict[str, dict[str, Heard]], configured: list[str], owner: str | None, epoch: int, now: datetime
) -> Votes:
    names = [*configured, *(name for name in sorted(heard) if name not in configured)]
    ballots = [
        _ballot(name, heard.get(name, {}), owner, epoch, now).model_copy(update={"is_configured": name in configured})
        for name in names
    ]
    return Votes(owner=owner, epoch=epoch, needed=majority(len(configured)), ballots=ballots)


def _ballot(name: str, sources: dict[str, Heard], owner: str | None, epoch: int, now: datetime) -> Ballot:
    """Where a vantage point has several loops, it says lost only when each of them that is fresh does."""
    if not sources:
        return Ballot(vantage=name, vote=Vote.NONE, why="never heard")
    newest = max(sources.values(), key=lambda entry: entry.at)
    fresh = [entry for entry in sources.values() if entry.is_fresh(now) and not entry.report.leaving]
    shown = max(fresh, key=lambda entry: entry.at) if fresh else newest
    ballot = Ballot(
        vantage=name, vote=Vote.NONE, heard_at=newest.at, regions=shown.report.regions,
        frozen_for=shown.report.frozen_for,
    )  # fmt: skip
    if not fresh:
        return ballot.model_copy(update={"why": "has left" if newest.report.leaving else "silent"})
    if owner is None:
        return ballot.model_copy(update={"why": "who owns the group is not known yet"})
    current = [entry.report for entry in fresh if (entry.report.owner, entry.report.epoch) == (owner, epoch)]
    if not current:
        return ballot.model_copy(update={"why": "has not heard of the present owner yet"})
    verdicts = {report.regions[owner].verdict for report in current if owner in report.regions}
    if verdicts == {Verdict.LOST}:
        return ballot.model_copy(update={"vote": Vote.LOST})
    if Verdict.HEALTHY in verdicts:
        return ballot.model_copy(update={"vote": Vote.HEALTHY})
    why = "stood still and looks anew" if shown.report.frozen_for else "has not seen enough yet"
    return ballot.model_copy(update={"why": why})


def outage_of(votes: Votes, now: datetime, apart: timedelta = timedelta()) -> Outage:
    """Of votes that agree.

    ``apart``: how far apart the first failed probes of one and the same loss may begin. A vantage point that was cut
    off from the owner before that saw no outage: the others reached it, and what they were answered counts as lost.
    """
    assert votes.owner is not None
    seen = [ballot.regions[votes.owner] for ballot in votes.lost]
    began = sorted(report.failing_since for report in seen if report.failing_since is not None)
    by_majority = began[min(votes.needed, len(began)) - 1] if began else now
    failing = list(dict.fromkeys(words for report in seen for words in report.failing))
    return Outage(
        region=votes.owner,
        epoch=votes.epoch,
        began_at=min((at for at in began if at >= by_majority - apart), default=now),
        agreed_at=now,
        voters=[ballot.vantage for ballot in votes.lost],
        failing=failing[:5],
    )


def settling(losses: list[datetime], group: GroupSnapshot, now: datetime) -> timedelta:
    """How long a loss has to last before anything follows, for a region that was lost and came back again and again.

    The first two within ten minutes are followed at once. Each further one doubles the wait.
    """
    recent = [at for at in losses if now - at < REMEMBERED]
    beyond = len(recent) - SETTLING
    if beyond <= 0:
        return timedelta()
    detection = group.failover.interval * group.failover.failure_threshold
    doubled: timedelta = max(detection, timedelta(seconds=15)) * 2 ** min(beyond, 10)
    return min(doubled, LONGEST_SETTLING)


def standbys(votes: Votes) -> list[str]:
    """Other regions in which a fresh vantage point sees a PostgreSQL that follows and may be promoted."""
    return _regions(votes, lambda report: report.is_standby)


def living(votes: Votes) -> list[str]:
    """Other regions in which anything answers, or that look themselves: somewhere to recover to."""
    names = set(_regions(votes, lambda report: report.is_alive))
    own = {ballot.vantage for ballot in votes.ballots if ballot.vote is not Vote.NONE}
    known = {region for ballot in votes.ballots for region in ballot.regions}
    return sorted(names | {name for name in own & known if name != votes.owner})


def _regions(votes: Votes, question: Callable[[RegionReport], bool]) -> list[str]:
    found = {
        name
        for ballot in votes.ballots
        if ballot.vote is not Vote.NONE
        for name, report in ballot.regions.items()
        if name != votes.owner and question(report)
    }
    return sorted(found)


def _order(report: Report) -> tuple[int, int]:
    return report.generation, report.serial
