"""Achieved RTO and RPO: arithmetic on what a run measured."""

from __future__ import annotations

from datetime import datetime, timedelta

from recovery.domain.plan import Facts
from recovery.domain.report import Achieved


def achieved(facts: Facts, started_at: datetime) -> Achieved:
    """Measured against the group's objectives.

    RTO runs from the moment the outage began (the run's start where nobody knows better) to the moment the service
    answered again; RPO, which is the database's, from the last commit that was recovered to the moment the outage
    began. None where the run restored no service.
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
        recovered = outage
    rpo = None if recovered is None or rto is None else _not_negative(outage - recovered)
    return Achieved(rto=rto, rpo=rpo, rto_objective=goals.rto, rpo_objective=goals.rpo)


def _not_negative(span: timedelta) -> timedelta:
    # Two machines' clocks are in these differences: a little skew must not show as a negative loss.
    return max(span, timedelta())
