"""All plans, by name."""

from workflows.plans.backup import BACKUP
from workflows.plans.backup_validation import BACKUP_VALIDATION
from workflows.plans.full_recovery import FULL_RECOVERY
from workflows.plans.restore import RESTORE
from workflows.plans.retention import RETENTION
from workflows.steps import Plan

PLANS: dict[str, Plan] = {table.name: table for table in (BACKUP, BACKUP_VALIDATION, RESTORE, FULL_RECOVERY, RETENTION)}
