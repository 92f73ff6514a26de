"""Authoritative DNS, as far as a recovery needs it."""

from __future__ import annotations

from typing import Protocol

from recovery.domain.plan import DnsBefore


class DnsZone(Protocol):
    async def read(self, name: str, type: str, zone: str) -> DnsBefore:
        """The record at the authoritative server. ``values`` is empty when there is none."""
        ...

    async def replace(self, changes: list[tuple[DnsBefore, DnsBefore]]) -> None:
        """Replaces each record (as read before) by its new form, all in one change.

        Raises:
            Contended: somebody edited one of them meanwhile; nothing was changed.
            Unreachable: the server did not answer; the change may have been made: read again.
            Refused: key or permission is wrong.
        """
        ...
