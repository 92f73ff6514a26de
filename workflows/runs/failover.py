"""What Temporal runs as Failover."""

from __future__ import annotations

from temporalio import workflow
from temporalio.common import RawValue

from workflows.base import NOTHING, PlanWorkflow
from workflows.plans.failover import FAILOVER

with workflow.unsafe.imports_passed_through():
    from recovery.domain.report import RunReport


@workflow.defn
class Failover(PlanWorkflow):
    plan = FAILOVER

    @workflow.init
    def __init__(self, request: RawValue = NOTHING) -> None:
        self._prepare(request)

    @workflow.run
    async def run(self, request: RawValue = NOTHING) -> RunReport:
        return await self.engine.run()
