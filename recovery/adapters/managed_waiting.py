"""Waiting for what RDS makes: snapshots, their copies, and instances. RDS has no call that waits; it is asked again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from recovery.adapters.rds_snapshots import demand_ours
from recovery.domain.managed import WILL_NOT_COME, ManagedInstance, ManagedSnapshot
from recovery.errors import Contended, RestoreFailed, SourceFailed, Unreachable
from recovery.ports.managed_postgres import ManagedPostgres, ManagedSnapshots

LOOK_EVERY = 10.0  # seconds between two questions
LOOKS_UNTIL_LISTED = 3  # what RDS has accepted a moment ago need not be listed yet


@dataclass(frozen=True)
class Patience:
    """``until``: on the monotonic clock."""

    until: float
    look_every: float = LOOK_EVERY

    @classmethod
    def of(cls, seconds: float, look_every: float = LOOK_EVERY) -> Patience:
        return cls(time.monotonic() + seconds, look_every)

    async def rest(self, what: str) -> None:
        """Raises Unreachable: it took too long."""
        if time.monotonic() + self.look_every > self.until:
            raise Unreachable(f"{what} is not done in the time of this attempt; RDS goes on with it")
        await asyncio.sleep(self.look_every)


async def awaited_snapshot(
    api: ManagedSnapshots,
    region: str,
    name: str,
    tags: Mapping[str, str],
    patience: Patience,
    tell: Callable[[ManagedSnapshot], None],
) -> ManagedSnapshot:
    """The snapshot, once it is available.

    Raises:
        SourceFailed: it failed, or is gone. NotOurs: it is not of this recovery point. Unreachable: it took too long,
        or RDS does not answer.
    """
    absent = 0
    while True:
        found = await api.snapshot(region, name)
        if found is None:
            absent += 1
            if absent > LOOKS_UNTIL_LISTED:
                raise SourceFailed(f"snapshot {name} in {region} was deleted while it was made")
            await patience.rest(f"snapshot {name} in {region}")
            continue
        demand_ours(found, tags)
        if found.status == "available":
            return found
        if found.status == "failed" or found.status.startswith("incompatible"):
            raise SourceFailed(f"snapshot {name} in {region} is {found.status}: look at its instance's events in RDS")
        tell(found)
        await patience.rest(f"snapshot {name} in {region} ({found.status}, {found.percent} %)")


async def awaited_instance(
    database: ManagedPostgres, region: str, name: str, mark: str, patience: Patience, tell: Callable[[str], None]
) -> ManagedInstance:
    """The instance that we had made, once it is available and has an address.

    Raises:
        RestoreFailed: RDS says that it never will be. Contended: somebody deletes it. Unreachable: it took too long.
    """
    absent = 0
    while True:
        found = await database.instance(region, name)
        absent += found is None
        if absent > LOOKS_UNTIL_LISTED or (found is not None and (found.mark != mark or found.status == "deleting")):
            raise Contended(f"somebody deleted instance {name} in {region} while it was made")
        if found is None:
            await patience.rest(f"instance {name} in {region}")
            continue
        if found.status in WILL_NOT_COME:
            raise RestoreFailed(f"instance {name} in {region} is {found.status}: look at its events in RDS")
        if found.is_available and found.host is not None and found.port is not None:
            return found
        tell(f"{name} in {region} is {found.status}")
        await patience.rest(f"instance {name} in {region} ({found.status})")


async def await_absence(database: ManagedPostgres, region: str, name: str, patience: Patience) -> None:
    """Until an instance that is being deleted is gone: its name cannot be had before. Any other is left alone.

    Raises Unreachable: it took too long.
    """
    while (found := await database.instance(region, name)) is not None and found.status == "deleting":
        await patience.rest(f"the deletion of instance {name} in {region}")
