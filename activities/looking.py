"""How steps look at a group's regions: through their guards, or at the servers where there are none."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta

from recovery.domain.candidates import Seen
from recovery.domain.group import GroupSnapshot
from recovery.domain.guarding import GuardStatus, StoreRole, StoreState
from recovery.domain.ownership import OwnershipRecord
from recovery.domain.plan import PlanContext
from recovery.domain.recovery_point import CheckResult
from recovery.errors import RecoveryError, Refused, Unreachable
from recovery.ports.guard import Guards
from recovery.ports.handover import Handover
from recovery.ports.ownership import OwnershipStore
from recovery.ports.services import HealthProbe

ANSWER_SECONDS = 3.5  # for a region's word about itself: its guard looks at every store, and waits 2.5 s for a dead one
OWNER_SECONDS = 0.4  # the owner may well be lost: so long after the others it is not waited for
_SHORT = timedelta(seconds=2)


@dataclass(frozen=True)
class Look:
    """Everything that answers questions about a group's stores."""

    guards: Guards
    handover: Handover
    ownership: OwnershipStore
    probe: HealthProbe

    async def everywhere(self, group: GroupSnapshot, owner: str) -> tuple[dict[str, Seen], float | None]:
        """What every region says, and for how many seconds the owner's lease was not renewed."""
        asked = {region.name: asyncio.create_task(self._ask(group, region.name)) for region in group.regions}
        others = [task for name, task in asked.items() if name != owner]
        try:
            if others:
                await asyncio.wait(others, timeout=ANSWER_SECONDS)
            if owner in asked:
                await asyncio.wait([asked[owner]], timeout=OWNER_SECONDS)
            silent: list[float] = []
            seen: dict[str, Seen] = {}
            for name, task in asked.items():
                if not task.done():
                    seen[name] = Seen(unreachable=f"no answer within {ANSWER_SECONDS:g} s")
                    continue
                seen[name], status = task.result()
                if status is not None and owner in status.watched:
                    silent.append(status.watched[owner])
        finally:
            for task in asked.values():
                task.cancel()
            await asyncio.gather(*asked.values(), return_exceptions=True)
        return seen, max(silent, default=None) if seen.get(owner, Seen()).unreachable else None

    async def seen(self, group: GroupSnapshot, region: str) -> Seen:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return (await self._ask(group, region))[0]
        except TimeoutError:
            return Seen(unreachable=f"no answer within {ANSWER_SECONDS:g} s")

    async def _ask(self, group: GroupSnapshot, region: str) -> tuple[Seen, GuardStatus | None]:
        try:
            if not group.guarded:
                return Seen(states=await self.handover.observe(group, region)), None
            status = await self.guards.status(region, group.name)
        except RecoveryError as error:
            return Seen(unreachable=str(error)), None
        states = [state for found in status.groups if found.group == group.name for state in found.stores]
        return Seen(states=states, holds_lease=status.holds_lease or status.by_promise), status

    async def states(self, group: GroupSnapshot, region: str) -> list[StoreState]:
        seen, _ = await self._ask(group, region)
        if seen.unreachable:
            raise Unreachable(f"{region} does not answer: {seen.unreachable}")
        return seen.states

    async def endpoints(self, group: GroupSnapshot, region: str) -> list[CheckResult]:
        questions = (
            self.probe.check(url, expected=group.health_answer, timeout=min(group.health_timeout, _SHORT))
            for url in group.region(region).health_urls
        )
        return list(await asyncio.gather(*questions))

    async def capacity(self, group: GroupSnapshot, region: str) -> list[CheckResult]:
        """Whether the application there could take the group's clients, where it says so."""
        url = group.region(region).capacity_url
        if url is None or group.capacity is None:
            return []
        found = await self.probe.check(url, expected=group.capacity, timeout=min(group.health_timeout, _SHORT))
        return [found.model_copy(update={"name": f"capacity at {url}"})]

    async def lineage(self, group: GroupSnapshot) -> str | None:
        found = await self.ownership.read(group.name)
        return found[0].lineage if found else None

    async def record(self, group: GroupSnapshot) -> OwnershipRecord:
        found = await self.ownership.read(group.name)
        if found is None:
            raise Refused(f"group {group.name} has no ownership record: it was never claimed")
        return found[0]


def source_of(context: PlanContext) -> str:
    if context.facts.source_region is None:
        raise Refused(f"{context.step} needs a region that owns the group: the plan's table is wrong")
    return context.facts.source_region


def target_of(context: PlanContext) -> str:
    if context.facts.target_region is None:
        raise Refused(f"{context.step} needs a target region: the plan's table is wrong")
    return context.facts.target_region


def role_checks(states: list[StoreState], role: StoreRole, stores: list[str]) -> list[CheckResult]:
    known = {state.store: state for state in states}
    return [
        CheckResult(
            name=f"{store} role",
            passed=store in known and known[store].role is role,
            detail=f"{known[store].role.value} {known[store].detail}".strip() if store in known else "it says nothing",
        )
        for store in stores
    ]


def behind(state: StoreState, limit: float) -> str:
    if state.role is not StoreRole.STANDBY:
        return f"{state.store} is {state.role.value} {state.detail}".strip()
    if state.lag_seconds is None:
        return f"how far {state.store} is behind is not known" if state.store == "postgres" else ""
    lag = max(state.lag_seconds, state.heard_seconds_ago or 0.0)
    return f"{state.store} is {lag:.1f} s behind" if lag > limit else ""


def demand_all(checks: list[CheckResult], what: str, error: type[RecoveryError] = Refused) -> None:
    failed = [check for check in checks if not check.passed]
    if failed:
        raise error(f"{what} " + "; ".join(f"{check.name}: {check.detail}" for check in failed))
