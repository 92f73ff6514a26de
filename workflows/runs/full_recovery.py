"""What Temporal runs as FullRecovery."""

from __future__ import annotations

from temporalio import workflow
from temporalio.common import RawValue

from workflows.base import NOTHING, PlanWorkflow
from workflows.plans.full_recovery import FULL_RECOVERY

with workflow.unsafe.imports_passed_through():
    from recovery.domain.report import RunReport


@workflow.defn
class FullRecovery(PlanWorkflow):
    plan = FULL_RECOVERY

    @workflow.init
    def __init__(self, request: RawValue = NOTHING) -> None:
        self._prepare(request)

    @workflow.run
    async def run(self, request: RawValue = NOTHING) -> RunReport:
        return await self.engine.run()
