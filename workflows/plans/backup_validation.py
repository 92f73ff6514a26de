"""BackupValidation: a recovery point counts only after it was restored and checked."""

from temporalio import workflow

from workflows.steps import CONTROL, ONCE, PERSIST, PROBE, VALIDATION, WARN, Step, h, m, plan, s

with workflow.unsafe.imports_passed_through():
    from activities.configuration import ConfigurationSteps as Configuration
    from activities.notifications import Notifications
    from activities.validations import ValidationSteps as Validations
    from recovery.domain.plan import PlanContext
    from recovery.domain.recovery_point import VerdictState


def found_damage(context: PlanContext) -> bool:
    """A run that an earlier version took beyond this goes on without repairs."""
    damaged = any(verdict.state is VerdictState.CORRUPT for verdict in context.facts.verdicts or [])
    return damaged and (not workflow.in_workflow() or workflow.patched("repairs"))


def was_repaired(context: PlanContext) -> bool:
    return bool(context.facts.points_repaired)


def reads_wal_back(context: PlanContext) -> bool:
    """The daily run. One that an earlier version took beyond this goes on without it."""
    daily = context.group.wal is not None and context.request.point_id is None
    return daily and (not workflow.in_workflow() or workflow.patched("wal-read-back"))


# fmt: off
BACKUP_VALIDATION = plan(
    "BackupValidation", "restores recovery points into a scratch server and stores the verdicts",
    #    step                  activity                        where       attempt  budget  retry    undo / policy
    Step("load-configuration", Configuration.load,             CONTROL,    s(20),   m(2),   PROBE),
    Step("choose-points",      Validations.choose_to_validate, CONTROL,    s(30),   m(2),   PROBE),
    Step("validate-points",    Validations.validate,           VALIDATION, h(6),    h(8),   PERSIST),
    Step("repair-copies",      Validations.repair,             VALIDATION, h(2),    h(4),   PERSIST, on_failure=WARN, when=found_damage),
    Step("prove-again",        Validations.prove_again,        VALIDATION, h(6),    h(8),   PERSIST, on_failure=WARN, when=was_repaired),
    Step("read-back-wal",      Validations.read_back_wal,      VALIDATION, h(2),    h(4),    PERSIST, on_failure=WARN, when=reads_wal_back),
    Step("announce-verdict",   Notifications.announce_verdict, CONTROL,    s(30),   m(1),   ONCE,    on_failure=WARN),
    Step("judge",              Validations.judge,              CONTROL,    s(20),   m(1),   PROBE),
    told_by="announce-verdict",
)
# fmt: on
