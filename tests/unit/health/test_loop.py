"""The probe loop with pretended regions: what it tells, when it is frozen, when nobody can be told.

In virtual time, so that a busy machine cannot make a loop look frozen, and minutes cost nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from datetime import datetime, timedelta, tzinfo
from types import SimpleNamespace
from typing import Any, ParamSpec

import pytest

from recovery.domain.group import FailoverRule, GroupSnapshot, Objectives, RegionPlan
from recovery.domain.health import Finding, Part, ReplicaLag, Report, Sighting, Verdict
from recovery.domain.ownership import FenceProof, OwnershipRecord
from recovery.errors import Unreachable
from recovery.health import loop as probing
from recovery.health import outbox, pulse, watch
from recovery.health.loop import MonitorLoop, Surroundings
from recovery.health.quorum import Heard, kept
from recovery.health.watch import WatchedGroup
from recovery.ports.notify import Severity
from tests.fakes.guard import NOW, in_virtual_time
from tests.fakes.notifier import FakeNotifier
from tests.fakes.ownership import FakeOwnershipStore

INTERVAL = 0.1

Parameters = ParamSpec("Parameters")


def virtual() -> float:
    return asyncio.get_running_loop().time()


def wall_clock() -> datetime:
    return NOW + timedelta(seconds=virtual())


class VirtualDatetime(datetime):
    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
        return wall_clock()


@pytest.fixture(autouse=True)
def virtual_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (probing, watch):
        monkeypatch.setattr(module, "datetime", VirtualDatetime)
    monkeypatch.setattr(outbox, "time", SimpleNamespace(monotonic=virtual))


def in_no_time(test: Callable[Parameters, Coroutine[Any, Any, None]]) -> Callable[Parameters, None]:
    @functools.wraps(test)
    def run(*arguments: Parameters.args, **more: Parameters.kwargs) -> None:
        in_virtual_time(test(*arguments, **more))

    return run


class PretendedRegion:
    def __init__(self) -> None:
        self.answers = True
        self.takes = 0.0
        self.breaks = False
        self.parts: list[Part] = []
        self.in_flight = self.most_in_flight = 0

    async def look(self, part: Part) -> Sighting:
        self.parts.append(part)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            answers = self.answers
            await asyncio.sleep(self.takes)
            if self.breaks:
                raise ZeroDivisionError("a mistake in a probe")
        finally:
            self.in_flight -= 1
        return Sighting(findings=[Finding(check="postgres", passed=answers, detail="" if answers else "refused")])


@dataclass
class Told:
    """A sink that remembers."""

    reports: list[Report] = field(default_factory=list)
    is_silent: bool = False
    news: asyncio.Event = field(default_factory=asyncio.Event)

    async def send(self, report: Report) -> None:
        if self.is_silent:
            raise Unreachable("no answer")
        self.reports.append(report)
        self.news.set()

    async def until(self, condition: Callable[[Report], bool], seconds: float = 8.0) -> Report:
        async with asyncio.timeout(seconds):
            while True:
                for report in reversed(self.reports):
                    if condition(report):
                        return report
                self.news.clear()
                await self.news.wait()


class Counted:
    def __init__(self) -> None:
        self.frozen: list[float] = []

    def health_checked(self, region: str, healthy: bool) -> None: ...

    def probed(self, group: str, region: str, check: str, *, passed: bool, seconds: float) -> None: ...

    def region_judged(self, group: str, region: str, vantage: str, *, lost: bool | None) -> None: ...

    def replica_seen(self, group: str, replica: ReplicaLag) -> None: ...

    def loop_frozen(self, vantage: str, seconds: float) -> None:
        self.frozen.append(seconds)

    def monitor_silent(self, vantage: str, seconds: float) -> None: ...


class Rig:
    def __init__(self, **rule: Any) -> None:
        usual = {
            "interval": timedelta(seconds=INTERVAL), "timeout": timedelta(seconds=1), "vantage_points": ["outside"]
        }  # fmt: skip
        self.group = GroupSnapshot(
            name="shop",
            objectives=Objectives(tier="critical", rto=timedelta(minutes=15), rpo=timedelta(minutes=5)),
            home_region="region-a",
            regions=[RegionPlan(name=name, task_queue=name) for name in ("region-a", "region-b")],
            failover=FailoverRule(**{**usual, **rule}),
        )
        self.regions = {"region-a": PretendedRegion(), "region-b": PretendedRegion()}
        self.sink, self.ownership, self.notifier, self.counted = Told(), FakeOwnershipStore(), FakeNotifier(), Counted()
        self.skipped = 0.0

    def clock(self) -> float:
        return virtual() + self.skipped

    @contextlib.asynccontextmanager
    async def running(self, patience: float = 60.0, ordered_at: datetime | None = None) -> AsyncIterator[MonitorLoop]:
        loop = MonitorLoop(
            "outside",
            "process",
            [WatchedGroup(self.group, self.regions)],
            Surroundings(self.sink, self.ownership, self.counted, self.notifier, patience),
            ordered_at=ordered_at,
            clock=self.clock,
        )
        running = asyncio.create_task(loop.run())
        try:
            yield loop
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    async def owned_by(self, region: str, epoch: int, **changes: Any) -> None:
        found = await self.ownership.read("shop")
        record = OwnershipRecord(group="shop", region=region, epoch=epoch, changed_at=wall_clock(), **changes)
        await self.ownership.write(record, version=found[1] if found else None)


def owner_is(verdict: Verdict) -> Callable[[Report], bool]:
    return lambda report: report.owner is not None and report.regions[report.owner].verdict is verdict


@in_no_time
async def test_a_lost_owner_is_told_with_its_first_failed_probe_and_its_return_too() -> None:
    rig = Rig()
    async with rig.running():
        await rig.sink.until(owner_is(Verdict.HEALTHY))
        rig.regions["region-a"].answers = False
        before = wall_clock()
        report = await rig.sink.until(owner_is(Verdict.LOST))
        seen = report.regions["region-a"]
        assert seen.failing_since is not None and timedelta() <= seen.failing_since - before < timedelta(seconds=0.5)
        assert seen.failing == ["postgres: refused"] and not seen.is_alive
        assert report.regions["region-b"].verdict is Verdict.HEALTHY
        rig.regions["region-a"].answers = True
        await rig.sink.until(lambda later: later.serial > report.serial and owner_is(Verdict.HEALTHY)(later))
    assert rig.sink.reports[-1].leaving


@in_no_time
async def test_only_changes_are_told_and_slowly_that_it_lives() -> None:
    rig = Rig()
    async with rig.running():
        await rig.sink.until(lambda report: all(seen.verdict is Verdict.HEALTHY for seen in report.regions.values()))
        said = len(rig.sink.reports)
        await asyncio.sleep(1.5)  # fifteen probes of each region
        assert len(rig.sink.reports) == said <= 4


@in_no_time
async def test_a_loop_that_stood_still_says_so_and_starts_anew() -> None:
    rig = Rig()
    async with rig.running():
        rig.regions["region-a"].answers = False
        await rig.sink.until(owner_is(Verdict.LOST))
        rig.skipped += 30.0
        report = await rig.sink.until(lambda report: report.frozen_for is not None)
        assert report.frozen_for is not None and 29 < report.frozen_for < 32
        assert report.regions["region-a"].verdict is Verdict.UNKNOWN and report.regions["region-a"].failures <= 1
        assert len(rig.counted.frozen) == 1
        again = await rig.sink.until(lambda later: later.serial > report.serial and owner_is(Verdict.LOST)(later))
        assert again.frozen_for is None
        assert len(rig.counted.frozen) == 1


@in_no_time
async def test_probes_that_were_under_way_in_a_freeze_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where their ends are what a thawed loop meets first."""
    monkeypatch.setattr(pulse, "TICK", 3.0)
    rig = Rig()
    async with rig.running() as loop:
        await rig.sink.until(owner_is(Verdict.HEALTHY))
        region = rig.regions["region-a"]
        region.takes, region.answers = 0.4, False
        async with asyncio.timeout(5):
            while region.in_flight < 3:
                await asyncio.sleep(0.01)
        rig.skipped += 5.0
        region.answers = True
        await rig.sink.until(lambda report: report.frozen_for is not None)
        await asyncio.sleep(0.6)
        assert not [report for report in rig.sink.reports if owner_is(Verdict.LOST)(report)]
        assert loop.watches[0].owner_verdict is Verdict.HEALTHY


