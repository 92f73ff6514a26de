"""What the group's monitor does about a loss, on a real Temporal server: policy, fences, approval, cooldown."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import timedelta

import pytest
from temporalio.client import Client, WorkflowFailureError, WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError
from temporalio.testing import WorkflowEnvironment

from activities.monitoring import Monitoring, Started, StartOrder
from recovery.domain.guarding import GuardStatus, StoreRole
from recovery.domain.ownership import Strength
from recovery.domain.search import SearchRule
from recovery.ports.notify import Severity
from tests.fakes.handover import state
from tests.workflows.monitored import POINTS, Rig, another_run_than, lost, rigged, well
from workflows.control import OperatorCommand

NO_STANDBY = {"state": "rolled-back", "step": "choose-target", "error": "no standby is eligible"}


async def test_manual_alerts_and_starts_nothing(temporal: Client) -> None:
    async with rigged(temporal, policy="manual") as rig:
        await rig.hears(lost(*POINTS))
        await rig.until(lambda view: bool(rig.titles()))
        await rig.hears(lost(*POINTS))
        assert (await rig.settled()).outage is not None
        assert await rig.started() is None
        assert len(rig.titles()) == 1 and "region-a is lost: nothing was started" in rig.titles()[0]
        assert rig.notifier.sent[0].severity is Severity.CRITICAL
        assert f"drctl failover --group {rig.name}" in rig.notifier.sent[0].body
        await rig.hears(well(*POINTS))
        await rig.until(lambda view: len(rig.titles()) == 2)
        assert "is no longer seen as lost" in rig.titles()[1]


async def test_automatic_needs_three_vantage_points_and_a_fence(temporal: Client) -> None:
    async with rigged(temporal, vantage_points=["region-b", "outside"]) as rig:
        await rig.hears(lost("region-b", "outside"))
        await rig.until(lambda view: bool(rig.titles()))
        assert await rig.started() is None
        assert "needs 3 vantage points, and the configuration has 2" in rig.notifier.sent[0].body
    async with rigged(temporal) as rig:
        regions = [region.model_copy(update={"guard": None}) for region in rig.group.regions]
        rig.group = rig.group.model_copy(update={"regions": regions})
        await rig.hears(lost(*POINTS))
        await rig.until(lambda view: bool(rig.titles()))
        assert await rig.started() is None
        assert "cannot be fenced" in rig.notifier.sent[0].body


async def test_a_store_without_a_fence_makes_automatic_a_question(temporal: Client) -> None:
    async with rigged(temporal) as rig:
        stands = state(StoreRole.PRIMARY, store="redis", strength=Strength.MANUAL, detail="its file names no primary")
        rig.guards.states = {"region-a": [state(StoreRole.PRIMARY), stands], "region-b": [state(StoreRole.STANDBY)]}
        await rig.hears(well(*POINTS))
        view = await rig.until(lambda view: view.policy == "approve")
        assert "redis in region-a (its file names no primary) has no fence" in view.policy_note
        await rig.until(lambda view: bool(rig.titles()))
        assert "automatic failover is refused" in rig.titles()[0]
        del rig.guards.states["region-a"]  # it was the last to know
        await rig.hears(lost(*POINTS))
        await rig.until(lambda view: view.question is not None)
        assert await rig.started() is None
        await rig.until(lambda view: len(rig.titles()) == 2)
        assert "may Failover start?" in rig.titles()[1] and "redis in region-a" in rig.notifier.sent[1].body
        await rig.handle.execute_update("approve", OperatorCommand(actor="ana", reason="redis is off"))
        await rig.until(lambda view: view.run is not None)
        assert await rig.started() == "Failover"


async def test_people_are_told_of_a_search_engine_that_no_failover_moves(skipping: WorkflowEnvironment) -> None:
    """Once, however often the guards are asked, and though the next run finds the same."""
    async with rigged(skipping.client) as rig:
        rig.most_events = 60
        regions = [region.model_copy(update={"search": "https://a:9200"}) for region in rig.group.regions]
        rig.group = rig.group.model_copy(update={"regions": regions, "search": SearchRule()})
        await rig.hears(well(*POINTS), beat=1e7)
        runs: set[str | None] = set()
        async with asyncio.timeout(30):
            while len(runs) < 3:
                runs.add((await rig.handle.describe()).run_id)
                await asyncio.sleep(0.05)
        assert len(rig.titles()) == 1 and "automatic failover is refused" in rig.titles()[0]
        assert "search in region-a and region-b (no failover moves or fences it" in rig.notifier.sent[0].body


async def test_a_loss_that_comes_first_waits_for_the_first_look_at_the_fences(temporal: Client) -> None:
    async with rigged(temporal) as rig:
        rig.guards.states = {"region-b": [state(StoreRole.STANDBY, store="redis", strength=Strength.MANUAL)]}
        await rig.hears(lost(*POINTS))
        await rig.until(lambda view: view.question is not None)
        assert await rig.started() is None


async def test_a_region_that_is_back_before_the_fences_are_known_is_left_alone(
    temporal: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with rigged(temporal) as rig:
        asked, answers, status = asyncio.Event(), asyncio.Event(), rig.guards.status

        async def late(region: str, group: str | None = None) -> GuardStatus:
            asked.set()
            await answers.wait()
            return await status(region, group)

        monkeypatch.setattr(rig.guards, "status", late)
        await rig.hears(lost(*POINTS))
        await asked.wait()
        await rig.hears(well(*POINTS))
        await rig.until(lambda view: view.votes is not None and not view.votes.agreed)
        answers.set()
        await rig.until(lambda view: view.outage is None)
        assert await rig.started() is None


MANUAL = {"region-a": [state(StoreRole.PRIMARY, store="redis", strength=Strength.MANUAL)]}
MENDED = {"region-a": [state(StoreRole.STALE, store="redis", strength=Strength.GUARD)]}


async def test_a_fence_that_was_mended_is_automatic_again(skipping: WorkflowEnvironment) -> None:
    """In the next outage: about this one people were told that nothing starts without an answer."""
    async with rigged(skipping.client) as rig:
        rig.guards.states = MANUAL
        await rig.hears(lost(*POINTS), beat=1e7)
        await rig.until(lambda view: any("may Failover start?" in each for each in rig.titles()))
        rig.guards.states = MENDED
        await rig.until(lambda view: view.policy == "automatic")
        await rig.until(lambda view: any("nobody answered, and nothing was started" in each for each in rig.titles()))
        assert await rig.started() is None
        await rig.hears(well(*POINTS), beat=1e7)
        await rig.until(lambda view: view.outage is None)
        await rig.hears(lost(*POINTS), beat=1e7)
        view = await rig.until(lambda view: view.run is not None)
        assert view.run is not None and "policy automatic" in view.run.reason


@pytest.mark.parametrize("answer", ["decline", "approve"])
async def test_an_answer_outlasts_the_lack_of_a_fence(skipping: WorkflowEnvironment, answer: str) -> None:
    async with rigged(skipping.client) as rig:
        rig.guards.states = MANUAL
        await rig.hears(lost(*POINTS), beat=1e7)
        await rig.until(lambda view: view.question is not None)
        if answer == "decline":
            await rig.handle.execute_update("decline", OperatorCommand(actor="ana", reason="a known work"))
            rig.guards.states = MENDED
            await rig.until(lambda view: view.policy == "automatic")
            await rig.hears(lost(*POINTS), beat=1e7)
            view = await rig.settled()
            assert await rig.started() is None and "declined by ana" in view.note
        else:
            rig.guards.states = MENDED
            await rig.until(lambda view: view.policy == "automatic")
            await rig.handle.execute_update("approve", OperatorCommand(actor="ana", reason="region-a is off"))
            view = await rig.until(lambda view: view.run is not None)
            assert view.run is not None and "approved by ana" in view.run.reason
            assert not (await rig.asked()).automatic


async def test_without_a_standby_the_newest_recovery_point_is_the_answer(temporal: Client) -> None:
    async with rigged(temporal) as rig:
        await rig.hears(lost("outside"), standby=False)
        await rig.hears(lost("region-b"), standby=False)
        await rig.until(lambda view: view.run is not None)
        assert await rig.started() == "FullRecovery"


async def test_with_no_region_to_go_to_people_are_told(temporal: Client) -> None:
    async with rigged(temporal) as rig:
        await rig.hears(lost("outside"), standby=False, alive=False)
        await rig.hears(lost("region-a"), standby=False, alive=False)
        await rig.until(lambda view: bool(rig.titles()))
        assert await rig.started() is None
        assert "there is no healthy region to go to" in rig.titles()[0]
        assert rig.notifier.sent[0].severity is Severity.CRITICAL


async def test_approval_by_a_person(temporal: Client) -> None:
    async with rigged(temporal, policy="approve") as rig:
        ana = OperatorCommand(actor="ana", reason="seen by hand")
        await rig.hears(well(*POINTS))
        with pytest.raises(WorkflowUpdateFailedError) as early:
            await rig.handle.execute_update("approve", ana)
        assert "asks nothing now" in str(early.value.cause)
        await rig.hears(lost(*POINTS))
        await rig.until(lambda view: view.question is not None and bool(rig.titles()))
        assert "may Failover start?" in rig.titles()[0] and await rig.started() is None
        with pytest.raises(WorkflowUpdateFailedError):
            await rig.handle.execute_update("approve", OperatorCommand(actor="", reason=""))
        assert await rig.handle.execute_update("approve", ana) == f"{rig.name}: approved"
        view = await rig.until(lambda view: view.run is not None)
        assert view.run is not None and "approved by ana: seen by hand" in view.run.reason
        assert await rig.started() == "Failover"


async def test_a_declined_plan_is_not_asked_for_again_while_the_outage_lasts(temporal: Client) -> None:
    async with rigged(temporal, policy="approve") as rig:
        await rig.hears(lost(*POINTS))
        await rig.until(lambda view: view.question is not None)
        await rig.handle.execute_update("decline", OperatorCommand(actor="ana", reason="a known work"))
        await rig.hears(lost(*POINTS))
        view = await rig.settled()
        assert await rig.started() is None and "declined by ana" in view.note
        await rig.hears(well(*POINTS))
        await rig.until(lambda view: view.outage is None)
        await rig.hears(lost(*POINTS))
        view = await rig.until(lambda view: view.question is not None)
        assert view.question is not None and view.question.answer is None, "a new outage is a new question"


# Waiting, on a server whose clock jumps.


@pytest.mark.parametrize("default", ["approve", "decline"])
async def test_people_are_asked_about_each_plan_of_an_outage(skipping: WorkflowEnvironment, default: str) -> None:
    """Also about the one that restores a backup, before nobody's answer starts it."""
    async with rigged(skipping.client, policy="approve") as rig:
        rig.group = rig.group.model_copy(update={"approval_default": default})
        await rig.hears(lost(*POINTS), beat=1e7)
        known = ""
        for number in (1, 2):
            await asked_for(rig, "Failover", number)
            await rig.handle.execute_update("approve", OperatorCommand(actor="ana", reason="seen by hand"))
            view = await rig.until(another_run_than(known), seconds=30)
            assert view.run is not None and view.run.plan == "Failover"
            known = view.run.run_id
            await rig.plan.signal("end", NO_STANDBY)
        await asked_for(rig, "FullRecovery", 1)
        if default == "approve":
            view = await rig.until(another_run_than(known), seconds=30)
            assert view.run is not None and view.run.plan == "FullRecovery" and "nobody answered" in view.run.reason
        else:
            await rig.until(lambda view: any("nobody answered, and nothing was" in each for each in rig.titles()))
        assert len([title for title in rig.titles() if "may " in title]) == 3


