"""What holds after every fault: one primary, one writer at any time, and reports that tell the counted truth."""

from __future__ import annotations

import time

from recovery.domain.report import RunReport, RunState
from tests.integration.guarded_site import GuardedSite

PROBE = 1.0  # seconds between two probes: how exact a report can be
DEMOTION = 1.5  # seconds from the end of a lease to the end of the last write


async def survived(site: GuardedSite, report: RunReport, lost_at: float) -> None:
    """An unplanned change of the region is over."""
    assert report.state is RunState.COMPLETED, f"{report.error}\n{site.logs()}"
    former, target = report.source_region, report.target_region
    assert former is not None and target is not None
    await site.became_active(target)
    await site.service_back(time.time())
    assert await site.role(former) != "primary"
    site.never_two_writers()
    await assert_honest(site, report, lost_at)


async def assert_honest(site: GuardedSite, report: RunReport, lost_at: float, *, woken_at: float = 0.0) -> None:
    """The achieved RPO is the counted truth within a probe.

    The checker also writes inside a region that nobody else reaches, until its lease ends: whoever watches cannot know
    of these, and so the report states two bounds. The truth must lie between them: from the first acknowledged write
    that is missing to the last one, or to the fault. The lower bound is the truth as it was seen at the fault, and no
    lost write is later than the proof of the fence says. ``woken_at``: when a host that was frozen went on; what it
    still accepted then is bounded by one ttl, and told when the region rejoins.
    """
    woken = (woken_at, woken_at + site.times.ttl + DEMOTION)
    every = await site.lost_since(site.since)
    lost = [moment for moment in every if not (woken_at and woken[0] <= moment <= woken[1])]
    known = [moment for moment in lost if moment <= lost_at]
    seen = lost_at - min(known) if known else 0.0
    counted = max(lost_at, *lost) - min(lost) if lost else 0.0
    achieved, fence = report.achieved, report.fence
    assert achieved.rpo is not None and fence is not None, report.warnings
    most = achieved.rpo.total_seconds()
    least = most if achieved.rpo_least is None else achieved.rpo_least.total_seconds()
    said = f"reported {least:.2f} to {most:.2f} s, counted {seen:.2f} to the fault, {counted:.2f} s: {len(lost)} lost"
    assert abs(least - seen) <= PROBE, said
    assert least - PROBE <= counted <= most + PROBE, said
    assert max(lost, default=0.0) <= max(lost_at, fence.last_write_by.timestamp()), f"{said}; {fence}"
    assert max(lost, default=lost_at) <= max(lost_at, woken_at) + site.times.ttl + DEMOTION


async def accounted(site: GuardedSite, lost_at: float, *, woken_at: float = 0.0) -> list[RunReport]:
    """After a fault that may be answered by a failover or not: what was lost is what the reports state, and no more.

    Returns the reports of the failovers since the last ``reset``, oldest first.
    """
    reports = await site.failovers()
    if not reports:
        assert await site.lost_since(site.since) == [], "nobody reports a loss"
    elif len(reports) == 1:
        await assert_honest(site, reports[0], lost_at, woken_at=woken_at)
    else:
        await assert_stated(site, reports)
    return reports


async def unharmed(site: GuardedSite) -> None:
    """A fault that nothing had to be done about: one writer, no failover, nothing lost."""
    site.never_two_writers()
    assert await accounted(site, time.time()) == []


async def assert_stated(site: GuardedSite, reports: list[RunReport]) -> None:
    """After several failovers: every loss lies in a time of which a report speaks, which its fence's proof ends."""
    windows = []
    for report in reports:
        assert report.achieved.rpo is not None and report.fence is not None, report
        ended = report.fence.last_write_by.timestamp()
        windows.append((ended - report.achieved.rpo.total_seconds() - PROBE, ended))
    unstated = [at for at in await site.lost_since(site.since) if not any(a <= at <= b for a, b in windows)]
    assert unstated == [], windows
