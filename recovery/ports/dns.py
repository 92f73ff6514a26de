"""Authoritative DNS, as far as a recovery needs it."""

from __future__ import annotations

from typing import Protocol

from recovery.domain.plan import DnsBefore


class DnsZone(Protocol):
    async def read(self, name: str, type: str, zone: str, set_identifier: str | None = None) -> DnsBefore:
        """The record as the zone's owner has it. It does not ``exist`` when there is none.

        Args:
            set_identifier: which member of a weighted set, where the provider knows such sets.
        """
        ...

    async def replace(self, changes: list[tuple[DnsBefore, DnsBefore]]) -> None:
        """Replaces each record (as read before) by its new form, all in one change.

        Raises:
            Contended: somebody edited one of them meanwhile; nothing was changed.
            Unreachable: the server did not answer; the change may have been made: read again.
            Refused: key or permission is wrong.
        """
        ...

    async def settle(self, records: list[DnsBefore]) -> list[str]:
        """Returns when clients that ask the zone's name servers get these records.

        Returns:
            Sentences about what could not be asked, or what else such clients may get.

        Raises:
            Unreachable: they do not get them yet; the change itself stands.
        """
        ...
