"""The synchronous strength on a whole site: commits wait for the other region's standby, and nothing is ever lost.

What was frozen and woken is acknowledged by nobody: there is no window, not even after a whole host stood still.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import pytest
import pytest_asyncio

from recovery.domain.ownership import Strength
from recovery.domain.report import RunReport
from tests.integration.guarded_site import GuardedSite
from tests.integration.guarded_start import TIMES, guarded_site
from tests.integration.test_fault_matrix import FROZEN, TTLS

IN_MAKE_TEST = {("the whole host", 2.0)}


@pytest_asyncio.fixture(scope="module")
async def running_guarded() -> AsyncIterator[GuardedSite]:
    async with guarded_site(replace(TIMES, synchronous=True)) as site:
        yield site


@pytest_asyncio.fixture
async def claimed(guarded: GuardedSite) -> GuardedSite:
    """The record says that commits wait for the other region's standby, and so they do."""

    async def so() -> bool:
        record = await guarded.record()
        return record.acknowledging is not None and record.fencing is None

    await guarded.eventually(so, 40, "the record never claimed the acknowledging set")
    return guarded


async def lossless(guarded: GuardedSite, reports: list[RunReport]) -> None:
    verdict = guarded.never_two_writers()
    assert verdict.overlap_seconds == 0.0
    assert await guarded.lost_since(guarded.since) == []
    for report in reports:
        assert report.fence is not None and report.fence.zero_loss, "the record proves it"
        assert report.fence.strengths["postgres"] is Strength.SYNCHRONOUS
        assert report.achieved.rpo == timedelta(), report.achieved


async def test_a_lost_standby_holds_commits_back_and_a_killed_region_loses_nothing(claimed: GuardedSite) -> None:
    """The configuration says wait: nothing is acknowledged that the standby does not have."""
    standby = claimed.other
    frozen = await claimed.freeze(standby, "postgres")
    await asyncio.sleep(2)
    late = [write for write in claimed.writers.accepted() if write.began > frozen + 0.5]
    assert late == [], "acknowledged without the standby"
    thawed = await claimed.thaw(standby, "postgres")
    await claimed.service_back(thawed)
    await claimed.settled()
    await lossless(claimed, await claimed.failovers())
    source = claimed.active
    killed = await claimed.kill(source)
    await claimed.service_back(killed)
    report = await claimed.failover()
    await claimed.became_active(report.target_region or "")
    assert report.source_region == source
    await lossless(claimed, [report])


@pytest.mark.parametrize(
    ("what", "ttls"),
    [
        pytest.param(what, ttls, marks=[] if (what, ttls) in IN_MAKE_TEST else [pytest.mark.chaos])
        for what, ttls in itertools.product(FROZEN, TTLS)
    ],
)
async def test_what_was_frozen_and_thawed_never_acknowledges_beside_another(
    claimed: GuardedSite, what: str, ttls: float
) -> None:
    await claimed.frozen_for(ttls, claimed.active, *FROZEN[what])
    await lossless(claimed, await claimed.failovers())
