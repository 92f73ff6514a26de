"""What Temporal runs as Restore."""

from __future__ import annotations

from temporalio import workflow
from temporalio.common import RawValue

from workflows.base import NOTHING, PlanWorkflow
from workflows.plans.restore import RESTORE

with workflow.unsafe.imports_passed_through():
    from recovery.domain.report import RunReport


@workflow.defn
class Restore(PlanWorkflow):
    plan = RESTORE

    @workflow.init
    def __init__(self, request: RawValue = NOTHING) -> None:
        self._prepare(request)

    @workflow.run
    async def run(self, request: RawValue = NOTHING) -> RunReport:
        return await self.engine.run()