async def asked_for(rig: Rig, plan: str, number: int) -> None:
    """Waits until people were asked about this plan so often, and nobody has answered yet."""
    await rig.until(
        lambda view: (
            len([title for title in rig.titles() if f"may {plan} start?" in title]) == number
            and view.question is not None
            and view.question.answer is None
        )
    )


async def test_nobody_answers_and_nothing_is_started(skipping: WorkflowEnvironment) -> None:
    async with rigged(skipping.client, policy="approve") as rig:
        await rig.hears(lost(*POINTS), beat=1e7)
        await rig.until(lambda view: len(rig.titles()) == 2)
        assert "nobody answered, and nothing was started" in rig.titles()[1]
        assert await rig.started() is None


async def test_nobody_answers_and_the_default_is_to_approve(skipping: WorkflowEnvironment) -> None:
    async with rigged(skipping.client, policy="approve") as rig:
        rig.group = rig.group.model_copy(update={"approval_default": "approve"})
        await rig.hears(lost(*POINTS), beat=1e7)
        view = await rig.until(lambda view: view.run is not None)
        assert view.run is not None and "the default is to approve" in view.run.reason
        asked = await rig.asked()
        assert asked.approve and asked.automatic, "no person's word: the run asks again where a store has no fence"


@pytest.mark.parametrize("policy", ["automatic", "approve"])
async def test_nobodys_silence_stands_for_a_fence(skipping: WorkflowEnvironment, policy: str) -> None:
    async with rigged(skipping.client, policy=policy) as rig:
        rig.group = rig.group.model_copy(update={"approval_default": "approve"})
        rig.guards.states = {"region-a": [state(StoreRole.PRIMARY, store="redis", strength=Strength.MANUAL)]}
        await rig.hears(lost(*POINTS), beat=1e7)
        await rig.until(lambda view: any("nobody answered, and nothing was started" in each for each in rig.titles()))
        assert await rig.started() is None
        await rig.handle.execute_update("approve", OperatorCommand(actor="ana", reason="redis is off"))
        await rig.until(lambda view: view.run is not None)
        asked = await rig.asked()
        assert asked.approve and not asked.automatic


