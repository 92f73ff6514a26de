"""Steps that keep clients off a managed PostgreSQL, by its provider's means.

The strength of such a fence is ``manual`` on the ladder, even where the provider confirms it: no guard watches over it,
and it holds for as long as the provider and everybody with access to its API leave it as it is.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Literal

from activities.boundary import step
from activities.managed_instances import LOOK_EVERY, remembering, rule_of, target_of, until
from recovery.domain.managed import SERVES_NOBODY, WILL_NOT_COME, ManagedInstance, ManagedTarget
from recovery.domain.ownership import FenceProof, Strength
from recovery.domain.plan import Facts, PlanContext, StepOutcome
from recovery.domain.words import listed
from recovery.errors import Refused
from recovery.ports.managed_postgres import ManagedPostgres

FencedBy = Literal["security-group", "stop", "status"]
REBOOT_LOOKS = 30  # a reboot that is over before anybody saw it begin
HOPELESS = WILL_NOT_COME & SERVES_NOBODY
"""An old instance that wants other parameters can be fenced all the same, and may serve."""
RESTARTED_AFTER = "RDS starts a stopped instance again after seven days: delete it or change its security group before"


class ManagedFencing:
    """``databases`` gives the API for a group."""

    def __init__(self, databases: Callable[[str], Awaitable[ManagedPostgres]], look_every: float = LOOK_EVERY) -> None:
        self._databases = databases
        self._look_every = look_every

    @step("managed_postgres.fence_primary")
    async def fence_primary(self, context: PlanContext) -> StepOutcome:
        """Keeps clients off the old instance, as far as its provider can: then a person need not vouch for it.

        In this order: it serves nobody by itself; a security group that lets nobody in, and a reboot that ends the
        sessions; a stop. Where none is possible the outcome has no proof, and the plan asks a person.
        """
        target, rule = target_of(context), rule_of(context)
        database = await self._databases(context.group.name)
        region, name = target.source_region, target.source_instance
        now = await database.instance(region, name)
        target = remembering(target, rule, now)
        if now is None:
            return self._fenced(context, target, "status", f"RDS knows no instance {name}")
        if now.serves_nobody:
            return self._fenced(context, target, "status", f"RDS says that {name} is {now.status}")
        closed = rule.fence_security_groups.get(region)
        if closed:
            await self._close(database, target, sorted(closed))
            return self._fenced(context, target, "security-group", f"{name} lets nobody in, and was rebooted")
        try:
            await database.stop(region, name)
        except Refused as error:
            words = f"{error}. Set rds.fence_security_groups.{region}; now a person has to see that it is off"
            return StepOutcome(summary=f"{name} cannot be fenced", warnings=[words], facts=Facts(managed=target))
        await self._until(database, region, name, lambda seen: seen.status == "stopped", "is stopped")
        return self._fenced(context, target, "stop", f"{name} is stopped", warnings=[RESTARTED_AFTER])

    @step("managed_postgres.unfence")
    async def unfence(self, context: PlanContext) -> StepOutcome:
        """Undo of the fence: the old instance as it was."""
        target = context.facts.managed
        if target is None:
            return StepOutcome(summary="nothing had been fenced")
        database, rule = await self._databases(context.group.name), rule_of(context)
        region, name = target.source_region, target.source_instance
        now = await database.instance(region, name)
        closed = sorted(rule.fence_security_groups.get(region, []))
        if now is None:
            return StepOutcome(summary=f"RDS knows no instance {name}")
        if closed and now.security_groups == closed:
            if not target.source_security_groups:
                raise Refused(f"{name} is closed, and its security groups before that are not known: set them by hand")
            await database.set_security_groups(region, name, target.source_security_groups)
            return StepOutcome(summary=f"{name} has its security groups again: {listed(target.source_security_groups)}")
        maybe = target.fenced_by == "" and not closed  # an attempt whose outcome nobody noted
        if now.status in ("stopping", "stopped") and (target.fenced_by == "stop" or maybe):
            await database.start(region, name)
            return StepOutcome(summary=f"{name} is started again")
        return StepOutcome(summary=f"{name} had not been fenced")

    # Parts of the above.

    async def _close(self, database: ManagedPostgres, target: ManagedTarget, closed: list[str]) -> None:
        """New sessions are kept out first, then all others ended: the other way round some would slip through."""
        region, name = target.source_region, target.source_instance
        now = await database.instance(region, name)
        if now is not None and now.security_groups != closed:
            await database.set_security_groups(region, name, closed)
        await self._until(
            database,
            region,
            name,
            lambda seen: seen.security_groups == closed and seen.security_groups_active and not seen.pending_changes,
            "has its new security groups in force",
        )
        await database.reboot(region, name)
        await self._until(database, region, name, lambda seen: not seen.is_available, "begins to reboot", REBOOT_LOOKS)
        await self._until(database, region, name, lambda seen: seen.is_available or seen.serves_nobody, "has rebooted")

    def _fenced(
        self, context: PlanContext, target: ManagedTarget, by: FencedBy, words: str, warnings: list[str] | None = None
    ) -> StepOutcome:
        record = context.facts.ownership
        proof = FenceProof(
            epoch=record.epoch if record else 0,
            region=target.source_region,
            how="managed",
            by=f"RDS ({by})",
            at=datetime.now(UTC),
            run=context.holder,
            strengths={"postgres": Strength.MANUAL},
            reason=words,
        )
        facts = Facts(managed=target.model_copy(update={"fenced_by": by}), fence=proof, fenced_at=proof.at)
        return StepOutcome(summary=words, facts=facts, warnings=warnings or [])

    async def _until(
        self,
        database: ManagedPostgres,
        region: str,
        name: str,
        ready: Callable[[ManagedInstance], bool],
        words: str,
        looks: int | None = None,
    ) -> None:
        await until(database, region, name, ready, words, looks, self._look_every, HOPELESS)
