"""The workflow classes that Temporal knows, one per plan. What they do stands in the plan's table.

Each has a module of its own: for every run, and whenever a worker takes one over, the sandbox imports the module of its
class anew, and each class in it takes longer than all else together.

The input of every plan is a PlanRequest: {"group": "shop"} is enough. It is taken undecoded, so that a run that is
started with anything else, or with nothing at all, ends with a sentence instead of hanging.
"""

from __future__ import annotations

from workflows.base import PlanWorkflow
from workflows.runs.backup import Backup
from workflows.runs.backup_validation import BackupValidation
from workflows.runs.database_failover import DatabaseFailover
from workflows.runs.failback import Failback
from workflows.runs.failover import Failover
from workflows.runs.full_recovery import FullRecovery
from workflows.runs.reprotect import Reprotect
from workflows.runs.restore import Restore
from workflows.runs.retention import Retention
from workflows.runs.switchover import Switchover

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
