"""A worker, and Temporal, killed at every step of a failover on real stores; and calls that are paused past the ttl.

`make test` lets one failover meet several of them, ``-m chaos`` takes each by itself, and kills workers at the steps of
other plans that move data or ownership.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import Any

import pytest

from lab.state import GUARD, OUTSIDE, WORKER
from recovery.domain.report import RunReport, RunState
from tests.integration.armed_site import Arms
from tests.integration.guarded_reset import restart_what_ended, wait_for_roles
from tests.integration.guarded_site import GuardedSite
from tests.integration.guarded_verdicts import assert_stated, survived
from workflows.plans import PLANS
from workflows.plans.failover import FAILOVER
from workflows.steps import Plan, Step, Where

NOT_HERE = {"confirm-fence", "route-clients", "drain-connections"}
"""There are guards, and no poolers; and the worker of the lost region is gone already."""
STEPS = [step for step in FAILOVER.steps() if step.name not in NOT_HERE]
HANDED_OVER = ("fence-primary", "promote-postgres", "promote-redis", "promote-streams", "switch-dns")
TAKEN_BACK = ("fence-target", "promote-source", "return-records")
REPROTECTED = ("save-divergence", "rejoin-database", "start-following")
Strike = tuple[str, str, str]
TAKEN: tuple[Strike, ...] = (
    ("worker", "fence-primary", "before"),
    ("temporal", "promote-postgres", "before"),
    ("worker", "promote-postgres", "after"),
    ("temporal", "switch-dns", "after"),
)
"""In `make test` one failover meets all of these."""
PAUSES = {
    "permit postgres": 2,  # the guard asks itself before it starts the server, and again on the open connection
    "permit redis": 2,
    "permit nats": 1,
}

HELD_UP = {
    "renewal": ("source", GUARD, "write lease of {source}"),
    "break": ("target", GUARD, "write lease of {source}"),
    "request": ("target", GUARD, "ask for fence"),
    "demotion": ("source", GUARD, "demote postgres"),
    "confirmation": ("source", GUARD, "confirm demotion"),
    "proof": ("target", GUARD, "prove fence"),
    "names": (OUTSIDE, WORKER, "change names"),
}
"""Calls that change something, between their check and their effect; beside those of ``PAUSES``."""


def _cases() -> list[Any]:
    single = itertools.product(("worker", "temporal"), (step.name for step in STEPS), ("before", "after"))
    return [
        pytest.param(TAKEN, id="at several steps"),
        *(pytest.param((case,), marks=pytest.mark.chaos, id="-".join(case)) for case in single),
    ]


def _place_of(site: GuardedSite, step: Step) -> str:
    return site.other if step.where is Where.TARGET else OUTSIDE


@pytest.mark.parametrize("strikes", _cases())
async def test_killed_at_steps_of_the_failover(guarded: GuardedSite, strikes: tuple[Strike, ...]) -> None:
    armed = [_arm(guarded, *strikes[0])]
    killed = await guarded.kill(guarded.active)
    for number, (what, _, _) in enumerate(strikes):
        worker = armed[number]
        await worker.struck()
        if number + 1 < len(strikes):
            armed.append(_arm(guarded, *strikes[number + 1]))  # before anything goes on
        if what == "worker":
            await worker.restart()
        else:
            await guarded.kill("temporal")
            await guarded.lab.restart("temporal")
            worker.release()
    await guarded.service_back(killed, 90)
    await survived(guarded, await guarded.failover(90), killed)


@pytest.mark.chaos
@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize("name", HANDED_OVER)
async def test_a_switchover_survives_its_worker(guarded: GuardedSite, name: str, side: str) -> None:
    target, began = guarded.other, time.time()
    report = await _with_a_loss(guarded, "Switchover", name, side, approve=True)
    assert report.state is RunState.COMPLETED and not report.returned, report.error
    await _moved_to(guarded, target, began)


@pytest.mark.chaos
@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize("name", TAKEN_BACK)
async def test_a_switchover_that_is_taken_back_survives_its_worker(guarded: GuardedSite, name: str, side: str) -> None:
    source, began = guarded.active, time.time()
    await guarded.kill(guarded.other, "app")
    report = await _with_a_loss(guarded, "Switchover", name, side, approve=True)
    assert report.state is RunState.COMPLETED and report.returned, report.error
    await _moved_to(guarded, source, began)


@pytest.mark.chaos
@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize("name", REPROTECTED)
async def test_a_reprotect_survives_its_worker(guarded: GuardedSite, name: str, side: str) -> None:
    former = guarded.active
    killed = await guarded.kill(former)
    await survived(guarded, await guarded.failover(), killed)
    await restart_what_ended(guarded)
    await wait_for_roles(guarded, former)
    report = await _with_a_loss(guarded, "Reprotect", name, side, region=former)
    assert report.state is RunState.COMPLETED, report.error
    assert "postgres" in {each.store for each in report.divergences}, "what only it held is saved"
    await guarded.eventually(lambda: guarded.follows(former), 60, f"{former} does not follow")
    guarded.never_two_writers()


async def _with_a_loss(site: GuardedSite, plan: str, name: str, side: str, **request: Any) -> RunReport:
    """The plan, whose worker is killed at this step and started again."""
    worker = _arm(site, "worker", name, side, PLANS[plan])
    handle = await site.start(plan, **request)
    await worker.struck()
    await worker.restart()
    return await site.ended(handle)


async def _moved_to(site: GuardedSite, region: str, began: float) -> None:
    await site.became_active(region)
    await site.service_back(time.time())
    site.never_two_writers()
    assert await site.lost_since(began) == []


def _arm(site: GuardedSite, what: str, name: str, side: str, plan: Plan = FAILOVER) -> Arms:
    worker = Arms(site, _place_of(site, next(step for step in plan.steps() if step.name == name)), WORKER)
    worker.arm(f"activity {name}", side=side, action="kill" if what == "worker" else "hold")
    return worker


async def test_a_failover_whose_guard_and_worker_stand_still_past_the_ttl_makes_no_second_writer(
    guarded: GuardedSite,
) -> None:
    """Each of the pauses below, one after the other: at a record, at a promotion, at a step that is no guard's."""
    source, target = guarded.active, guarded.other
    guard, worker = Arms(guarded, target, GUARD), Arms(guarded, OUTSIDE, WORKER)
    guard.arm("write record", action="freeze", epoch=(await guarded.record()).epoch + 1)
    worker.arm("activity switch-dns", action="freeze")
    killed = await guarded.kill(source)
    await guard.struck()
    await asyncio.sleep(1.5 * guarded.times.ttl)
    guard.arm("permit postgres", side="after", number=PAUSES["permit postgres"], action="freeze")
    await guard.thaw()
    for paused in (guard, worker):
        await paused.struck()
        await asyncio.sleep(1.5 * guarded.times.ttl)
        await paused.thaw()
    await guarded.service_back(killed, 90)
    await survived(guarded, await guarded.failover(90), killed)


