"""The run that keeps a vantage point's probe loop going."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError

from workflows.failures import explain
from workflows.steps import HEARTBEAT, s

with workflow.unsafe.imports_passed_through():
    from activities.monitoring import Monitoring
    from recovery.domain.base import Recorded


class VantageOrder(Recorded):
    """``queue``: task queue of the vantage point's workers."""

    vantage: str
    queue: str
    rounds: int = 20


@workflow.defn
class VantageMonitor:
    """Keeps the probe loop of a vantage point running on one of its workers; id ``monitor/<vantage>``."""

    @workflow.run
    async def run(self, order: VantageOrder) -> str:
        for _ in range(order.rounds):
            try:
                watched: bool = await workflow.execute_activity_method(
                    Monitoring.watch,
                    order.vantage,
                    task_queue=order.queue,
                    start_to_close_timeout=timedelta(hours=24),
                    heartbeat_timeout=HEARTBEAT,
                    retry_policy=RetryPolicy(initial_interval=s(0.2), backoff_coefficient=1.5, maximum_interval=s(2)),
                    summary=f"look from {order.vantage}",
                )
            except ActivityError as error:
                workflow.logger.error(f"the probe loop of {order.vantage} ended: {explain(error)}")
                await asyncio.sleep(10)
                continue
            if not watched:
                return f"no group names {order.vantage} as a vantage point"
        return workflow.continue_as_new(order)
