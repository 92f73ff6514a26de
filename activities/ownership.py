"""The group's lock and its point of no return, kept in the ownership record."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from temporalio import activity
from temporalio.client import WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from activities.boundary import step
from recovery.domain.ownership import OwnershipRecord, Phase, Pivot
from recovery.domain.plan import Facts, PlanContext, StepOutcome
from recovery.errors import Contended, Refused
from recovery.ports.ownership import OwnershipStore

Change = Callable[[OwnershipRecord | None], Awaitable[OwnershipRecord | None]]
ATTEMPTS = 5  # compare-and-swap rounds within one activity attempt


class Ownership:
    """Reads and changes ownership records; each change is one compare-and-swap and safe to repeat."""

    def __init__(self, store: OwnershipStore) -> None:
        self._store = store

    @step("ownership.claim_run")
    async def claim_run(self, context: PlanContext) -> StepOutcome:
        """Takes the group's lock for this run, or refuses with the id of the run that has it."""
        warnings: list[str] = []

        async def claim(record: OwnershipRecord | None) -> OwnershipRecord | None:
            if record is None:
                return self._first(context)
            if record.run is not None and not _is_mine(record, context):
                warnings[:] = [await self._supersede(record)]
            elif record.phase is Phase.PIVOTED and not _is_mine(record, context):
                raise Refused(_left_pivoted(record))
            return _changed(
                record, run=context.run_id, workflow_id=context.workflow_id, plan=context.plan, phase=Phase.RUNNING
            )

        before, record = await self._swap(context.group.name, claim)
        assert record is not None, "a claim always writes"
        facts = Facts(ownership_before=before, ownership=record, source_region=record.region)
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
            held = _held(record, context)
            if held.region == target and held.epoch > before.epoch:
                return None
            return _changed(held, region=target, epoch=held.epoch + 1, reason=context.request.reason)

        _, record = await self._swap(context.group.name, take)
        if record is None:
            record = _held(await self._read(context.group.name), context)
        return StepOutcome(summary=f"{target} owns {record.group}, epoch {record.epoch}", facts=Facts(ownership=record))

    @step("ownership.return_ownership")
    async def return_ownership(self, context: PlanContext) -> StepOutcome:
        """Undo of ``take_ownership``: the region that owned the group before owns it again, with a further epoch."""
        before = context.facts.ownership_before

        async def give_back(record: OwnershipRecord | None) -> OwnershipRecord | None:
            if record is None or before is None or not _is_mine(record, context) or record.epoch == before.epoch:
                return None
            if record.region == before.region:
                return None
            return _changed(record, region=before.region, epoch=record.epoch + 1, reason="rolled back")

        _, record = await self._swap(context.request.group, give_back)
        if record is None:
            return StepOutcome(summary="ownership had not changed")
        return StepOutcome(summary=f"{record.region} owns {record.group} again, epoch {record.epoch}")

    @step("ownership.record_pivot")
    async def record_pivot(self, context: PlanContext) -> StepOutcome:
        """Writes that this run's point of no return begins."""

        async def pivot(record: OwnershipRecord | None) -> OwnershipRecord | None:
            held = _held(record, context)
            began = Pivot(run_id=context.run_id, step=context.step, at=datetime.now(UTC))
            return _changed(held, phase=Phase.PIVOTED, pivot=held.pivot or began)

        _, record = await self._swap(context.group.name, pivot)
        return StepOutcome(summary="point of no return recorded", facts=Facts(ownership=record))

    @step("ownership.permit_undo")
    async def permit_undo(self, context: PlanContext) -> StepOutcome:
        """Refuses when a point of no return of this run had begun, even if the run itself no longer knows it."""
        record = await self._read(context.request.group)
        if record is not None and record.phase is Phase.PIVOTED and record.pivot is not None:
            raise Refused(
                f"the point of no return of run {record.pivot.run_id} ({record.pivot.step}) began at "
                f"{record.pivot.at:%Y-%m-%d %H:%M:%S} UTC. Look at the real state of both regions: go forward with a "
                "new run, or stop here and leave it as it is"
            )
        return StepOutcome(summary="no point of no return had begun")

    async def _release(self, context: PlanContext) -> StepOutcome:
        async def release(record: OwnershipRecord | None) -> OwnershipRecord | None:
            if record is None or not _is_mine(record, context):
                return None
            return _changed(record, run=None, workflow_id=None, plan=None, phase=Phase.STEADY, pivot=None)

        _, record = await self._swap(context.request.group, release)
        return StepOutcome(summary="the group is free" if record else "the group was not held by this run")

    async def _supersede(self, record: OwnershipRecord) -> str:
        """Says that a dead holder's lock may be taken, or refuses because it lives."""
        holder = f"run {record.run} ({record.plan}, workflow {record.workflow_id})"
        if record.phase is Phase.PIVOTED:
            raise Refused(_left_pivoted(record))
        if record.workflow_id is None or not await _has_ended(record.workflow_id, str(record.run)):
            raise Refused(
                f"group {record.group} is being changed by {holder}. Wait for it, or watch it: "
                f"drctl status --watch {record.workflow_id}"
            )
        return f"{holder} ended without releasing the group (terminated?): its lock was taken over"

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
            run=context.run_id,
            workflow_id=context.workflow_id,
            plan=context.plan,
            changed_at=datetime.now(UTC),
            reason="first run of this group",
        )


def _is_mine(record: OwnershipRecord, context: PlanContext) -> bool:
    # A reset gives the workflow a new run id: the same workflow is the same holder.
    return record.run == context.run_id or (record.run is not None and record.workflow_id == context.workflow_id)


def _held(record: OwnershipRecord | None, context: PlanContext) -> OwnershipRecord:
    if record is None or not _is_mine(record, context):
        holder = "nobody" if record is None or record.run is None else f"run {record.run}"
        raise Refused(
            f"group {context.request.group} is held by {holder}, not by this run: nothing was changed. "
            "Look at the other run before starting again"
        )
    return record


def _changed(record: OwnershipRecord, **values: object) -> OwnershipRecord:
    return record.model_copy(update={**values, "changed_at": datetime.now(UTC)})


def _left_pivoted(record: OwnershipRecord) -> str:
    return (
        f"run {record.run} ({record.plan}) of group {record.group} is past its point of no return. "
        f"Finish it (drctl status {record.workflow_id}), or, when it has ended and you looked at both regions, "
        f"release the group: drctl release {record.group} --reason ..."
    )


async def _has_ended(workflow_id: str, run_id: str) -> bool:
    """Whether Temporal knows the run as closed, or does not know it at all any more (its retention is over)."""
    try:
        description = await activity.client().get_workflow_handle(workflow_id, run_id=run_id).describe()
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return True
        raise
    return description.status is not WorkflowExecutionStatus.RUNNING
