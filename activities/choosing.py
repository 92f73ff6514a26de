"""Steps that choose a target, check both sides, and wait until nothing would be lost."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from activities.boundary import StepProgress, report_progress, step
from activities.looking import Look, behind, demand_all, role_checks, source_of, target_of
from recovery.domain.candidates import Candidate, Choice, Seen, Wish, choose, leading_store, stores_of, waits_for_lease
from recovery.domain.group import GroupSnapshot
from recovery.domain.guarding import StoreRole, StoreState, Unfenced, left_behind, unfenced
from recovery.domain.handover import UNITS, StoreLoss
from recovery.domain.plan import Facts, PlanContext, StepOutcome
from recovery.domain.positions import position_number
from recovery.domain.recovery_point import CheckResult
from recovery.errors import DataLoss, Refused, Unreachable

LOOK_EVERY = 0.2
IN_ORDER = "its manager hands over in order: the old leader ends when its standbys have its WAL, and then another leads"


class ChoosingSteps:
    def __init__(self, look: Look) -> None:
        self._look = look

    @step("choosing.choose_target")
    async def choose_target(self, context: PlanContext) -> StepOutcome:
        """The most advanced healthy standby within its lag limit whose data descend from the owner's."""
        group, request = context.group, context.request
        owner = source_of(context)
        _demand_reason(context)
        seen, silent_for = await self._look.everywhere(group, owner)
        wish = Wish(region=request.region, accept_loss=request.accept_data_loss, outage_age=silent_for)
        if context.plan == "Failover" and request.region == owner:
            raise Refused(f"{owner} owns {group.name} already: name another region, or none")
        lineage = await self._look.lineage(group)
        choice = choose(group, owner, seen, wish, lineage)
        if choice.target is None:
            # A guard takes its lease within a moment of the witness's return. Where a person could accept a loss, they
            # are asked at once: nobody knows whether the lease comes.
            if not choice.acceptable and waits_for_lease(group, owner, seen, wish, lineage):
                raise Unreachable(choice.reason)
            raise DataLoss(choice.reason) if choice.acceptable else Refused(choice.reason)
        open_ones = [one.words for one in _without_fence(group, seen)]
        chosen = next(each for each in choice.candidates if each.region == choice.target)
        facts = Facts(
            target_region=choice.target,
            candidates=choice.candidates,
            unfenced=open_ones,
            incident_id=context.incident_id,
            outage_began_at=request.outage_began_at or (context.started_at if context.plan == "Failover" else None),
        )
        doubts = [f"nothing but a person's word keeps {words} from a second primary" for words in open_ones]
        doubts = [*_doubts(context, chosen, seen[owner]), *doubts]
        return StepOutcome(summary=_chosen(chosen, choice), facts=facts, warnings=doubts)

    @step("choosing.check_source")
    async def check_source(self, context: PlanContext) -> StepOutcome:
        """Whether the old side is healthy: only then can it hand over in order."""
        region = source_of(context)
        checks = await self._look.handover.precheck(context.group, region, primary=True)
        checks += role_checks(
            await self._look.states(context.group, region), StoreRole.PRIMARY, stores_of(context.group)
        )
        demand_all(
            checks, f"{region} cannot hand over in order (drctl ungraceful goes on without its help):", Unreachable
        )
        return StepOutcome(summary=f"{region}: {len(checks)} checks passed", checks=checks)

    @step("choosing.precheck")
    async def precheck(self, context: PlanContext) -> StepOutcome:
        """Database connectivity, replication, Redis, NATS, the application's endpoints and capacity in the target."""
        group, region = context.group, target_of(context)
        asked = [self._look.handover.precheck(group, region, primary=False), self._standby_checks(context, region)]
        answers = [check for found in await asyncio.gather(*asked) for check in found]
        asked = [self._look.endpoints(group, region), self._look.capacity(group, region)]
        endpoints = [check for found in await asyncio.gather(*asked) for check in found]
        failed = [check for check in answers if not check.passed]
        planned = context.plan == "Switchover"
        blocking = [check for check in failed if planned or check.name.startswith(leading_store(group))]
        warnings = [f"{check.name}: {check.detail}" for check in [*failed, *endpoints] if not check.passed]
        if blocking and not context.request.force:
            demand_all(
                blocking, f"{region} is not ready to serve (--force goes on all the same, with a reason):", Unreachable
            )
        passed = len([check for check in [*answers, *endpoints] if check.passed])
        total = len(answers) + len(endpoints)
        return StepOutcome(
            summary=f"{region}: {passed} of {total} checks passed", checks=[*answers, *endpoints], warnings=warnings
        )

    @step("choosing.wait_for_lag")
    async def wait_for_lag(self, context: PlanContext) -> StepOutcome:
        """Waits until the target's lag is within its limit."""
        region, limit = target_of(context), context.group.replication.max_lag.total_seconds()
        rule = context.group.replica_rule(region)
        limit = rule.lag_limit.total_seconds() if rule else limit
        while True:
            states = await self._look.states(context.group, region)
            late = [words for state in states if (words := behind(state, limit))]
            missing = sorted(set(stores_of(context.group)) - {state.store for state in states})
            if not late and not missing:
                lags = [f"{state.store} {state.lag_seconds or 0:.1f} s" for state in states]
                return StepOutcome(summary=f"{region} is within {limit:g} s: {', '.join(lags)}")
            report_progress(StepProgress(note="; ".join([*late, *missing])))
            await asyncio.sleep(LOOK_EVERY)

    @step("choosing.compare_positions")
    async def compare_positions(self, context: PlanContext) -> StepOutcome:
        """Waits until the target has everything that the old side's final positions name: then nothing is lost."""
        losses = await self._compared(context, target_of(context))
        return StepOutcome(summary=_compared(losses), facts=Facts(losses=losses))

    @step("choosing.compare_returning")
    async def compare_returning(self, context: PlanContext) -> StepOutcome:
        """Waits until the old side has everything that the new side acknowledged before a switchover is taken back."""
        losses = await self._compared(context, source_of(context))
        return StepOutcome(summary=_compared(losses))

    @step("choosing.find_way_home")
    async def find_way_home(self, context: PlanContext) -> StepOutcome:
        """Who owns the group, and whether its home region follows already or has to be reprotected first."""
        home, owner = context.group.home_region, (await self._look.record(context.group)).region
        if owner == home:
            raise Refused(f"{home} is the home of {context.group.name}, and owns it already")
        seen = await self._look.seen(context.group, home)
        if seen.unreachable:
            raise Unreachable(f"{home} does not answer yet: {seen.unreachable}")
        stale = [] if needs_no_reprotect(seen) else [home]
        words = "has to be reprotected" if stale else "follows already"
        return StepOutcome(
            summary=f"{owner} owns {context.group.name}; {home} {words}",
            facts=Facts(source_region=owner, target_region=home, stale_regions=stale),
        )

    # Parts of the above.

    async def _standby_checks(self, context: PlanContext, region: str) -> list[CheckResult]:
        try:
            states = await self._look.states(context.group, region)
        except Unreachable as error:
            return [CheckResult(name=f"{leading_store(context.group)} in {region}", passed=False, detail=str(error))]
        return role_checks(states, StoreRole.STANDBY, stores_of(context.group))

    async def _compared(self, context: PlanContext, region: str) -> list[StoreLoss]:
        proof = context.facts.fence
        if proof is None:
            raise Refused("positions are compared after the old side is fenced: the plan's table is wrong")
        if proof.hands_over:
            store = leading_store(context.group)
            return [StoreLoss(store=store, unit=UNITS[store], detail=IN_ORDER)]
        wanted = {store: proof.positions.get(store) for store in stores_of(context.group)}
        while True:
            states = {state.store: state for state in await self._look.states(context.group, region)}
            losses = [_compare(store, final, states.get(store)) for store, final in wanted.items()]
            behind = [loss for loss in losses if not loss.proven_zero and loss.lost]
            if not behind:
                _demand_known(context, losses)
                return losses
            report_progress(
                StepProgress(note="; ".join(f"{loss.store}: {loss.lost} {loss.unit} left" for loss in behind))
            )
            await asyncio.sleep(LOOK_EVERY / 4)


