"""A failover within a region: a local replica is a region of the same site, with a guard and a lease of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
from temporalio.testing import ActivityEnvironment

from activities.choosing import ChoosingSteps
from activities.looking import Look
from recovery.config import Config
from recovery.domain.plan import Facts, PlanContext, PlanRequest, StepOutcome
from tests.fakes.handover import FakeHandover
from tests.integration.guard_rig import GROUP, A, B, GuardedLab, guarded_lab

NEAR = "region-a2"


@pytest.fixture
async def guards(tmp_path: Path) -> AsyncIterator[GuardedLab]:
    regions = (A, NEAR, B)
    async with guarded_lab(tmp_path, regions=regions, start=regions, sites={NEAR: A}) as guards:
        await guards.steady()
        yield guards


async def lost(guards: GuardedLab, region: str) -> None:
    await guards.end_guard(region)
    await guards.lab.kill(region, "postgres")


async def chosen(guards: GuardedLab) -> StepOutcome:
    """What the step of a plan would choose, by what the guards say now."""
    group = Config.load(guards.config_file(B)).snapshot(GROUP)
    look = Look(guards.client, FakeHandover(), guards.witness, cast(Any, None))
    context = PlanContext(
        plan="Failover", run_id="run-1", workflow_id="recovery/shop", step="choose-target",
        request=PlanRequest(group=GROUP), facts=Facts(group=group, source_region=A), started_at=datetime.now(UTC),
    )  # fmt: skip
    return cast(StepOutcome, await ActivityEnvironment().run(ChoosingSteps(look).choose_target, context))


async def test_a_lost_host_leaves_the_group_in_its_region(guards: GuardedLab) -> None:
    assert await guards.writes(A, "before")

    async def everywhere() -> bool:
        return all([await guards.values(region) == {"before"} for region in (NEAR, B)])

    await guards.until("both standbys have it", everywhere)
    await lost(guards, A)
    found = {each.region: each for each in (await chosen(guards)).facts.candidates or []}
    assert found[NEAR].is_local and not found[NEAR].rejected, found
    assert found[B].rejected == f"{NEAR} has the higher priority"
    order = await guards.claim("run-1", NEAR)
    await guards.client.fence(order)
    await guards.client.promote(order)
    record = await guards.record()
    assert (record.region, record.epoch) == (NEAR, order.epoch + 1)
    assert await guards.writes(NEAR, "after") and not await guards.writes(B) and not await guards.writes(A)
    moved = order.model_copy(update={"epoch": record.epoch, "source": NEAR, "target": NEAR})
    await guards.client.follow(B, moved)

    async def follows() -> bool:
        return await guards.values(B) == {"before", "after"}

    await guards.until("the other region follows the local replica", follows)


async def test_a_lost_site_is_left(guards: GuardedLab) -> None:
    await lost(guards, A)
    await lost(guards, NEAR)
    outcome = await chosen(guards)
    assert outcome.facts.target_region == B
    reasons = {each.region: each.rejected for each in outcome.facts.candidates or []}
    assert "does not answer" in reasons[NEAR]


async def taken_over(guards: GuardedLab, region: str) -> None:
    """A whole run of a failover from A, which is lost, as far as guards are asked."""
    order = await guards.claim("run-1", region)
    await guards.client.fence(order)
    await guards.client.promote(order)
    await guards.free()


async def test_a_standby_that_could_not_be_told_follows_the_new_owner_by_itself(guards: GuardedLab) -> None:
    """Its guard was dead while the other one took over. One that received what the new owner never had does not."""
    assert await guards.writes(A, "before")
    await guards.until("B has it", lambda: has(guards, B, {"before"}))
    await guards.end_guard(B)
    await lost(guards, A)
    await taken_over(guards, NEAR)
    assert await guards.writes(NEAR, "after")
    await guards.start_guard(B)
    await guards.until("B follows the new owner", lambda: has(guards, B, {"before", "after"}))


@pytest.mark.chaos  # tests/unit/guard/test_left_behind.py has what its guard does
async def test_a_standby_that_is_ahead_of_the_new_owner_waits_for_people(guards: GuardedLab) -> None:
    await guards.lab.partition(A, NEAR)
    assert await guards.writes(A, "ahead")
    await guards.until("B has it", lambda: has(guards, B, {"ahead"}))
    await guards.end_guard(B)
    await lost(guards, A)
    await taken_over(guards, NEAR)
    assert await guards.writes(NEAR, "after")
    await guards.start_guard(B)

    async def warned() -> bool:
        found = (await guards.status(B)).groups[0].warnings
        return any("drctl reprotect" in words for words in found)

    await guards.until("B's guard says that its data diverged", warned)
    assert await guards.values(B) == {"ahead"}


async def has(guards: GuardedLab, region: str, values: set[str]) -> bool:
    return await guards.values(region) == values
