"""Achieved RTO and RPO: arithmetic on what a run measured."""

from __future__ import annotations

from datetime import datetime, timedelta

from recovery.domain.durations import latest_end
from recovery.domain.plan import Facts
from recovery.domain.report import Achieved, RunReport
from recovery.domain.words import clock, duration


def achieved(facts: Facts, started_at: datetime) -> Achieved:
    """Measured against the group's objectives.

    RTO runs from the moment the outage began (the run's start where nobody knows better) to the moment the service
    answered again. RPO is the database's: from the last commit that was recovered to the last write that the old side
    can have acknowledged, which the fence's proof bounds; at least it reaches to the moment the outage began, for until
    then clients were seen to be served. None where the run restored no service.
    """
    if facts.group is None:
        return Achieved()
    goals = facts.group.objectives
    outage = facts.outage_began_at or started_at
    rto = None if facts.service_restored_at is None else _not_negative(facts.service_restored_at - outage)
    recovered = facts.last_recovered_commit_at
    if (facts.fence is not None and facts.fence.zero_loss) or (
        facts.losses and all(loss.proven_zero for loss in facts.losses)
    ):
        # The acknowledging set proves it, or both sides' final positions were equal: nothing acknowledged is missing.
        return Achieved(
            rto=rto, rpo=None if rto is None else timedelta(), rto_objective=goals.rto, rpo_objective=goals.rpo
        )
    least = most = None
    if recovered is not None and rto is not None:
        least = _not_negative(outage - recovered)
        most = _not_negative(facts.served_until(outage) - recovered)
    return Achieved(
        rto=rto,
        rpo=most,
        rpo_least=least if least != most else None,
        rto_objective=goals.rto,
        rpo_objective=goals.rpo,
    )


def rto_end(facts: Facts, started_at: datetime) -> datetime | None:
    """Until when the service has to answer again; None once a step saw it, and where no objective is known."""
    if facts.group is None or facts.service_restored_at is not None:
        return None
    return (facts.outage_began_at or started_at) + facts.group.objectives.rto


def rto_outlook(report: RunReport, now: datetime) -> str:
    """What speaks against the RTO of a run that goes on: it is over; earlier runs took longer than what is left; or,
    where none teaches, the budgets that are left are longer. Empty where nothing does.

    Budgets that were longer than the whole RTO from the beginning are not told of again: a warning of the run says so.
    """
    ends = report.rto_ends_at
    if ends is None or report.ended_at is not None:
        return ""
    if now > ends:
        return f"it is not confirmed yet that the service answers; its RTO ended at {clock(ends)} UTC"
    if report.eta is not None:
        if report.eta <= ends:
            return ""
        return f"the run is expected to end at {clock(report.eta)} UTC, and the RTO ends at {clock(ends)} UTC"
    latest, goal = latest_end(report.steps, now), report.achieved.rto_objective
    if latest <= ends or goal is None or report.critical_path > goal:
        return ""
    return f"the steps that are left may take {duration(latest - now)}, and the RTO ends at {clock(ends)} UTC"


def _not_negative(span: timedelta) -> timedelta:
    # Two machines' clocks are in these differences: a little skew must not show as a negative loss.
    return max(span, timedelta())
