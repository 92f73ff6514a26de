"""The group's monitor on a real Temporal server, whose clock jumps over waiting: quorum, policy, cooldown, flapping."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from temporalio.client import Client, WorkflowHandle, WorkflowUpdateFailedError
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.service import RPCError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from activities.monitoring import Monitoring
from activities.notifications import Notifications
from recovery.adapters.incident_text import TemplateIncidentWriter
from recovery.domain.group import FailoverRule, GroupSnapshot, Objectives, RegionPlan
from recovery.domain.guarding import StoreRole
from recovery.domain.health import RegionReport, Report, Verdict
from recovery.domain.ownership import OwnershipRecord, Strength
from recovery.ports.notify import Severity
from tests.fakes.handover import FakeGuards, state
from tests.fakes.notifier import FakeNotifier
from tests.fakes.ownership import FakeOwnershipStore
from tests.workflows.conftest import TEMPORAL
from tests.workflows.pretended import PretendedFailover, PretendedRecovery
from workers.options import worker_options
from workers.registry import activities_of
from workflows.control import OperatorCommand
from workflows.health_monitor import MONITORS, HealthMonitor
from workflows.health_state import HealthView, MonitorState

POINTS = ["region-a", "region-b", "outside"]
NOW = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)


def group_of(name: str, **rule: Any) -> GroupSnapshot:
    usual = {
        "policy": "automatic", "interval": timedelta(seconds=1), "vantage_points": POINTS,
        "cooldown": timedelta(minutes=30), "approve_timeout": timedelta(minutes=15),
    }  # fmt: skip
    return GroupSnapshot(
        name=name,
        objectives=Objectives(tier="critical", rto=timedelta(minutes=15), rpo=timedelta(minutes=5)),
        home_region="region-a",
        regions=[
            RegionPlan(name="region-a", task_queue="a", guard="http://a:1"),
            RegionPlan(name="region-b", task_queue="b", guard="http://b:1"),
        ],
        failover=FailoverRule(**{**usual, **rule}),
        config_hash="1",
    )


@dataclass
class Rig:
    """One group with a monitor of its own on a task queue of its own."""

    client: Client
    group: GroupSnapshot
    ownership: FakeOwnershipStore = field(default_factory=FakeOwnershipStore)
    notifier: FakeNotifier = field(default_factory=FakeNotifier)
    guards: FakeGuards = field(default_factory=lambda: FakeGuards(FakeOwnershipStore()))
    queue: str = field(default_factory=lambda: f"health-{uuid.uuid4()}")
    serial: int = 0
    most_events: int = 4_000

    def snapshot(self, group: str) -> GroupSnapshot:
        return self.group

    @property
    def name(self) -> str:
        return self.group.name

    @property
    def handle(self) -> WorkflowHandle[Any, Any]:
        return self.client.get_workflow_handle(f"health/{self.name}")

    @property
    def plan(self) -> WorkflowHandle[Any, Any]:
        return self.client.get_workflow_handle(f"recovery/{self.name}")

    def worker(self, **options: Any) -> Worker:
        async def watch(vantage: str) -> bool:
            return False

        return Worker(
            self.client,
            task_queue=self.queue,
            workflows=[*MONITORS, PretendedFailover, PretendedRecovery],
            activities=[
                *activities_of(Monitoring(self, self.ownership, watch, self.guards)),
                *activities_of(Notifications(self.notifier, TemplateIncidentWriter())),
            ],
            **{**worker_options(), **options},
        )

    async def owned_by(self, region: str, epoch: int, run: str | None = None) -> None:
        found = await self.ownership.read(self.name)
        record = OwnershipRecord(group=self.name, region=region, epoch=epoch, run=run, plan="Backup", changed_at=NOW)
        await self.ownership.write(record, version=found[1] if found else None)

    async def hears(
        self,
        verdicts: dict[str, Verdict],
        *,
        owner: str = "region-a",
        epoch: int = 1,
        standby: bool = True,
        alive: bool = True,
        **said: Any,
    ) -> None:
        """One report of each vantage point, by signal-with-start."""
        said = {"beat": 3600.0, "source": "process", "generation": 1, **said}
        for vantage, verdict in verdicts.items():
            self.serial += 1
            other = "region-b" if owner == "region-a" else "region-a"
            report = Report(
                group=self.name, vantage=vantage, serial=self.serial,
                owner=owner, epoch=epoch, config_hash="1",
                regions={
                    owner: RegionReport(
                        verdict=verdict, failing_since=NOW if verdict is Verdict.LOST else None,
                        failing=["postgres: no answer within 5 s"] if verdict is Verdict.LOST else [],
                    ),
                    other: RegionReport(verdict=Verdict.HEALTHY, is_alive=alive, is_standby=standby),
                },
                **said,
            )  # fmt: skip
            await self.client.start_workflow(
                HealthMonitor.run, MonitorState(most_events=self.most_events), id=f"health/{self.name}",
                task_queue=self.queue, start_signal="report", start_signal_args=[report],
            )  # fmt: skip

    async def view(self) -> HealthView:
        view: HealthView = await self.handle.query("health", result_type=HealthView)
        return view

    async def until(self, condition: Callable[[HealthView], bool], seconds: float = 20) -> HealthView:
        view = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    view = await self.view()
                    if condition(view):
                        return view
                    await asyncio.sleep(0.05)
        raise AssertionError(f"not within {seconds} s: {view}")

    async def settled(self) -> HealthView:
        """After everything that was sent has been decided on."""
        await self.until(lambda view: view.votes is not None)
        await asyncio.sleep(0.3)
        return await self.view()

    async def started(self) -> str | None:
        """Type of the plan that runs or ran, None where none was ever started."""
        try:
            return (await self.plan.describe()).workflow_type
        except RPCError:
            return None

    def titles(self) -> list[str]:
        return [message.title for message in self.notifier.sent]


def lost(*vantages: str) -> dict[str, Verdict]:
    return dict.fromkeys(vantages, Verdict.LOST)


def well(*vantages: str) -> dict[str, Verdict]:
    return dict.fromkeys(vantages, Verdict.HEALTHY)


@pytest.fixture(scope="session")
async def skipping() -> AsyncIterator[WorkflowEnvironment]:
    async with await WorkflowEnvironment.start_time_skipping_v2(
        dev_server_existing_path=TEMPORAL,
        data_converter=pydantic_data_converter,
        dev_server_extra_args=["--dynamic-config-value", "frontend.WorkflowTimeSkippingEnabled=true"],
    ) as environment:
        yield environment


@contextlib.asynccontextmanager
async def rigged(client: Client, **rule: Any) -> AsyncIterator[Rig]:
    rig = Rig(client, group_of(f"shop-{uuid.uuid4().hex[:8]}", **rule))
    await rig.owned_by("region-a", 1)
    async with rig.worker():
        try:
            yield rig
        finally:
            for handle in (rig.handle, rig.plan):
                with contextlib.suppress(RPCError):
                    await handle.terminate("the test is over")


async def test_a_majority_starts_a_failover_from_the_first_failed_probe_on(temporal: Client) -> None:
    async with rigged(temporal) as rig:
        await rig.hears(well(*POINTS))
        await rig.hears(lost("region-b"))
        assert (await rig.settled()).outage is None
        assert await rig.started() is None
        await rig.hears(lost("outside"))
        view = await rig.until(lambda view: view.run is not None)
        assert await rig.started() == "Failover"
        assert view.run is not None and view.run.outage_began_at == NOW
        assert view.outage is not None and view.outage.voters == ["region-b", "outside"]
        await rig.owned_by("region-b", 2)
        await rig.plan.signal("end", {})
        await rig.until(lambda view: view.run is not None and view.run.end is not None)
        await rig.until(lambda view: len(rig.titles()) == 2)
        begun, ended = rig.titles()
        assert "Failover was started, region-a is lost" in begun
        assert "Failover COMPLETED, region-b serves it" in ended
        body = rig.notifier.sent[1].body
        assert "From region-a to region-b in 7 s" in body and "New primary: region-b" in body
        assert "RTO 9 s (objective 15 min)" in body and "RPO 2 s (objective 5 min)" in body
        assert (await rig.settled()).outage is None
        assert len(rig.titles()) == 2, "votes on the old owner count no more"


@pytest.mark.parametrize(
    "said",
    [
        {"beat": 0.0},  # stale after a second
        {"leaving": True},
        {"epoch": 0},  # has not heard of the present owner
        {"owner": "region-b", "epoch": 0},
    ],
    ids=["stale", "leaving", "older-epoch", "other-owner"],
)
async def test_what_does_not_vote(temporal: Client, said: dict[str, Any]) -> None:
    async with rigged(temporal) as rig:
        await rig.hears(well("region-a"))
        await rig.hears(lost("outside"), **said)
        await asyncio.sleep(1.2 if "beat" in said else 0)
        await rig.hears(lost("region-b"))
        assert (await rig.settled()).outage is None
        assert await rig.started() is None
        await rig.hears(lost("outside"))
        await rig.until(lambda view: view.run is not None)


async def test_a_frozen_loop_has_no_vote_until_it_saw_enough_anew(temporal: Client) -> None:
    async with rigged(temporal) as rig:
        await rig.hears(lost("outside"))
        await rig.hears({"outside": Verdict.UNKNOWN}, frozen_for=20.0)
        await rig.hears(lost("region-b"))
        view = await rig.settled()
        assert await rig.started() is None and view.votes is not None
        assert [ballot.why for ballot in view.votes.ballots if ballot.vantage == "outside"] == [
            "stood still and looks anew"
        ]


async def test_strangers_and_a_lone_loop_start_nothing(temporal: Client) -> None:
    async with rigged(temporal) as rig:
        await rig.hears(lost("region-b", "someone", "else", "again"))
        for _ in range(3):
            await rig.hears(lost("region-b"))
        await rig.hears(lost("region-b"), source="worker")
        assert (await rig.settled()).outage is None
        assert await rig.started() is None


async def test_two_loops_of_one_vantage_point_must_agree(temporal: Client) -> None:
    async with rigged(temporal) as rig:
        await rig.hears(well("outside"), source="worker")
        await rig.hears(lost("outside", "region-b"))
        assert (await rig.settled()).outage is None
        await rig.hears(lost("outside"), source="worker")
        await rig.until(lambda view: view.run is not None)


async def test_older_reports_change_nothing(temporal: Client) -> None:
    async with rigged(temporal) as rig:
        await rig.hears(lost("outside"))
        await rig.hears(well("outside", "region-b"), generation=2)
        await rig.hears(lost("outside", "region-b"))  # of the life before: later sent, and older
        assert (await rig.settled()).outage is None
        assert await rig.started() is None


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


async def test_a_loss_that_comes_first_waits_for_the_first_look_at_the_fences(temporal: Client) -> None:
    async with rigged(temporal) as rig:
        rig.guards.states = {"region-b": [state(StoreRole.STANDBY, store="redis", strength=Strength.MANUAL)]}
        await rig.hears(lost(*POINTS))
        await rig.until(lambda view: view.question is not None)
        assert await rig.started() is None


async def test_a_fence_that_was_mended_is_automatic_again(skipping: WorkflowEnvironment) -> None:
    async with rigged(skipping.client) as rig:
        rig.guards.states = {"region-a": [state(StoreRole.PRIMARY, store="redis", strength=Strength.MANUAL)]}
        await rig.hears(lost(*POINTS), beat=1e7)
        await rig.until(lambda view: view.question is not None)
        rig.guards.states = {"region-a": [state(StoreRole.STALE, store="redis", strength=Strength.GUARD)]}
        view = await rig.until(lambda view: view.run is not None)
        assert view.run is not None and "policy automatic" in view.run.reason


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


async def test_another_run_of_the_group_is_left_alone(temporal: Client) -> None:
    async with rigged(temporal) as rig:
        await rig.owned_by("region-a", 1, run="somebody's")
        await rig.hears(lost(*POINTS))
        view = await rig.until(lambda view: "is changing the group" in view.note)
        assert view.run is None and await rig.started() is None


async def test_votes_on_a_region_that_is_no_owner_any_more_start_nothing(temporal: Client) -> None:
    async with rigged(temporal) as rig:
        await rig.owned_by("region-b", 2)
        await rig.hears(lost(*POINTS))
        view = await rig.until(lambda view: view.votes is not None and view.votes.epoch == 2)
        assert view.run is None and await rig.started() is None
        assert (await rig.settled()).outage is None


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


async def test_reports_are_neither_lost_nor_forgotten_where_the_run_continues_as_new(temporal: Client) -> None:
    async with rigged(temporal) as rig:
        rig.most_events = 40
        await rig.hears(lost("outside"))
        first = (await rig.handle.describe()).run_id
        for number in range(60):
            await rig.hears(well("region-a") if number % 2 else well("region-b"))
        described = await rig.handle.describe()
        assert described.run_id != first and described.history_length < 200
        view = await rig.settled()
        assert view.votes is not None
        heard = {ballot.vantage: ballot.vote.value for ballot in view.votes.ballots}
        assert heard == {"region-a": "healthy", "region-b": "healthy", "outside": "lost"}
        await asyncio.gather(*(rig.hears(lost("region-b")) for _ in range(20)))
        await rig.until(lambda view: view.run is not None)
        for _ in range(30):
            await rig.hears(lost("region-b"))  # goes on in a new run, and still waits for the plan's end
        await rig.plan.signal("end", {})
        await rig.until(lambda view: view.run is not None and view.run.end is not None)
        await rig.until(lambda view: sum("COMPLETED" in title for title in rig.titles()) == 1)
        assert sum("Failover was started" in title for title in rig.titles()) == 1


# Waiting, on a server whose clock jumps.


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


def another_run_than(known: str) -> Callable[[HealthView], bool]:
    return lambda view: view.run is not None and view.run.run_id != known


async def test_failovers_that_found_no_candidate_are_followed_by_a_full_recovery(skipping: WorkflowEnvironment) -> None:
    async with rigged(skipping.client) as rig:
        await rig.hears(lost(*POINTS), beat=1e7)
        known = ""
        for _ in range(2):
            view = await rig.until(another_run_than(known), seconds=30)
            assert view.run is not None and view.run.plan == "Failover"
            known = view.run.run_id
            ended = {"state": "rolled-back", "step": "choose-target", "error": "no standby is eligible"}
            await rig.plan.signal("end", ended)
        await rig.until(lambda view: view.run is not None and view.run.plan == "FullRecovery", seconds=30)
        assert await rig.started() == "FullRecovery"
        failed = next(sent for sent in rig.notifier.sent if "FAILED" in sent.title)
        assert "Failover FAILED at choose-target" in failed.title and "no standby is eligible" in failed.body


async def test_a_cooldown_separates_two_automatic_runs(skipping: WorkflowEnvironment) -> None:
    async with rigged(skipping.client) as rig:
        await rig.hears(lost(*POINTS), beat=1e7)
        first = await rig.until(lambda view: view.run is not None)
        assert first.run is not None
        await rig.plan.signal("end", {"state": "rolled-back", "step": "precheck", "error": "the target is not well"})
        second = await rig.until(another_run_than(first.run.run_id), seconds=30)
        assert second.run is not None
        assert second.run.started_at - first.run.started_at >= timedelta(minutes=30)
        assert any("nothing was started yet" in title for title in rig.titles())


async def test_a_group_that_nobody_watches_is_told_of_once(skipping: WorkflowEnvironment) -> None:
    async with rigged(skipping.client) as rig:
        await rig.hears(well(*POINTS), beat=60.0)
        await rig.until(lambda view: bool(rig.titles()))
        assert "nobody watches it since" in rig.titles()[0]
        await rig.hears(well(*POINTS), beat=1e7)
        assert len([title for title in rig.titles() if "nobody watches" in title]) <= 2


async def test_a_region_that_is_lost_again_and_again_has_to_stay_lost(temporal: Client) -> None:
    async with rigged(temporal, policy="manual") as rig:
        for _ in range(8):
            await rig.hears(lost(*POINTS))
            view = await rig.until(lambda view: view.outage is not None)
            await rig.hears(well(*POINTS))
            await rig.until(lambda view: view.outage is None)
        assert "it has to stay lost" in view.note
        assert len([title for title in rig.titles() if "nothing was started" in title]) == 2
