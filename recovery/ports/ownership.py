"""Where ownership records and leases live: the witness, outside all data regions."""

from __future__ import annotations

from typing import Protocol

from recovery.domain.ownership import OwnershipRecord, RegionLease


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


class LeaseStore(Protocol):
    """A compare-and-swap register per region. Raises ``Unreachable`` when the witness does not answer.

    After ``Unreachable`` a write may still arrive, at any later time: whether it did shows in the serial that is read.
    """

    async def read_lease(self, region: str) -> tuple[RegionLease, str] | None:
        """The lease and its version, or None when no guard of the region ever held one."""
        ...

    async def write_lease(self, lease: RegionLease, *, version: str | None) -> str:
        """Replaces exactly the version that was read (None: creates) and returns the new version.

        Raises:
            Contended: the lease is not that version any more.
        """
        ...
