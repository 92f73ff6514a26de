"""The group's lock and its point of no return, kept in the ownership record."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from temporalio import activity
from temporalio.client import WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from activities.boundary import step
from activities.lock import check_held, check_undo, is_held_by, is_pivoted, no_return
from recovery.domain.ownership import OwnershipRecord, Phase, Pivot
from recovery.domain.plan import Facts, PlanContext, StepOutcome
from recovery.errors import Contended, NotFound, Refused
from recovery.ports.ownership import OwnershipStore

Change = Callable[[OwnershipRecord | None], Awaitable[OwnershipRecord | None]]
HasEnded = Callable[[str, str], Awaitable[bool]]
"""Whether the workflow's run of that first run id is over. Asks Temporal, outside of tests."""
YIELDS = "Reprotect"  # its lock is taken over by a plan that saves the group's service
SAVES = ("Failover", "FullRecovery")
RELEASED = {"run": None, "workflow_id": None, "plan": None, "phase": Phase.STEADY, "pivot": None}
"""What a record says when no run holds the group."""
ATTEMPTS = 5  # compare-and-swap rounds within one activity attempt


class Ownership:
    """Reads and changes ownership records; each change is one compare-and-swap and safe to repeat."""

    def __init__(self, store: OwnershipStore, has_ended: HasEnded | None = None) -> None:
        self._store = store
        self._has_ended = has_ended or _has_ended

    @step("ownership.claim_run")
    async def claim_run(self, context: PlanContext) -> StepOutcome:
        """Takes the group's lock for this run, or refuses with the id of the run that has it."""
        warnings: list[str] = []

        async def claim(record: OwnershipRecord | None) -> OwnershipRecord | None:
            if record is None:
                await self._demand_alive(context)
                return self._first(context)
            if is_pivoted(record):
                # Of this very run too: it was reset to before its claim, and knows nothing of what it did.
                raise Refused(_left_pivoted(record))
            if record.run is not None and not is_held_by(record, context):
                warnings[:] = [await self._supersede(record, context)]
            await self._demand_alive(context)
            return _changed(
                record, run=context.holder, workflow_id=context.workflow_id, plan=context.plan, phase=Phase.RUNNING
            )

        before, record = await self._swap(context.group.name, claim)
        assert record is not None, "a claim always writes"
        # A group that nobody ever claimed belonged to its home region, which is what the first record says.
        facts = Facts(ownership_before=before or record, ownership=record, source_region=record.region)
        return StepOutcome(
            summary=f"{record.region} owns {record.group}, epoch {record.epoch}", facts=facts, warnings=warnings
        )

    @step("ownership.release_run")
    async def release_run(self, context: PlanContext) -> StepOutcome:
        """Gives the lock back: the last step of a plan, and the undo of ``claim_run``."""

        return await self._release(context)

    @step("ownership.release_after_stop")
    async def release_after_stop(self, context: PlanContext) -> StepOutcome:
        """Ends the lock of a run that its operator stopped and whose effects stay."""
        return await self._release(context)

    @step("ownership.find_active_region")
    async def find_active_region(self, context: PlanContext) -> StepOutcome:
        """Says which region owns the group now; its home while no run has ever claimed it. Takes no lock."""
        record = await self._read(context.group.name)
        region = context.request.region or (record.region if record else context.group.home_region)
        known = [place.name for place in context.group.regions]
        if region not in known:
            raise NotFound(
                f"region {region} owns group {context.group.name}, but the configuration does not know it: it names "
                f"{', '.join(known)}. Give the group this region again (groups.{context.group.name}.regions), or say "
                "which region is meant"
            )
        summary = f"{region}, epoch {record.epoch}" if record else f"{region}, the home region: never claimed"
        return StepOutcome(summary=summary, facts=Facts(source_region=region, ownership=record))

    @step("ownership.take_ownership")
    async def take_ownership(self, context: PlanContext) -> StepOutcome:
        """Makes the target region the owner with the next epoch. Repeated, it finds its own change and is content."""
        target = context.facts.target_region
        before = context.facts.ownership_before
        if target is None or before is None:
            raise Refused("take-ownership needs a target region and a claimed group: the plan's table is wrong")

        async def take(record: OwnershipRecord | None) -> OwnershipRecord | None:
            held = check_held(record, context)
            if held.region == target and held.epoch > before.epoch:
                return None
            return _changed(held, region=target, epoch=held.epoch + 1, reason=context.request.reason)

        _, record = await self._swap(context.group.name, take)
        if record is None:
            record = check_held(await self._read(context.group.name), context)
        return StepOutcome(summary=f"{target} owns {record.group}, epoch {record.epoch}", facts=Facts(ownership=record))

    @step("ownership.return_ownership")
    async def return_ownership(self, context: PlanContext) -> StepOutcome:
        """Undo of ``take_ownership``: the region that owned the group before owns it again, with a further epoch."""
        before = context.facts.ownership_before

        async def give_back(record: OwnershipRecord | None) -> OwnershipRecord | None:
            if record is None or before is None or not is_held_by(record, context) or record.epoch == before.epoch:
                return None
            if record.region == before.region:
                return None
            return _changed(record, region=before.region, epoch=record.epoch + 1, reason="rolled back")

        found, record = await self._swap(context.request.group, give_back)
        if found is not None and not is_held_by(found, context):
            summary = f"this run does not hold {found.group}: {found.region} keeps it, epoch {found.epoch}"
            return StepOutcome(summary=summary)
        if record is None and found is not None and before is not None and found.epoch > before.epoch:
            return StepOutcome(summary=f"{found.region} owns {found.group}, as before the run; epoch {found.epoch}")
        if record is None:
            return StepOutcome(summary="ownership had not changed")
        return StepOutcome(summary=f"{record.region} owns {record.group} again, epoch {record.epoch}")

    @step("ownership.record_pivot")
    async def record_pivot(self, context: PlanContext) -> StepOutcome:
        """Writes that this run's point of no return begins."""

        async def pivot(record: OwnershipRecord | None) -> OwnershipRecord | None:
            held = check_held(record, context)
            began = Pivot(run_id=context.run_id, step=context.step, at=datetime.now(UTC))
            return _changed(held, phase=Phase.PIVOTED, pivot=held.pivot or began)

        _, record = await self._swap(context.group.name, pivot)
        return StepOutcome(summary="point of no return recorded", facts=Facts(ownership=record))

    @step("ownership.withdraw_pivot")
    async def withdraw_pivot(self, context: PlanContext) -> StepOutcome:
        """Takes the recorded point of no return back: its step was never started, for a cancellation came first.

        Only the execution that wrote it knows that. After a reset (another run id) the record stays as it is.
        """

        async def withdraw(record: OwnershipRecord | None) -> OwnershipRecord | None:
            held = check_held(record, context)
            if not is_pivoted(held):
                return None
            if held.pivot is None or held.pivot.run_id != context.run_id:
                raise Refused(no_return(held))
            return _changed(held, phase=Phase.RUNNING, pivot=None)

        _, record = await self._swap(context.group.name, withdraw)
        return StepOutcome(summary="the point of no return had not begun", facts=Facts(ownership=record))

    @step("ownership.permit_undo")
    async def permit_undo(self, context: PlanContext) -> StepOutcome:
        """Says whether this run may undo what it did: see ``activities.lock.check_undo``."""
        return StepOutcome(summary=check_undo(await self._read(context.request.group), context))

    async def _release(self, context: PlanContext) -> StepOutcome:
        async def release(record: OwnershipRecord | None) -> OwnershipRecord | None:
            if record is None or not is_held_by(record, context):
                return None
            return _changed(record, **RELEASED, **taken_back(record))

        _, record = await self._swap(context.request.group, release)
        return StepOutcome(summary="the group is free" if record else "the group was not held by this run")

    async def _supersede(self, record: OwnershipRecord, context: PlanContext) -> str:
        """Says that a dead holder's lock may be taken, or refuses because it lives."""
        holder = f"run {record.run} ({record.plan}, workflow {record.workflow_id})"
        # Only one run of a workflow id is open at a time, so an earlier one of our own id has ended.
        ended = record.workflow_id == context.workflow_id
        if not ended and record.plan == YIELDS and context.plan in SAVES:
            return f"{holder} gave way: reprotect again afterwards"
        if not ended and (record.workflow_id is None or not await self._has_ended(record.workflow_id, str(record.run))):
            raise Refused(
                f"group {record.group} is being changed by {holder}. Wait for it, or watch it: "
                f"drctl status --watch {record.workflow_id}"
            )
        return f"{holder} ended without releasing the group (terminated?): its lock was taken over"

    async def _demand_alive(self, context: PlanContext) -> None:
        """A worker that was frozen may come to an attempt whose run is long over: it must not lock the group for it."""
        if await self._has_ended(context.workflow_id, context.holder):
            raise Refused(f"run {context.holder} has ended: the group is not locked for it")

    async def _read(self, group: str) -> OwnershipRecord | None:
        found = await self._store.read(group)
        return found[0] if found else None

    async def _swap(self, group: str, change: Change) -> tuple[OwnershipRecord | None, OwnershipRecord | None]:
        """Reads, decides and writes until the write meets the version that was read.

        Returns the record before and the one written; None where the decision was to change nothing.
        """
        for _ in range(ATTEMPTS):
            found = await self._store.read(group)
            before, version = found if found else (None, None)
            after = await change(before)
            if after is None:
                return before, None
            try:
                await self._store.write(after, version=version)
            except Contended:
                continue
            return before, after
        raise Contended(f"the ownership record of {group} changed {ATTEMPTS} times while it was being written")

    @staticmethod
    def _first(context: PlanContext) -> OwnershipRecord:
        return OwnershipRecord(
            group=context.group.name,
            region=context.group.home_region,
            phase=Phase.RUNNING,
            run=context.holder,
            workflow_id=context.workflow_id,
            plan=context.plan,
            changed_at=datetime.now(UTC),
            reason="first run of this group",
        )


