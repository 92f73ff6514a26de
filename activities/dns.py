"""Steps that point the group's names at a region."""

from __future__ import annotations

import asyncio

from activities.boundary import step
from recovery.domain.plan import DnsBefore, Facts, PlanContext, StepOutcome
from recovery.errors import Contended, Refused
from recovery.ports.dns import DnsZone

SETTLE_EVERY = 0.2  # seconds between two questions to the authoritative server


class DnsSteps:
    def __init__(self, zone: DnsZone) -> None:
        self._zone = zone

    @step("dns.remember_records")
    async def remember_records(self, context: PlanContext) -> StepOutcome:
        """Reads every record of the group as it stands: what the undo of the switch writes back."""
        before = [await self._zone.read(record.name, record.type, record.zone) for record in context.group.records]
        return StepOutcome(
            summary=", ".join(f"{record.name} is {_values(record)}" for record in before) or "no records",
            facts=Facts(dns_before=before),
        )

    @step("dns.point_at_target")
    async def point_at_target(self, context: PlanContext) -> StepOutcome:
        """Points all records at the target in one change, and asks the authoritative server until it says so."""
        before, after = self._change(context)
        if not await self._stands(after):
            try:
                await self._zone.replace(list(zip(before, after, strict=True)))
            except Contended:
                if not await self._stands(after):
                    raise
        while not await self._stands(after):
            await asyncio.sleep(SETTLE_EVERY)
        return StepOutcome(summary=", ".join(f"{record.name} → {_values(record)}" for record in after))

    @step("dns.restore_records")
    async def restore_records(self, context: PlanContext) -> StepOutcome:
        """Undo of the switch: the records as they stood. A record that somebody else changed meanwhile is left."""
        before, after = self._change(context)
        if await self._stands(before):
            return StepOutcome(summary="the records had not changed")
        await self._zone.replace(list(zip(after, before, strict=True)))
        return StepOutcome(summary=", ".join(f"{record.name} → {_values(record)}" for record in before))

    def _change(self, context: PlanContext) -> tuple[list[DnsBefore], list[DnsBefore]]:
        group, region = context.group, context.facts.target_region
        before = context.facts.dns_before
        if region is None or before is None:
            raise Refused(f"{context.step} needs a target region and the records as they stood")
        value = group.region(region).dns_value
        if group.records and value is None:
            raise Refused(
                f"region {region} of group {group.name} has no address for the group's records: "
                f"set groups.{group.name}.dns.values.{region} in the configuration"
            )
        ttls = {record.name: record.ttl for record in group.records}
        after = [
            record.model_copy(update={"values": [value], "ttl": ttls.get(record.name, record.ttl)}) for record in before
        ]
        return before, after

    async def _stands(self, records: list[DnsBefore]) -> bool:
        for record in records:
            now = await self._zone.read(record.name, record.type, record.zone)
            if sorted(now.values) != sorted(record.values):
                return False
        return True


def _values(record: DnsBefore) -> str:
    return " ".join(record.values) or "absent"
