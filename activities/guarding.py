"""Steps that ask guards: fencing the old primary with proof, promoting the stores, letting standbys follow."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from temporalio import activity

from activities.boundary import step
from activities.lock import check_held, is_pivoted, no_return
from activities.looking import ANSWER_SECONDS, source_of, target_of
from recovery.domain.addresses import address_of
from recovery.domain.candidates import leading_store, stores_of
from recovery.domain.guarding import GuardOrder, Promotion, StoreRole
from recovery.domain.handover import StoreDivergence
from recovery.domain.ownership import FenceProof, OwnershipRecord
from recovery.domain.plan import Facts, PlanContext, StepOutcome
from recovery.domain.words import listed
from recovery.errors import NotFound, RecoveryError, Refused, Unreachable
from recovery.ports.guard import Guards
from recovery.ports.ownership import OwnershipStore
from recovery.ports.recovery_points import Restores

REPLY_SECONDS = 1.0  # of an attempt's time, for the guard's answer to arrive
CONFIRMATION = "confirm-fence"


class GuardingSteps:
    """``guards`` asks the guards, ``unguarded`` does the same for groups that have none."""

    def __init__(self, guards: Guards, unguarded: Guards, ownership: OwnershipStore, restores: Restores) -> None:
        self._guards = guards
        self._unguarded = unguarded
        self._ownership = ownership
        self._restores = restores

    # Fencing.

    @step("guarding.note_confirmation")
    async def note_confirmation(self, context: PlanContext) -> StepOutcome:
        """No guard can prove that the old primary is off: a person has looked, and says so."""
        return StepOutcome(summary=f"{_person(context)} confirms that the old primary is off")

    @step("guarding.fence")
    async def fence(self, context: PlanContext) -> StepOutcome:
        """Has the target's guard make sure, and prove, that the old primary accepts no write any more."""
        began = datetime.now(UTC)
        planned = context.plan == "Switchover" and context.request.graceful
        proof = await self._fence(context, source_of(context), target_of(context), planned=planned)
        facts = Facts(fence=proof, fenced_at=proof.at)
        if planned:
            # A switchover has no outage before this: clients wait from here on.
            facts = facts.model_copy(update={"outage_began_at": context.facts.outage_began_at or began})
        return StepOutcome(summary=_proven(proof), facts=facts, warnings=_weaknesses(proof))

    @step("guarding.unfence")
    async def unfence(self, context: PlanContext) -> StepOutcome:
        """Undo of the fence: the old primary's guard may make its stores primary again, and writes go on."""
        record = await self._record(context)
        order = _order(context, record, source_of(context), target_of(context))
        epoch = context.facts.fence.epoch if context.facts.fence else record.epoch
        after = await self._of(context).unfence(order.model_copy(update={"epoch": epoch}))
        return StepOutcome(summary=f"{after.region} may serve {after.group} again, epoch {after.epoch}")

    @step("guarding.fence_target")
    async def fence_target(self, context: PlanContext) -> StepOutcome:
        """A switchover is taken back: the new side's writes are stopped in order, and handed over."""
        proof = await self._fence(context, target_of(context), source_of(context), planned=True)
        return StepOutcome(summary=_proven(proof), facts=Facts(fence=proof), warnings=_weaknesses(proof))

    # Promotion.

    @step("guarding.promote_postgres")
    async def promote_postgres(self, context: PlanContext) -> StepOutcome:
        """Has the target's guard take the group over with the next epoch, and promote PostgreSQL."""
        store = leading_store(context.group)  # a group without PostgreSQL begins with its first store
        return await self._promote(context, store)

    @step("guarding.promote_redis")
    async def promote_redis(self, context: PlanContext) -> StepOutcome:
        """Ends Redis' replication in the target: it is a primary from now on."""
        return await self._promote(context, "redis")

    @step("guarding.promote_streams")
    async def promote_streams(self, context: PlanContext) -> StepOutcome:
        """Makes the target's mirrors JetStream streams of their own, with their subjects and consumers."""
        return await self._promote(context, "nats")

    @step("guarding.promote_source")
    async def promote_source(self, context: PlanContext) -> StepOutcome:
        """A switchover is taken back: every store of the old side is primary again, with a further epoch."""
        proof = _proof(context)
        order = _order_of(proof, context, target_of(context), source_of(context))
        promoted = []
        for store in stores_of(context.group):
            promoted.append(await self._ask_promotion(context, order, store))
        record = await self._record(context)
        facts = Facts(
            ownership=record,
            returned=True,
            promoted_postgres=_of_store(promoted, leading_store(context.group)),
        )
        return StepOutcome(summary=f"{record.region} owns {record.group} again, epoch {record.epoch}", facts=facts)

    @step("guarding.observe_promotion")
    async def observe_promotion(self, context: PlanContext) -> StepOutcome:
        """Whether the target is primary, whatever an earlier attempt reported."""
        target, store = target_of(context), leading_store(context.group)
        record = await self._record(context)
        status = await self._of(context).status(target, context.group.name)
        states = [state for group in status.groups if group.group == context.group.name for state in group.stores]
        is_primary = any(state.store == store and state.role is StoreRole.PRIMARY for state in states)
        owns = record.region == target and record.epoch > _proof(context).epoch
        return StepOutcome(
            summary=f"{target} {'owns' if owns else 'does not own'} the group, and its {store} "
            f"{'accepts' if is_primary else 'does not accept'} writes",
            effect_present=owns and is_primary,
            facts=Facts(ownership=record if owns else None),
        )

    @step("guarding.open_restored")
    async def open_restored(self, context: PlanContext) -> StepOutcome:
        """Lets clients in to what was restored. Where it is guarded, its guard takes the group over with it first."""
        restored = context.facts.restored
        if restored is None:
            raise Refused(f"{context.step} needs a restored server: the plan's table is wrong")
        outcome = StepOutcome()
        if context.facts.fence is not None:
            outcome = await self._promote(context, leading_store(context.group))
        await self._restores.open_writes(context.group, restored)
        opened = f"{address_of(restored.host, restored.port)} accepts clients"
        return outcome.model_copy(update={"summary": "; ".join(filter(None, (outcome.summary, opened)))})

    # Followers.

    @step("guarding.repoint_standbys")
    async def repoint_standbys(self, context: PlanContext) -> StepOutcome:
        """Points every other region's stores at the new primary; an old primary that must be looked at first stays."""
        record = await self._record(context)
        regions = [region.name for region in context.group.regions if region.name != record.region]
        found = await asyncio.gather(*(self._follow_all(context, record, region) for region in regions))
        following = [region for region, why in zip(regions, found, strict=True) if not why]
        stale = [region for region, why in zip(regions, found, strict=True) if why]
        left = [
            f"{region} does not follow {record.region}: {why}"
            for region, why in zip(regions, found, strict=True)
            if why
        ]
        return StepOutcome(
            summary=f"following {record.region}: {listed(following) or 'no region'}",
            facts=Facts(stale_regions=stale),
            warnings=[f"{words}. Look, then: drctl reprotect --group {record.group}" for words in left],
        )

    @step("guarding.start_following")
    async def start_following(self, context: PlanContext) -> StepOutcome:
        """Starts the rejoined region's stores as standbys of the owner."""
        record = await self._record(context)
        saved: list[StoreDivergence] = []
        why = await self._follow_all(context, record, target_of(context), saved)
        if why:
            raise Unreachable(f"{target_of(context)} does not follow {record.region} yet: {why}")
        known = [
            found for found in context.facts.divergences or [] if found.store not in {each.store for each in saved}
        ]
        return StepOutcome(
            summary=f"{listed(stores_of(context.group))} of {target_of(context)} follow {record.region}",
            facts=Facts(divergences=[*known, *saved]) if saved else Facts(),
            warnings=[
                f"{found.store} of {found.region} had acknowledged what {record.region} does not have: {found.detail}"
                for found in saved
            ],
        )

    # Parts of the above.

    def _of(self, context: PlanContext) -> Guards:
        return self._guards if context.group.guarded else self._unguarded

    async def _fence(self, context: PlanContext, source: str, target: str, *, planned: bool) -> FenceProof:
        """Each attempt reads the epoch anew: the old primary's guard begins a new one when it was restarted."""
        record = check_held(await self._record(context), context)
        if record.region != source:
            raise Refused(f"{record.region} owns {record.group}, and not {source}: there is nothing to fence")
        if is_pivoted(record) and context.step == "fence-primary":
            raise Refused(no_return(record))
        order = _order(context, record, source, target, planned=planned)
        return await self._of(context).fence(order)

    async def _promote(self, context: PlanContext, store: str) -> StepOutcome:
        order = _order_of(_proof(context), context, source_of(context), target_of(context))
        promotion = await self._ask_promotion(context, order, store)
        record = promotion.record or await self._record(context)
        facts = Facts.model_validate(
            {"ownership": record, f"promoted_{store}": promotion.model_copy(update={"record": None})}
        )
        words = f"{store} of {record.region} is primary, epoch {promotion.epoch}"
        if promotion.position:
            words += f", at {promotion.position}"
        return StepOutcome(summary=words + (", as before" if promotion.already else ""), facts=facts)

    async def _ask_promotion(self, context: PlanContext, order: GuardOrder, store: str) -> Promotion:
        return await self._of(context).promote(order.model_copy(update={"store": store}))

    async def _follow_all(
        self, context: PlanContext, record: OwnershipRecord, region: str, saved: list[StoreDivergence] | None = None
    ) -> str:
        """Why not all of the region's stores follow the owner; empty when they do.

        ``saved`` gets what guards saved of an old primary before it followed (Redis and JetStream).
        """
        order = _order(context, record, record.region, record.region)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):  # a lost region is not waited for
                await self._of(context).status(region, context.group.name)
        except TimeoutError:
            return f"no answer within {ANSWER_SECONDS:g} s"
        except RecoveryError as error:
            return str(error)
        for store in stores_of(context.group):
            try:
                state = await self._of(context).follow(region, order.model_copy(update={"store": store}))
            except NotFound:
                continue  # the region has no such store
            except RecoveryError as error:
                return f"{store}: {error}"
            if saved is not None and state.divergence is not None:
                saved.append(state.divergence.model_copy(update={"region": region}))
            if state.role is StoreRole.STALE:
                return f"{store}: {state.detail or 'it was a primary, and has to be looked at'}"
        return ""

    async def _record(self, context: PlanContext) -> OwnershipRecord:
        found = await self._ownership.read(context.group.name)
        if found is None:
            raise Refused(f"group {context.group.name} has no ownership record: it was never claimed")
        return found[0]


