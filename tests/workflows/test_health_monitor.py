"""The group's monitor on a real Temporal server: whose votes count, and what a majority of them starts."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
from datetime import UTC, datetime
from typing import Any

import pytest
from temporalio.client import Client
from temporalio.testing import ActivityEnvironment, WorkflowEnvironment

from activities.monitoring import Monitoring, Started, StartOrder
from recovery.domain.group import GroupSnapshot
from recovery.domain.health import Verdict
from tests.fakes.handover import FakeGuards
from tests.fakes.ownership import FakeOwnershipStore
from tests.workflows.monitored import NOW, POINTS, Rig, lost, rigged, well
from workers.codec import EncryptionCodec


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


async def test_two_of_three_that_are_cut_off_leave_the_third_without_a_majority(temporal: Client) -> None:
    """What they saw before they fell silent, and what they send late, decides nothing; what they say when they are back
    does."""
    async with rigged(temporal) as rig:
        await rig.hears(lost("outside"), beat=0.0)  # silent after a second
        await rig.hears(well("region-b"), beat=0.0)
        await asyncio.sleep(1.2)
        for _ in range(3):
            await rig.hears(lost("region-a"))
        view = await rig.settled()
        assert view.votes is not None and [ballot.why for ballot in view.votes.ballots] == ["", "silent", "silent"]
        assert view.outage is None and await rig.started() is None
        await rig.hears(lost("region-b"), generation=0)  # of a loop that is no more: it came late
        assert (await rig.settled()).outage is None
        await rig.hears(well("outside", "region-b"))
        assert (await rig.settled()).outage is None and await rig.started() is None
        await rig.hears(lost("outside"))
        await rig.until(lambda view: view.run is not None)


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


async def test_another_run_of_the_group_is_left_alone(temporal: Client) -> None:
    async with rigged(temporal) as rig:
        await rig.owned_by("region-a", 1, run="somebody's")
        await rig.hears(lost(*POINTS))
        view = await rig.until(lambda view: "is changing the group" in view.note)
        assert view.run is None and await rig.started() is None


async def start(rig: Rig, order: StartOrder, client: Client | None = None) -> Started:
    async def watch(vantage: str, ordered_at: datetime) -> bool:
        return False

    begin = Monitoring(rig, rig.ownership, watch, rig.guards).start_plan
    started: Started = await ActivityEnvironment(client=client or rig.client).run(begin, order)
    return started


def order_of(rig: Rig, plan: str = "Failover", incident: str = "one") -> StartOrder:
    return StartOrder(
        group=rig.name, plan=plan, region="region-a", epoch=1, reason="lost", outage_began_at=NOW, incident=incident
    )  # fmt: skip


async def test_a_plan_that_an_unheard_attempt_began_is_known_as_its_own(temporal: Client) -> None:
    """The answer came when the attempt's time was over, and the plan has ended since."""
    async with rigged(temporal) as rig:
        began = await start(rig, order_of(rig))
        assert (began.outcome, began.plan) == ("started", "Failover")
        await rig.plan.terminate()
        await rig.owned_by("region-b", 2)
        assert await start(rig, order_of(rig)) == began
        assert (await start(rig, order_of(rig, incident="another"))).outcome == "moved"


async def test_another_plan_of_the_same_outage_is_followed_while_it_goes_on_and_replaced_after_its_end(
    temporal: Client,
) -> None:
    async with rigged(temporal) as rig:
        failover = await start(rig, order_of(rig))
        assert await start(rig, order_of(rig, "FullRecovery")) == failover
        await rig.plan.terminate()
        recovery = await start(rig, order_of(rig, "FullRecovery"))
        assert (recovery.outcome, recovery.plan) == ("started", "FullRecovery")
        assert await rig.started() == "FullRecovery" and recovery.run_id != failover.run_id


@pytest.mark.parametrize("key", [bytes(32), None], ids=["replaced", "taken away"])
async def test_a_last_run_that_cannot_be_read_any_more_keeps_no_plan_from_starting(
    temporal: Client, key: bytes | None
) -> None:
    """The key of payloads is another one than when it ran."""
    earlier, today = _with_key(temporal, b"1" * 32), _with_key(temporal, key)
    async with rigged(temporal) as rig:
        first = await start(rig, order_of(rig), earlier)
        assert (await start(rig, order_of(rig, incident="another"), today)).outcome == "busy"
        await rig.plan.terminate()
        second = await start(rig, order_of(rig), today)
        assert second.outcome == "started" and second.run_id != first.run_id
        assert (await start(rig, order_of(rig), today)) == second


def _with_key(client: Client, key: bytes | None) -> Client:
    codec = EncryptionCodec(base64.b64encode(key).decode()) if key is not None else None
    config = client.config()
    config["data_converter"] = dataclasses.replace(config["data_converter"], payload_codec=codec)
    return Client(**config)


async def test_votes_on_a_region_that_is_no_owner_any_more_start_nothing(temporal: Client) -> None:
    async with rigged(temporal) as rig:
        await rig.owned_by("region-b", 2)
        await rig.hears(lost(*POINTS))
        view = await rig.until(lambda view: view.votes is not None and view.votes.epoch == 2)
        assert view.run is None and await rig.started() is None
        assert (await rig.settled()).outage is None


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


async def test_a_group_that_nobody_watches_is_told_of_once(skipping: WorkflowEnvironment) -> None:
    async with rigged(skipping.client) as rig:
        await rig.hears(well(*POINTS), beat=60.0)
        await rig.until(lambda view: bool(rig.titles()))
        assert "nobody watches it since" in rig.titles()[0]
        await rig.hears(well(*POINTS), beat=1e7)
        assert len([title for title in rig.titles() if "nobody watches" in title]) <= 2


async def test_a_run_goes_on_in_the_next_while_the_guards_are_asked(skipping: WorkflowEnvironment) -> None:
    """Nothing else happens here, so that many a run ends at the very moment at which they are to be asked."""
    async with rigged(skipping.client) as rig:
        rig.most_events = 60
        await rig.hears(well(*POINTS), beat=1e7)
        runs: set[str | None] = set()
        async with asyncio.timeout(30):
            while len(runs) < 4:
                runs.add((await rig.handle.describe()).run_id)
                await asyncio.sleep(0.05)


async def test_a_loop_learns_when_its_attempt_was_scheduled_and_not_when_it_began() -> None:
    asked: list[tuple[str, datetime]] = []

    async def watch(vantage: str, ordered_at: datetime) -> bool:
        asked.append((vantage, ordered_at))
        return True

    ownership, environment = FakeOwnershipStore(), ActivityEnvironment()
    scheduled = datetime(2026, 11, 23, 21, 28, tzinfo=UTC)
    environment.info = dataclasses.replace(environment.info, current_attempt_scheduled_time=scheduled)
    monitoring = Monitoring(Unconfigured(), ownership, watch, FakeGuards(ownership))
    assert await environment.run(monitoring.watch, "region-b")
    assert asked == [("region-b", scheduled)]


class Unconfigured:
    def snapshot(self, group: str) -> GroupSnapshot:
        raise NotImplementedError(group)
