"""Messages to people: before and after a recovery, and when a run needs its operator."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import BaseModel

from activities.boundary import service, step
from recovery.domain.incident import Incident, IncidentSeverity, IncidentStatus
from recovery.domain.objectives import achieved
from recovery.domain.plan import MONITOR, PlanContext, StepOutcome
from recovery.domain.recovered_set import recovered_set
from recovery.domain.recovery_point import VerdictState
from recovery.domain.report_text import figure_words, store_sentences
from recovery.domain.wal_read_back import BASE_DUE
from recovery.domain.words import duration
from recovery.ports.incidents import IncidentWriter
from recovery.ports.notify import Markup, Notifier, Severity

NEXT_UPDATE = timedelta(minutes=15)
UNANNOUNCED = ("Reprotect", "Failback")
"""Plans that say only how they ended."""
MOVES = ("Failover", "Switchover", "Reprotect", "Failback", "DatabaseFailover")


class Alert(BaseModel):
    """A message of the engine's own."""

    severity: Severity
    title: str
    body: str


class Notifications:
    def __init__(self, notifier: Notifier, writer: IncidentWriter) -> None:
        self._notifier = notifier
        self._writer = writer

    @service("notifications.alert")
    async def alert(self, alert: Alert) -> None:
        await self._notifier.send(alert.severity, alert.title, alert.body)

    @step("notifications.announce_start")
    async def announce_start(self, context: PlanContext) -> StepOutcome:
        """Says that a recovery begins. A monitor that started it has said so."""
        group, facts = context.group, context.facts
        if context.request.requested_by == MONITOR:
            return StepOutcome(summary="the group's monitor told it when it started this run")
        incident = _incident(
            context,
            status=IncidentStatus.IDENTIFIED,
            severity=IncidentSeverity.CRITICAL,
            summary=f"{context.plan} of {group.name} has begun: from {facts.source_region or 'unknown'} to "
            f"{facts.target_region or 'unknown'}. Reason: {context.request.reason or 'none given'}.",
            actions=[*_evidence(context), _follow(context)],
            next_update_at=datetime.now(UTC) + NEXT_UPDATE,
        )
        title, body = f"{context.plan} of {group.name} has begun", self._writer.write(incident)
        taken = await self._notifier.send(Severity.CRITICAL, title, body, Markup.MARKDOWN)
        return StepOutcome(summary=_told(taken))

    @step("notifications.announce_end")
    async def announce_end(self, context: PlanContext) -> StepOutcome:
        """Says that a recovery is complete: from where, to where, how long, what was lost."""
        facts = context.facts
        began = facts.outage_began_at or context.started_at
        took = "not measured" if facts.service_restored_at is None else duration(facts.service_restored_at - began)
        reached = achieved(facts, context.started_at)
        lost = "not measured" if reached.rpo is None else figure_words(reached.rpo, reached.rpo_least)
        if facts.losses and all(loss.proven_zero for loss in facts.losses):
            lost = "nothing was lost"
        goals = context.group.objectives
        title = _completed(context)
        stores = recovered_set(facts, context.started_at, reached.rpo)
        incident = _incident(
            context,
            status=IncidentStatus.MONITORING,
            severity=IncidentSeverity.LOW,
            summary=f"{title}. From {facts.source_region or 'unknown'} to {facts.serving_region or 'unknown'} in "
            f"{duration(datetime.now(UTC) - context.started_at)}. Achieved RTO {took} (objective "
            f"{duration(goals.rto)}), achieved RPO {lost} (objective {duration(goals.rpo)}). "
            f"Reason: {context.request.reason or 'none given'}.",
            actions=[*_evidence(context), *store_sentences(stores), _follow(context)],
        )
        body = self._writer.write(incident)
        # Whoever was woken by the beginning hears of the end.
        severity = Severity.INFO if context.plan in UNANNOUNCED else Severity.CRITICAL
        taken = await self._notifier.send(severity, title, body, Markup.MARKDOWN)
        return StepOutcome(summary=_told(taken))

    @step("notifications.announce_verdict")
    async def announce_verdict(self, context: PlanContext) -> StepOutcome:
        """Says what a validation found; critical when a recovery point is not VALID, or archived WAL is lost."""
        verdicts = context.facts.verdicts or []
        bad = [verdict for verdict in verdicts if verdict.state is not VerdictState.VALID]
        repaired, lost = context.facts.points_repaired or [], context.facts.wal_lost or []
        if not bad and lost:
            title = f"archived WAL of {context.group.name} is lost"
            body = f"No location gives {', '.join(lost)} any more: {BASE_DUE}."
            return StepOutcome(summary=_told(await self._notifier.send(Severity.CRITICAL, title, body)))
        if not bad and repaired:
            title = f"damaged copies of {len(repaired)} recovery points of {context.group.name} were repaired"
            body = f"{', '.join(repaired)}: a location returned other bytes than were stored there. They were written "
            body += "anew from another location and restored again: VALID. Look at that location: it may be failing."
            return StepOutcome(summary=_told(await self._notifier.send(Severity.WARNING, title, body)))
        if not bad:
            title = f"all {len(verdicts)} recovery points of {context.group.name} are VALID"
            return StepOutcome(summary=_told(await self._notifier.send(Severity.INFO, title, "Each was restored.")))
        title = f"{len(bad)} of {len(verdicts)} recovery points of {context.group.name} are not VALID"
        lines = [f"{verdict.point_id}: {verdict.state}. {verdict.reason}" for verdict in bad]
        body = "\n".join([*lines, *(f"Lost at all locations: {words}." for words in lost)])
        return StepOutcome(summary=_told(await self._notifier.send(Severity.CRITICAL, title, body)))


def _incident(context: PlanContext, **said: Any) -> Incident:
    return Incident(
        incident_id=context.incident_id if context.plan in MOVES else context.run_id,
        group=context.group.name,
        started_at=context.facts.outage_began_at or context.started_at,
        now=datetime.now(UTC),
        services=context.group.services,
        commander=context.request.requested_by or "not named",
        **said,
    )


def _completed(context: PlanContext) -> str:
    facts, name = context.facts, context.group.name
    if facts.returned:
        return f"{context.plan} of {name} was taken back: {facts.source_region} serves it ({facts.verification_failed})"
    if context.plan == "Reprotect":
        return f"{name} is protected again: {facts.target_region} follows {facts.source_region}"
    return f"{context.plan} of {name} is complete: {facts.target_region} serves it"


def _evidence(context: PlanContext) -> list[str]:
    """What the run went by: a recovery point, or a proof that the old primary is off and the new one's place."""
    facts = context.facts
    if context.plan not in MOVES:
        return [f"recovery point {facts.point_id or 'not chosen'}"]
    lines = [f"incident {context.incident_id}"]
    if facts.fence is not None:
        lines.append(f"{facts.fence.region} fenced ({facts.fence.how}, by {facts.fence.by})")
    if facts.managed is not None:
        lines.append(f"{facts.managed.way} of {facts.managed.instance} for {facts.managed.source_instance}")
    if facts.promoted_postgres is not None:
        lines.append(f"new primary in {facts.serving_region}, epoch {facts.promoted_postgres.epoch}")
    lines += [found.detail for found in facts.divergences or [] if found.transactions or found.messages]
    return lines


def _follow(context: PlanContext) -> str:
    return f"follow it: drctl status --watch {context.workflow_id}"


def _told(taken: list[str]) -> str:
    return f"told {', '.join(taken)}" if taken else "no channel is configured for this severity"
