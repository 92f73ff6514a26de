"""Poolers between clients and PostgreSQL. DNS alone ends no pooled connection."""

from __future__ import annotations

from datetime import timedelta
from typing import Protocol

from recovery.domain.group import GroupSnapshot


class ClientRouting(Protocol):
    """All poolers of a group at once. Idempotent, bounded in time.

    Each method returns sentences about poolers that did not do it, where going on is right all the same.
    """

    async def hold(self, group: GroupSnapshot, within: timedelta) -> list[str]:
        """Lets running transactions end, and has new ones wait: a planned switch, of which clients see a pause.

        Raises:
            Unreachable: a pooler did not answer, or transactions did not end in time; all are released again.
        """
        ...

    async def move(self, group: GroupSnapshot, *, held: bool, within: timedelta) -> list[str]:
        """Has the poolers find the database anew, and lets clients on.

        Args:
            held: ``hold`` came first. Else the connections to the old database are cut, with their clients.

        Raises:
            Unreachable: no pooler of the group could be told.
        """
        ...

    async def release(self, group: GroupSnapshot) -> list[str]:
        """Lets clients on, with the database as it was: the undo of ``hold``."""
        ...
