"""The run that keeps a group's WAL archive going: it follows the owner, and does not give up."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from datetime import timedelta

import pytest
from temporalio import activity
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import ApplicationError, CancelledError
from temporalio.worker import Worker

from activities.notifications import Alert
from activities.wal import TOLD_FAILURES
from recovery.domain.wal_progress import WalOrder
from workers.options import worker_options
from workflows.wal_archive import WalArchive, WalArchiveOrder


class Places:
    """Two regions' queues; ``act`` is what a session does."""

    def __init__(self) -> None:
        self.control, self.a, self.b = (f"{name}-{uuid.uuid4()}" for name in ("control", "a", "b"))
        self.owner: str | None = self.a
        self.sessions: list[tuple[str, WalOrder]] = []
        self.alerts: list[Alert] = []
        self.fail = 0
        self.moved = asyncio.Event()
        self.slow = False  # whoever is told does not answer

    def worker(self, client: Client, queue: str) -> Worker:
        @activity.defn(name="wal.find_owner")
        async def find_owner(group: str) -> WalOrder:
            owner = self.owner
            return WalOrder(group=group, region=owner, queue=owner or "", epoch=1, control_queue=self.control)

        @activity.defn(name="wal.archive")
        async def archive(order: WalOrder) -> str:
            self.sessions.append((queue, order))
            if self.fail:
                self.fail -= 1
                raise ApplicationError("the server went away", type="Unreachable")
            await self.moved.wait()
            return "moved"

        @activity.defn(name="notifications.alert")
        async def alert(alert: Alert) -> None:
            self.alerts.append(alert)
            while self.slow:
                activity.heartbeat()
                await asyncio.sleep(0.1)

        workflows = [WalArchive] if queue == self.control else []
        return Worker(
            client, task_queue=queue, workflows=workflows, activities=[find_owner, archive, alert],
            graceful_shutdown_timeout=timedelta(), **worker_options(),
        )  # fmt: skip


async def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def test_the_archive_follows_the_owner_and_ends_where_it_is_not_configured(temporal: Client) -> None:
    places = Places()
    async with places.worker(temporal, places.control), places.worker(temporal, places.a):
        handle = await temporal.start_workflow(
            WalArchive.run, WalArchiveOrder(group="shop", rounds=3), id=f"wal/{uuid.uuid4()}", task_queue=places.control
        )
        await until(lambda: len(places.sessions) == 1)
        async with places.worker(temporal, places.b):
            places.owner = places.b
            places.moved.set()
            await until(lambda: len(places.sessions) >= 2)
            assert [queue for queue, _ in places.sessions[:2]] == [places.a, places.b]
            await until(lambda: len(places.sessions) >= 5)  # it went on as another run
            places.owner = None
            async with asyncio.timeout(30):
                assert await handle.result() == "the WAL of shop is not archived"


async def test_failures_are_tried_again_and_told_once(temporal: Client) -> None:
    places = Places()
    places.fail = TOLD_FAILURES
    places.owner = places.control
    async with places.worker(temporal, places.control):
        handle = await temporal.start_workflow(
            WalArchive.run,
            WalArchiveOrder(group="shop", failed=TOLD_FAILURES - 2),
            id=f"wal/{uuid.uuid4()}",
            task_queue=places.control,
        )
        await until(lambda: len(places.sessions) == 3)
        assert [order.failed for _, order in places.sessions] == [TOLD_FAILURES - 2, TOLD_FAILURES - 1, TOLD_FAILURES]
        assert [alert.title for alert in places.alerts] == ["WAL of shop is not archived"]
        assert "the server went away" in places.alerts[0].body
        await handle.terminate()


async def test_a_cancellation_ends_it(temporal: Client) -> None:
    places = Places()
    async with places.worker(temporal, places.control), places.worker(temporal, places.a):
        handle = await temporal.start_workflow(
            WalArchive.run, WalArchiveOrder(group="shop"), id=f"wal/{uuid.uuid4()}", task_queue=places.control
        )
        await until(lambda: len(places.sessions) == 1)
        await handle.cancel()
        with pytest.raises(WorkflowFailureError) as caught:
            async with asyncio.timeout(10):
                await handle.result()
        assert isinstance(caught.value.cause, CancelledError)
        places.moved.set()
    assert (len(places.sessions), places.alerts) == (1, [])


async def test_a_cancellation_ends_it_while_people_are_told(temporal: Client) -> None:
    places = Places()
    places.fail, places.owner, places.slow = TOLD_FAILURES, places.control, True
    async with places.worker(temporal, places.control):
        handle = await temporal.start_workflow(
            WalArchive.run,
            WalArchiveOrder(group="shop", failed=TOLD_FAILURES - 1),
            id=f"wal/{uuid.uuid4()}",
            task_queue=places.control,
        )
        await until(lambda: len(places.alerts) == 1)
        await handle.cancel()
        with pytest.raises(WorkflowFailureError) as caught:
            async with asyncio.timeout(10):
                await handle.result()
        assert isinstance(caught.value.cause, CancelledError)
        places.slow = False
    assert len(places.sessions) == 1
