"""Backup: one recovery point of each kind, to every location, validated afterwards."""

from temporalio import workflow

from workflows.steps import CONTROL, COPY, PERSIST, PROBE, SOURCE, WARN, Step, h, m, parallel, plan, s

with workflow.unsafe.imports_passed_through():
    from activities.configuration import ConfigurationSteps as Configuration
    from activities.ownership import Ownership
    from activities.recovery_points import RecoveryPointSteps as Points
    from activities.recovery_sets import RecoverySetSteps as Sets
    from recovery.domain.plan import PlanContext
    from recovery.domain.recovery_point import BackupKind
    from recovery.ports.notify import Severity


def wants_physical(context: PlanContext) -> bool:
    """Of a PostgreSQL at RDS, its snapshot stands for a base backup."""
    return context.wants(BackupKind.PHYSICAL) or context.wants(BackupKind.SNAPSHOT)


def wants_logical(context: PlanContext) -> bool:
    return context.wants(BackupKind.LOGICAL)


def wants_streams(context: PlanContext) -> bool:
    return context.wants(BackupKind.STREAMS)


def wants_rdb(context: PlanContext) -> bool:
    return context.wants(BackupKind.RDB)


def wants_search(context: PlanContext) -> bool:
    return context.wants(BackupKind.SEARCH)


def takes_a_set(context: PlanContext) -> bool:
    """Points of several stores belong together."""
    return len({kind.store for kind in context.facts.written}) > 1


def lacks_a_point(context: PlanContext) -> bool:
    """A store whose backup failed did not keep the others from theirs, and yet the run has failed."""
    return bool(context.kinds_missing)


def validates_at_once(context: PlanContext) -> bool:
    return context.group.validate_after_backup


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
    Step("take-streams-backup",  Points.take_streams_backup,    SOURCE,  h(4),    h(6),   COPY,    undo=Points.remove_unfinished, when=wants_streams, on_failure=WARN),
    Step("take-redis-backup",    Points.take_redis_backup,      SOURCE,  h(4),    h(6),   COPY,    undo=Points.remove_unfinished, when=wants_rdb, on_failure=WARN),
    Step("take-search-backup",   Points.take_search_backup,     SOURCE,  h(4),    h(6),   COPY,    undo=Points.remove_unfinished, when=wants_search, on_failure=WARN),
    ),
    Step("fill-locations",       Points.fill_locations,         SOURCE,  h(2),    h(4),   PERSIST, on_failure=WARN),
    Step("write-recovery-set",   Sets.write,                    SOURCE,  s(30),   m(5),   PROBE,   on_failure=WARN, when=takes_a_set),
    Step("start-validation",     Points.start_validation,       CONTROL, s(20),   m(2),   PROBE,   on_failure=WARN, when=validates_at_once),
    Step("judge",                Points.judge_backup,           CONTROL, s(20),   m(1),   PROBE,   when=lacks_a_point),
    severity=Severity.WARNING,
)
# fmt: on
