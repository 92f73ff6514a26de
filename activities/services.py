"""Steps that look at the group's services as their clients do, and that measure the recovery."""

from __future__ import annotations

import asyncio

from activities.boundary import step
from recovery.domain.objectives import achieved
from recovery.domain.plan import PlanContext, StepOutcome
from recovery.domain.report_text import objective_sentences
from recovery.errors import Refused, Unreachable
from recovery.ports.measurements import Measurements
from recovery.ports.services import HealthProbe


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
        checks = list(await asyncio.gather(*questions))
        self._measurements.recovery_checked(checks)
        failed = [check for check in checks if not check.passed]
        if failed:
            words = "; ".join(f"{check.name}: {check.detail}" for check in failed)
            raise Unreachable(f"{len(failed)} of {len(checks)} health endpoints of {region} are not well: {words}")
        summary = f"{len(checks)} endpoints are well" if checks else "no health endpoint is configured"
        return StepOutcome(summary=summary, checks=checks)

    @step("services.measure")
    async def measure(self, context: PlanContext) -> StepOutcome:
        """Achieved RTO and RPO against the objectives, for the report."""
        result = achieved(context.facts, context.started_at)
        return StepOutcome(summary="; ".join(objective_sentences(result)))
