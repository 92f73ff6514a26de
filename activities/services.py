"""Steps that look at the group's services as their clients do, and that measure the recovery."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from activities.boundary import step
from recovery.domain.group import GroupSnapshot
from recovery.domain.health_answer import ExpectedAnswer
from recovery.domain.objectives import achieved
from recovery.domain.plan import PlanContext, StepOutcome
from recovery.domain.recovery_point import CheckResult
from recovery.domain.report_text import objective_sentences
from recovery.domain.words import plural
from recovery.errors import Refused, Unreachable
from recovery.ports.measurements import Measurements
from recovery.ports.services import HealthProbe

MONITORING_ANSWER = timedelta(seconds=2)  # longest wait for Prometheus: a lost region often takes it along
MEASURED = ExpectedAnswer(body='"status":"success"')
"""What Prometheus answers to a query that it can evaluate (its HTTP API, "Instant queries")."""


async def monitoring_checks(probe: HealthProbe, group: GroupSnapshot) -> list[CheckResult]:
    """Whether Prometheus still answers queries: one check, or none where no Prometheus is configured.

    A failed one is a warning wherever it is asked for: nobody's service is held back because it is not measured.
    """
    if group.prometheus is None:
        return []
    url = f"{group.prometheus.rstrip('/')}/api/v1/query?query=up"
    found = await probe.check(url, expected=MEASURED, timeout=MONITORING_ANSWER)
    return [found.model_copy(update={"name": "monitoring"})]


def unmeasured(checks: list[CheckResult]) -> list[str]:
    """Warnings of :func:`monitoring_checks`."""
    return [f"monitoring does not work: Prometheus: {check.detail}" for check in checks if not check.passed]


class ServiceSteps:
    def __init__(self, probe: HealthProbe, measurements: Measurements) -> None:
        self._probe = probe
        self._measurements = measurements

    @step("services.verify_services")
    async def verify_services(self, context: PlanContext) -> StepOutcome:
        """Every health endpoint of the target region answers as it should; tried again within the budget."""
        region = context.facts.target_region
        if region is None:
            raise Refused("verify-services needs a target region: the plan's table is wrong")
        group = context.group
        questions = (
            self._probe.check(url, expected=group.health_answer, timeout=group.health_timeout)
            for url in group.region(region).health_urls
        )
        checks, watched = await asyncio.gather(asyncio.gather(*questions), monitoring_checks(self._probe, group))
        self._measurements.recovery_checked([*checks, *watched])
        failed = [check for check in checks if not check.passed]
        if failed:
            words = "; ".join(f"{check.name}: {check.detail}" for check in failed)
            raise Unreachable(f"{len(failed)} of {len(checks)} health endpoints of {region} are not well: {words}")
        summary = f"{plural(len(checks), 'endpoint')} well" if checks else "no health endpoint is configured"
        return StepOutcome(summary=summary, checks=[*checks, *watched], warnings=unmeasured(watched))

    @step("services.measure")
    async def measure(self, context: PlanContext) -> StepOutcome:
        """Achieved RTO and RPO against the objectives, for the report."""
        result = achieved(context.facts, context.started_at)
        return StepOutcome(summary="; ".join(objective_sentences(result)))
