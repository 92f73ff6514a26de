"""A group's WAL archive, as its archiver and its recoveries use it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from recovery.domain.group import GroupSnapshot
from recovery.domain.wal_progress import HeldWal, WalOrder, WalProgress


class WalArchives(Protocol):
    async def archive(self, group: GroupSnapshot, order: WalOrder, report: Callable[[WalProgress], None]) -> None:
        """Archives the WAL of the region that owns the group, until an error or a cancellation ends it.

        A location that does not answer at the begin is not waited for; it returns when such a one is complete again.

        Raises:
            Unreachable: the server or a required location went away: begin again.
            NotOurs: the archive holds other WAL at this place.
            Refused, SourceFailed, Corrupt, WrongKey, NotFound: in the words of whoever says so.
        """
        ...

    async def follow(self, group: GroupSnapshot, region: str, archived: str) -> str:
        """Has the archive's slot at a standby hold WAL from ``archived`` (LSN) on; returns from where it holds it.

        Raises Refused, Unreachable, SourceFailed, NotFound.
        """
        ...

    async def held(self, group: GroupSnapshot, region: str) -> HeldWal | None:
        """What the archive's slot holds at the owner; None where it is not there. Raises as ``follow``."""
        ...

    async def lacks_base(
        self, group: GroupSnapshot, system_identifier: str, timeline: int, archived: str
    ) -> str | None:
        """Why no recovery point reaches the end of the archived WAL of this timeline; None where one does.

        What stands behind ``archived`` (LSN) does not count: several pieces are on their way at once, and one may be
        there before the one before it is.

        Raises Unreachable and what else the locations say.
        """
        ...


class WalMeasurements(Protocol):
    """Never raises and never waits."""

    def wal_archived(self, group: str, progress: WalProgress) -> None:
        """How far the archiver of a group is, about every second."""
        ...

    def wal_archive_left(self, group: str) -> None:
        """This process does not archive the group's WAL any more: another one may."""
        ...
