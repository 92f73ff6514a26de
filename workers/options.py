"""How workers are tuned for quick takeover and quick cancellation."""

from __future__ import annotations

from datetime import timedelta
from typing import TypedDict


class WorkerOptions(TypedDict):
    """Keyword arguments of ``temporalio.worker.Worker``."""

    max_heartbeat_throttle_interval: timedelta
    default_heartbeat_throttle_interval: timedelta
    sticky_queue_schedule_to_start_timeout: timedelta


def worker_options() -> WorkerOptions:
    """A cancellation travels on a sent heartbeat; a killed worker keeps its runs until its sticky queue times out."""
    return WorkerOptions(
        max_heartbeat_throttle_interval=timedelta(seconds=0.5),
        default_heartbeat_throttle_interval=timedelta(seconds=0.5),
        sticky_queue_schedule_to_start_timeout=timedelta(seconds=1),
    )
