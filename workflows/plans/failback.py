"""Failback: the home region is reprotected, and the group goes home by a switchover when the lag is small.

Both are runs of their own, with their own locks, gates and undo; this one waits for them.
"""

from temporalio import workflow

from workflows.plans.conditions import home_is_stale
from workflows.steps import CONTROL, ONCE, PROBE, WARN, Step, h, m, plan, s

with workflow.unsafe.imports_passed_through():
    from activities.choosing import ChoosingSteps as Choosing
    from activities.configuration import ConfigurationSteps as Configuration
    from activities.notifications import Notifications
    from activities.runs import RunSteps as Runs

# fmt: off
FAILBACK = plan(
    "Failback", "reprotects the home region and switches the group back to it",
    #    step                   activity                      where    attempt  budget  retry    undo / policy
    Step("load-configuration",  Configuration.load,           CONTROL, s(20),   m(2),   PROBE),
    Step("find-way-home",       Choosing.find_way_home,       CONTROL, s(20),   m(2),   PROBE),
    Step("reprotect-home",      Runs.reprotect_home,          CONTROL, h(8),    h(8),   PROBE,   undo=Runs.stop_started, when=home_is_stale),
    Step("wait-for-lag",        Choosing.wait_for_lag,        CONTROL, h(1),    h(2),   PROBE),
    Step("switch-home",         Runs.switch_home,             CONTROL, h(1),    h(2),   PROBE,   undo=Runs.stop_started),
    Step("notify-stakeholders", Notifications.announce_end,   CONTROL, s(30),   s(30),  ONCE,    on_failure=WARN),
)
# fmt: on