async def test_failovers_that_found_no_candidate_are_followed_by_a_full_recovery(skipping: WorkflowEnvironment) -> None:
    async with rigged(skipping.client) as rig:
        await rig.hears(lost(*POINTS), beat=1e7)
        known = ""
        for _ in range(2):
            view = await rig.until(another_run_than(known), seconds=30)
            assert view.run is not None and view.run.plan == "Failover"
            known = view.run.run_id
            await rig.plan.signal("end", NO_STANDBY)
        await rig.until(lambda view: view.run is not None and view.run.plan == "FullRecovery", seconds=30)
        assert await rig.started() == "FullRecovery"
        failed = next(sent for sent in rig.notifier.sent if "FAILED" in sent.title)
        assert "Failover FAILED at choose-target" in failed.title and "no standby is eligible" in failed.body


@pytest.mark.parametrize("has_ended", [True, False], ids=["ended", "goes on"])
async def test_a_failover_that_nobody_heard_of_is_not_taken_for_the_full_recovery_after_it(
    skipping: WorkflowEnvironment, monkeypatch: pytest.MonkeyPatch, has_ended: bool
) -> None:
    """The standby is lost, too, before the monitor asks again."""
    begin = Monitoring._start
    async with rigged(skipping.client) as rig:

        async def unheard(self: Monitoring, order: StartOrder) -> Started:
            began = await begin(self, order)
            if order.plan == "Failover":
                await rig.hears(lost(*POINTS), beat=1e7, standby=False)
                if has_ended:
                    await rig.plan.signal("end", NO_STANDBY)
                    with contextlib.suppress(WorkflowFailureError):
                        await rig.plan.result()
                raise ApplicationError("the answer came too late", non_retryable=True)
            return began

        monkeypatch.setattr(Monitoring, "_start", unheard)
        await rig.hears(lost(*POINTS), beat=1e7)
        if not has_ended:
            view = await rig.until(lambda view: view.run is not None)
            assert view.run is not None and view.run.plan == "Failover"
            await rig.plan.signal("end", NO_STANDBY)
        view = await rig.until(lambda view: view.run is not None and view.run.plan == "FullRecovery", seconds=30)
        assert await rig.started() == "FullRecovery"
        assert view.run is not None and view.outage is not None
        assert view.run.started_at - view.outage.agreed_at < rig.group.failover.cooldown
        await rig.until(lambda view: any("FullRecovery was started" in title for title in rig.titles()))
        assert any("Failover was started" in title for title in rig.titles()) is not has_ended


async def test_a_cooldown_separates_two_automatic_runs(skipping: WorkflowEnvironment) -> None:
    cooldown = timedelta(minutes=5)  # the guards are asked in each of them
    async with rigged(skipping.client, cooldown=cooldown) as rig:
        await rig.hears(lost(*POINTS), beat=1e7)
        first = await rig.until(lambda view: view.run is not None)
        assert first.run is not None
        await rig.plan.signal("end", {"state": "rolled-back", "step": "precheck", "error": "the target is not well"})
        second = await rig.until(another_run_than(first.run.run_id), seconds=90)
        assert second.run is not None
        assert second.run.started_at - first.run.started_at >= cooldown
        assert any("nothing was started yet" in title for title in rig.titles())


async def test_a_region_that_is_lost_again_and_again_has_to_stay_lost(temporal: Client) -> None:
    async with rigged(temporal, policy="manual") as rig:
        for _ in range(8):
            await rig.hears(lost(*POINTS))
            view = await rig.until(lambda view: view.outage is not None)
            await rig.hears(well(*POINTS))
            await rig.until(lambda view: view.outage is None)
        assert "it has to stay lost" in view.note
        assert len([title for title in rig.titles() if "nothing was started" in title]) == 2