def taken_back(record: OwnershipRecord) -> dict[str, object]:
    """What to change so that no fence is left of a run that promoted nothing: the old primary may serve again.

    The epoch moves on, so that no late order of that run fits any more.
    """
    if record.fencing is None:
        return {}
    return {"fencing": None, "demotion": None, "fence": None, "epoch": record.epoch + 1}


def _changed(record: OwnershipRecord, **values: object) -> OwnershipRecord:
    return record.model_copy(update={**values, "changed_at": datetime.now(UTC)})


def _left_pivoted(record: OwnershipRecord) -> str:
    return (
        f"run {record.run} ({record.plan}) of group {record.group} is past its point of no return. "
        f"Finish it (drctl status {record.workflow_id}), or, when it has ended and you looked at both regions, "
        f"release the group: drctl release {record.group} --reason ..."
    )


async def _has_ended(workflow_id: str, holder: str) -> bool:
    """Whether Temporal knows the holder as closed, or does not know it at all any more (its retention is over).

    The workflow's newest run is asked for, not the holder itself: a reset closes that one, and lives on under a new
    id with the same first run.
    """
    try:
        newest = await activity.client().get_workflow_handle(workflow_id).describe()
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return True
        raise
    except ValueError:
        return False  # a status that this SDK does not know, such as paused: in any case not an ended one
    alive = newest.status is WorkflowExecutionStatus.RUNNING
    return not (alive and newest.raw_info.first_run_id in ("", holder))