@pytest.mark.chaos
@pytest.mark.parametrize("at", PAUSES)
async def test_a_promotion_that_is_paused_past_the_ttl_makes_no_second_writer(guarded: GuardedSite, at: str) -> None:
    """The whole guard stands still between the permission and the act; its companion ends what it may not keep."""
    source, target = guarded.active, guarded.other
    guard = Arms(guarded, target, GUARD)
    guard.arm(at, side="after", number=PAUSES[at], action="freeze")
    killed = await guarded.kill(source)
    await guard.struck()
    await asyncio.sleep(1.5 * guarded.times.ttl)
    await guard.thaw()
    await guarded.service_back(killed, 90)
    await survived(guarded, await guarded.failover(90), killed)


@pytest.mark.chaos
@pytest.mark.parametrize("side", ["before", "after"])
async def test_a_record_that_is_written_past_the_ttl_makes_no_second_writer(guarded: GuardedSite, side: str) -> None:
    """The guard that takes the group over stands still before or after its conditional write."""
    source, target = guarded.active, guarded.other
    guard = Arms(guarded, target, GUARD)
    guard.arm("write record", side=side, action="freeze", epoch=(await guarded.record()).epoch + 1)
    killed = await guarded.kill(source)
    await guard.struck()
    await asyncio.sleep(1.5 * guarded.times.ttl)
    await guard.thaw()
    await guarded.service_back(killed, 90)
    await survived(guarded, await guarded.failover(90), killed)


@pytest.mark.chaos
@pytest.mark.parametrize("name", ["switch-dns", "record promote-postgres", "promote-postgres", "repoint-standbys"])
async def test_a_worker_that_stands_still_past_the_ttl_makes_no_second_writer(guarded: GuardedSite, name: str) -> None:
    """Between the engine's question to the record and the step's effect."""
    source = guarded.active
    step = next(step for step in STEPS if name.endswith(step.name))
    worker = Arms(guarded, OUTSIDE if name.startswith("record") else _place_of(guarded, step), WORKER)
    worker.arm(f"activity {name}", action="freeze")
    killed = await guarded.kill(source)
    await worker.struck()
    await asyncio.sleep(1.5 * guarded.times.ttl)
    await worker.thaw()
    await guarded.service_back(killed, 90)
    await survived(guarded, await guarded.failover(90), killed)


@pytest.mark.chaos  # tests/model/test_pauses.py has the guards' calls in virtual time
@pytest.mark.parametrize("call", HELD_UP)
async def test_a_call_that_is_held_up_past_the_ttl_makes_no_second_writer(guarded: GuardedSite, call: str) -> None:
    """In a failover that somebody asks for while the source lives; but its lease is broken when it is dead alone."""
    regions = {"source": guarded.active, "target": guarded.other}
    place, service, at = HELD_UP[call]
    process = Arms(guarded, regions.get(place, place), service)
    process.arm(at.format(**regions), action="freeze")
    if call == "break":
        await guarded.kill(guarded.active)
    else:
        await guarded.start_or_join("Failover", region=guarded.other, approve=True)
    await process.struck()
    await asyncio.sleep(1.5 * guarded.times.ttl)
    await process.thaw()
    await guarded.service_back(time.time(), 90)
    await guarded.settled()
    guarded.never_two_writers()
    await assert_stated(guarded, await guarded.failovers())
