"""The faults that a guarded installation must survive, each once, on real servers under load.

Of each: the final state of the real servers, the checker that writes to both regions all the time, and the report's
achieved RPO against the counted truth.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from recovery.domain.report import RunReport, RunState
from tests.integration.guarded_site import GuardedSite, guarded_site

PROBE = 1.0  # seconds between two probes: how exact a report can be
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[GuardedSite]:
    async with guarded_site() as site:
        yield site


@pytest_asyncio.fixture(loop_scope="module")
async def site(running: GuardedSite) -> AsyncIterator[GuardedSite]:
    await running.reset()
    yield running


async def survived(site: GuardedSite, report: RunReport, lost_at: float) -> None:
    """An unplanned change of the region is over: one primary, one writer at any time, an honest report."""
    assert report.state is RunState.COMPLETED, f"{report.error}\n{site.logs()}"
    former, target = report.source_region, report.target_region
    assert former is not None and target is not None
    await site.became_active(target)
    await site.service_back(time.time())
    assert await site.role(former) != "primary"
    site.never_two_writers()
    await assert_honest(site, report, lost_at)


async def assert_honest(site: GuardedSite, report: RunReport, lost_at: float) -> None:
    """The achieved RPO is the counted one within a probe, and nothing older was lost."""
    lost = await site.lost_since(site.since)
    counted = max(lost) - min(lost) if len(lost) > 1 else 0.0
    assert report.achieved.rpo is not None
    reported = report.achieved.rpo.total_seconds()
    assert abs(reported - counted) <= PROBE, f"reported {reported:.2f} s, counted {counted:.2f} s: {len(lost)} lost"
    assert all(moment >= lost_at - reported - PROBE for moment in lost)


async def test_a_killed_region_is_replaced_by_itself(site: GuardedSite) -> None:
    source, target = site.active, site.other
    killed = await site.kill(source)
    back = await site.service_back(killed)
    report = await site.failover()
    assert (report.source_region, report.target_region) == (source, target)
    print(f"service back after {back - killed:.1f} s; reported RTO {report.achieved.rto}, RPO {report.achieved.rpo}")
    await survived(site, report, killed)
    (pause,) = [pause for pause in site.pauses() if pause.begin <= killed <= pause.end]
    assert pause.before != pause.after, "the client went to the other region through the name"


async def test_a_region_whose_packets_are_dropped_is_replaced(site: GuardedSite) -> None:
    source = site.active
    cut = await site.isolate(source)
    back = await site.service_back(cut + 2.5)
    report = await site.failover()
    print(f"service back after {back - cut:.1f} s; reported RTO {report.achieved.rto}, RPO {report.achieved.rpo}")
    await survived(site, report, cut)
    await site.lab.heal()
    await site.no_plan(3)
    assert await site.role(source) != "primary"
    site.never_two_writers()
