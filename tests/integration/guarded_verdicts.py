"""What holds after every fault: one primary, one writer at any time, and a report that tells the counted truth."""

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


async def assert_honest(site: GuardedSite, report: RunReport, lost_at: float) -> None:
    """The achieved RPO is the counted one within a probe.

    The checker also writes inside a region that nobody else reaches, until its lease ends: a report cannot know of
    these, and they are bounded by that end.
    """
    lost = await site.lost_since(site.since)
    known = [moment for moment in lost if moment <= lost_at]
    counted = lost_at - min(known) if known else 0.0
    assert report.achieved.rpo is not None, report.warnings
    reported = report.achieved.rpo.total_seconds()
    assert abs(reported - counted) <= PROBE, f"reported {reported:.2f} s, counted {counted:.2f} s: {len(known)} lost"
    assert max(lost, default=lost_at) <= lost_at + site.times.ttl + DEMOTION