@in_no_time
async def test_a_stall_of_two_seconds_costs_what_was_under_way_and_not_the_streak() -> None:
    rig = Rig()
    async with rig.running() as loop:
        await rig.sink.until(owner_is(Verdict.HEALTHY))
        region = rig.regions["region-a"]
        region.answers = False
        await rig.sink.until(owner_is(Verdict.LOST))
        rig.skipped += 2.0
        await asyncio.sleep(0.5)
        assert loop.watches[0].owner_verdict is Verdict.LOST and rig.counted.frozen == []
        region.answers = True
        await rig.sink.until(lambda report: report.serial > 2 and owner_is(Verdict.HEALTHY)(report))
        region.takes, region.answers = 0.4, False
        async with asyncio.timeout(5):
            while region.in_flight < 3:
                await asyncio.sleep(0.01)
        failing = len([report for report in rig.sink.reports if owner_is(Verdict.LOST)(report)])
        rig.skipped += 2.0
        region.answers, region.takes = True, 0.0
        await asyncio.sleep(0.6)
        assert loop.watches[0].owner_verdict is Verdict.HEALTHY  # type: ignore[comparison-overlap]
        assert len([report for report in rig.sink.reports if owner_is(Verdict.LOST)(report)]) == failing


@in_no_time
async def test_a_slow_region_is_no_lost_one_and_probes_overlap_only_so_far() -> None:
    rig = Rig()
    rig.regions["region-a"].takes = 0.9
    async with rig.running():
        await rig.sink.until(owner_is(Verdict.HEALTHY))
        await asyncio.sleep(1.5)
        assert not [report for report in rig.sink.reports if owner_is(Verdict.LOST)(report)]
        assert 2 <= rig.regions["region-a"].most_in_flight <= 6


