"""The streams of a group as their guard drives them: promoted, fenced, ended in order, made mirrors again."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

from nats.aio.client import Client

from recovery.adapters.diverged_folder import DivergedFolders, diverged_below
from recovery.adapters.listening import accepts
from recovery.adapters.nats.connection import LOST, ApiError, NatsServer, asking, cluster_of, connected, stream_info
from recovery.adapters.nats.divergence import SavedTail, told
from recovery.adapters.nats.fence import PROCESS_NAMES, Fence
from recovery.adapters.nats.following import (
    domain_of,
    follow_one,
    lag_of,
    leave_queue,
    make_mirror,
    mirrored,
    sources,
)
from recovery.adapters.nats.memory import Memory
from recovery.adapters.nats.promotion import promote_streams
from recovery.adapters.nats.streams import WORK_QUEUE, is_work_queue, mirrors_domain
from recovery.adapters.nats.words import Infos, followed, position_of, state_words
from recovery.domain.guarding import Promotion, StoreRole, StoreState
from recovery.domain.handover import StoreDivergence
from recovery.domain.ownership import Strength
from recovery.errors import Contended, RecoveryError, Refused, Unreachable
from recovery.ports.guard import Emergency, Upstream

ANSWER = 0.5  # seconds that a server has to refuse a publish
TELL = 0.2  # seconds more for its position
END = 0.4  # seconds for its process to end after SIGKILL
ASK = 2.0  # seconds for an ordinary question
CHANGE = 20.0  # seconds for a promotion
FOLLOW = 240.0  # seconds for saving what only the old source holds, and making mirrors
POLL = 0.02

log = logging.getLogger(__name__)


class GuardedStreams:
    """GuardedStore, Tended and Catching. ``server`` is the one on this host; its user may do everything.

    ``fence_file`` is included by the server's configuration (see ``fence``). ``peers`` are the group's NATS servers in
    other regions, as this one reaches them: an orderly end asks their mirrors how far they are. ``state_folder`` keeps
    what is remembered (``nats-<group>.json``) and what is saved of an old source (``divergence/nats-<group>/``), sealed
    for ``recipients`` (age public keys).
    """

    store = "nats"

    def __init__(
        self,
        server: NatsServer,
        streams: Sequence[str],
        *,
        fence_file: Path,
        state_folder: Path,
        recipients: Sequence[str],
        group: str = "default",
        peers: Mapping[str, Upstream] = MappingProxyType({}),
        strength: Strength = Strength.GUARD,
    ) -> None:
        self.strength = self._claimed = strength
        self._insecure = ""
        self._server = server
        self._streams = sorted(streams)
        self._fence = Fence(server, fence_file)
        self._memory = Memory(state_folder / f"nats-{group}.json")
        self._aside = DivergedFolders(diverged_below(state_folder, self.store, group), tuple(recipients))
        self._peers = dict(peers)
        self._turn = asyncio.Lock()  # orders and ``tend`` one after another; a demotion waits for nobody
        self._demotions = 0
        self._promoting = False
        self._lag: float | None = None

    def emergency(self) -> Emergency:
        return Emergency(
            self.store,
            "listener",
            {
                "host": self._server.host,
                "port": self._server.port,
                "names": sorted(PROCESS_NAMES),
                "files": self._fence.files,
            },
        )

    # -- looking --------------------------------------------------------------------------------------------------

    async def observe(self) -> StoreState:
        """Where the fence does not reach every publisher there is none: the strength is MANUAL from then on, and the
        reason stands in the detail."""
        remembered = await self._memory.load()
        try:
            async with asyncio.timeout(ASK - 0.2), connected(self._server) as client:
                self._judge(client)
                is_open, infos = await asyncio.gather(self._fence.is_open_meanwhile(), self._infos(client))
        except (*LOST, ApiError, RecoveryError) as error:
            runs = await accepts(self._server.host, self._server.port, 0.1) or await self._fence.listener.pids()
            role = StoreRole.UNREACHABLE if runs else StoreRole.STOPPED
            detail = str(error) or f"no answer ({type(error).__name__})"
            return StoreState(
                store=self.store,
                role=role,
                strength=self.strength,
                detail=detail,
                primary_of=remembered.primary_of,
            )
        role = StoreRole.STALE if remembered.part == "primary" else StoreRole.STANDBY
        return StoreState(
            store=self.store,
            role=StoreRole.PRIMARY if is_open else role,
            strength=self.strength,
            position=position_of(infos),
            order=sum(followed(infos).values()),
            lag_seconds=None if is_open else self._lag,
            detail=". ".join(filter(None, (state_words(infos, remembered), self._insecure))),
            primary_of=remembered.primary_of,
        )

    def _judge(self, client: Client) -> None:
        why = ""
        if (name := cluster_of(client)) is not None:
            why = (
                f"NATS {self._server} belongs to the cluster {name}, whose other servers go on accepting publishing:"
                " a guard fences the server on its own host only"
            )
        elif self._server.login.credentials is not None:
            why = f"NATS {self._server} has users by JWT, who carry their permissions with them past the fence"
        if why and why != self._insecure:
            log.critical("%s", why)
        self.strength, self._insecure = (Strength.MANUAL if why else self._claimed), why

    async def _infos(self, client: Client) -> Infos:
        found = await asyncio.gather(*(stream_info(client, name) for name in self._streams))
        return dict(zip(self._streams, found, strict=True))

    # -- becoming a primary, and ending one -----------------------------------------------------------------------

    async def secure(self) -> None:
        """The fence's file says that nobody publishes after the next start."""
        await self._fence.secure()

    async def start(self, *, owner: bool = False) -> None:
        """Nothing: its service manager starts it, fenced by its configuration."""

    async def promote(self, epoch: int, *, owner: bool = False) -> Promotion:
        """Mirrors become sources with their sources' subjects, consumers go on where they were, publishing is allowed.

        Raises:
            Refused: it is stale, a stream's source was never seen, or JetStream will not.
            Unreachable: it does not answer.
        """
        return await self.promote_if(epoch, lambda: None, owner=owner)

    async def promote_if(self, epoch: int, permitted: Callable[[], str | None], *, owner: bool = False) -> Promotion:
        """See ``BoundPromotion`` and ``promote``.

        Streams are changed over one connection to the server process that runs now, and the fence is opened in that
        very process or not at all (``Fence.open``).
        """
        async with self._turn:
            demotions = self._demotions

            def still() -> str | None:
                return "it was demoted meanwhile" if self._demotions != demotions else permitted()

            remembered = await self._memory.load()
            async with asking(self._server, CHANGE, "promote its streams") as client:
                before, notes = await self._infos(client), list[str]()
                already = remembered.part == "primary" and await self._fence.is_open_meanwhile()
                if already:
                    await self._memory.become("primary", epoch)
                elif remembered.part == "primary" and not owner and remembered.epoch != epoch:
                    raise Refused(
                        f"The streams of NATS {self._server} were the primary's of epoch {remembered.epoch} and"
                        " followed nobody since: Reprotect saves what only they hold, and makes them mirrors first."
                    )
                else:
                    if (reason := still()) is not None:
                        raise Contended(f"NATS {self._server} must not become primary: {reason}")
                    await self._memory.become("primary", epoch)
                    notes = await promote_streams(client, self._server, before, remembered, epoch)
                    await self._open(still)
                    await self._memory.done_with_consumers()
        return Promotion(
            store=self.store,
            epoch=epoch,
            at=datetime.now(UTC),
            position=position_of(before),
            before=position_of(before),
            already=already,
            note=". ".join(notes),
        )

    async def _open(self, still: Callable[[], str | None]) -> None:
        self._promoting = True
        try:
            await self._fence.open(still)
        finally:
            self._promoting = False

    async def demote(self) -> str | None:
        """Fences, confirmed by a refused publish within half a second, or kills. Unreachable where neither ended it."""
        self._demotions += 1
        try:
            async with asyncio.timeout(ANSWER):
                await self._fence.close()
                while self._promoting:  # the server may read the file a last time for it
                    await asyncio.sleep(POLL / 4)
                    await self._fence.close()
        except (*LOST, RecoveryError) as error:
            await self._kill(str(error) or self._fence.trouble)
            return None
        try:
            async with asyncio.timeout(TELL), connected(self._server) as client:
                return position_of(await self._infos(client))
        except (*LOST, ApiError):
            return None  # the fence is confirmed; only its position is not known

    async def _kill(self, reason: str) -> None:
        killed = await self._fence.listener.kill(END)
        if killed:
            log.warning("NATS %s was killed (processes %s): %s", self._server, killed, reason)
        elif await accepts(self._server.host, self._server.port, 0.1):
            raise Unreachable(
                f"NATS {self._server} could not be fenced ({reason}), and no process named"
                f" {' or '.join(sorted(PROCESS_NAMES))} listens there on this host: run its guard beside it."
            )

    async def end_in_order(self, seconds: float) -> str:
        """Refused while a work queue holds messages, Unreachable (fenced) where no peer has everything in time."""
        until = time.monotonic() + seconds
        async with self._turn, asking(self._server, seconds + ASK, "end in order") as client:
            waiting = [
                f"{info['config']['name']} ({info['state']['messages']})"
                for info in (await self._infos(client)).values()
                if info and is_work_queue(info["config"]) and info["state"]["messages"]
            ]
            if waiting:
                raise Refused(
                    f"Messages wait in work queues, which nothing mirrors: {', '.join(waiting)}. Let their workers"
                    " finish, or fail over without waiting."
                )
            self._demotions += 1
            await self._fence.close()
            position, half = "", time.monotonic() + seconds / 2
            while True:
                infos = await self._infos(client)
                now = position_of(infos)
                if now == position and await self._arrived(infos, until_all=half):
                    return position
                position = now
                if time.monotonic() > until:
                    raise Unreachable(
                        f"NATS {self._server} is fenced at {position}, and no other region has all of it:"
                        f" {', '.join(self._peers) or 'none is known'}."
                    )
                await asyncio.sleep(POLL)

    async def _arrived(self, infos: Infos, until_all: float) -> bool:
        """Whether the peers that answer and mirror have everything: every one, and after a while one at least.

        Which of them is the target is the plan's knowledge; it looks at the target itself before it promotes.
        """
        wanted = followed(infos)
        if not wanted:
            return True
        peers = [self._at(peer) for peer in self._peers.values()]
        found = await asyncio.gather(*(mirrored(peer, list(wanted)) for peer in peers))
        complete = [all(each[name] >= last for name, last in wanted.items()) for each in found if each is not None]
        return bool(complete) and (all(complete) if time.monotonic() < until_all else any(complete))

    def _at(self, upstream: Upstream) -> NatsServer:
        return NatsServer(upstream.host, upstream.port, self._server.login)

    # -- following ------------------------------------------------------------------------------------------------

    async def stop_receiving(self) -> str:
        """Only its position: no publisher's acknowledgement ever waits for a mirror, so there is nothing to stop."""
        async with asking(self._server, ASK, "say how far it is") as client:
            return position_of(await self._infos(client))

    async def wait_for(self, position: str, seconds: float) -> str:
        wanted = {name: int(number) for name, number in re.findall(r"([^=,\s]+)=(\d+)", position)}
        until = time.monotonic() + seconds
        async with asking(self._server, seconds + ASK, "say how far it is") as client:
            while True:
                infos = await self._infos(client)
                here = followed(infos)
                missing = {name: last - here[name] for name, last in wanted.items() if here.get(name, last) < last}
                if not missing:
                    return position_of(infos)
                if time.monotonic() > until:
                    raise Unreachable(f"NATS {self._server} lacks messages of its source: {missing}.")
                await asyncio.sleep(POLL)

    async def follow(self, upstream: Upstream) -> StoreState:
        """Every stream becomes a mirror of the owner's; what an old source alone holds is saved first, and told in the
        state's ``divergence``, also when it is asked again. Work queues are left out, with the reason in ``detail``.

        Raises:
            Refused: it accepts publishing; the owner's are no sources, or were made anew.
            Unreachable: either side does not answer.
        """
        async with self._turn:
            if await self._accepts_publishing():
                raise Refused(
                    f"NATS {self._server} accepts publishing: it is demoted before it follows {upstream.host}."
                )
            async with (
                asking(self._at(upstream), FOLLOW, "be followed") as owner,
                asking(self._server, FOLLOW, "follow") as own,
            ):
                refused = await self._follow(own, owner)
        state, stored = await self.observe(), (await self._memory.load()).divergence
        divergence = StoreDivergence.model_validate(stored) if stored else None
        return state.model_copy(update={"detail": ". ".join([state.detail, *refused]), "divergence": divergence})

    async def _follow(self, own: Client, owner: Client) -> list[str]:
        domain = await domain_of(owner)
        if domain == await domain_of(own):
            raise Refused(
                f"NATS {self._server} and its owner's have one JetStream domain, {domain!r}: give each its own."
            )
        seen = await sources(owner, self._streams)
        missing = sorted(set(self._streams) - set(seen))
        if missing:
            raise Refused(f"The owner's NATS has no source of {', '.join(missing)}: it is no primary to follow.")
        tails: list[SavedTail | None] = []
        for name, source in seen.items():
            if is_work_queue(source.config):
                tails.append(await leave_queue(own, name, self._aside))
            else:
                tails.append(await follow_one(own, owner, source, domain, self._aside))
        remembered = await self._memory.load()
        saved = told([tail for tail in tails if tail is not None], datetime.now(UTC))
        if saved is not None or remembered.part == "primary":
            remembered.divergence = saved.model_dump(mode="json") if saved else None
        await self._memory.saw(seen)
        await self._memory.become("replica")
        return [WORK_QUEUE.format(name=name) for name, source in seen.items() if is_work_queue(source.config)]

    async def _accepts_publishing(self) -> bool:
        try:
            async with asyncio.timeout(ASK):
                return await self._fence.is_open_meanwhile()
        except LOST as error:
            raise Unreachable(f"NATS {self._server} does not answer: {error or 'too slow'}.") from error

    async def tend(self, upstream: Upstream | None = None) -> None:
        """Sees the owner's streams and consumers, and makes missing mirrors where nothing stands in their place."""
        if upstream is None or self._turn.locked():
            return
        async with self._turn:
            try:
                async with (
                    asyncio.timeout(ASK * 2),
                    connected(self._at(upstream)) as owner,
                    connected(self._server) as own,
                ):
                    await self._tend(own, owner)
            except (*LOST, ApiError) as error:
                log.debug("the streams of NATS %s were not tended: %s", self._server, error)

    async def _tend(self, own: Client, owner: Client) -> None:
        remembered = await self._memory.load()
        seen = await sources(owner, self._streams)
        if remembered.part == "primary" or not seen:
            return
        await self._memory.saw({**remembered.sources, **seen})
        infos = await self._infos(own)
        domain = await domain_of(owner)
        for name, source in seen.items():
            if infos[name] is None and not is_work_queue(source.config):
                await make_mirror(own, source, domain)
        mirrored = all(info is None or mirrors_domain(info["config"]) == domain for info in infos.values())
        if remembered.part == "unknown" and mirrored:
            await self._memory.become("replica")
        self._lag = await lag_of(owner, infos, seen)
