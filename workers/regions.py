"""Who owns each group, and how each region stands to it: from the ownership records, the leases and the guards."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime

from recovery.adapters.guard_client import GuardClient
from recovery.domain.candidates import priority_of
from recovery.domain.group import GroupSnapshot
from recovery.domain.guarding import GuardStatus, StoreRole, StoreState, unfenced
from recovery.domain.ownership import OwnershipRecord, RegionLease
from recovery.errors import RecoveryError
from workers.wiring import Wiring

ANSWER_SECONDS = 3.0


@dataclass(frozen=True)
class RegionLine:
    """One region's part in one group. ``trouble`` is empty while all is well."""

    group: str
    region: str
    owns: bool
    epoch: int | None
    run: str | None
    guard: str | None  # instance that answered
    holds_lease: bool | None
    lease_age: float | None  # seconds since the lease was last renewed, by the witness's and this machine's clocks
    stores: list[StoreState] = field(default_factory=list)
    trouble: str = ""
    priority: int = 0  # as a target
    site: str | None = None  # what it is lost together with, where that is more than itself

    @property
    def lag_seconds(self) -> float | None:
        """The largest of its stores' lags."""
        return max((state.lag_seconds for state in self.stores if state.lag_seconds is not None), default=None)


async def region_lines(wiring: Wiring, names: list[str]) -> list[RegionLine]:
    """A line for each group and region; what does not answer says so in its line.

    Raises:
        Unreachable: the witness does not answer: then nobody can say who owns what.
    """
    witness, guards = await wiring.witness(), await wiring.guards()
    groups = [wiring.config.snapshot(name) for name in names]
    regions = sorted({region.name for group in groups for region in group.regions})
    leases = {region: await witness.read_lease(region) for region in regions}
    lines: list[RegionLine] = []
    for group in groups:
        found = await witness.read(group.name)
        record = found[0] if found else None
        asked = (_status(wiring, guards, group, region.name) for region in group.regions)
        for region, answer in zip(group.regions, await asyncio.gather(*asked), strict=True):
            held = leases[region.name]
            lines.append(_line(group, region.name, record, held[0] if held else None, answer))
    return lines


async def _status(
    wiring: Wiring, guards: GuardClient, group: GroupSnapshot, region: str
) -> GuardStatus | list[StoreState] | str:
    """The guard's word, or the servers' own where there is none, or why neither came."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            if group.guarded:
                return await guards.status(region, group.name)
            return await wiring.handover().observe(group, region)
    except TimeoutError:
        return f"no answer within {ANSWER_SECONDS:g} s"
    except RecoveryError as error:
        return str(error)


def _line(
    group: GroupSnapshot,
    region: str,
    record: OwnershipRecord | None,
    lease: RegionLease | None,
    answer: GuardStatus | list[StoreState] | str,
) -> RegionLine:
    owner = record.region if record else group.home_region
    status = answer if isinstance(answer, GuardStatus) else None
    states = answer if isinstance(answer, list) else []
    if status is not None:
        states = [state for found in status.groups if found.group == group.name for state in found.stores]
    owns = owner == region
    return RegionLine(
        group=group.name,
        region=region,
        owns=owns,
        epoch=record.epoch if record else None,
        run=f"{record.plan} {record.workflow_id}" if record is not None and record.run else None,
        guard=status.instance if status else None,
        holds_lease=status.holds_lease if status else None,
        lease_age=(datetime.now(UTC) - lease.changed_at).total_seconds() if lease else None,
        stores=states,
        trouble=answer if isinstance(answer, str) else _trouble(region, states, status, owns),
        priority=priority_of(group, region),
        site=group.region(region).site,
    )


def _trouble(region: str, states: list[StoreState], status: GuardStatus | None, owns: bool) -> str:
    wanted = StoreRole.PRIMARY if owns else StoreRole.STANDBY
    wrong = [f"{state.store} is {state.role.value}" for state in states if state.role is not wanted]
    if status is not None and not (status.holds_lease or status.by_promise):
        wrong.append("its guard holds no lease")
    warnings = [warning for found in status.groups for warning in found.warnings] if status else []
    open_ones = [f"{one.store} has no fence: automatic failover is refused" for one in unfenced(region, states)]
    return "; ".join([*wrong, *(open_ones if status else []), *warnings])
