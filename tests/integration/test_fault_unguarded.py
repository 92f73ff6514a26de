"""A group without guards on real servers: only a person's word is a fence, and until it is given nothing moves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from recovery.domain.ownership import Strength
from recovery.domain.report import RunReport, RunState, StepState
from tests.integration.guarded_site import GuardedSite
from tests.integration.guarded_start import guarded_site
from tests.integration.test_fault_matrix import TTLS
from workers import operations
from workflows.control import OperatorCommand

ANA = OperatorCommand(actor="ana", reason="I looked: it is off, and its disk is pulled", step="confirm-fence")
READY = 60.0


@pytest_asyncio.fixture(scope="module")
async def unguarded() -> AsyncIterator[GuardedSite]:
    async with guarded_site(guards=False) as site:

        async def watched() -> bool:
            view = await site.health()
            return view is not None and view.votes is not None and view.policy == "manual"

        await site.eventually(watched, READY, "the monitors saw nothing")
        yield site


async def plans(site: GuardedSite) -> list[str]:
    running = [run.id async for run in site.client.list_workflows("")]
    return [name for name in running if name.startswith("recovery/")]


@pytest.mark.chaos
@pytest.mark.parametrize("ttls", TTLS)
async def test_a_primary_that_was_frozen_and_thawed_goes_on(unguarded: GuardedSite, ttls: float) -> None:
    site = unguarded
    site.since = time.time()
    await site.freeze(site.active, "postgres")
    await asyncio.sleep(ttls * site.times.ttl)
    thawed = await site.thaw(site.active, "postgres")
    await site.service_back(thawed)
    assert await plans(site) == [], "the configuration says automatic, and nothing can prove a fence"
    assert await site.role(site.other) == "standby"
    assert not site.verdict().two_writers
    assert await site.lost_since(site.since) == []


@pytest.mark.chaos
async def test_a_person_confirms_that_the_old_primary_is_off(unguarded: GuardedSite) -> None:
    """Last: nobody takes the lost region back."""
    site, source, target = unguarded, unguarded.active, unguarded.other
    site.since = time.time()
    killed = await site.kill(source, "postgres")
    await asyncio.sleep(3 * site.times.ttl)
    assert await plans(site) == []
    handle = await site.start("Failover", approve=True, accept_data_loss=True)

    async def waits() -> bool:
        report = await operations.report(handle)
        assert report.ended_at is None, report
        return _state(report, "confirm-fence") is StepState.WAITING

    await site.eventually(waits, 40, "nobody was asked whether the old primary is off")
    await asyncio.sleep(site.times.ttl)
    assert await site.role(target) == "standby", "an approval of the failover is no proof of the fence"
    await handle.execute_update("approve", ANA)
    report = await site.ended(handle)
    assert report.state is RunState.COMPLETED, f"{report.error}\n{site.logs()}"
    assert report.fence is not None
    assert (report.fence.how, report.fence.by) == ("person", "ana")
    assert report.fence.strengths == {"postgres": Strength.MANUAL}
    site.active = target
    await site.service_back(killed)
    assert await site.role(target) == "primary"
    assert not site.verdict().two_writers


def _state(report: RunReport, name: str) -> StepState:
    return next(step.state for step in report.steps if step.name == name)
