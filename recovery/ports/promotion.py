"""Who makes a PostgreSQL primary where no guard of ours does: its own manager, such as Patroni."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from recovery.domain.group import GroupSnapshot
from recovery.domain.guarding import Promotion


@dataclass(frozen=True)
class Fenced:
    """``why``: in one sentence.

    ``hands_over``: the source serves until the promotion, which moves the primary in order: its manager lets it send
    what it has before another one leads.
    """

    why: str
    hands_over: bool = False


class PostgresPromotion(Protocol):
    """Idempotent, bounded in time. Raises ``Unreachable`` (the manager does not answer) and ``Refused`` (it forbids).

    A group under guard is never promoted through this port, for its guard alone makes a primary.
    """

    async def fence(self, group: GroupSnapshot, source: str, target: str) -> Fenced | None:
        """Has the manager make sure that the source accepts no write once the target does.

        Returns:
            Why that is so; None where the manager cannot make sure: then a person has to look.
        """
        ...

    async def unfence(self, group: GroupSnapshot, source: str) -> None:
        """Takes it back, before a promotion: the source may serve again."""
        ...

    async def promote(self, group: GroupSnapshot, region: str, epoch: int) -> Promotion:
        """Makes the region's PostgreSQL the primary, and returns when it accepts writes."""
        ...
