"""Steps that say which recovery points of a group belong together."""

from __future__ import annotations

from activities.boundary import step
from recovery.domain.plan import PlanContext, StepOutcome
from recovery.domain.words import duration
from recovery.ports.recovery_points import RecoveryPoints


class RecoverySetSteps:
    def __init__(self, points: RecoveryPoints) -> None:
        self._points = points

    @step("sets.write")
    async def write(self, context: PlanContext) -> StepOutcome:
        """Signs which points of the group's stores belong together, and within which time they were read."""
        set_id = f"{context.started_at:%Y%m%dT%H%M%SZ}-set-{context.effect_id[:8]}"
        found, failed = await self._points.write_set(
            context.group,
            context.facts.points_written,
            set_id=set_id,
            run_id=context.run_id,
            missing=[kind.value for kind in context.kinds_missing],
        )
        began, finished = found.window
        return StepOutcome(
            summary=(
                f"{set_id}: {len(found.members)} points of {' and '.join(found.stores)}, read within "
                f"{duration(found.width)} ({began:%H:%M:%S} to {finished:%H:%M:%S} UTC)"
            ),
            warnings=[f"{name} did not take {set_id}: {reason}" for name, reason in failed.items()],
        )
