"""Reprotect: the old primary returned; it becomes a standby, and what only it holds is saved first.

It changes neither owner nor clients, and gives way to a failover: its lock may be taken over by one. So one that fails is
a warning: the group is served as before, and as little protected.
"""

from temporalio import workflow

from workflows.plans.conditions import has_postgres
from workflows.steps import CONTROL, ONCE, PERSIST, PROBE, TARGET, WARN, Step, h, m, plan, s

with workflow.unsafe.imports_passed_through():
    from activities.choosing import ChoosingSteps as Choosing
    from activities.configuration import ConfigurationSteps as Configuration
    from activities.guarding import GuardingSteps as Guard
    from activities.notifications import Notifications
    from activities.ownership import Ownership
    from activities.reprotecting import ReprotectSteps as Reprotecting
    from activities.standbys import StandbySteps as Standbys
    from recovery.ports.notify import Severity

# fmt: off
REPROTECT = plan(
    "Reprotect", "makes a returned old primary a standby, after what only it holds was saved",
    #    step                   activity                      where    attempt  budget  retry    undo / policy
    Step("load-configuration",  Configuration.load,           CONTROL, s(20),   m(2),   PROBE),
    Step("claim-group",         Ownership.claim_run,          CONTROL, s(10),   m(1),   PROBE,   undo=Ownership.release_run),
    Step("find-returned",       Reprotecting.find_returned,       CONTROL, s(20),   m(1),   PROBE),
    Step("save-divergence",     Reprotecting.save_divergence,     TARGET,  h(1),    h(2),   PERSIST),
    Step("recreate-slots",      Standbys.recreate_slots,      CONTROL, s(20),   m(1),   PROBE,   on_failure=WARN, when=has_postgres),
    Step("rejoin-database",     Reprotecting.rejoin,              TARGET,  h(4),    h(6),   PERSIST, when=has_postgres),
    Step("start-following",     Guard.start_following,        TARGET,  m(2),    m(5),   PROBE),
    Step("wait-for-lag",        Choosing.wait_for_lag,        CONTROL, h(1),    h(2),   PROBE),
    Step("drop-old-slots",      Standbys.drop_old_slots,      CONTROL, s(20),   m(1),   PROBE,   on_failure=WARN, when=has_postgres),
    Step("confirm-candidate",   Reprotecting.confirm_candidate,   CONTROL, s(20),   m(2),   PROBE,   on_failure=WARN),
    Step("notify-stakeholders", Notifications.announce_end,   CONTROL, s(30),   s(30),  ONCE,    on_failure=WARN),
    Step("release-group",       Ownership.release_run,        CONTROL, s(10),   m(1),   PROBE),
    severity=Severity.WARNING,
)
# fmt: on
