"""The first step of every plan: the configuration enters the run, once."""

from __future__ import annotations

import asyncio

import structlog

from activities.boundary import step
from recovery.domain.durations import expected_seconds
from recovery.domain.plan import Facts, PlanContext, PlanRequest, StepOutcome
from recovery.errors import BadInput, NotFound, RecoveryError
from recovery.ports.configuration import Configuration
from recovery.ports.reports import ReportStore

log = structlog.get_logger("recovery.configuration")
RUNS_TO_LEARN_FROM = 20
PATIENCE = {"Failover": 0.3}
"""Seconds that a plan waits for what earlier runs teach."""


class ConfigurationSteps:
    def __init__(self, configuration: Configuration, reports: ReportStore) -> None:
        self._configuration = configuration
        self._reports = reports

    @step("configuration.load")
    async def load(self, context: PlanContext) -> StepOutcome:
        """Loads the group's immutable, secret-free snapshot, and what earlier runs teach about durations."""
        request = context.request
        self._check(request)
        group = self._configuration.snapshot(request.group)
        if request.region is not None and request.region not in {region.name for region in group.regions}:
            known = ", ".join(region.name for region in group.regions)
            raise NotFound(f"group {group.name} has no region {request.region!r}: it has {known}")
        try:
            async with asyncio.timeout(PATIENCE.get(context.plan, 3.0)):
                earlier = await self._reports.recent(group.name, RUNS_TO_LEARN_FROM, context.plan)
                expected = expected_seconds(earlier, context.plan)
        except (RecoveryError, TimeoutError) as error:
            # Durations are a comfort: a recovery neither waits for them nor fails for the want of them, whatever keeps
            # the store from us: it is away, its key has expired, or its bucket is gone with the lost region.
            log.warning("earlier reports could not be read", error=str(error))
            expected = {}
        return StepOutcome(
            summary=f"tier {group.objectives.tier}, configuration {group.config_hash[:12]}",
            facts=Facts(group=group, expected_seconds=expected),
        )

    @staticmethod
    def _check(request: PlanRequest) -> None:
        if request.unreadable:
            raise BadInput(request.unreadable)
        unknown = sorted(request.model_extra or {})
        if unknown:
            known = ", ".join(name for name in PlanRequest.model_fields if name != "unreadable")
            raise BadInput(f"the input has unknown fields: {', '.join(unknown)}. Known are: {known}")
        if not request.group:
            raise BadInput('the input names no group: expected at least {"group": "shop"}')