def _without_fence(group: GroupSnapshot, seen: Mapping[str, Seen]) -> list[Unfenced]:
    """Of a group that guards are to fence: the stores that no guard can."""
    if not group.guarded:
        return []
    kept = [one for region, answer in seen.items() for one in unfenced(region, answer.states)]
    return [*kept, *left_behind(group)]


def _demand_reason(context: PlanContext) -> None:
    """What costs data is never done without a word about why."""
    asked = [name for name in ("accept_data_loss", "force", "confirm_fence") if getattr(context.request, name)]
    if asked and not context.request.reason.strip():
        options = ", ".join(f"--{name.replace('_', '-')}" for name in asked)
        raise Refused(f"{options} needs a reason: --reason ...")


def _compare(store: str, final: str | None, state: StoreState | None) -> StoreLoss:
    """The old side's final position beside what the new side has of it."""
    wanted = position_number(final)
    if state is None or state.order is None or wanted is None:
        why = "the old side's final position is not known" if wanted is None else "the target says no position"
        return StoreLoss(store=store, unit=UNITS[store], source_position=final, detail=why)
    lost = max(wanted - state.order, 0)
    return StoreLoss(
        store=store,
        lost=lost,
        unit=UNITS[store],
        lost_seconds=0.0 if lost == 0 else None,
        proven_zero=lost == 0,
        source_position=final,
        target_position=state.position,
    )


