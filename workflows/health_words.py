"""What a group's monitor says: messages about plans that ended, and its page in the Temporal UI. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.monitoring import PlanEnd
    from recovery.domain.guarding import Unfenced
    from recovery.domain.report_text import figure_words
    from recovery.domain.words import clock, duration, listed, moment
    from recovery.health.decision import no_fence
    from recovery.health.quorum import Ballot, Outage
    from recovery.ports.notify import Severity

if TYPE_CHECKING:
    from workflows.health_state import HealthView


def lost_words(outage: Outage) -> str:
    seen = f"{listed(outage.voters)} {'sees' if len(outage.voters) == 1 else 'see'} it so"
    return f"{seen} ({'; '.join(outage.failing)})" if outage.failing else seen


def ended_alert(group: str, plan: str, reason: str, end: PlanEnd) -> tuple[str, str, Severity]:
    """Title, text and severity of the message about a plan's end."""
    way = f"from {end.source or 'unknown'} to {end.target or 'unknown'}"
    if not end.completed:
        step = f" at {end.step}" if end.step else ""
        words = f"It ended {end.state}{step}: {end.error or 'no reason given'}. {way.capitalize()}. Reason: {reason}."
        return f"{group}: {plan} FAILED{step}", words, Severity.CRITICAL
    achieved = end.achieved
    words = (
        f"{way.capitalize()} in {duration(end.took)}. New primary: {end.target or 'unknown'}. Achieved RTO "
        f"{duration(achieved.rto)} (objective {duration(achieved.rto_objective)}), achieved RPO "
        f"{figure_words(achieved.rpo, achieved.rpo_least)} (objective {duration(achieved.rpo_objective)}). "
        f"Reason: {reason}."
    )
    return f"{group}: {plan} COMPLETED, {end.target or 'another region'} serves it", words, Severity.CRITICAL


def unfenced_alert(group: str, unfenced: Sequence[Unfenced], is_automatic: bool) -> tuple[str, str]:
    """Title and text of the message that a loss is a question to people, and why."""
    refused = "automatic failover is refused" if is_automatic else "only a person may start a failover"
    words = f"{no_fence(unfenced)}. A loss is a question to people while that is so, whose silence is no answer."
    return f"{group}: {refused}", words


def details(view: HealthView) -> str:
    """Markdown for the Temporal UI."""
    votes = view.votes
    if votes is None:
        return view.note
    lines = [
        f"**{view.group}**: {votes.owner or 'nobody known'} owns it, epoch {votes.epoch}. {_state(view)}",
        "",
        f"Policy {view.policy}. {votes.needed} of {len(view.configured)} vantage points decide. {view.policy_note}",
        "",
        "| vantage point | vote | owner as it sees it | heard |",
        "|---|---|---|---|",
        *(_row(ballot, votes.owner) for ballot in votes.ballots),
    ]
    if view.watched_until is not None:
        lines += ["", f"Watched more closely until {moment(view.watched_until)}."]
    if view.cooldown_until is not None:
        lines += ["", f"No automatic run before {moment(view.cooldown_until)}."]
    if view.run is not None:
        end = f"ended {view.run.end.state}" if view.run.end else "under way"
        lines += ["", f"Last run: {view.run.plan} of {moment(view.run.started_at)}, {end}."]
    return "\n".join(lines)


def _state(view: HealthView) -> str:
    if view.outage is None:
        return "Not lost."
    return f"LOST since {moment(view.outage.began_at)}: {view.note}."


def _row(ballot: Ballot, owner: str | None) -> str:
    seen = ballot.regions.get(owner or "")
    words = "; ".join(seen.failing) if seen is not None and seen.failing else (seen.verdict.value if seen else "")
    vote = ballot.vote.value if not ballot.why else f"no vote: {ballot.why}"
    if not ballot.is_configured:
        vote += " (not configured)"
    return f"| {ballot.vantage} | {vote} | {words.replace('|', '/')} | {clock(ballot.heard_at)} |"
