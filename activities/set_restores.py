"""Steps that restore the further stores of a recovery set, beside PostgreSQL: each from its own part.

A restored stream, key or index is there for clients at once, since their servers have no way to keep clients out. It
carries the restore's mark until the plan's last step for it: so everything can be taken back before the pivot.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from activities.boundary import step, told_as
from activities.set_choice import left_words
from recovery.domain.group import GroupSnapshot
from recovery.domain.plan import Facts, PlanContext, RestoredServer, StepOutcome
from recovery.domain.recovery_point import CheckResult, DataStore
from recovery.domain.recovery_set import ChosenSet, SetPart
from recovery.domain.words import listed, size
from recovery.errors import RecoveryError, Refused, RestoreFailed
from recovery.ports.measurements import Measurements
from recovery.ports.recovery_points import RestoreOrder, Restores

CHECK_SECONDS = 40.0
"""For one store's checks, of a step that has a minute: one that hangs keeps no other from being recovered."""

Permit = Callable[[GroupSnapshot, str, str], Awaitable[None]]
"""(group, region, store): returns where the store may be written into now. Raises Refused, Unreachable."""

WORDS = {"streams": DataStore.NATS, "redis": DataStore.REDIS, "search": DataStore.SEARCH}
"""How the names of steps end: ``restore-streams``."""


class SetRestoreSteps:
    """``permit`` asks the guard that keeps a store; None: nobody is asked."""

    def __init__(self, restores: Restores, measurements: Measurements, permit: Permit | None = None) -> None:
        self._restores = restores
        self._measurements = measurements
        self._permit = permit

    @step("set_restores.check_stores")
    async def check_stores(self, context: PlanContext) -> StepOutcome:
        """Everything that the restores of the further stores need is there, and their places are empty. A store whose
        place is not ready is left as it is, and named; of a set that was asked for by its id none may be left out."""
        chosen = _chosen(context)
        found = await asyncio.gather(*(self._checked(context, part) for part in chosen.further))
        reasons = {
            part.store: "; ".join(f"{check.name}: {check.detail}" for check in checks if not check.passed)
            for part, checks in zip(chosen.further, found, strict=True)
        }
        reasons = {store: reason for store, reason in reasons.items() if reason}
        if reasons and chosen.named:
            words = "; ".join(f"{store}: {reason}" for store, reason in reasons.items())
            raise Refused(f"the target cannot take the whole of recovery set {chosen.set_id}: {words}")
        ready = chosen.without({part.store: _left(part, reasons) for part in chosen.further if part.store in reasons})
        stores = [part.store.value for part in ready.further]
        return StepOutcome(
            summary=f"{listed(stores) or 'no store'} can be restored beside PostgreSQL",
            checks=[check for checks in found for check in checks if check.passed],
            facts=Facts(chosen_set=ready),
            warnings=[words for words in left_words(ready) if words not in left_words(chosen)],
        )

    @step("set_restores.restore_streams")
    async def restore_streams(self, context: PlanContext) -> StepOutcome:
        """Restores the set's JetStream streams, which carry the restore's mark until the plan opens them."""
        return await self._restore(context, DataStore.NATS)

    @step("set_restores.restore_redis")
    async def restore_redis(self, context: PlanContext) -> StepOutcome:
        """Restores the set's dump into the running Redis, which carries the restore's mark until the plan opens it."""
        return await self._restore(context, DataStore.REDIS)

    @step("set_restores.restore_search")
    async def restore_search(self, context: PlanContext) -> StepOutcome:
        """Has the search engine restore the set's snapshot; aliases move when the plan opens the indices."""
        return await self._restore(context, DataStore.SEARCH)

    @step("set_restores.remove_restored")
    async def remove_restored(self, context: PlanContext) -> StepOutcome:
        """Undo of a store's restore: removes what carries this restore's mark, and nothing else."""
        part = _part(context, WORDS[context.step.rpartition("-")[2]])
        removed = await self._restores.remove(_order(context, part))
        return StepOutcome(summary="removed" if removed else "nothing had been restored")

    @step("set_restores.verify_stores")
    async def verify_stores(self, context: PlanContext) -> StepOutcome:
        """Holds the restored streams, keys and indices against their points' manifests."""
        restored = context.facts.restored_beside
        found = await asyncio.gather(*(self._restores.verify(context.group, each) for each in restored.values()))
        checks = [check for checks in found for check in checks]
        self._measurements.recovery_checked(checks)
        failed = [check for check in checks if not check.passed]
        if failed:
            words = "; ".join(f"{check.name}: {check.detail}" for check in failed)
            raise RestoreFailed(f"the restored data are not right: {words}")
        return StepOutcome(summary=f"{len(checks)} checks of {listed(_names(restored))} passed", checks=checks)

    @step("set_restores.open_stores")
    async def open_stores(self, context: PlanContext) -> StepOutcome:
        """Takes the restore's mark from every store: from here on their data are like any others. A search engine's
        aliases point to the restored indices."""
        restored = context.facts.restored_beside
        await asyncio.gather(*(self._restores.open_writes(context.group, each) for each in restored.values()))
        return StepOutcome(summary=f"in service: {listed(_names(restored))}")

    # Parts of the above.

    async def _checked(self, context: PlanContext, part: SetPart) -> list[CheckResult]:
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                await self._demand_permission(context, part.store)
                return await self._restores.verify_infrastructure(_order(context, part))
        except TimeoutError:
            said = f"no answer within {CHECK_SECONDS:.0f} s"
        except RecoveryError as error:
            said = str(error)
        return [CheckResult(name="target server", passed=False, detail=said)]

    async def _restore(self, context: PlanContext, store: DataStore) -> StepOutcome:
        await self._demand_permission(context, store)
        began = time.monotonic()
        restored = await self._restores.restore(_order(context, _part(context, store)), told_as())
        rate = size(int(restored.restored_bytes / max(time.monotonic() - began, 0.001)))
        return StepOutcome(
            summary=f"{size(restored.restored_bytes)} at {rate}/s into {restored.host}:{restored.port}",
            facts=Facts.model_validate({f"restored_{store}": restored}),
        )

    async def _demand_permission(self, context: PlanContext, store: DataStore) -> None:
        """Redis asks its guard itself, right before it is written into; of a search engine there is none."""
        if self._permit is not None and store is DataStore.NATS and context.facts.target_region is not None:
            await self._permit(context.group, context.facts.target_region, store)


def _left(part: SetPart, reasons: dict[DataStore, str]) -> str:
    return f"{reasons[part.store]}. Its point is put back with drctl restore --point {part.point_id}"


def _chosen(context: PlanContext) -> ChosenSet:
    if context.facts.chosen_set is None:
        raise Refused(f"{context.step} needs a recovery set: the plan's table is wrong")
    return context.facts.chosen_set


def _part(context: PlanContext, store: DataStore) -> SetPart:
    part = next((each for each in _chosen(context).parts if each.store is store), None)
    if part is None:
        raise Refused(f"{context.step} needs a part of {store} in the recovery set: the plan's table is wrong")
    return part


def _order(context: PlanContext, part: SetPart) -> RestoreOrder:
    region = context.facts.target_region
    if region is None or part.point_id is None:
        raise Refused(f"{context.step} needs a target region and a recovery point: the plan's table is wrong")
    return RestoreOrder(
        group=context.group,
        region=region,
        point_id=part.point_id,
        restore_id=context.effect_id,
    )


def _names(restored: dict[DataStore, RestoredServer]) -> list[str]:
    return [store.value for store in restored]
