"""Steps that lead clients behind a pooler to the new primary: DNS alone ends no pooled connection."""

from __future__ import annotations

from datetime import timedelta

from activities.boundary import step
from recovery.domain.plan import Facts, PlanContext, StepOutcome
from recovery.ports.routing import ClientRouting

NO_POOLER = "no pooler is configured"
FORGETTING = timedelta(seconds=20)
"""PgBouncer remembers an address for 15 s unless told otherwise (dns_max_ttl)."""


class RoutingSteps:
    def __init__(self, routing: ClientRouting) -> None:
        self._routing = routing

    @step("routing.hold_clients")
    async def hold_clients(self, context: PlanContext) -> StepOutcome:
        """Before a planned switch: transactions end, new ones wait in the poolers instead of failing."""
        if not context.group.poolers:
            return StepOutcome(summary=NO_POOLER)
        within = context.group.pause_timeout
        warnings = await self._routing.hold(context.group, within)
        return StepOutcome(
            summary=f"clients wait in {', '.join(context.group.poolers)}",
            warnings=warnings,
            facts=Facts(clients_held=True),
        )

    @step("routing.release_clients")
    async def release_clients(self, context: PlanContext) -> StepOutcome:
        """Undo of ``hold_clients``: clients go on where they were."""
        if not context.group.poolers:
            return StepOutcome(summary=NO_POOLER)
        warnings = await self._routing.release(context.group)
        return StepOutcome(summary="clients go on", warnings=warnings, facts=Facts(clients_held=False))

    @step("routing.route_clients")
    async def route_clients(self, context: PlanContext) -> StepOutcome:
        """After the names were switched: poolers drop what leads to the old primary, and find the new one."""
        if not context.group.poolers:
            return StepOutcome(summary=NO_POOLER)
        held = bool(context.facts.clients_held)
        warnings = await self._routing.move(context.group, held=held, within=FORGETTING)
        how = "clients that waited go on" if held else "stale connections were cut"
        return StepOutcome(
            summary=f"{', '.join(context.group.poolers)}: {how}", warnings=warnings, facts=Facts(clients_held=False)
        )