def _proof(context: PlanContext) -> FenceProof:
    if context.facts.fence is None:
        raise Refused(f"{context.step} needs the proof that the old primary is fenced: nothing is promoted without it")
    return context.facts.fence


def _order(
    context: PlanContext, record: OwnershipRecord, source: str, target: str, *, planned: bool = False
) -> GuardOrder:
    limit = activity.info().start_to_close_timeout
    return GuardOrder(
        group=context.group.name,
        run=context.holder,
        epoch=record.epoch,
        source=source,
        target=target,
        effect_id=context.effect_id,
        planned=planned,
        reason=context.request.reason,
        accept_loss=context.request.accept_data_loss,
        person=_person(context) if not context.group.guarded else "",
        deadline=max(limit.total_seconds() - REPLY_SECONDS, 1.0) if limit else 60.0,
    )


def _order_of(proof: FenceProof, context: PlanContext, source: str, target: str) -> GuardOrder:
    """For a promotion: of the very epoch that the proof is about."""
    limit = activity.info().start_to_close_timeout
    return GuardOrder(
        group=context.group.name,
        run=context.holder,
        epoch=proof.epoch,
        source=source,
        target=target,
        effect_id=context.effect_id,
        reason=context.request.reason,
        deadline=max(limit.total_seconds() - REPLY_SECONDS, 1.0) if limit else 60.0,
    )