def _compared(losses: list[StoreLoss]) -> str:
    return "; ".join(
        f"{loss.store} ended at {loss.source_position}, and {loss.target_position} is here" if loss.proven_zero
        else f"{loss.store}: {loss.detail}"
        for loss in losses
    )  # fmt: skip


def _demand_known(context: PlanContext, losses: list[StoreLoss]) -> None:
    """Where a final position is not known, nobody can claim that nothing is lost."""
    unknown = [f"{loss.store}: {loss.detail}" for loss in losses if not loss.proven_zero]
    if unknown and not context.request.accept_data_loss:
        raise Refused(
            f"it cannot be shown that nothing is lost ({'; '.join(unknown)}). Start again with --accept-data-loss and "
            "a reason, when that is meant"
        )


def _chosen(chosen: Candidate, choice: Choice) -> str:
    lag = "" if chosen.lag_seconds is None else f", {chosen.lag_seconds:.1f} s behind"
    near = ", at the same site" if chosen.is_local else ""
    others = [f"{each.region}: {each.rejected}" for each in choice.candidates if each.region != chosen.region]
    what = f"{chosen.region} at {chosen.position or 'no position'}{lag}{near}"
    return what + (f" ({'; '.join(others)})" if others else "")


def _doubts(context: PlanContext, chosen: Candidate, owner: Seen) -> list[str]:
    """What the operator should know of this choice."""
    doubts = []
    if context.request.accept_data_loss and (chosen.lag_seconds is None or chosen.lag_seconds > chosen.lag_limit):
        doubts.append(f"{chosen.region} is beyond its lag limit and was accepted: {chosen.cost} may be lost")
    if context.plan == "Failover" and not owner.unreachable and not context.request.automatic:
        doubts.append(f"{context.facts.source_region} still answers: a switchover would lose nothing")
    return doubts


def needs_no_reprotect(seen: Seen) -> bool:
    """Every store of the region follows, or is ready to."""
    return bool(seen.states) and all(state.role is StoreRole.STANDBY for state in seen.states)
