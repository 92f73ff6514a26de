"""What a group's monitor knows of its fences: what only a person keeps from a second primary never moves by itself.

The configuration says whether a group could be fenced; how strong the fence of a store is, its guard finds out while it
runs (a Redis whose configuration would start a primary has none).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError, is_cancelled_exception

from workflows.failures import explain
from workflows.health_calls import limits
from workflows.health_state import MonitorState
from workflows.steps import m, s

with workflow.unsafe.imports_passed_through():
    from activities.monitoring import FencesSeen, Monitoring
    from recovery.domain.guarding import Unfenced

AGAIN = m(1)


class Fences:
    """Asks the guards of one group again and again, while a plan could start by itself.

    Args:
        state: the monitor's, as it is now.
        learned: called with every answer.
    """

    def __init__(
        self, group: str, state: Callable[[], MonitorState], learned: Callable[[list[Unfenced]], None]
    ) -> None:
        self._group = group
        self._state = state
        self._learned = learned
        self.asked = False
        """False in a run that began under a version that did not ask."""
        self.silence_vouches = False
        """True in a run that began under a version for which nobody's answer was as good as a fence."""

    def matter(self) -> bool:
        """Whether a plan could start by itself: also where nobody answers a question, and the default is to approve."""
        snapshot = self._state().snapshot
        if not self.asked or snapshot is None or not snapshot.guarded:
            return False
        by_silence = snapshot.failover.policy == "approve" and snapshot.approval_default == "approve"
        return snapshot.failover.policy == "automatic" or (by_silence and not self.silence_vouches)

    async def known(self) -> None:
        """Returns after the first look, whose time is limited."""
        await workflow.wait_condition(lambda: not self.matter() or self._state().fences_seen_at is not None)

    async def keep(self) -> None:
        """Until it is cancelled. A region that does not answer counts as it answered last."""
        while True:
            await workflow.wait_condition(self.matter)
            last = self._state().fences_seen_at
            if last is not None and (left := last + AGAIN - workflow.now()) > timedelta():
                await asyncio.sleep(left.total_seconds())
            seen = await self._look()
            kept = [one for one in self._state().unfenced if one.region not in seen.answered]
            self._learned([*kept, *seen.unfenced])

    async def _look(self) -> FencesSeen:
        try:
            found: FencesSeen = await workflow.execute_activity_method(
                Monitoring.look_at_fences, self._group, **limits(s(6), s(10))
            )
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise asyncio.CancelledError from error  # the run hands over: it must not ask for anything more
            workflow.logger.warning(f"how the stores of {self._group} are fenced is not known: {explain(error)}")
            return FencesSeen(answered=[], unfenced=[])
        return found