def _person(context: PlanContext) -> str:
    """Who vouches that the old primary is off; empty while nobody does."""
    given = (context.facts.consents or {}).get(CONFIRMATION, "")
    return given or (context.request.requested_by if context.request.confirm_fence else "")


def _proven(proof: FenceProof) -> str:
    how = {
        "demotion-confirmed": "its guard confirmed the demotion",
        "lease-broken": f"its lease did not change for {proof.watched_for or 0:.1f} s and was broken",
        "person": f"{proof.by} vouches for it",
        "managed": "the provider fenced it",
        "never-served": "no guard ever made it primary",
    }
    strong = (
        ", ".join(f"{store} {strength.value}" for store, strength in sorted(proof.strengths.items())) or "not known"
    )
    return f"{proof.region} is fenced in epoch {proof.epoch}: {how[proof.how]}; strengths of its fences: {strong}"


def _weaknesses(proof: FenceProof) -> list[str]:
    if proof.how == "person":
        return [
            f"no guard proves that {proof.region} is off: {proof.by} vouches for it ({proof.reason or 'no reason'})"
        ]
    if proof.how == "lease-broken" and not proof.zero_loss:
        return [
            f"no guard of {proof.region} confirmed its end: what it acknowledged before its lease ended (at the latest "
            f"at {proof.last_write_by:%H:%M:%S} UTC) to clients that still reached it is not in the loss as it is "
            f"known now. drctl reprotect lists it when {proof.region} is back"
        ]
    return []


def _of_store(promotions: list[Promotion], store: str) -> Promotion | None:
    found = next((each for each in promotions if each.store == store), None)
    return found.model_copy(update={"record": None}) if found else None
