"""Backup: one recovery point of each kind, to every location, validated afterwards."""

from temporalio import workflow

from workflows.steps import CONTROL, COPY, PERSIST, PROBE, SOURCE, WARN, Step, h, m, parallel, plan, s

with workflow.unsafe.imports_passed_through():
    from activities.configuration import ConfigurationSteps as Configuration
    from activities.ownership import Ownership
    from activities.recovery_points import RecoveryPointSteps as Points
    from recovery.domain.plan import PlanContext
    from recovery.domain.recovery_point import BackupKind


def wants_physical(context: PlanContext) -> bool:
    return _wants(context, BackupKind.PHYSICAL)


def wants_logical(context: PlanContext) -> bool:
    return _wants(context, BackupKind.LOGICAL)


def validates_at_once(context: PlanContext) -> bool:
    return context.group.validate_after_backup


def _wants(context: PlanContext, kind: BackupKind) -> bool:
    return context.request.kind is kind or (context.request.kind is None and kind in context.group.backup_kinds)


# fmt: off
BACKUP = plan(
    "Backup", "takes recovery points of a group and starts their validation",
    #    step                    activity                       where    attempt  budget  retry    undo / policy
    Step("load-configuration",   Configuration.load,            CONTROL, s(20),   m(2),   PROBE),
    Step("find-active-region",   Ownership.find_active_region,  CONTROL, s(20),   m(2),   PROBE),
    Step("check-source",         Points.check_source,           SOURCE,  s(30),   m(2),   PROBE),
    parallel(
    Step("take-physical-backup", Points.take_physical_backup,   SOURCE,  h(4),    h(6),   COPY,    undo=Points.remove_unfinished, when=wants_physical),
    Step("take-logical-backup",  Points.take_logical_backup,    SOURCE,  h(4),    h(6),   COPY,    undo=Points.remove_unfinished, when=wants_logical),
    ),
    Step("fill-locations",       Points.fill_locations,         SOURCE,  h(2),    h(4),   PERSIST, on_failure=WARN),
    Step("start-validation",     Points.start_validation,       CONTROL, s(20),   m(2),   PROBE,   on_failure=WARN, when=validates_at_once),
)
# fmt: on
