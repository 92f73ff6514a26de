"""PostgreSQL's part in the strength ``synchronous``: as a primary that waits, and as a standby that acknowledges."""

from __future__ import annotations

import asyncio

from recovery.adapters.postgres import standby_files as files
from recovery.adapters.postgres.connection import connected
from recovery.adapters.postgres.following import set_and_reload, stop_receiving
from recovery.adapters.postgres.local_server import LocalServer
from recovery.adapters.postgres.synchronous import observe_acknowledging
from recovery.domain.ownership import AcknowledgingSet
from recovery.guard.synchronous import Observed
from recovery.ports.guard import Upstream
from recovery.ports.standby import Streaming


class Acknowledging:
    """See ``recovery.guard.acknowledging.Acknowledged``; ``GuardedPostgres`` is the rest of it."""

    def __init__(self, server: LocalServer, replication: Streaming | None) -> None:
        self.server = server
        self._replication = replication
        self._upstream_seen: str | None = None  # primary_conninfo of the standby, when it was looked at last
        self._received_seen = True  # whether its upstream sent, then

    @property
    def member(self) -> str | None:
        """The name under which it acknowledges commits when it is a standby."""
        return self._replication.application_name if self._replication is not None else None

    # As a primary.

    async def acknowledging(self) -> str:
        """``synchronous_standby_names`` as it is in effect."""
        return (await self.server.ask("say who acknowledges", 2.0)).synchronous

    async def observe_acknowledging(self) -> Observed:
        """Who acknowledges this primary's commits; see ``synchronous``. Raises Unreachable."""
        async with connected(self.server.login, "say who acknowledges") as connection:
            return await observe_acknowledging(connection)

    async def set_acknowledging(self, members: AcknowledgingSet | None) -> None:
        """Who acknowledges commits from now on; None: nobody. Waiting commits are released when it gets empty."""
        value = ""
        if members is not None and members.members:
            names = ", ".join('"' + name.replace('"', '""') + '"' for name in members.members)
            value = f"ANY {members.wait_for} ({names})"
        async with connected(self.server.login, "set who acknowledges") as connection:
            await set_and_reload(connection, {"synchronous_standby_names": value})

    # As a standby.

    async def stop_receiving(self) -> str:
        """See ``GuardedStore`` and ``following``."""
        position = await stop_receiving(self.server)
        self._upstream_seen = ""
        return position

    async def is_detached(self) -> bool:
        """Whether ``stop_receiving`` was its last word, by what the last look showed and what was kept beside the data.

        One that somebody else took from its upstream is left as it is.
        """
        if self._upstream_seen != "":
            return False
        conninfo, _ = await asyncio.to_thread(files.read_last_source, self.server.folder)
        return bool(conninfo)

    def is_left_behind(self, upstream: Upstream) -> bool:
        """See ``recovery.ports.guard.Forgettable``. One that somebody else took from its upstream is left as it is."""
        seen = self._upstream_seen or ""
        return bool(seen) and not self._received_seen and not files.same_server(seen, upstream.host, upstream.port)
