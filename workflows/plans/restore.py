"""Restore: a validated recovery point into a named, empty target. It moves no clients and owns no group, so that one that
fails, for a mistyped target say, wakes nobody."""

from temporalio import workflow

from workflows.steps import CONTROL, KEYHOLDER, PERSIST, PROBE, TARGET, Step, h, m, plan, s

with workflow.unsafe.imports_passed_through():
    from activities.configuration import ConfigurationSteps as Configuration
    from activities.ownership import Ownership
    from activities.recovery_points import RecoveryPointSteps as Points
    from activities.restores import RestoreSteps as Restores
    from recovery.ports.notify import Severity

# fmt: off
RESTORE = plan(
    "Restore", "restores a recovery point into an empty target, beside the running service",
    #    step                     activity                        where      attempt  budget  retry    undo / policy
    Step("load-configuration",    Configuration.load,             CONTROL,   s(20),   m(2),   PROBE),
    Step("find-active-region",    Ownership.find_active_region,   CONTROL,   s(20),   m(2),   PROBE),
    Step("choose-target",         Restores.choose_target,         CONTROL,   s(20),   m(1),   PROBE),
    Step("choose-recovery-point", Points.choose_validated,        TARGET,    s(30),   m(2),   PROBE),
    Step("verify-infrastructure", Restores.verify_infrastructure, KEYHOLDER, m(1),    m(5),   PROBE,   start_within=s(30)),
    Step("restore-database",      Restores.restore_database,      KEYHOLDER, h(2),    h(3),   PERSIST, undo=Restores.remove_restored),
    Step("verify-data",           Restores.verify_data,           TARGET,    h(1),    h(1),   PROBE),
    Step("open-writes",           Restores.open_writes,           TARGET,    m(1),    m(5),   PROBE),
    severity=Severity.WARNING,
)
# fmt: on
