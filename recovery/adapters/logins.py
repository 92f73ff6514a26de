"""Who connects to which PostgreSQL: answers come from the worker's configuration and its secrets."""

from __future__ import annotations

from typing import Protocol

from recovery.ports.postgres import PostgresLogin


class Logins(Protocol):
    """Passwords are resolved when they are asked for, so that a rotated secret is taken without a restart."""

    async def backup(self, group: str, region: str) -> PostgresLogin:
        """A role that may replicate and read all data."""
        ...

    async def admin(self, group: str, region: str) -> PostgresLogin:
        """The role that restores and opens databases."""
        ...