@in_no_time
async def test_a_mistake_in_a_probe_is_no_outage_and_ends_nothing() -> None:
    rig = Rig()
    async with rig.running() as loop:
        await rig.sink.until(owner_is(Verdict.HEALTHY))
        rig.regions["region-a"].breaks = True
        blind = await rig.sink.until(owner_is(Verdict.UNKNOWN))  # whoever cannot look must not go on voting
        await asyncio.sleep(0.6)
        assert loop.watches[0].owner_verdict is Verdict.UNKNOWN
        assert not [report for report in rig.sink.reports if owner_is(Verdict.LOST)(report)]
        rig.regions["region-a"].breaks, rig.regions["region-a"].answers = False, False
        await rig.sink.until(lambda report: report.serial > blind.serial and owner_is(Verdict.LOST)(report))


@in_no_time
async def test_a_new_owner_is_judged_anew_and_more_often_for_a_while() -> None:
    rig = Rig(interval=timedelta(seconds=5), watch_for=timedelta(seconds=3))
    await rig.owned_by("region-a", 1)
    async with rig.running() as loop:
        await rig.sink.until(lambda report: report.epoch == 1)
        watch = loop.watches[0]
        assert watch.interval("region-a") == 5.0
        await rig.owned_by("region-b", 2)
        report = await rig.sink.until(lambda report: report.epoch == 2)
        assert report.owner == "region-b" and report.watched_until is not None
        assert watch.interval("region-b") == 1.0 and watch.interval("region-a") == 5.0
        assert report.regions["region-b"].verdict is Verdict.UNKNOWN
        await asyncio.sleep(3.1)
        assert watch.interval("region-b") == 5.0


@in_no_time
async def test_a_loop_that_begins_after_a_failover_watches_its_new_owner_too() -> None:
    rig = Rig(interval=timedelta(seconds=5))
    fence = FenceProof(epoch=1, region="region-a", how="lease-broken", by="region-b", at=wall_clock(), run="1")
    await rig.owned_by("region-b", 2, fence=fence)
    async with rig.running():
        report = await rig.sink.until(lambda report: report.epoch == 2)
        assert report.watched_until is not None and report.regions["region-b"].interval == 1.0


@in_no_time
async def test_nobody_can_be_told_people_are_and_nothing_else_happens() -> None:
    rig = Rig()
    async with rig.running(patience=1.0):
        await rig.sink.until(owner_is(Verdict.HEALTHY))
        rig.sink.is_silent = True
        rig.regions["region-a"].answers = False
        async with asyncio.timeout(10):
            while len(rig.notifier.sent) < 2:
                await asyncio.sleep(0.05)
        await asyncio.sleep(1.5)
        severities = {sent.severity for sent in rig.notifier.sent}
        assert len(rig.notifier.sent) == 2 and severities == {Severity.CRITICAL, Severity.WARNING}
        assert "region-a is lost as outside sees it" in rig.notifier.sent[0].title
        said = len(rig.sink.reports)
        rig.sink.is_silent = False
        report = await rig.sink.until(owner_is(Verdict.LOST))
        assert len(rig.sink.reports) == said + 1, "the latest state, and no queue of old ones"
        assert report.serial > said
        async with asyncio.timeout(5):
            while len(rig.notifier.sent) < 3:
                await asyncio.sleep(0.05)
        assert rig.notifier.sent[-1].severity is Severity.INFO


@in_no_time
async def test_while_the_witness_is_silent_nothing_is_voted_on() -> None:
    rig = Rig()

    async def silent(group: str) -> None:
        raise Unreachable("the witness does not answer")

    rig.ownership.read = silent  # type: ignore[method-assign]
    async with rig.running():
        await asyncio.sleep(0.7)
        assert rig.sink.reports == [] and rig.regions["region-a"].parts == []


@in_no_time
async def test_a_life_that_was_given_up_and_begins_last_does_not_speak_for_the_loop() -> None:
    """A worker thaws: the attempt that Temporal gave up begins after the one that replaced it, and is ended at once."""
    rig = Rig()
    now = wall_clock()
    async with rig.running(ordered_at=now):
        await rig.sink.until(owner_is(Verdict.HEALTHY))
        async with rig.running(ordered_at=now - timedelta(seconds=12)):
            await rig.sink.until(lambda report: report.generation < rig.sink.reports[0].generation)
        said = len(rig.sink.reports)
        await rig.sink.until(lambda report: rig.sink.reports.index(report) >= said)
        heard: dict[str, dict[str, Heard]] = {}
        for report in rig.sink.reports:
            heard = kept(heard, report, now)
    assert any(report.leaving for report in rig.sink.reports)
    assert not heard["outside"]["process"].report.leaving
