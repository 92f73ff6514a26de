"""DatabaseFailover: the group's PostgreSQL is run by a provider (Amazon RDS), and its instance is lost.

A read replica that follows is promoted; where there is none, a new instance is made from the newest snapshot. Neither
stops the old instance: it is fenced by the provider's means where that is possible, and otherwise a person has to
vouch that it is off. Everything before ``open-database`` can be undone.
"""

from temporalio import workflow

from workflows.plans.conditions import IS_OFF
from workflows.steps import CONTROL, HOLD, ONCE, PERSIST, PROBE, TARGET, WARN, Gate, Step, h, m, parallel, plan, s

with workflow.unsafe.imports_passed_through():
    from activities.configuration import ConfigurationSteps as Configuration
    from activities.dns import DnsSteps as Dns
    from activities.guarding import GuardingSteps as Guard
    from activities.managed_fencing import ManagedFencing as Fencing
    from activities.managed_postgres import ManagedPostgresSteps as Managed
    from activities.notifications import Notifications
    from activities.ownership import Ownership
    from activities.services import ServiceSteps as Services
    from recovery.domain.managed import Way
    from recovery.domain.plan import PlanContext

MAY_REPLACE = Gate("May the group's database be closed and replaced? What the replacement lacks is lost.")


def restores(context: PlanContext) -> bool:
    return context.facts.managed is not None and context.facts.managed.way is Way.RESTORE


def unproven(context: PlanContext) -> bool:
    return context.facts.fence is None


# fmt: off
DATABASE_FAILOVER = plan(
    "DatabaseFailover", "replaces a group's managed database (RDS) by its read replica, or from a snapshot",
    #    step                    activity                      where    attempt  budget  retry    undo / policy
    Step("load-configuration",   Configuration.load,           CONTROL, s(10),   s(30),  PROBE),
    Step("claim-group",          Ownership.claim_run,          CONTROL, s(10),   m(1),   PROBE,   undo=Ownership.release_run),
    Step("assess-database",      Managed.assess,               CONTROL, m(1),    m(5),   PROBE),
    Step("choose-replacement",   Managed.choose_replacement,   CONTROL, m(1),    m(5),   PROBE),
    parallel(
    Step("announce-start",       Notifications.announce_start, CONTROL, s(30),   s(30),  ONCE,    on_failure=WARN, beside=True),
    Step("remember-records",     Dns.remember_records,         CONTROL, s(20),   m(1),   PROBE),
    since="announced beside the plan"),
    Step("fence-primary",        Fencing.fence_primary,        CONTROL, m(15),   m(20),  PROBE,   undo=Fencing.unfence, on_failure=WARN, gate=MAY_REPLACE),
    Step("confirm-fence",        Guard.note_confirmation,      CONTROL, s(10),   s(30),  PROBE,   gate=IS_OFF, when=unproven),
    Step("restore-snapshot",     Managed.restore_snapshot,     CONTROL, m(2),    m(10),  PROBE,   undo=Managed.remove_restored, when=restores),
    Step("wait-until-restored",  Managed.wait_until_restored,  CONTROL, h(2),    h(2),   PERSIST, when=restores),
    Step("open-database",        Managed.open_database,        CONTROL, m(2),    m(5),   PROBE,   pivot=True, observe=Managed.observe_database),
    Step("wait-until-available", Managed.wait_until_available, CONTROL, h(1),    h(1),   PERSIST, on_failure=HOLD),
    Step("take-ownership",       Ownership.take_ownership,     CONTROL, s(10),   m(1),   PROBE,   on_failure=HOLD),
    Step("confirm-service",      Managed.confirm_service,      TARGET,  s(30),   m(5),   PROBE,   on_failure=HOLD),
    Step("switch-dns",           Dns.point_at_target,          CONTROL, m(2),    m(5),   PROBE,   on_failure=HOLD),
    Step("verify-data",          Managed.verify_data,          TARGET,  m(5),    m(10),  PROBE,   on_failure=HOLD),
    Step("verify-services",      Services.verify_services,     TARGET,  s(30),   m(5),   PROBE,   on_failure=HOLD),
    Step("measure",              Services.measure,             CONTROL, s(10),   s(20),  PROBE,   on_failure=WARN),
    Step("notify-stakeholders",  Notifications.announce_end,   CONTROL, s(30),   s(30),  ONCE,    on_failure=WARN),
    Step("release-group",        Ownership.release_run,        CONTROL, s(10),   m(1),   PROBE),
    locks_group=True,
)
# fmt: on
