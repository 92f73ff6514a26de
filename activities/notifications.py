"""Messages to people: before and after a recovery, and when a run needs its operator."""

from __future__ import annotations

from pydantic import BaseModel

from activities.boundary import service, step
from recovery.domain.plan import PlanContext, StepOutcome
from recovery.domain.recovery_point import VerdictState
from recovery.domain.words import duration
from recovery.ports.notify import Notifier, Severity


class Alert(BaseModel):
    """A message of the engine's own."""

    severity: Severity
    title: str
    body: str


class Notifications:
    def __init__(self, notifier: Notifier) -> None:
        self._notifier = notifier

    @service("notifications.alert")
    async def alert(self, alert: Alert) -> None:
        await self._notifier.send(alert.severity, alert.title, alert.body)

    @step("notifications.announce_start")
    async def announce_start(self, context: PlanContext) -> StepOutcome:
        """Says that a recovery begins."""
        group = context.group
        title = f"{context.plan} of {group.name} has begun"
        body = (
            f"Incident {context.run_id}. From {context.facts.source_region or 'unknown'} to "
            f"{context.facts.target_region or 'unknown'}. Reason: {context.request.reason or 'none given'}. "
            f"Services: {', '.join(group.services) or 'not listed'}. "
            f"Follow it: drctl status --watch {context.workflow_id}"
        )
        taken = await self._notifier.send(Severity.CRITICAL, title, body)
        return StepOutcome(summary=_told(taken))

    @step("notifications.announce_end")
    async def announce_end(self, context: PlanContext) -> StepOutcome:
        """Says that a recovery is complete: from where, to where, how long, what was lost."""
        facts = context.facts
        began = facts.outage_began_at or context.started_at
        took = "not measured" if facts.service_restored_at is None else duration(facts.service_restored_at - began)
        lost = (
            "not measured"
            if facts.last_recovered_commit_at is None
            else duration(max(began - facts.last_recovered_commit_at, began - began))
        )
        goals = context.group.objectives
        title = f"{context.plan} of {context.group.name} is complete: {facts.target_region} serves it"
        body = (
            f"Incident {context.run_id}. From {facts.source_region or 'unknown'} to {facts.target_region}. "
            f"Achieved RTO {took} (objective {duration(goals.rto)}), achieved RPO {lost} (objective "
            f"{duration(goals.rpo)}). Recovery point {facts.point_id or 'none'}. "
            f"Reason: {context.request.reason or 'none given'}."
        )
        taken = await self._notifier.send(Severity.INFO, title, body)
        return StepOutcome(summary=_told(taken))

    @step("notifications.announce_verdict")
    async def announce_verdict(self, context: PlanContext) -> StepOutcome:
        """Says what a validation found; critical when a recovery point is not VALID."""
        verdicts = context.facts.verdicts or []
        bad = [verdict for verdict in verdicts if verdict.state is not VerdictState.VALID]
        if not bad:
            title = f"all {len(verdicts)} recovery points of {context.group.name} are VALID"
            return StepOutcome(summary=_told(await self._notifier.send(Severity.INFO, title, "Each was restored.")))
        title = f"{len(bad)} of {len(verdicts)} recovery points of {context.group.name} are not VALID"
        body = "\n".join(f"{verdict.point_id}: {verdict.state}. {verdict.reason}" for verdict in bad)
        return StepOutcome(summary=_told(await self._notifier.send(Severity.CRITICAL, title, body)))


def _told(taken: list[str]) -> str:
    return f"told {', '.join(taken)}" if taken else "no channel is configured for this severity"
