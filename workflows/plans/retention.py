"""Retention: removes what the group's rules no longer keep, and never the last validated recovery point."""

from temporalio import workflow

from workflows.steps import CONTROL, PROBE, Step, h, m, plan, s

with workflow.unsafe.imports_passed_through():
    from activities.configuration import ConfigurationSteps as Configuration
    from activities.recovery_points import RecoveryPointSteps as Points
    from recovery.ports.notify import Severity

# fmt: off
RETENTION = plan(
    "Retention", "removes superseded recovery points and what unfinished backups left behind",
    #    step                  activity            where    attempt  budget  retry
    Step("load-configuration", Configuration.load, CONTROL, s(20),   m(2),   PROBE),
    Step("expire-points",      Points.expire,      CONTROL, h(1),    h(2),   PROBE),
    severity=Severity.WARNING,
)
# fmt: on
