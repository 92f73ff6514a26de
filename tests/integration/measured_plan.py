"""The smallest plan: one workflow of one activity. A module of its own, because the sandbox imports it again."""

from __future__ import annotations

from datetime import timedelta

from temporalio import activity, workflow


@activity.defn
async def measured_step(number: int) -> int:
    return number


@workflow.defn
class MeasuredPlan:
    @workflow.run
    async def run(self, number: int) -> int:
        return await workflow.execute_activity(measured_step, number, start_to_close_timeout=timedelta(seconds=10))
