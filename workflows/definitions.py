"""The workflow classes that Temporal knows, one per plan. What they do stands in the plan's table."""

from __future__ import annotations

from temporalio import workflow

from workflows.base import PlanWorkflow
from workflows.plans.backup import BACKUP
from workflows.plans.backup_validation import BACKUP_VALIDATION
from workflows.plans.full_recovery import FULL_RECOVERY
from workflows.plans.restore import RESTORE
from workflows.plans.retention import RETENTION

with workflow.unsafe.imports_passed_through():
    from recovery.domain.plan import PlanRequest
    from recovery.domain.report import RunReport

# A run that is started without any input must end with a sentence, not hang: its first step says what is missing.
NOTHING = PlanRequest()


@workflow.defn
class Backup(PlanWorkflow):
    plan = BACKUP

    @workflow.init
    def __init__(self, request: PlanRequest = NOTHING) -> None:
        self._prepare(request)

    @workflow.run
    async def run(self, request: PlanRequest = NOTHING) -> RunReport:
        return await self.engine.run()


@workflow.defn
class BackupValidation(PlanWorkflow):
    plan = BACKUP_VALIDATION

    @workflow.init
    def __init__(self, request: PlanRequest = NOTHING) -> None:
        self._prepare(request)

    @workflow.run
    async def run(self, request: PlanRequest = NOTHING) -> RunReport:
        return await self.engine.run()


@workflow.defn
class Restore(PlanWorkflow):
    plan = RESTORE

    @workflow.init
    def __init__(self, request: PlanRequest = NOTHING) -> None:
        self._prepare(request)

    @workflow.run
    async def run(self, request: PlanRequest = NOTHING) -> RunReport:
        return await self.engine.run()


@workflow.defn
class FullRecovery(PlanWorkflow):
    plan = FULL_RECOVERY

    @workflow.init
    def __init__(self, request: PlanRequest = NOTHING) -> None:
        self._prepare(request)

    @workflow.run
    async def run(self, request: PlanRequest = NOTHING) -> RunReport:
        return await self.engine.run()


@workflow.defn
class Retention(PlanWorkflow):
    plan = RETENTION

    @workflow.init
    def __init__(self, request: PlanRequest = NOTHING) -> None:
        self._prepare(request)

    @workflow.run
    async def run(self, request: PlanRequest = NOTHING) -> RunReport:
        return await self.engine.run()


WORKFLOWS: list[type[PlanWorkflow]] = [Backup, BackupValidation, Restore, FullRecovery, Retention]
