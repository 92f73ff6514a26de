"""The configuration as plans see it."""

from __future__ import annotations

from typing import Protocol

from recovery.domain.group import GroupSnapshot


class Configuration(Protocol):
    def snapshot(self, group: str) -> GroupSnapshot:
        """The group's secret-free picture. Raises NotFound with the names of the known groups."""
        ...
