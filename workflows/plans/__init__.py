"""All plans, by name."""

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
from workflows.steps import Plan

PLANS: dict[str, Plan] = {
    table.name: table
    for table in (
        BACKUP, BACKUP_VALIDATION, RESTORE, FAILOVER, SWITCHOVER, REPROTECT, FAILBACK, FULL_RECOVERY,
        DATABASE_FAILOVER, RETENTION,
    )
}  # fmt: skip
