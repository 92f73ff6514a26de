"""Who makes a PostgreSQL primary where no guard of ours does: its own manager, such as Patroni."""

from __future__ import annotations

from typing import Protocol

from recovery.domain.group import GroupSnapshot
from recovery.domain.guarding import Promotion


class PostgresPromotion(Protocol):
    """Idempotent, bounded in time. Raises ``Unreachable`` (the manager does not answer) and ``Refused`` (it forbids).

    A group under guard is never promoted through this port, for its guard alone makes a primary.
    """

    async def fence(self, group: GroupSnapshot, source: str, target: str) -> str | None:
        """Has the manager make sure that the source accepts no write once the target does.

        Returns:
            Why that is so, in one sentence; None where the manager cannot make sure: then a person has to look.
        """
        ...

    async def unfence(self, group: GroupSnapshot, source: str) -> None:
        """Takes it back, before a promotion: the source may serve again."""
        ...

    async def promote(self, group: GroupSnapshot, region: str, epoch: int) -> Promotion:
        """Makes the region's PostgreSQL the primary, and returns when it accepts writes."""
        ...
