"""Switchover, reprotect and failback of real servers under guard, under load: nothing acknowledged is ever lost."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta

import pytest
from temporalio.client import WorkflowFailureError

from recovery.domain.report import RunReport, RunState, StepState
from tests.integration.asked import value_of
from tests.integration.guarded_site import GuardedSite
from workers import operations
from workflows.control import OperatorCommand

ANA = OperatorCommand(actor="ana", reason="a test")
PAUSE = timedelta(seconds=15)  # on a machine that does much else; what it takes on an idle one is the benchmark's


def states(report: RunReport) -> dict[str, StepState]:
    return {step.name: step.state for step in report.steps}


async def until_step(site: GuardedSite, handle: operations.Handle, name: str) -> None:
    async def begun() -> bool:
        return states(await operations.report(handle))[name] is not StepState.PENDING

    await site.eventually(begun, 30, f"{name} did not begin")


async def assert_nothing_lost(site: GuardedSite, since: float) -> None:
    site.never_two_writers()
    assert await site.lost_since(since) == []


async def test_a_switchover_loses_nothing(guarded: GuardedSite) -> None:
    source, target, began = guarded.active, guarded.other, time.time()
    report = await guarded.run("Switchover", approve=True)
    assert report.state is RunState.COMPLETED, report.error
    assert (report.source_region, report.target_region, report.returned) == (source, target, False)
    assert {loss.store for loss in report.losses} == {"postgres", "redis", "nats"}
    assert all(loss.proven_zero and loss.source_position for loss in report.losses)
    assert report.fence is not None and report.fence.how == "demotion-confirmed"
    assert report.achieved.rpo == timedelta() and report.write_pause is not None and report.write_pause < PAUSE
    await guarded.became_active(target)
    await guarded.service_back(time.time())
    await assert_nothing_lost(guarded, began)
    print(f"write pause {report.write_pause.total_seconds():.2f} s")
    record = await guarded.record()
    assert record.lineage and record.run is None and record.fencing is None
    assert states(report)["repoint-standbys"] is StepState.DONE, "the old side follows"
    assert states(report)["drop-old-slots"] is StepState.DONE
    kept = "SELECT count(*) FROM pg_replication_slots"
    assert await value_of(guarded.lab.postgres(source).dsn(), kept) == 0, "nobody moves them on, and they keep WAL"
    assert await value_of(guarded.lab.postgres(target).dsn(), f"{kept} WHERE active AND NOT temporary") == 1


async def test_a_switchover_that_is_aborted_before_its_pivot_is_undone_and_writes_go_on(guarded: GuardedSite) -> None:
    source, began = guarded.active, time.time()
    handle = await guarded.start("Switchover", approve=True)
    await until_step(guarded, handle, "fence-primary")
    await handle.execute_update("abort", ANA)
    report = await guarded.ended(handle)
    assert report.state is RunState.ROLLED_BACK, report.error
    assert report.undo_order[0] == "fence-primary" and states(report)["promote-postgres"] is StepState.PENDING
    await guarded.became_active(source)
    await guarded.service_back(time.time())
    await assert_nothing_lost(guarded, began)


async def test_a_switchover_whose_target_is_not_well_is_taken_back(guarded: GuardedSite) -> None:
    source, target, began = guarded.active, guarded.other, time.time()
    await guarded.kill(target, "app")
    report = await guarded.run("Switchover", approve=True)
    assert report.state is RunState.COMPLETED and report.returned, report.error
    assert "taken back" in " ".join(report.warnings)
    await guarded.became_active(source)
    await guarded.service_back(time.time())
    await assert_nothing_lost(guarded, began)


async def test_a_frozen_primary_is_left_behind_by_an_operator_who_gives_up_on_order(guarded: GuardedSite) -> None:
    """It hangs in the middle of the switchover: the run is made ungraceful, and its lease ends."""
    source, target = guarded.active, guarded.other
    handle = await guarded.start("Switchover", approve=True)
    await until_step(guarded, handle, "wait-for-lag")
    frozen = await guarded.freeze(source)
    await handle.execute_update("ungraceful", ANA)
    report = await guarded.ended(handle)
    assert report.state is RunState.COMPLETED, report.error
    assert [action.action for action in report.actions if action.actor == "ana"] == ["ungraceful"]
    await guarded.became_active(target)
    await guarded.thaw(source)
    await guarded.service_back(frozen)
    assert guarded.verdict().overlap_seconds <= guarded.times.ttl


async def test_home_again_after_a_failover(guarded: GuardedSite) -> None:
    home = guarded.installation.regions[0]
    if guarded.active != home:
        assert (await guarded.run("Switchover", approve=True)).state is RunState.COMPLETED
        await guarded.became_active(home)
        await guarded.reset()
    killed = await guarded.kill(home)
    lost = (await guarded.failover()).losses
    assert lost, "what is known of the loss is in the report"
    await guarded.became_active(guarded.other)
    for server in guarded.lab.describe().servers:
        if server.region == home and server.state == "killed" and server.service not in ("postgres", "companion"):
            await guarded.lab.restart(home, server.service)
    planned = time.time()
    report = await guarded.run("Failback", approve=True)
    assert report.state is RunState.COMPLETED, report.error
    assert report.target_region == home and set(report.further_runs) == {"reprotect", "switchover"}
    await guarded.became_active(home)
    await guarded.service_back(time.time())
    guarded.never_two_writers()
    assert await guarded.lost_since(planned) == [], "what is planned loses nothing"
    unplanned = await guarded.lost_since(killed - guarded.times.lag_limit)
    assert [at for at in unplanned if at > killed + 1] == [], "and a failover only what had not come across"
    reprotect = await operations.latest(await operations.find(guarded.client, report.further_runs["reprotect"]))
    assert [each.store for each in reprotect.divergences] == ["postgres"]


async def test_two_plans_at_once_are_one(guarded: GuardedSite) -> None:
    first = await guarded.start("Switchover", approve=True)
    with pytest.raises(Exception, match="is being changed by Switchover"):
        await guarded.start("Failover")
    second = await guarded.start_or_join("Switchover", approve=True)
    assert second.id == first.id
    assert (await guarded.ended(first)).state is RunState.COMPLETED


async def test_nothing_is_asked_of_a_run_that_has_ended(guarded: GuardedSite) -> None:
    handle = await guarded.start("Switchover", region=guarded.active)
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    await asyncio.sleep(0)
    report = await operations.latest(handle)
    assert report.state is RunState.ROLLED_BACK and report.failed_step == "choose-target"
