"""Failover: the primary is lost; the most advanced standby takes over, after proof that the old one is fenced.

Everything before ``promote-postgres`` can be undone. The fence's wait for the old primary's lease began when its guard
fell silent, so what stands before it costs no time. Clients are led to the target as soon as its database is primary:
nothing that comes later can make another region the better place for them. A DNS that does not answer holds up only them.
"""

from temporalio import workflow

from workflows.plans.conditions import IS_OFF, MAY_MOVE, has_postgres, has_redis, has_streams, pooled, unguarded
from workflows.steps import CONTROL, HOLD, ONCE, PROBE, SOURCE, TARGET, WARN, Step, m, parallel, plan, s

with workflow.unsafe.imports_passed_through():
    from activities.choosing import ChoosingSteps as Choosing
    from activities.configuration import ConfigurationSteps as Configuration
    from activities.dns import DnsSteps as Dns
    from activities.guarding import GuardingSteps as Guard
    from activities.notifications import Notifications
    from activities.ownership import Ownership
    from activities.routing import RoutingSteps as Routing
    from activities.runs import RunSteps as Runs
    from activities.services import ServiceSteps as Services
    from activities.standbys import StandbySteps as Standbys

# fmt: off
FAILOVER = plan(
    "Failover", "moves a group to its best standby because its primary is lost",
    #    step                   activity                      where    attempt  budget  retry    undo / policy
    Step("load-configuration",  Configuration.load,           CONTROL, s(10),   s(30),  PROBE),
    Step("claim-group",         Ownership.claim_run,          CONTROL, s(10),   m(1),   PROBE,   undo=Ownership.release_run),
    Step("choose-target",       Choosing.choose_target,       CONTROL, s(10),   s(30),  PROBE,   costs_data=True),
    parallel(
    Step("announce-start",      Notifications.announce_start, CONTROL, s(30),   s(30),  ONCE,    on_failure=WARN, beside=True),
    Step("precheck",            Choosing.precheck,            TARGET,  s(10),   s(30),  PROBE,   on_failure=HOLD),
    Step("remember-records",    Dns.remember_records,         CONTROL, s(20),   s(30),  PROBE,   on_failure=WARN, beside=True),
    ),
    Step("confirm-fence",       Guard.note_confirmation,      CONTROL, s(10),   s(30),  PROBE,   gate=IS_OFF, when=unguarded),
    Step("fence-primary",       Guard.fence,                  TARGET,  m(2),    m(3),   PROBE,   undo=Guard.unfence, gate=MAY_MOVE),
    Step("promote-postgres",    Guard.promote_postgres,       TARGET,  s(30),   m(2),   PROBE,   pivot=True, observe=Guard.observe_promotion),
    parallel(
    Step("promote-redis",       Guard.promote_redis,          TARGET,  s(20),   m(1),   PROBE,   on_failure=HOLD, when=has_redis),
    Step("promote-streams",     Guard.promote_streams,        TARGET,  s(20),   m(1),   PROBE,   on_failure=HOLD, when=has_streams),
    Step("write-probe",         Standbys.write_probe,         TARGET,  s(10),   m(1),   PROBE,   on_failure=HOLD, when=has_postgres),
    Step("switch-dns",          Dns.point_at_target,          CONTROL, s(30),   m(1),   PROBE,   on_failure=HOLD),
    ),
    parallel(
    Step("route-clients",       Routing.route_clients,        CONTROL, s(30),   m(1),   PROBE,   on_failure=WARN, when=pooled),
    Step("repoint-standbys",    Guard.repoint_standbys,       TARGET,  s(30),   m(1),   PROBE,   on_failure=WARN),
    Step("recreate-slots",      Standbys.recreate_slots,      TARGET,  s(20),   m(1),   PROBE,   on_failure=WARN, when=has_postgres),
    Step("move-archive",        Standbys.move_archive,        TARGET,  s(30),   m(1),   PROBE,   on_failure=WARN, when=has_postgres),
    Step("start-base-backup",   Runs.start_base_backup,       CONTROL, s(20),   m(1),   PROBE,   on_failure=WARN),
    Step("drain-connections",   Standbys.drain,               SOURCE,  m(1),    m(1),   PROBE,   on_failure=WARN, beside=True, start_within=s(2), when=has_postgres),
    ),
    Step("verify-recovery",     Standbys.verify_recovery,     TARGET,  m(1),    m(1),   PROBE,   on_failure=HOLD),
    Step("measure-loss",        Standbys.measure_loss,        TARGET,  s(20),   s(30),  PROBE,   on_failure=WARN),
    Step("measure",             Services.measure,             CONTROL, s(10),   s(20),  PROBE,   on_failure=WARN),
    Step("watch-new-region",    Standbys.watch_new_region,    CONTROL, s(10),   s(20),  PROBE,   on_failure=WARN),
    Step("notify-stakeholders", Notifications.announce_end,   CONTROL, s(30),   s(30),  ONCE,    on_failure=WARN),
    Step("release-group",       Ownership.release_run,        CONTROL, s(10),   m(1),   PROBE),
    locks_group=True,
)
# fmt: on
