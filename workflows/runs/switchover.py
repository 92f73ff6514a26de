"""What Temporal runs as Switchover."""

from __future__ import annotations

from temporalio import workflow
from temporalio.common import RawValue

from workflows.base import NOTHING, PlanWorkflow
from workflows.plans.switchover import SWITCHOVER

with workflow.unsafe.imports_passed_through():
    from recovery.domain.report import RunReport


@workflow.defn
class Switchover(PlanWorkflow):
    plan = SWITCHOVER

    @workflow.init
    def __init__(self, request: RawValue = NOTHING) -> None:
        self._prepare(request)

    @workflow.run
    async def run(self, request: RawValue = NOTHING) -> RunReport:
        return await self.engine.run()
