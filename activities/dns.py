"""Steps that point the group's names at a region."""

from __future__ import annotations

from activities.boundary import step
from activities.lock import demand
from recovery.domain.dns_records import pointed_at, same, title, words
from recovery.domain.plan import DnsBefore, Facts, PlanContext, StepOutcome
from recovery.errors import Contended, Refused
from recovery.ports.dns import DnsZone


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
        facts = context.facts
        if facts.dns_before is None and facts.promotions:  # they could not be read before: a failover goes on
            facts = facts.model_copy(update={"dns_before": await self._as_they_stand(context)})
            context = context.model_copy(update={"facts": facts})
        before, after = _change(context)
        if not await self._stands(after):
            await demand(context)  # a worker that stood still while it looked may have lost the group meanwhile
            try:
                await self._zone.replace(list(zip(before, after, strict=True)))
            except Contended:
                if not await self._stands(after):
                    raise
        notes = await self._zone.settle(after)
        summary = ", ".join(f"{title(record)} → {words(record)}" for record in after)
        return StepOutcome(summary=summary or "no records", warnings=notes, facts=Facts(dns_before=facts.dns_before))

    @step("dns.restore_records")
    async def restore_records(self, context: PlanContext) -> StepOutcome:
        """Undo of the switch: the records as they stood. A record that somebody else changed meanwhile is left."""
        before, after = _change(context)
        changed = not await self._stands(before)
        if changed:
            await demand(context)
            await self._zone.replace(list(zip(after, before, strict=True)))
        notes = await self._zone.settle(before)
        summary = ", ".join(f"{title(record)} → {words(record)}" for record in before)
        return StepOutcome(summary=summary if changed else "the records had not changed", warnings=notes)

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


def _change(context: PlanContext) -> tuple[list[DnsBefore], list[DnsBefore]]:
    """The records as they stood and as they become, in the order of the configuration."""
    group, region = context.group, context.facts.target_region
    remembered = context.facts.dns_before
    if region is None or remembered is None:
        raise Refused(f"{context.step} needs a target region and the records as they stood")
    database = context.facts.managed.host if context.facts.managed else None
    known = {(record.name, record.type.upper(), record.set_identifier): record for record in remembered}
    pairs = [
        (before, pointed_at(group, record, before, region, database))
        for record in group.records
        if (before := known.get((record.name, record.type.upper(), record.set_identifier))) is not None
    ]
    return [before for before, _ in pairs], [after for _, after in pairs]
