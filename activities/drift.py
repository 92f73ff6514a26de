"""A worker whose configuration differs from the one that a run carries says so (engine rule 7).

The run keeps its own snapshot: an edit never changes a plan in flight. But a worker reads addresses and secrets from
its own configuration, so whoever looks at the run has to know.
"""

from __future__ import annotations

import socket
from typing import Any

from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from recovery.domain.plan import PlanContext, StepOutcome
from recovery.errors import NotFound
from recovery.ports.configuration import Configuration


class ConfigurationDrift(Interceptor):
    """Adds a warning to the outcome of each step; a run's journal repeats it only once.

    Args:
        configuration: this worker's, which does not change while it runs.
    """

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration
        self._hashes: dict[str, str | None] = {}

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        return _Compare(next, self)

    def difference(self, context: PlanContext) -> str | None:
        """A sentence when this worker knows the group otherwise than the run does; None when they agree."""
        group = context.facts.group
        if group is None or not group.config_hash:
            return None
        own = self._hash(group.name)
        if own == group.config_hash:
            return None
        known = f"has configuration {own[:12]}" if own else f"does not know group {group.name}"
        return (
            f"the worker on {socket.gethostname()} {known}, and this run goes by {group.config_hash[:12]}: give all "
            "workers the same file and restart them; a run that has begun keeps what it began with"
        )

    def _hash(self, group: str) -> str | None:
        if group not in self._hashes:
            try:
                self._hashes[group] = self._configuration.snapshot(group).config_hash
            except NotFound:
                self._hashes[group] = None
        return self._hashes[group]


class _Compare(ActivityInboundInterceptor):
    def __init__(self, next: ActivityInboundInterceptor, drift: ConfigurationDrift) -> None:
        super().__init__(next)
        self._drift = drift

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        result = await self.next.execute_activity(input)
        if input.args and isinstance(input.args[0], PlanContext) and isinstance(result, StepOutcome):
            difference = self._drift.difference(input.args[0])
            if difference is not None:
                return result.model_copy(update={"warnings": [*result.warnings, difference]})
        return result
