"""FullRecovery: the region is lost; the group comes back in another one from its newest validated recovery point.

A group of several stores comes back from a recovery set: its further stores are restored beside PostgreSQL. One of them
that fails is held for the operator, who may go on without it: PostgreSQL's recovery is not undone for it unasked, and not
by everybody's silence either. Data that failed their check are not opened by silence.

Everything before ``open-writes`` can be undone, for no client's write is acknowledged until then. From there on the
target is the primary, and only forward steps remain. Where regions have guards, the old one is fenced with proof first,
and the target's guard takes the group over.
"""

from temporalio import workflow

from workflows.plans.conditions import (
    has_no_guard,
    leaves_a_guard,
    restored_further,
    restores_further,
    restores_redis,
    restores_search,
    restores_streams,
)
from workflows.steps import (
    CONTROL,
    HOLD,
    KEYHOLDER,
    ONCE,
    PERSIST,
    PROBE,
    TARGET,
    WARN,
    Gate,
    Silence,
    Step,
    m,
    parallel,
    plan,
    s,
)

with workflow.unsafe.imports_passed_through():
    from activities.configuration import ConfigurationSteps as Configuration
    from activities.dns import DnsSteps as Dns
    from activities.guarding import GuardingSteps as Guard
    from activities.notifications import Notifications
    from activities.ownership import Ownership
    from activities.recovery_points import RecoveryPointSteps as Points
    from activities.restores import RestoreSteps as Restores
    from activities.services import ServiceSteps as Services
    from activities.set_restores import SetRestoreSteps as Stores

BEGIN = Gate("May the group be recovered from a recovery point? What was committed after it is lost.")

# fmt: off
FULL_RECOVERY = plan(
    "FullRecovery", "recovers a group in another region from its newest validated recovery point",
    #    step                     activity                        where      attempt  budget  retry    undo / policy
    Step("load-configuration",    Configuration.load,             CONTROL,   s(10),   s(30),  PROBE),
    Step("claim-group",           Ownership.claim_run,            CONTROL,   s(10),   m(1),   PROBE,   undo=Ownership.release_run),
    Step("choose-target",         Restores.choose_target,         CONTROL,   s(10),   s(20),  PROBE),
    Step("choose-recovery-point", Points.choose_validated,        TARGET,    s(30),   m(1),   PROBE),
    parallel(
    Step("announce-start",        Notifications.announce_start,   CONTROL,   s(30),   s(30),  ONCE,    on_failure=WARN, beside=True),
    Step("verify-infrastructure", Restores.verify_infrastructure, KEYHOLDER, m(1),    m(2),   PROBE,   gate=BEGIN, start_within=s(30)),
    since="announced beside the plan"),
    Step("check-stores",          Stores.check_stores,            KEYHOLDER, m(1),    m(2),   PROBE,   when=restores_further, start_within=s(30), apart="stores are checked after the approval"),
    parallel(
    Step("restore-database",      Restores.restore_database,      KEYHOLDER, m(30),   m(30),  PERSIST, undo=Restores.remove_restored),
    Step("restore-streams",       Stores.restore_streams,         KEYHOLDER, m(30),   m(30),  PERSIST, undo=Stores.remove_restored, when=restores_streams, on_failure=HOLD, silence=Silence.SKIP),
    Step("restore-redis",         Stores.restore_redis,           KEYHOLDER, m(30),   m(30),  PERSIST, undo=Stores.remove_restored, when=restores_redis, on_failure=HOLD, silence=Silence.SKIP),
    Step("restore-search",        Stores.restore_search,          KEYHOLDER, m(30),   m(30),  PERSIST, undo=Stores.remove_restored, when=restores_search, on_failure=HOLD, silence=Silence.SKIP),
    ),
    parallel(
    Step("verify-data",           Restores.verify_data,           TARGET,    m(8),    m(8),   PROBE),
    Step("verify-stores",         Stores.verify_stores,           TARGET,    m(8),    m(8),   PROBE,   when=restored_further, on_failure=HOLD, silence=Silence.WAIT),
    ),
    Step("fence-primary",         Guard.fence,                    TARGET,    m(1),    m(2),   PROBE,   undo=Guard.unfence, when=leaves_a_guard),
    Step("take-ownership",        Ownership.take_ownership,       CONTROL,   s(10),   m(1),   PROBE,   undo=Ownership.return_ownership, when=has_no_guard),
    Step("verify-services",       Services.verify_services,       TARGET,    s(30),   m(5),   PROBE),
    Step("remember-records",      Dns.remember_records,           CONTROL,   s(20),   m(1),   PROBE),
    Step("switch-dns",            Dns.point_at_target,            CONTROL,   s(30),   m(2),   PROBE,   undo=Dns.restore_records),
    Step("open-writes",           Guard.open_restored,            TARGET,    s(30),   m(2),   PROBE,   pivot=True, observe=Restores.observe_writes),
    parallel(
    Step("confirm-service",       Restores.confirm_service,       TARGET,    s(30),   m(2),   PROBE,   on_failure=HOLD),
    Step("open-stores",           Stores.open_stores,             TARGET,    s(30),   m(2),   PROBE,   when=restored_further, on_failure=HOLD),
    ),
    Step("measure",               Services.measure,               CONTROL,   s(10),   s(20),  PROBE,   on_failure=WARN),
    Step("notify-stakeholders",   Notifications.announce_end,     CONTROL,   s(30),   s(30),  ONCE,    on_failure=WARN),
    Step("release-group",         Ownership.release_run,          CONTROL,   s(10),   m(1),   PROBE),
    locks_group=True,
)
# fmt: on
