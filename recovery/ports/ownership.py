"""Where ownership records live: the witness, outside all data regions."""

from __future__ import annotations

from typing import Protocol

from recovery.domain.ownership import OwnershipRecord


class OwnershipStore(Protocol):
    """A compare-and-swap register per group. Raises ``Unreachable`` when the witness does not answer."""

    async def read(self, group: str) -> tuple[OwnershipRecord, str] | None:
        """The record and its version, or None when the group was never claimed."""
        ...

    async def write(self, record: OwnershipRecord, *, version: str | None) -> str:
        """Replaces exactly the version that was read (None: creates) and returns the new version.

        Raises:
            Contended: the record is not that version any more. Read it again and decide anew.
        """
        ...
