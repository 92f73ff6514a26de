"""The workflow classes that Temporal knows, one per plan. What they do stands in the plan's table."""

from __future__ import annotations

from temporalio import workflow
from temporalio.common import RawValue

from workflows.base import NOTHING, PlanWorkflow
from workflows.plans.backup import BACKUP
from workflows.plans.backup_validation import BACKUP_VALIDATION
from workflows.plans.database_failover import DATABASE_FAILOVER
from workflows.plans.failback import FAILBACK
from workflows.plans.failover import FAILOVER
from workflows.plans.full_recovery import FULL_RECOVERY
from workflows.plans.reprotect import REPROTECT
from workflows.plans.restore import RESTORE
from workflows.plans.retention import RETENTION
from workflows.plans.switchover import SWITCHOVER

with workflow.unsafe.imports_passed_through():
    from recovery.domain.report import RunReport

# The input of every plan is a PlanRequest: {"group": "shop"} is enough. It is taken undecoded, so that a run that is
# started with anything else, or with nothing at all, ends with a sentence instead of hanging.


@workflow.defn
class Backup(PlanWorkflow):
    plan = BACKUP

    @workflow.init
    def __init__(self, request: RawValue = NOTHING) -> None:
        self._prepare(request)

    @workflow.run
    async def run(self, request: RawValue = NOTHING) -> RunReport:
        return await self.engine.run()


@workflow.defn
class BackupValidation(PlanWorkflow):
    plan = BACKUP_VALIDATION

    @workflow.init
    def __init__(self, request: RawValue = NOTHING) -> None:
        self._prepare(request)

    @workflow.run
    async def run(self, request: RawValue = NOTHING) -> RunReport:
        return await self.engine.run()


@workflow.defn
class Restore(PlanWorkflow):
    plan = RESTORE

    @workflow.init
    def __init__(self, request: RawValue = NOTHING) -> None:
        self._prepare(request)

    @workflow.run
    async def run(self, request: RawValue = NOTHING) -> RunReport:
        return await self.engine.run()


@workflow.defn
class FullRecovery(PlanWorkflow):
    plan = FULL_RECOVERY

    @workflow.init
    def __init__(self, request: RawValue = NOTHING) -> None:
        self._prepare(request)

    @workflow.run
    async def run(self, request: RawValue = NOTHING) -> RunReport:
        return await self.engine.run()


@workflow.defn
class Failover(PlanWorkflow):
    plan = FAILOVER

    @workflow.init
    def __init__(self, request: RawValue = NOTHING) -> None:
        self._prepare(request)

    @workflow.run
    async def run(self, request: RawValue = NOTHING) -> RunReport:
        return await self.engine.run()


@workflow.defn
class Switchover(PlanWorkflow):
    plan = SWITCHOVER

    @workflow.init
    def __init__(self, request: RawValue = NOTHING) -> None:
        self._prepare(request)

    @workflow.run
    async def run(self, request: RawValue = NOTHING) -> RunReport:
        return await self.engine.run()


@workflow.defn
class Reprotect(PlanWorkflow):
    plan = REPROTECT

    @workflow.init
    def __init__(self, request: RawValue = NOTHING) -> None:
        self._prepare(request)

    @workflow.run
    async def run(self, request: RawValue = NOTHING) -> RunReport:
        return await self.engine.run()


@workflow.defn
class Failback(PlanWorkflow):
    plan = FAILBACK

    @workflow.init
    def __init__(self, request: RawValue = NOTHING) -> None:
        self._prepare(request)

    @workflow.run
    async def run(self, request: RawValue = NOTHING) -> RunReport:
        return await self.engine.run()


@workflow.defn
class DatabaseFailover(PlanWorkflow):
    plan = DATABASE_FAILOVER

    @workflow.init
    def __init__(self, request: RawValue = NOTHING) -> None:
        self._prepare(request)

    @workflow.run
    async def run(self, request: RawValue = NOTHING) -> RunReport:
        return await self.engine.run()


@workflow.defn
class Retention(PlanWorkflow):
    plan = RETENTION

    @workflow.init
    def __init__(self, request: RawValue = NOTHING) -> None:
        self._prepare(request)

    @workflow.run
    async def run(self, request: RawValue = NOTHING) -> RunReport:
        return await self.engine.run()


WORKFLOWS: list[type[PlanWorkflow]] = [
    Backup,
    BackupValidation,
    Restore,
    Failover,
    Switchover,
    Reprotect,
    Failback,
    FullRecovery,
    DatabaseFailover,
    Retention,
]
