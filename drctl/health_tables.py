"""What monitors see, and how far replicas are behind, as tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from drctl import words

if TYPE_CHECKING:
    from recovery.domain.health import RegionReport, ReplicaLag
    from recovery.health.quorum import Ballot
    from workflows.health_state import HealthView

_STYLES = {"lost": "bold red", "healthy": "green", "unknown": "yellow", "none": "yellow"}


def health_view(name: str, view: HealthView | str, configured: Sequence[str]) -> RenderableType:
    """One group: a headline, its vantage points and votes, and what follows from them."""
    if isinstance(view, str):
        missing = "" if configured else "it names no vantage points (failover.vantage_points), so "
        return Text(f"{name}: not known: {missing}{view}", "yellow")
    lines: list[RenderableType] = [_headline(view)]
    if view.votes is not None:
        lines.append(_ballots(view))
    lines += [Text(line) for line in _remarks(view)]
    return Group(*lines, Text(""))


def _headline(view: HealthView) -> Text:
    votes = view.votes
    text = Text(f"{view.group}  ", "bold")
    if votes is None:
        return text.append(view.note, "yellow")
    text.append(f"owner {votes.owner or 'not known'}, epoch {votes.epoch}  ")
    if view.outage is None:
        return text.append("not lost", "green")
    text.append("LOST", "bold red")
    return text.append(f" since {words.moment(view.outage.began_at)}: {view.note}", "red")


def _ballots(view: HealthView) -> Table:
    assert view.votes is not None
    table = Table("Vantage point", "Vote", Column("Heard", no_wrap=True), box=None, pad_edge=False)
    regions = sorted({region for ballot in view.votes.ballots for region in ballot.regions})
    for region in regions:
        owner = " (owner)" if region == view.votes.owner else ""
        table.add_column(f"{region}{owner}", overflow="fold")
    for ballot in view.votes.ballots:
        table.add_row(
            ballot.vantage + ("" if ballot.is_configured else " (not configured)"),
            _vote(ballot),
            f"{words.duration(view.now - ballot.heard_at)} ago" if ballot.heard_at else "never",
            *(_seen(ballot.regions.get(region)) for region in regions),
        )
    return table


def _vote(ballot: Ballot) -> Text:
    text = Text(ballot.vote.value if not ballot.why else f"no vote: {ballot.why}", _STYLES[ballot.vote.value])
    if ballot.frozen_for:
        text.append(f" ({words.duration(timedelta(seconds=ballot.frozen_for))})")
    return text


def _seen(report: RegionReport | None) -> Text:
    if report is None:
        return Text("")
    text = Text(report.verdict.value, _STYLES[report.verdict.value])
    if report.failures:
        text.append(f", {words.plural(report.failures, 'failure')} in a row")
    elif report.successes:
        text.append(f", {words.plural(report.successes, 'success', 'successes')}")
    if report.lag_seconds is not None and report.is_standby:
        text.append(f", {words.duration(timedelta(seconds=report.lag_seconds))} behind")
    if report.failing:
        text.append(f"\n{'; '.join(report.failing)}", "dim")
    return text


def _remarks(view: HealthView) -> list[str]:
    lines = []
    if view.votes is not None:
        lines.append(
            f"Policy {view.policy}; {view.votes.needed} of {len(view.configured)} vantage points decide."
            + (f" {view.policy_note[:1].upper()}{view.policy_note[1:]}." if view.policy_note else "")
        )
    if view.question is not None:
        lines.append(_question(view))
    if view.cooldown_until is not None:
        lines.append(f"Cooldown: no automatic run before {words.moment(view.cooldown_until)}.")
    if view.watched_until is not None:
        lines.append(f"The owner is probed at a shorter interval until {words.moment(view.watched_until)}.")
    if view.run is not None:
        end = f"ended {view.run.end.state}" if view.run.end is not None else "under way"
        lines.append(f"Last run: {view.run.plan} of {words.moment(view.run.started_at)}, {end}.")
    return lines


def _question(view: HealthView) -> str:
    question = view.question
    assert question is not None
    if question.answer is not None:
        return f"Asked, and {question.answer.value} by {question.actor}: {question.reason}."
    return (
        f"Asked at {words.moment(question.asked_at)}: answer until {words.moment(question.deadline)} with "
        f"drctl health --group {view.group} --approve (or --decline) --reason ..."
        + (". Nothing starts without an answer." if question.needs_answer else "")
    )


def replication_table(name: str, owner: str, replicas: Sequence[ReplicaLag], now: datetime) -> Table:
    """Every replica of a group's stores, those in trouble in red."""
    table = Table(
        "Store", Column("Replica", overflow="fold"), "Region", "State", Column("Position", no_wrap=True),
        Column("Behind", justify="right"), Column("Seconds", justify="right"), Column("Limit", justify="right"),
        Column("Priority", justify="right"), Column("Slot", overflow="fold"), box=None, pad_edge=False,
        title=f"{name}: replicas of {owner}, {words.clock(now)} UTC", title_justify="left",
    )  # fmt: skip
    for replica in replicas:
        style = "bold red" if replica.is_late else ""
        table.add_row(
            replica.store,
            Text(replica.name + (f"\n{replica.address}" if replica.address else ""), style),
            replica.target or "",
            Text(replica.state + (f"\n{replica.synchronous}" if replica.synchronous else ""), style),
            _positions(replica),
            _behind(replica),
            Text("" if replica.lag_seconds is None else f"{replica.lag_seconds:.1f}", style),
            words.duration(replica.limit) if replica.limit is not None else "",
            "" if replica.priority is None else str(replica.priority),
            _slot(replica),
        )
    if not replicas:
        table.caption = "no replicas are known"
    return table


def _behind(replica: ReplicaLag) -> str:
    if replica.lag_entries is not None:
        return words.plural(replica.lag_entries, "message")
    return words.size(replica.lag_bytes) if replica.lag_bytes is not None else ""


def _positions(replica: ReplicaLag) -> str:
    """Those that are known, each on a line of its own."""
    known = (
        ("sent", replica.sent), ("written", replica.written), ("flushed", replica.flushed),
        ("replayed", replica.replayed),
    )  # fmt: skip
    return "\n".join(f"{name:<8} {position}" for name, position in known if position is not None)


def _slot(replica: ReplicaLag) -> str:
    if replica.slot is None:
        return ""
    kept = f"\nkeeps {words.size(replica.retained_bytes)}" if replica.retained_bytes is not None else ""
    return f"{replica.slot}{'' if replica.slot_active else ' (unused)'}\n{replica.slot_state or ''}{kept}"
