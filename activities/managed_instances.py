"""What the steps on a managed PostgreSQL have in common: the group's rule, the chosen target, and waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from activities.boundary import StepProgress, report_progress
from recovery.domain.managed import WILL_NOT_COME, ManagedInstance, ManagedRule, ManagedTarget
from recovery.domain.plan import PlanContext
from recovery.errors import NotFound, Refused, RestoreFailed
from recovery.ports.managed_postgres import ManagedPostgres

LOOK_EVERY = 5.0  # seconds between two questions about an instance that is on its way


async def until(
    database: ManagedPostgres,
    region: str,
    name: str,
    ready: Callable[[ManagedInstance], bool],
    words: str,
    looks: int | None = None,
    look_every: float = LOOK_EVERY,
    hopeless: frozenset[str] = WILL_NOT_COME,
) -> ManagedInstance:
    """Looks again and again; the step's attempt bounds it. With ``looks`` it goes on after so many all the same.

    Raises RestoreFailed: it is in one of the ``hopeless`` states.
    """
    count = 0
    while True:
        now = await database.instance(region, name)
        if now is not None and ready(now):
            return now
        if now is not None and now.status in hopeless:
            raise RestoreFailed(f"{name} in {region} is {now.status} and never {words}: look at its events in RDS")
        count += 1
        if now is not None and looks is not None and count >= looks:
            return now
        report_progress(StepProgress(note=f"{name} is {now.status if now else 'not there yet'}"))
        await asyncio.sleep(look_every)


def remembering(target: ManagedTarget, rule: ManagedRule, now: ManagedInstance | None) -> ManagedTarget:
    """With the security groups as they were: not those of the fence, which an earlier attempt may have put on."""
    closed = sorted(rule.fence_security_groups.get(target.source_region, []))
    if now is None or now.security_groups == closed:
        return target
    return target.model_copy(update={"source_security_groups": now.security_groups})


def address_of(target: ManagedTarget, context: PlanContext) -> tuple[str, int]:
    if target.host is None or target.port is None:
        raise Refused(f"{context.step} needs the address of the database: the plan's table is wrong")
    return target.host, target.port


def rule_of(context: PlanContext) -> ManagedRule:
    if context.group.managed is None:
        raise Refused(f"group {context.group.name} has no managed PostgreSQL: configure its rds, or use Failover")
    if context.group.guarded:
        raise Refused(
            f"group {context.group.name} is under guard, and a guard's own primary is not replaced by RDS': "
            "set its postgres.managed_by to rds"
        )
    return context.group.managed


def instance_of(context: PlanContext, region: str) -> str:
    instances = rule_of(context).instances
    if region not in instances:
        raise NotFound(
            f"{region} owns group {context.group.name}, and groups.{context.group.name}.rds.instances names no "
            f"instance there: it has {', '.join(instances)}"
        )
    return instances[region]


def source_of(context: PlanContext) -> str:
    if context.facts.source_region is None:
        raise Refused(f"{context.step} needs the region that owns the group: the plan's table is wrong")
    return context.facts.source_region


def target_of(context: PlanContext) -> ManagedTarget:
    if context.facts.managed is None:
        raise Refused(f"{context.step} needs a chosen replacement: the plan's table is wrong")
    return context.facts.managed
