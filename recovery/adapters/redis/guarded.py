"""A Redis as its guard drives it: promoted, demoted, ended in order, made a replica again."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

from recovery.adapters.diverged_folder import DivergedFolders, diverged_below
from recovery.adapters.listening import Listener, accepts
from recovery.adapters.redis.configured import starts_at_rest
from recovery.adapters.redis.connection import LOST, Connection, RedisServer, ServerSaid, asking, connected
from recovery.adapters.redis.ending import replicas_have_all, resume
from recovery.adapters.redis.following import ASK, Follower
from recovery.adapters.redis.link import Link
from recovery.adapters.redis.memory import Memory, Remembered
from recovery.adapters.redis.replication import NOWHERE, Replication, replication
from recovery.adapters.redis.words import state_words
from recovery.domain.guarding import Promotion, StoreRole, StoreState
from recovery.domain.handover import StoreDivergence
from recovery.domain.ownership import Strength
from recovery.errors import Contended, Refused, Unreachable
from recovery.ports.guard import Emergency, Upstream

PROCESS_NAMES = frozenset({"redis-server", "valkey-server"})
ANSWER = 0.3  # seconds that a server has to end its writes by itself
END = 0.6  # seconds for its process to end after SIGKILL
SECURED = 60.0  # seconds between two looks at its configuration file
PING = 10  # seconds between two signs of an idle primary
POLL = 0.02

log = logging.getLogger(__name__)


class GuardedRedis:
    """GuardedStore, Tended and Catching. ``server`` is the one on this host, as the guard reaches it.

    ``peers`` are the group's Redis servers in other regions, as this one reaches them: an orderly end asks them how far
    they are, for a replica acknowledges by itself only once a second. ``state_folder`` keeps what is remembered
    (``redis-<group>.json``) and what is saved of an old primary (``divergence/redis-<group>/``), sealed for
    ``recipients`` (age public keys).
    """

    store = "redis"

    def __init__(
        self,
        server: RedisServer,
        state_folder: Path,
        *,
        recipients: Sequence[str],
        group: str = "default",
        peers: Mapping[str, Upstream] = MappingProxyType({}),
        strength: Strength = Strength.GUARD,
    ) -> None:
        self.strength = self._claimed = strength
        self._insecure = ""
        self._secured_at = -math.inf
        self._server = server
        self._peers = dict(peers)
        self._listener = Listener(server.host, server.port, PROCESS_NAMES)
        self._memory = Memory(state_folder / f"redis-{group}.json")
        self._accept = state_folder / f"redis-{group}.accept-empty-primary"
        self._link = Link(server)
        aside = DivergedFolders(diverged_below(state_folder, self.store, group), tuple(recipients))
        self._follower = Follower(server, self._listener, self._memory, aside, self._accept, self._link)
        self._turn = asyncio.Lock()  # orders and ``tend`` one after another; a demotion waits for nobody
        self._demotions = 0
        self._promoting = False

    def emergency(self) -> Emergency:
        return Emergency(
            self.store,
            "listener",
            {"host": self._server.host, "port": self._server.port, "names": sorted(PROCESS_NAMES)},
        )

    # -- looking --------------------------------------------------------------------------------------------------

    async def observe(self) -> StoreState:
        remembered = await self._memory.load()
        try:
            async with asyncio.timeout(ASK - 0.2), connected(self._server) as connection:
                return self._state(await replication(connection), remembered)
        except ServerSaid as error:
            return self._silent(StoreRole.UNREACHABLE, str(error), remembered)
        except LOST as error:
            reason = str(error) or f"no answer ({type(error).__name__})"
        runs = await accepts(self._server.host, self._server.port, 0.1) or await self._listener.pids()
        return self._silent(StoreRole.UNREACHABLE if runs else StoreRole.STOPPED, reason, remembered)

    def _silent(self, role: StoreRole, detail: str, remembered: Remembered) -> StoreState:
        primary_of = remembered.primary_of
        return StoreState(store=self.store, role=role, strength=self.strength, detail=detail, primary_of=primary_of)

    def _state(self, now: Replication, remembered: Remembered) -> StoreState:
        role = StoreRole.STALE if remembered.part == "primary" else StoreRole.STANDBY
        if now.accepts_writes:
            role = StoreRole.PRIMARY
        lag: float | None = None
        if now.link_up:
            lag = 0.0 if now.last_heard <= PING else float(now.last_heard)
        history = f"{now.replid}@{now.offset}"
        if now.second_offset >= 0:
            history += f", {now.replid2}@{now.second_offset - 1}"
        return StoreState(
            store=self.store,
            role=role,
            strength=self.strength,
            position=str(now.offset),
            order=now.offset,
            history=history,
            lag_seconds=lag,
            detail=". ".join(filter(None, (state_words(now, remembered), self._insecure))),
            primary_of=remembered.primary_of,
        )

    # -- becoming a primary, and ending one -----------------------------------------------------------------------

    async def secure(self) -> None:
        """Reads its configuration file. Where the next start would be a primary's, there is no fence: the strength is
        MANUAL from then on, with the reason in ``observe``'s detail. One that does not run is not judged."""
        try:
            async with asking(self._server, ASK, "say which configuration file it read") as connection:
                info = await connection.info("server")
            await starts_at_rest(self._server, info.get("config_file", ""), await self._listener.pids())
        except Unreachable as error:
            log.info("%s Whether it starts at rest is not known yet.", error)
            return
        except Refused as error:
            if self._insecure != str(error):
                log.critical("%s", error)
            self.strength, self._insecure = Strength.MANUAL, str(error)
            return
        self.strength, self._insecure = self._claimed, ""

    async def start(self, *, owner: bool = False) -> None:
        """Nothing: its service manager starts it, at rest by its configuration."""

    async def promote(self, epoch: int, *, owner: bool = False) -> Promotion:
        """Raises Refused where it is stale, or holds no data although it did; Unreachable where it does not answer."""
        return await self.promote_if(epoch, lambda: None, owner=owner)

    async def promote_if(self, epoch: int, permitted: Callable[[], str | None], *, owner: bool = False) -> Promotion:
        """See ``BoundPromotion`` and ``promote``."""
        async with self._turn, asking(self._server, ASK, "become a primary") as connection:
            self._promoting, demotions = True, self._demotions
            try:
                remembered = await self._memory.load()
                before = await replication(connection)
                already = before.is_primary and remembered.part == "primary"
                if already:
                    await self._memory.save(replace(remembered, epoch=epoch))
                else:
                    if not before.is_primary:
                        # Of this very epoch it is a promotion that did not come to its end.
                        stale = remembered.part == "primary" and not owner and remembered.epoch != epoch
                        self._must_be_fit(before, remembered, stale)
                    await self._memory.save(Remembered("primary", epoch, before.keys))
                    if self._demotions != demotions:
                        raise Contended(f"Redis {self._server} was demoted while it was to be promoted.")
                    if (reason := permitted()) is not None:  # a server killed from now on is not met: see the port
                        raise Contended(f"Redis {self._server} must not become primary: {reason}")
                    await connection.pipeline([("REPLICAOF", "NO", "ONE"), ("CLIENT", "UNPAUSE")])
                now = await replication(connection)
            finally:
                self._promoting = False
            if not now.is_primary:
                raise Unreachable(f"Redis {self._server} took REPLICAOF NO ONE and is no primary.")
        return Promotion(
            store=self.store,
            epoch=epoch,
            at=datetime.now(UTC),
            position=str(now.offset),
            before=str(before.offset),
            already=already,
            note=f"{now.keys} keys, replication id {now.replid}",
        )

    def _must_be_fit(self, now: Replication, remembered: Remembered, stale: bool) -> None:
        if stale:
            raise Refused(
                f"Redis {self._server} was the primary of epoch {remembered.epoch} and followed nobody since: Reprotect"
                " saves its data and lets it follow first."
            )
        if now.syncing and now.keys == 0:
            raise Refused(f"Redis {self._server} is in its first copy and holds nothing yet: it is no candidate.")
        if now.keys == 0 and remembered.keys > 0 and not self._accept.exists():
            raise Refused(
                f"Redis {self._server} holds no keys, and held {remembered.keys} when its link was last seen whole: its"
                f" data are lost. Restore a recovery point, or create {self._accept} to promote it as it is."
            )

    async def demote(self) -> str | None:
        """Asks for at most 0.3 s, then kills. Raises Unreachable where neither ended it."""
        self._demotions += 1
        try:
            async with asyncio.timeout(ANSWER), connected(self._server) as connection:
                position = await self._end_writes(connection)
                while self._promoting:  # what it has sent already may arrive after our command
                    await asyncio.sleep(POLL / 4)
                    position = await self._end_writes(connection)
                return position
        except (*LOST, ServerSaid, KeyError, Unreachable) as error:
            reason = str(error) or "no answer"
        killed = await self._listener.kill(END)
        if killed:
            log.warning("Redis %s was killed (processes %s): %s", self._server, killed, reason)
        elif await accepts(self._server.host, self._server.port, 0.1):
            raise Unreachable(
                f"Redis {self._server} could not be made a replica ({reason}), and no process named"
                f" {' or '.join(sorted(PROCESS_NAMES))} listens there on this host: run its guard beside it."
            )
        return None

    async def _end_writes(self, connection: Connection) -> str:
        now = await replication(connection)
        if now.accepts_writes:
            replies = await connection.pipeline(
                [
                    ("REPLICAOF", *NOWHERE),
                    ("CONFIG", "SET", "replica-read-only", "yes"),
                    ("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"),
                    ("CLIENT", "KILL", "TYPE", "pubsub"),
                    ("CLIENT", "UNPAUSE"),
                    ("ROLE",),
                ]
            )
            now = await replication(connection)
            role = replies[-1]
            if now.accepts_writes or not isinstance(role, list) or role[0] != "slave":
                raise Unreachable(f"it answered {replies}")
        return str(now.offset)

    async def end_in_order(self, seconds: float) -> str:
        until = time.monotonic() + seconds
        async with self._turn, asking(self._server, seconds + ANSWER, "end in order") as connection:
            now = await replication(connection)
            if not now.is_primary:
                return str(now.offset)
            await connection.run("CLIENT", "PAUSE", int(seconds * 1000) + 2000, "WRITE")
            try:
                await replicas_have_all(connection, self._server, self._peers.values(), until)
                position = await self._end_writes(connection)
            except BaseException:
                await asyncio.shield(resume(self._server))
                raise
            remembered = await self._memory.load()
            await self._memory.save(replace(remembered, ended_at=int(position)))
        return position

    # -- following ------------------------------------------------------------------------------------------------

    async def stop_receiving(self) -> str:
        async with self._turn, asking(self._server, ASK, "stop receiving") as connection:
            now = await replication(connection)
            if not now.is_primary:
                await self._link.detach(connection)
                now = await replication(connection)
        return str(now.offset)

    async def wait_for(self, position: str, seconds: float) -> str:
        """Offsets are compared: they count the bytes of one stream, which a replica shares with its primary."""
        wanted = int(position)
        async with asking(self._server, seconds + ASK, "say how far it is") as connection:
            until = time.monotonic() + seconds
            while (now := await replication(connection)).offset < wanted:
                if time.monotonic() > until:
                    raise Unreachable(f"Redis {self._server} has offset {now.offset}, and {wanted} was the last.")
                await asyncio.sleep(POLL)
        return str(now.offset)

    async def follow(self, upstream: Upstream) -> StoreState:
        """Its data are saved first where it was a primary, or may have been, and holds what the owner lacks.

        Returns when the link stands, or after ten seconds while a first copy goes on.

        Raises:
            Refused: it is a primary; the upstream is none; the upstream's data collapsed (see ``link``).
            Unreachable: either side does not answer.
        """
        async with self._turn:
            async with asking(self._server, ASK, "say what it follows") as connection:
                now = await replication(connection)
            if now.accepts_writes:
                raise Refused(f"Redis {self._server} accepts writes: it is demoted before it follows {upstream.host}.")
            if not (now.upstream == (upstream.host, upstream.port) and now.link_up):
                await self._follower.follow(now, upstream)
        return await self._following()

    async def _following(self) -> StoreState:
        """Its state, and what was saved when it began to follow: also for a caller that missed the first answer."""
        state, stored = await self.observe(), (await self._memory.load()).divergence
        return state.model_copy(update={"divergence": StoreDivergence.model_validate(stored) if stored else None})

    async def tend(self, upstream: Upstream | None = None) -> None:
        """Keeps the link's rule (see ``link``), and remembers how many keys it held while the link stood.

        One at rest that was no primary follows ``upstream``.
        """
        if self._turn.locked():
            return
        if time.monotonic() - self._secured_at > SECURED:
            self._secured_at = time.monotonic()
            await self.secure()
        try:
            async with self._turn, asyncio.timeout(ASK), connected(self._server) as connection:
                idle = await self._follower.tend(connection)
        except (*LOST, ServerSaid) as error:
            log.debug("Redis %s was not tended: %s", self._server, error)
            return
        if idle and upstream is not None:
            await self.follow(upstream)
