"""What Temporal runs as Backup."""

from __future__ import annotations

from temporalio import workflow
from temporalio.common import RawValue

from workflows.base import NOTHING, PlanWorkflow
from workflows.plans.backup import BACKUP

with workflow.unsafe.imports_passed_through():
    from recovery.domain.report import RunReport


@workflow.defn
class Backup(PlanWorkflow):
    plan = BACKUP

    @workflow.init
    def __init__(self, request: RawValue = NOTHING) -> None:
        self._prepare(request)

    @workflow.run
    async def run(self, request: RawValue = NOTHING) -> RunReport:
        return await self.engine.run()
