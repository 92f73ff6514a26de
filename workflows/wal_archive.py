"""The run that keeps a group's WAL archive going, wherever the group is."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError, is_cancelled_exception

from workflows.failures import explain
from workflows.health_calls import limits
from workflows.steps import h, m, s

with workflow.unsafe.imports_passed_through():
    from activities.notifications import Alert, Notifications
    from activities.wal import TOLD_FAILURES, WalArchiving
    from recovery.domain.base import Recorded
    from recovery.domain.wal_progress import WalOrder
    from recovery.errors import NotFound
    from recovery.ports.notify import Severity

HEARTBEAT = s(3)
"""With the pause before the next session: a lost worker's is taken over within 15 s."""
TAKEN_WITHIN = s(3)  # else the region has no worker: it may have lost the group meanwhile
PAUSE, LONG_PAUSE = s(1), s(10)
STEADY = m(2)  # a session that lasted so long did not fail to begin
ONCE = RetryPolicy(maximum_attempts=1)


class WalArchiveOrder(Recorded):
    """``rounds``: sessions in one run; ``failed``: those in a row that failed before it."""

    group: str
    rounds: int = 200
    failed: int = 0


@workflow.defn
class WalArchive:
    """Archives a group's WAL at the region that owns it; id ``wal/<group>``.

    Each session is one long activity. One that ends is followed by another look at who owns the group: after a failover
    the archive goes on at the new owner.
    """

    @workflow.run
    async def run(self, order: WalArchiveOrder) -> str:
        failed = order.failed
        for _ in range(order.rounds):
            began = workflow.now()
            try:
                found = await self._find_owner(order.group)
                if found.region is None:
                    return f"the WAL of {order.group} is not archived"
                why = await self._session(found.model_copy(update={"failed": failed}))
                workflow.logger.info(f"a session of the WAL archive of {order.group} ended: {why}")
                failed = 0
            except ActivityError as error:
                if is_cancelled_exception(error) and workflow.patched("cancellation-ends"):
                    raise
                failed = 1 if workflow.now() - began > STEADY else failed + 1
                await self._failed(order.group, failed, explain(error))
                await asyncio.sleep(_pause(failed).total_seconds())
        return workflow.continue_as_new(order.model_copy(update={"failed": failed}))

    async def _find_owner(self, group: str) -> WalOrder:
        try:
            found: WalOrder = await workflow.execute_activity_method(
                WalArchiving.find_owner, group, summary=f"who owns {group}", **limits(s(10), m(1))
            )
        except ActivityError as error:
            if isinstance(error.cause, ApplicationError) and error.cause.type == NotFound.__name__:
                return WalOrder(group=group)  # it left the configuration
            raise
        return found

    async def _session(self, order: WalOrder) -> str:
        workflow.set_current_details(f"WAL of {order.group} is archived at {order.region}, epoch {order.epoch}")
        why: str = await workflow.execute_activity_method(
            WalArchiving.archive,
            order,
            task_queue=order.queue,
            start_to_close_timeout=h(24),
            schedule_to_start_timeout=TAKEN_WITHIN,
            heartbeat_timeout=HEARTBEAT,
            retry_policy=ONCE,  # whoever goes on asks first who owns the group
            summary=f"archive at {order.region}",
        )
        return why

    async def _failed(self, group: str, failed: int, why: str) -> None:
        workflow.logger.warning(f"a session of the WAL archive of {group} failed: {why}")
        workflow.set_current_details(f"WAL of {group} is not archived, {failed} sessions failed: {why}")
        if failed != TOLD_FAILURES:
            return
        words = (
            f"{failed} sessions in a row failed, the last one with: {why}\n\nThe owner's slot holds what is not "
            f"archived, so its disk fills. See drctl wal status --group {group}."
        )
        alert = Alert(severity=Severity.CRITICAL, title=f"WAL of {group} is not archived", body=words)
        try:
            await workflow.execute_activity_method(
                Notifications.alert, alert, summary="tell people", **limits(timedelta(seconds=30), m(2))
            )
        except ActivityError as error:
            if is_cancelled_exception(error) and workflow.patched("cancellation-ends"):
                raise
            workflow.logger.error(f"people could not be told: {explain(error)}")


def _pause(failed: int) -> timedelta:
    """Soon at first, as after a takeover; then at leisure: who is told looks at it."""
    return PAUSE if failed <= TOLD_FAILURES else LONG_PAUSE
