"""How workers are tuned for quick takeover and quick cancellation."""

from __future__ import annotations

from datetime import timedelta
from typing import TypedDict

from recovery import __version__


class WorkerOptions(TypedDict):
    """Keyword arguments of ``temporalio.worker.Worker``."""

    build_id: str
    max_heartbeat_throttle_interval: timedelta
    default_heartbeat_throttle_interval: timedelta
    sticky_queue_schedule_to_start_timeout: timedelta
    max_concurrent_workflow_task_polls: int
    max_concurrent_activity_task_polls: int


def worker_options() -> WorkerOptions:
    """A cancellation travels on a sent heartbeat; a killed worker keeps its runs until its sticky queue times out."""
    return WorkerOptions(
        build_id=f"recovery-plans {__version__}",  # else the SDK reads every loaded module again, and hashes it
        max_heartbeat_throttle_interval=timedelta(seconds=0.5),
        default_heartbeat_throttle_interval=timedelta(seconds=0.5),
        sticky_queue_schedule_to_start_timeout=timedelta(seconds=1),
        # A worker that is frozen keeps its open polls, and each of them swallows one more task until that times out.
        max_concurrent_workflow_task_polls=2,
        max_concurrent_activity_task_polls=2,
    )
