"""Steps in the new region after its promotion: probes, slots, archive, drained connections, verification, loss."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta

from activities.boundary import StepProgress, report_progress, step
from activities.lock import check_held
from activities.looking import Look, behind, demand_all, role_checks, source_of, target_of
from activities.services import monitoring_checks, unmeasured
from recovery.domain.candidates import leading_store, stores_of
from recovery.domain.guarding import StoreRole
from recovery.domain.handover import UNITS, StoreLoss
from recovery.domain.plan import Facts, PlanContext, StepOutcome
from recovery.domain.positions import position_number
from recovery.domain.recovery_point import CheckResult
from recovery.domain.words import listed, plural, size
from recovery.errors import Contended, RecoveryError, RestoreFailed, Unreachable
from recovery.ports.measurements import Measurements

VERIFY_SECONDS = 15.0  # after which a check that still fails has failed
ASK_AGAIN = 0.5


class StandbySteps:
    def __init__(self, look: Look, measurements: Measurements) -> None:
        self._look = look
        self._measurements = measurements

    @step("standbys.write_probe")
    async def write_probe(self, context: PlanContext) -> StepOutcome:
        """Commits a row in the new primary as a client would: the moment at which the database is back."""
        at = await self._look.handover.write_probe(context.group, target_of(context), context.run_id)
        return StepOutcome(
            summary=f"a write was acknowledged at {at:%H:%M:%S.%f} UTC"[:-7] + " UTC",
            facts=Facts(service_restored_at=at, write_pause=_pause(context, at)),
        )

    @step("standbys.recreate_slots")
    async def recreate_slots(self, context: PlanContext) -> StepOutcome:
        """Makes a replication slot at the owner for each region that follows it, where its manager does not."""
        if context.group.managed_by != "self":
            return StepOutcome(summary=f"{context.group.managed_by} makes those that its standbys need")
        owner = (await self._look.record(context.group)).region
        followers = [region.name for region in context.group.regions if region.name != owner and region.postgres]
        made = await self._look.handover.make_slots(context.group, owner, followers)
        return StepOutcome(summary=f"made {listed(made)}" if made else f"{plural(len(followers), 'slot')} were there")

    @step("standbys.drop_old_slots")
    async def drop_old_slots(self, context: PlanContext) -> StepOutcome:
        """Drops the slots that a region keeps from its time as the owner: nobody moves them on, and they keep WAL."""
        owner = (await self._look.record(context.group)).region
        dropped, left = list[str](), list[str]()
        for region in (region.name for region in context.group.regions if region.name != owner and region.postgres):
            try:
                names = await self._look.handover.drop_old_slots(context.group, region, owner)
                dropped += [f"{name} in {region}" for name in names]
            except RecoveryError as error:
                left.append(f"old slots in {region} were not looked at: {error}")
        words = f"dropped {listed(dropped)}" if dropped else "no region keeps a slot that is of no use"
        return StepOutcome(summary=words, warnings=left)

    @step("standbys.move_archive")
    async def move_archive(self, context: PlanContext) -> StepOutcome:
        """Sees that the new primary archives its new timeline, and notes its history in the ownership record."""
        record = await self._look.record(context.group)
        states = await self._look.states(context.group, record.region)
        history = next((state.history for state in states if state.store == "postgres" and state.history), None)
        if history is not None:
            await self._note_lineage(context, history)
        return StepOutcome(summary=await self._look.handover.move_archive(context.group, record.region))

    @step("standbys.drain")
    async def drain(self, context: PlanContext) -> StepOutcome:
        """Ends clients' connections to the old region: new ones are refused, those that are left are terminated."""
        if (await self._look.record(context.group)).region == source_of(context):
            return StepOutcome(summary=f"{source_of(context)} owns {context.group.name} again: its clients stay")
        grace = context.group.failover.drain.total_seconds()
        drained = await self._look.handover.drain(context.group, source_of(context), grace)
        found = f"{plural(drained.found, 'connection')} found, {drained.terminated} terminated, {drained.left} left"
        region, doubts = source_of(context), list[str]()
        if drained.why_not_refused:
            doubts.append(f"new connections to {region} were not refused meanwhile: {drained.why_not_refused}")
        if drained.left:
            doubts.append(f"{plural(drained.left, 'connection')} to {region} did not end")
        return StepOutcome(
            summary=found + ("" if drained.why_not_refused else "; new ones were refused"), warnings=doubts
        )

    @step("standbys.verify_recovery")
    async def verify_recovery(self, context: PlanContext) -> StepOutcome:
        """The recovery validation checklist of the new region: owner, roles, writes, critical tables, endpoints."""
        checks, watched = await self._checklist(context, target_of(context))
        demand_all(checks, f"{target_of(context)} is not as it should be:", RestoreFailed)
        return StepOutcome(
            summary=f"{len(checks)} checks passed", checks=[*checks, *watched], warnings=unmeasured(watched)
        )

    @step("standbys.verify_switchover")
    async def verify_switchover(self, context: PlanContext) -> StepOutcome:
        """The same checklist; where it fails and the old side is healthy and in sync, the switchover is taken back."""
        checks, watched = await self._checklist(context, target_of(context))
        failed, doubts = [check for check in checks if not check.passed], unmeasured(watched)
        if not failed:
            return StepOutcome(
                summary=f"{len(checks)} checks passed",
                checks=[*checks, *watched],
                warnings=doubts,
                facts=Facts(verification_failed=""),
            )
        words = "; ".join(f"{check.name}: {check.detail}" for check in failed)
        hindrance = await self._why_no_return(context)
        if hindrance:
            raise RestoreFailed(f"{target_of(context)} is not as it should be: {words}. No way back: {hindrance}")
        return StepOutcome(
            summary=f"{len(failed)} of {len(checks)} checks failed: the switchover is taken back",
            checks=[*checks, *watched],
            warnings=[f"{target_of(context)} is not as it should be: {words}. The switchover is taken back", *doubts],
            facts=Facts(verification_failed=words),
        )

    @step("standbys.measure_loss")
    async def measure_loss(self, context: PlanContext) -> StepOutcome:
        """What of each store was not taken over, as far as both sides' positions say."""
        facts = context.facts
        losses = facts.losses or [self._loss(context, store) for store in stores_of(context.group)]
        commit = None
        if "postgres" in stores_of(context.group) and not all(loss.proven_zero for loss in losses):
            commit = await self._look.handover.last_commit(context.group, target_of(context))
        return StepOutcome(
            summary="; ".join(f"{loss.store}: {_lost(loss)}" for loss in losses),
            facts=Facts(losses=losses, last_recovered_commit_at=commit),
        )

    @step("standbys.watch_new_region")
    async def watch_new_region(self, context: PlanContext) -> StepOutcome:
        """Says until when the new region is probed at a shorter interval."""
        until = datetime.now(UTC) + context.group.failover.watch_for
        return StepOutcome(
            summary=f"{context.facts.serving_region} is probed more often until {until:%H:%M:%S} UTC",
            facts=Facts(watch_until=until),
        )

    # Parts of the above.

    async def _checklist(self, context: PlanContext, region: str) -> tuple[list[CheckResult], list[CheckResult]]:
        """What must pass, and what only warns. Asked again for a while: a guard may be starting, and an endpoint may
        have to learn of the new primary."""
        until = time.monotonic() + VERIFY_SECONDS
        while True:
            checks = await self._checked(context, region)
            failed = [check.name for check in checks if not check.passed]
            if not failed or time.monotonic() > until:
                watched = await monitoring_checks(self._look.probe, context.group)
                self._measurements.recovery_checked([*checks, *watched])
                return checks, watched
            report_progress(StepProgress(note=f"not yet well: {', '.join(failed)}"))
            await asyncio.sleep(ASK_AGAIN)

    async def _checked(self, context: PlanContext, region: str) -> list[CheckResult]:
        group = context.group
        record = await self._look.record(context.group)
        owned = CheckResult(
            name="owner",
            passed=record.region == region,
            detail=f"{record.region} owns {group.name}, epoch {record.epoch}",
        )
        checks = [
            owned,
            *await self._look.handover.checklist(group, region),
            *await self._look.endpoints(group, region),
        ]
        try:
            checks += role_checks(await self._look.states(group, region), StoreRole.PRIMARY, stores_of(group))
        except Unreachable as error:
            checks.append(CheckResult(name="stores", passed=False, detail=str(error)))
        return checks

    async def _why_no_return(self, context: PlanContext) -> str:
        """Why the old side cannot take over again in order; empty when it can."""
        old, new = source_of(context), target_of(context)
        if not context.request.graceful:
            return "the switchover was ungraceful"
        try:
            following = await self._look.states(context.group, old)
            serving = await self._look.states(context.group, new)
        except Unreachable as error:
            return str(error)
        unfit = [
            check for check in role_checks(following, StoreRole.STANDBY, stores_of(context.group)) if not check.passed
        ]
        if unfit:
            return "; ".join(f"{check.name} of {old}: {check.detail}" for check in unfit)
        limit = context.group.replication.max_lag.total_seconds()
        late = [words for state in following if (words := behind(state, limit))]
        if late:
            return f"{old} is not in sync: {'; '.join(late)}"
        return "" if serving else f"{new} says nothing of its stores"

    def _loss(self, context: PlanContext, store: str) -> StoreLoss:
        """From the old side's last known position and the one at which the new primary left it."""
        facts = context.facts
        promotion = {"postgres": facts.promoted_postgres, "redis": facts.promoted_redis, "nats": facts.promoted_nats}[
            store
        ]
        chosen = next((each for each in facts.candidates or [] if each.region == facts.target_region), None)
        final = facts.fence.positions.get(store) if facts.fence else None
        before = promotion.before if promotion else None
        source, target = position_number(final), position_number(before)
        leading = store == leading_store(context.group)
        lost = max(source - target, 0) if source is not None and target is not None else None
        if lost is None and leading and chosen is not None:
            lost = chosen.lost_bytes
        return StoreLoss(
            store=store,
            lost=lost,
            unit=UNITS[store],
            lost_seconds=chosen.lost_seconds if leading and chosen is not None else None,
            # An acknowledging set is PostgreSQL's, and says nothing of other stores.
            proven_zero=(store == "postgres" and facts.fence is not None and facts.fence.zero_loss)
            or (lost == 0 and source is not None),
            source_position=final,
            target_position=before,
        )

    async def _note_lineage(self, context: PlanContext, history: str) -> None:
        for _ in range(5):
            found = await self._look.ownership.read(context.group.name)
            if found is None or found[0].lineage == history:
                return
            held = check_held(found[0], context)
            try:
                await self._look.ownership.write(held.model_copy(update={"lineage": history}), version=found[1])
                return
            except Contended:
                continue


def _lost(loss: StoreLoss) -> str:
    if loss.proven_zero:
        return "nothing was lost"
    if loss.lost is not None:
        return f"{size(loss.lost) if loss.unit == 'bytes' else plural(loss.lost, 'message')} lost, as far as is known"
    return "what was lost is known when the old side returns (drctl reprotect)"


def _pause(context: PlanContext, at: datetime) -> timedelta | None:
    """How long no write was acknowledged: a switchover's price."""
    began = context.facts.outage_began_at
    return max(at - began, timedelta()) if context.plan == "Switchover" and began is not None else None
