"""Steps that make a returned old primary a standby again, after what only it holds was saved."""

from __future__ import annotations

import asyncio

from activities.boundary import step, told_as
from activities.lock import check_held
from activities.looking import Look, source_of, target_of
from recovery.domain.candidates import Seen, Wish, choose, stores_of
from recovery.domain.guarding import StoreRole
from recovery.domain.plan import Facts, PlanContext, StepOutcome
from recovery.domain.words import listed
from recovery.errors import Refused, RestoreFailed
from recovery.ports.handover import Rejoining


class ReprotectSteps:
    def __init__(self, look: Look) -> None:
        self._look = look

    @step("reprotecting.find_returned")
    async def find_returned(self, context: PlanContext) -> StepOutcome:
        """The region that came back: the one that was named, else the only one that does not follow the owner."""
        group, owner = context.group, source_of(context)
        regions = [region.name for region in group.regions if region.name != owner]
        if context.request.region is not None:
            if context.request.region == owner:
                raise Refused(f"{owner} owns {group.name}: a region that serves is not reprotected")
            regions = [context.request.region]
        found = await asyncio.gather(*(self._look.seen(group, region) for region in regions))
        answers = dict(zip(regions, found, strict=True))
        silent = [f"{region}: {seen.unreachable}" for region, seen in answers.items() if seen.unreachable]
        answering = {region: seen for region, seen in answers.items() if not seen.unreachable}
        waiting = [region for region, seen in answering.items() if _needs_reprotect(seen)]
        # A standby that has more than the owner follows nobody, and is none of those that ended as a primary.
        waiting = waiting or [region for region, seen in answering.items() if _is_left_behind(seen)]
        chosen = waiting or [region for region in regions if not answers[region].unreachable and context.request.region]
        if not chosen:
            raise Refused(
                f"no region of {group.name} waits to be reprotected: all that answer follow {owner}"
                + (f"; no answer from {'; '.join(silent)}" if silent else "")
            )
        if len(chosen) > 1:
            raise Refused(f"several regions wait to be reprotected: say which (--to): {', '.join(chosen)}")
        return StepOutcome(summary=f"{chosen[0]} is to follow {owner}", facts=Facts(target_region=chosen[0]))

    @step("reprotecting.save_divergence")
    async def save_divergence(self, context: PlanContext) -> StepOutcome:
        """Saves and lists what the returned side acknowledged and the owner does not have. Changes nothing in it."""
        saved = await self._look.handover.save_divergence(self._rejoining(context))
        words = [f"{found.store}: {found.detail or 'nothing diverged'}" for found in saved]
        warnings = [
            f"{found.region} had acknowledged what {context.facts.source_region} does not have: {found.detail}; "
            f"saved as {listed(found.files[:3])}"
            for found in saved
            if found.transactions or found.messages
        ]
        return StepOutcome(
            summary="; ".join(words) or "no store of it holds anything",
            facts=Facts(divergences=saved),
            warnings=warnings,
        )

    @step("reprotecting.rejoin")
    async def rejoin(self, context: PlanContext) -> StepOutcome:
        """Rewinds the returned database to the owner's history where that is possible, else clones the owner anew."""
        # Another run may have taken the lock over, a failover say: nothing of its new owner is ever rewound.
        held = check_held(await self._look.record(context.group), context)
        if held.region == target_of(context):
            raise Refused(f"{held.region} owns {held.group} by now: a region that serves is not reprotected")
        if "postgres" not in stores_of(context.group):
            return StepOutcome(summary="the group has no PostgreSQL")
        return StepOutcome(summary=await self._look.handover.rejoin(self._rejoining(context), told_as()))

    @step("reprotecting.confirm_candidate")
    async def confirm_candidate(self, context: PlanContext) -> StepOutcome:
        """Whether the rejoined region could take over again."""
        owner, region = source_of(context), target_of(context)
        seen, silent_for = await self._look.everywhere(context.group, owner)
        choice = choose(context.group, owner, seen, Wish(region=region, outage_age=silent_for))
        if choice.target != region:
            raise RestoreFailed(f"{region} is no candidate yet: {choice.reason}")
        return StepOutcome(summary=f"{region} could take over again", facts=Facts(candidates=choice.candidates))

    def _rejoining(self, context: PlanContext) -> Rejoining:
        return Rejoining(context.group, target_of(context), source_of(context), context.effect_id)


def _needs_reprotect(seen: Seen) -> bool:
    return any(state.role in (StoreRole.STALE, StoreRole.STOPPED) for state in seen.states)


def _is_left_behind(seen: Seen) -> bool:
    return any(state.role is StoreRole.STANDBY and state.receives is False for state in seen.states)
