"""The manual strength on a whole site: nothing moves by itself while a store has no fence but a person's word.

The configuration says ``automatic``. But the line that lets Redis start at rest stands in a file that its configuration
includes, so no guard can tell how it starts (it does start at rest, so that what a test does to it harms nothing).
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from lab import Lab
from recovery.adapters.redis.configured import LINE
from recovery.domain.ownership import Strength
from tests.integration.armed_site import ArmedInstallation
from tests.integration.guarded_site import GuardedSite
from tests.integration.guarded_start import guarded_site
from tests.integration.guarded_verdicts import survived, unharmed
from tests.integration.test_fault_matrix import FROZEN, TTLS
from workflows.control import OperatorCommand
from workflows.health_state import HealthView

KNOWN = 90.0  # seconds until the monitor, which asks each minute, knows what the guards know
ANA = OperatorCommand(actor="ana", reason="I looked: its hosts are off")


@pytest_asyncio.fixture(scope="module")
async def running_guarded() -> AsyncIterator[GuardedSite]:
    async def prepare(lab: Lab, installation: ArmedInstallation) -> None:
        for region in lab.describe().regions:
            configuration = lab.folder / region / "redis.conf"
            at_rest = configuration.with_name("redis-at-rest.conf")
            at_rest.write_text(f"{LINE}\n")
            text = configuration.read_text()
            assert LINE in text
            configuration.write_text(text.replace(LINE, f"include {at_rest}"))

    async with guarded_site(prepare=prepare) as site:
        yield site


@pytest_asyncio.fixture
async def kept_by_people(guarded: GuardedSite) -> GuardedSite:
    """The monitor knows that a store has no fence."""

    async def asks() -> bool:
        view = await guarded.health()
        return view is not None and view.policy == "approve" and "redis in" in view.policy_note

    await guarded.eventually(asks, KNOWN, "the monitor never learned that Redis has no fence")
    return guarded


async def question_of(site: GuardedSite) -> HealthView:
    async def asked() -> HealthView | None:
        view = await site.health()
        return view if view is not None and view.question is not None else None

    found: HealthView = await site.eventually(asked, 40, "nobody was asked")
    return found


@pytest.mark.chaos
@pytest.mark.parametrize(("what", "ttls"), list(itertools.product(FROZEN, TTLS)))
async def test_what_was_frozen_and_thawed_stays_where_it_was(
    kept_by_people: GuardedSite, what: str, ttls: float
) -> None:
    site, source = kept_by_people, kept_by_people.active
    await site.freeze(source, *FROZEN[what])
    await asyncio.sleep(ttls * site.times.ttl)
    thawed = await site.thaw(source, *FROZEN[what])
    await site.service_back(thawed, 60)
    await site.settled()
    assert site.active == source
    await unharmed(site)


@pytest.mark.chaos
async def test_a_region_that_is_lost_is_replaced_when_a_person_has_said_so(kept_by_people: GuardedSite) -> None:
    site, source = kept_by_people, kept_by_people.active
    killed = await site.kill(source)
    view = await question_of(site)
    assert view.question is not None and view.question.answer is None
    await site.no_plan(2 * site.times.ttl)
    assert [write for write in site.writers.accepted() if write.began > killed + 0.5] == [], "nobody serves"
    await site.client.get_workflow_handle("health/shop").execute_update("approve", ANA, result_type=str)
    report = await site.failover()
    assert report.fence is not None and report.fence.strengths["redis"] is Strength.MANUAL
    await survived(site, report, killed)
