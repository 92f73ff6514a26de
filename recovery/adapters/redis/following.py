"""A Redis as a replica: whom it may follow, what is saved before it does, and what its guard sees to meanwhile."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from recovery.adapters.diverged_folder import DivergedFolders
from recovery.adapters.listening import Listener
from recovery.adapters.redis.connection import Connection, RedisServer, ServerSaid, asking
from recovery.adapters.redis.divergence import save_data, told
from recovery.adapters.redis.link import Link, collapsed, look_at
from recovery.adapters.redis.memory import Memory, Remembered
from recovery.adapters.redis.replication import Replication, replication
from recovery.domain.handover import StoreDivergence
from recovery.errors import Refused, Unreachable
from recovery.ports.guard import Upstream

ASK = 2.0  # seconds for an ordinary question
LINK = 10.0  # seconds for the link to stand; a long first copy goes on by itself
AGAIN = 5.0  # seconds after which a replica that left its primary looks whether that has its data again
POLL = 0.02

log = logging.getLogger(__name__)


@dataclass
class Follower:
    """Of one guarded Redis, whose guard calls it one call after another.

    ``aside``: where an old primary's data are saved, sealed. ``accept``: the file by which an operator gives data up.
    """

    server: RedisServer
    listener: Listener
    memory: Memory
    aside: DivergedFolders
    accept: Path
    link: Link
    _next_try: float = field(default=0.0, init=False)

    async def follow(self, now: Replication, upstream: Upstream) -> None:
        """``now``: what the own server says. Returns when the link stands, or after ten seconds of a first copy.

        Raises:
            Refused: the upstream is no other primary, or its data collapsed (see ``link``).
            Unreachable: either side does not answer.
        """
        saved = await self._permit(now, upstream)
        async with asking(self.server, LINK + ASK, "follow") as connection:
            await self.link.attach(connection, (upstream.host, upstream.port))
            before = await self.memory.load()
            after = Remembered("replica", before.epoch, before.keys, divergence=before.divergence)
            if before.part != "replica":
                after = replace(after, divergence=saved.model_dump(mode="json") if saved else None)
            await self.memory.save(after)
            now = await self._stands(connection)
        if now.link_up:
            await self.memory.save(replace(after, keys=now.keys))

    async def _permit(self, now: Replication, upstream: Upstream) -> StoreDivergence | None:
        """Looks at the new primary, and saves what it would replace."""
        primary = await look_at(RedisServer(upstream.host, upstream.port, self.server.login), ASK)
        if primary is None:
            raise Unreachable(f"Redis {upstream.host}:{upstream.port} of {upstream.region} does not answer.")
        if not primary.is_primary or primary.run_id == now.run_id:
            raise Refused(f"Redis {upstream.host}:{upstream.port} of {upstream.region} is no other primary to follow.")
        remembered = await self.memory.load()
        if primary.descends_from(now) or now.keys == 0:
            return None
        if remembered.part == "replica":
            reason = collapsed(max(now.keys, remembered.keys), primary)
            if reason and not await asyncio.to_thread(self._consented):
                await self.memory.save(replace(remembered, detached=reason))
                raise Refused(
                    f"Redis {self.server} does not follow {upstream.host}: {reason}. Promote this one, or restore the"
                    f" primary; or create {self.accept} to give its data up."
                )
            return None
        return told(await save_data(self.server, self.listener, self.aside, now, primary))

    def _consented(self) -> bool:
        """Uses the operator's consent up."""
        existed = self.accept.exists()
        self.accept.unlink(missing_ok=True)
        return existed

    async def _stands(self, connection: Connection) -> Replication:
        until = time.monotonic() + LINK
        while True:
            try:
                now = await replication(connection)
                if now.link_up:
                    await self.link.close(connection)
                    return now
                if time.monotonic() > until:
                    return now
            except ServerSaid as error:
                if error.code != "LOADING" or time.monotonic() > until:
                    raise
            await asyncio.sleep(POLL)

    async def tend(self, connection: Connection) -> bool:
        """Keeps the link's rule, and remembers how many keys there were while it stood.

        Returns whether the server is at rest and may follow by itself.
        """
        now, remembered = await replication(connection), await self.memory.load()
        if now.accepts_writes:
            return False
        if now.at_rest:
            if remembered.detached and time.monotonic() < self._next_try:
                return False
            self._next_try = time.monotonic() + AGAIN
            return remembered.part == "replica" or now.keys == 0
        reason = await self.link.tend(connection, now, remembered.keys)
        if reason:
            log.critical("Redis %s left its primary: %s", self.server, reason)
            await self.memory.save(replace(remembered, detached=reason))
        elif now.link_up and (now.keys != remembered.keys or remembered.part == "unknown"):
            await self.memory.save(replace(remembered, part="replica", keys=now.keys, detached=""))
        return False
