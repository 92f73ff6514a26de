"""A worker in a process of its own, which faults may kill or freeze."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Worker

from activities.lock import LockGuard
from tests.chaos.recording import Faults, activities
from tests.chaos.world import SqliteOwnership
from workers.options import worker_options
from workflows.definitions import WORKFLOWS


def serve(address: str, queue: str, root: str) -> None:
    """Works until it is killed, or until the process that started it is gone."""
    asyncio.run(_serve(address, queue, Path(root), os.getppid()))


async def _serve(address: str, queue: str, root: Path, parent: int) -> None:
    client = await Client.connect(address, data_converter=pydantic_data_converter)
    worker = Worker(
        client,
        task_queue=queue,
        workflows=WORKFLOWS,
        activities=activities(root, queue),
        interceptors=[Faults(root), LockGuard(SqliteOwnership(root / "ownership.db"))],
        **worker_options(),
    )
    async with worker:
        while os.getppid() == parent:
            await asyncio.sleep(0.5)
