"""What the steps of failover, switchover and reprotect need beside the guards: looking, waiting, saving, rejoining."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from recovery.domain.group import GroupSnapshot
from recovery.domain.guarding import Promotion, StoreState
from recovery.domain.handover import StoreDivergence
from recovery.domain.recovery_point import CheckResult
from recovery.domain.replication import Drained

Progress = Callable[[int, int, str], None]
"""Called with (bytes done, bytes expected or 0, what is being done)."""


@dataclass(frozen=True)
class Rejoining:
    """One old primary that becomes a standby of ``owner``; ``effect_id`` was minted before the first attempt."""

    group: GroupSnapshot
    region: str
    owner: str
    effect_id: str


class Handover(Protocol):
    """The stores of any group, by region. Everything is idempotent, bounded in time and cancellable.

    Raises ``Unreachable`` when a server does not answer, ``Refused`` when it or a rule forbids.
    """

    async def observe(self, group: GroupSnapshot, region: str) -> list[StoreState]:
        """The stores as a client of the servers sees them: for groups without guards."""
        ...

    async def precheck(self, group: GroupSnapshot, region: str, *, primary: bool) -> list[CheckResult]:
        """Whether the region's database lets us in and is what it should be: the primary, or a standby."""
        ...

    async def last_commit(self, group: GroupSnapshot, region: str) -> datetime | None:
        """When the newest transaction was committed that a promoted standby took over; None where nobody knows."""
        ...

    async def write_probe(self, group: GroupSnapshot, region: str, run_id: str) -> datetime:
        """Commits one row as a client would, and returns the server's time of the commit."""
        ...

    async def checklist(self, group: GroupSnapshot, region: str) -> list[CheckResult]:
        """The recovery validation checklist of a region that is to serve: role, writes, critical tables, timeline."""
        ...

    async def make_slots(self, group: GroupSnapshot, owner: str, followers: list[str]) -> list[str]:
        """Slots at the owner, one for each follower. Returns those that were missing."""
        ...

    async def drop_old_slots(self, group: GroupSnapshot, region: str, owner: str) -> list[str]:
        """Drops slots for other regions' standbys that are of no use any more in a region which follows ``owner``.

        Only such as the product makes, that are not in use, and whose standby is the owner now or streams from it with
        a slot there. Returns them. A region that does not stream keeps all.
        """
        ...

    async def move_archive(self, group: GroupSnapshot, owner: str) -> str:
        """Sees that the owner archives its new timeline, where it archives at all. Returns what was found."""
        ...

    async def drain(self, group: GroupSnapshot, region: str, grace: float) -> Drained:
        """Refuses new clients of a region's database, and ends those that are left after ``grace`` seconds.

        A server that takes no connection has none.
        """
        ...

    async def promote(self, group: GroupSnapshot, region: str, epoch: int) -> Promotion:
        """Promotes the region's database itself: for groups without guards."""
        ...

    async def save_divergence(self, order: Rejoining) -> list[StoreDivergence]:
        """Puts aside what the old primary holds and the owner lacks. Changes nothing in it."""
        ...

    async def rejoin(self, order: Rejoining, progress: Progress) -> str:
        """Makes the stopped old primary's data those of a standby of the owner. Returns how."""
        ...
