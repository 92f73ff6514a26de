"""Switchover: both sides are healthy; the group moves, and no acknowledged write is lost.

Writes stop at ``fence-primary`` and go on after ``promote-postgres``; what fails in between is undone, and writes go on
where they were. A verification that fails afterwards takes the switchover back, while the old side is in sync.
"""

from temporalio import workflow

from workflows.plans.conditions import (
    IS_OFF,
    MAY_MOVE,
    graceful,
    graceful_and_pooled,
    has_postgres,
    has_redis,
    has_streams,
    pooled,
    returned_and_pooled,
    taken_back,
    unguarded,
)  # fmt: skip
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
SWITCHOVER = plan(
    "Switchover", "moves a healthy group to another region without losing a write",
    #    step                   activity                      where    attempt  budget  retry    undo / policy
    Step("load-configuration",  Configuration.load,           CONTROL, s(10),   s(30),  PROBE),
    Step("claim-group",         Ownership.claim_run,          CONTROL, s(10),   m(1),   PROBE,   undo=Ownership.release_run),
    Step("choose-target",       Choosing.choose_target,       CONTROL, s(10),   s(30),  PROBE,   costs_data=True),
    parallel(
    Step("announce-start",      Notifications.announce_start, CONTROL, s(30),   s(30),  ONCE,    on_failure=WARN, beside=True),
    Step("check-source",        Choosing.check_source,        SOURCE,  s(10),   m(1),   PROBE,   graceful=True, when=graceful, start_within=s(2)),
    Step("precheck",            Choosing.precheck,            TARGET,  s(10),   m(1),   PROBE),
    Step("remember-records",    Dns.remember_records,         CONTROL, s(20),   m(1),   PROBE),
    ),
    Step("wait-for-lag",        Choosing.wait_for_lag,        TARGET,  m(5),    m(5),   PROBE,   graceful=True, when=graceful),
    Step("confirm-fence",       Guard.note_confirmation,      CONTROL, s(10),   s(30),  PROBE,   gate=IS_OFF, when=unguarded),
    Step("hold-clients",        Routing.hold_clients,         CONTROL, s(20),   s(30),  PROBE,   graceful=True, undo=Routing.release_clients, when=graceful_and_pooled),
    Step("fence-primary",       Guard.fence,                  TARGET,  m(1),    m(2),   PROBE,   graceful=True, undo=Guard.unfence, gate=MAY_MOVE),
    Step("compare-positions",   Choosing.compare_positions,   TARGET,  s(10),   s(10),  PROBE,   graceful=True, when=graceful),
    Step("promote-postgres",    Guard.promote_postgres,       TARGET,  s(30),   m(2),   PROBE,   pivot=True, observe=Guard.observe_promotion),
    parallel(
    Step("promote-redis",       Guard.promote_redis,          TARGET,  s(20),   m(1),   PROBE,   on_failure=HOLD, when=has_redis),
    Step("promote-streams",     Guard.promote_streams,        TARGET,  s(20),   m(1),   PROBE,   on_failure=HOLD, when=has_streams),
    Step("write-probe",         Standbys.write_probe,         TARGET,  s(10),   m(1),   PROBE,   on_failure=HOLD, when=has_postgres),
    Step("switch-dns",          Dns.point_at_target,          CONTROL, s(30),   m(2),   PROBE,   on_failure=HOLD),
    ),
    parallel(
    Step("route-clients",       Routing.route_clients,        CONTROL, s(30),   m(1),   PROBE,   on_failure=HOLD, when=pooled),
    Step("repoint-standbys",    Guard.repoint_standbys,       TARGET,  s(30),   m(1),   PROBE,   on_failure=WARN),
    Step("recreate-slots",      Standbys.recreate_slots,      TARGET,  s(20),   m(1),   PROBE,   on_failure=WARN, when=has_postgres),
    Step("move-archive",        Standbys.move_archive,        TARGET,  s(30),   m(1),   PROBE,   on_failure=WARN, when=has_postgres),
    Step("start-base-backup",   Runs.start_base_backup,       CONTROL, s(20),   m(1),   PROBE,   on_failure=WARN),
    Step("drain-connections",   Standbys.drain,               SOURCE,  m(1),    m(2),   PROBE,   on_failure=WARN, beside=True, start_within=s(2), when=has_postgres),
    ),
    Step("verify-switchover",   Standbys.verify_switchover,   CONTROL, m(1),    m(2),   PROBE,   on_failure=HOLD),
    # Only when the verification failed, and the old side is healthy and in sync: the way back, as carefully.
    Step("fence-target",        Guard.fence_target,           CONTROL, m(1),    m(2),   PROBE,   on_failure=HOLD, when=taken_back),
    Step("compare-returning",   Choosing.compare_returning,   CONTROL, s(10),   s(20),  PROBE,   on_failure=HOLD, when=taken_back),
    Step("promote-source",      Guard.promote_source,         CONTROL, s(30),   m(2),   PROBE,   on_failure=HOLD, when=taken_back),
    Step("return-records",      Dns.restore_records,          CONTROL, s(30),   m(2),   PROBE,   on_failure=HOLD, when=taken_back),
    Step("route-clients-back",  Routing.route_clients,        CONTROL, s(30),   m(1),   PROBE,   on_failure=HOLD, when=returned_and_pooled),
    Step("let-others-follow",   Guard.repoint_standbys,       CONTROL, s(30),   m(1),   PROBE,   on_failure=WARN, when=taken_back),
    Step("drop-old-slots",      Standbys.drop_old_slots,      CONTROL, s(20),   m(1),   PROBE,   on_failure=WARN, when=has_postgres),
    Step("measure-loss",        Standbys.measure_loss,        CONTROL, s(20),   m(1),   PROBE,   on_failure=WARN),
    Step("measure",             Services.measure,             CONTROL, s(10),   s(20),  PROBE,   on_failure=WARN),
    Step("watch-new-region",    Standbys.watch_new_region,    CONTROL, s(10),   s(20),  PROBE,   on_failure=WARN),
    Step("notify-stakeholders", Notifications.announce_end,   CONTROL, s(30),   s(30),  ONCE,    on_failure=WARN),
    Step("release-group",       Ownership.release_run,        CONTROL, s(10),   m(1),   PROBE),
    locks_group=True, planned=True,
)
# fmt: on
