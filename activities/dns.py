"""Steps that point the group's names at a region."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import structlog
from temporalio import activity

from activities.boundary import step
from activities.lock import demand, standing
from recovery.domain.dns_records import pointed_at, same, title, words
from recovery.domain.plan import DnsBefore, Facts, LockDemand, PlanContext, StepOutcome
from recovery.domain.recovery_point import BackupKind
from recovery.errors import Contended, RecoveryError, Refused, Unreachable
from recovery.ports.dns import DnsZone

REPLY_SECONDS = 1.0  # of an attempt's time, for its last word to arrive
END_SECONDS = 10.0  # to see whether a change that is made was late, and to take it back


log = structlog.get_logger("recovery.activities")


class DnsSteps:
    def __init__(self, zone: DnsZone) -> None:
        self._zone = zone

    @step("dns.remember_records")
    async def remember_records(self, context: PlanContext) -> StepOutcome:
        """Reads every record of the group as it stands: what the undo of the switch writes back."""
        before = await self._as_they_stand(context)
        return StepOutcome(
            summary=", ".join(f"{title(record)} is {words(record)}" for record in before) or "no records",
            facts=Facts(dns_before=before),
            warnings=[
                f"{title(record)} {record.type} keeps its health check {record.health_check}: see that it looks at "
                f"{context.facts.target_region} from now on, or clients get no answer"
                for record in before
                if record.health_check is not None
            ],
        )

    @step("dns.point_at_target")
    async def point_at_target(self, context: PlanContext) -> StepOutcome:
        """Points all records at the target in one change, and asks the authoritative servers until they say so."""
        facts, patience = context.facts, Patience()
        async with patience.with_("asking how the names stand"):
            if facts.dns_before is None and facts.promotions:  # they could not be read before: a failover goes on
                facts = facts.model_copy(update={"dns_before": await self._as_they_stand(context)})
                context = context.model_copy(update={"facts": facts})
            before, after = _change(context)
            stand = await self._stands(after)
        if not stand:
            async with patience.with_("changing the names"):
                await self._replace(context, before, after, facts.target_region)
        notes = await self._settled(after, patience)
        return StepOutcome(
            summary=_names(after) or "no records", warnings=notes, facts=Facts(dns_before=facts.dns_before)
        )

    @step("dns.restore_records")
    async def restore_records(self, context: PlanContext) -> StepOutcome:
        """Undo of the switch: the records as they stood. A record that somebody else changed meanwhile is left."""
        before, after = _change(context)
        patience = Patience()
        async with patience.with_("asking how the names stand"):
            changed = not await self._stands(before)
        if changed:
            async with patience.with_("changing the names back"):
                await self._replace(context, after, before, context.facts.source_region)
        notes = await self._settled(before, patience)
        return StepOutcome(summary=_names(before) if changed else "the records had not changed", warnings=notes)

    async def _replace(
        self, context: PlanContext, old: list[DnsBefore], new: list[DnsBefore], region: str | None
    ) -> None:
        """Changes the names, which lead to ``region`` then, for a run that holds the group before and after that."""
        await _demand(context)  # a worker that stood still while it looked may have lost the group meanwhile
        try:
            await self._zone.replace(list(zip(old, new, strict=True)))
        except Contended:
            if not await self._stands(new):
                raise
        except (RecoveryError, asyncio.CancelledError):
            await _to_its_end(self._take_back_late(context, old, new, region))  # it may be made all the same
            raise
        else:
            await _to_its_end(self._take_back_late(context, old, new, region))

    async def _take_back_late(
        self, context: PlanContext, old: list[DnsBefore], new: list[DnsBefore], region: str | None
    ) -> None:
        """Where the run lost its group between the question and the change: Refused, and the names are as before.

        A worker may stand still just there, for as long as it takes to move the group there and back: no comparison of
        values shows that.
        """
        try:
            await _demand(context)
        except Refused as lost:
            record = await standing(context)
            if record is not None and record.region == region:
                raise  # whoever holds the group now has it there: the names are right
            try:
                with contextlib.suppress(Contended):  # somebody has changed them again, or they were not changed
                    await self._zone.replace(list(zip(new, old, strict=True)))
            except RecoveryError as error:
                raise Refused(f"{lost}. But {_names(new)} stands, and could not be changed back: {error}") from error
            raise

    async def _settled(self, records: list[DnsBefore], patience: Patience) -> list[str]:
        async with patience.with_(f"{_names(records)} is made, and waiting until all name servers say so"):
            return await self._zone.settle(records)

    async def _as_they_stand(self, context: PlanContext) -> list[DnsBefore]:
        return [
            await self._zone.read(record.name, record.type, record.zone, record.set_identifier)
            for record in context.group.records
        ]

    async def _stands(self, records: list[DnsBefore]) -> bool:
        for record in records:
            now = await self._zone.read(record.name, record.type, record.zone, record.set_identifier)
            if not same(now, record):
                return False
        return True


class Patience:
    """Ends an attempt in words, a moment before Temporal ends it without any: whoever is asked then knows why."""

    def __init__(self) -> None:
        limit = activity.info().start_to_close_timeout
        seconds = limit.total_seconds() if limit else None
        self._seconds = seconds - min(REPLY_SECONDS, seconds / 10) if seconds else None
        self._until = asyncio.get_running_loop().time() + self._seconds if self._seconds else None

    @contextlib.asynccontextmanager
    async def with_(self, what: str) -> AsyncIterator[None]:
        """Raises Unreachable when it takes too long."""
        bound = asyncio.timeout_at(self._until)
        try:
            async with bound:
                yield
        except TimeoutError:
            if not bound.expired():
                raise
            raise Unreachable(f"{what} took longer than the {self._seconds:g} s of an attempt") from None


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Also where the step is cancelled meanwhile, as one is that was silent for too long."""
    task = asyncio.create_task(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task}, timeout=END_SECONDS)
        task.cancel()
        raise


def _names(records: list[DnsBefore]) -> str:
    return ", ".join(f"{title(record)} → {words(record)}" for record in records)


async def _demand(context: PlanContext) -> None:
    """Also where the plan's table knows no undo of the step: names lead only where who holds the group wants them.

    There a silent witness keeps nobody from the new primary: it is refused only where it is known to be wrong.
    """
    if context.lock is not None or context.facts.ownership_before is None:
        await demand(context)
        return
    try:
        await demand(context.model_copy(update={"lock": LockDemand.HELD}))
    except Unreachable as error:
        log.warning("the names are changed though it cannot be asked who holds the group", reason=str(error))


def _new_database(context: PlanContext) -> str | None:
    """The address of an instance that this run opens, which no configuration knows yet."""
    managed, restored = context.facts.managed, context.facts.restored
    if managed is not None:
        return managed.host
    return restored.host if restored is not None and restored.kind is BackupKind.SNAPSHOT else None


def _change(context: PlanContext) -> tuple[list[DnsBefore], list[DnsBefore]]:
    """The records as they stood and as they become, in the order of the configuration."""
    group, region = context.group, context.facts.target_region
    remembered = context.facts.dns_before
    if region is None or remembered is None:
        raise Refused(f"{context.step} needs a target region and the records as they stood")
    database = _new_database(context)
    known = {(record.name, record.type.upper(), record.set_identifier): record for record in remembered}
    pairs = [
        (before, pointed_at(group, record, before, region, database))
        for record in group.records
        if (before := known.get((record.name, record.type.upper(), record.set_identifier))) is not None
    ]
    return [before for before, _ in pairs], [after for _, after in pairs]
