"""The stores of one group in the guard's hands: made primary, ended, watched."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import structlog

from recovery.domain.guarding import Promotion, StoreRole, StoreState
from recovery.errors import Contended, RecoveryError, Unreachable
from recovery.guard import companion
from recovery.ports.guard import BoundPromotion, GuardedStore, Tended, Upstream

log = structlog.get_logger("recovery.guard")

DEMOTION = 1.4
"""Seconds for a store's own way, which ends its writes within 1 s and may then look for its last position; when they
are over the emergency way follows."""
OBSERVATION = 2.5
TEND_PAUSE = 0.25


class Stores:
    """All of one group in this region. ``served``: store -> epoch in which it was made primary, or found to be one."""

    def __init__(self, group: str, stores: Iterable[GuardedStore]) -> None:
        self.group = group
        self.all = {store.store: store for store in stores}
        self.states: dict[str, StoreState] = {}
        self.served: dict[str, int] = {}
        self.receiving = {name: asyncio.Lock() for name in self.all}
        """Held while a standby begins to follow, or is told to receive nothing more: never both at a time."""
        self._observed = 0
        self._newest: dict[str, int] = {}
        self._locks = {name: asyncio.Lock() for name in self.all}
        self._promoting: set[asyncio.Task[Promotion]] = set()
        self._tending: set[asyncio.Task[None]] = set()
        self._looking: asyncio.Task[dict[str, StoreState]] | None = None

    def __getitem__(self, name: str) -> GuardedStore:
        return self.all[name]

    async def observe(self) -> dict[str, StoreState]:
        """Every store's state, at once and bounded; never raises for a store that does not answer."""
        names = list(self.all)
        found = await asyncio.gather(*(self.observe_one(name) for name in names))
        return dict(zip(names, found, strict=True))

    async def look(self, seconds: float) -> None:
        """As ``observe``, for so long at most; a store that does not answer keeps the state it was seen in last."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self.observe())
        await asyncio.wait({self._looking}, timeout=seconds)

    async def observe_one(self, name: str) -> StoreState:
        store = self.all[name]
        self._observed += 1
        began = self._observed
        try:
            async with asyncio.timeout(OBSERVATION):
                state = await store.observe()
        except Exception as error:  # noqa: BLE001  # a store that cannot be looked at is UNREACHABLE, whatever it says
            state = StoreState(
                store=name,
                role=StoreRole.UNREACHABLE,
                strength=store.strength,
                detail=str(error) or "no answer in time",
            )
        if state.strength is None:
            state = state.model_copy(update={"strength": store.strength})
        if began > self._newest.get(name, 0):  # one that began before a promotion must not hide it when it ends after
            self._newest[name] = began
            self.states[name] = state
        return state

    def primaries(self) -> list[str]:
        """As last observed."""
        return [name for name, state in self.states.items() if state.role is StoreRole.PRIMARY]

    def served_since(self, since: int) -> list[str]:
        """Stores that were made primary in this epoch or later, by whatever process, and followed nobody since."""
        return [name for name, state in self.states.items() if name in self.served or _served_since(state, since)]

    # -- making a primary -------------------------------------------------------------------------------------------

    async def make_primary(
        self,
        name: str,
        epoch: int,
        permitted: Callable[[], str | None],
        *,
        owner: bool,
        since: int | None = None,
    ) -> Promotion:
        """Starts the store where it does not run, and makes it primary; one that is primary stays it.

        The companion is armed for it already. ``permitted`` answers None, or why it must not be primary; it is asked
        right before the act. ``owner``: the region owned the group before, so what ended as a primary is not stale.
        ``since``: it owns the group since this epoch, so what ended as the primary of it, or of a later one, is not
        stale either. A demotion cancels this.

        Raises:
            Contended: it must not become primary now, or was demoted meanwhile. Whoever asks again is judged anew.
            Refused: it must not become primary. RecoveryError: it did not.
        """
        task = asyncio.create_task(self._make_primary(name, epoch, permitted, owner, since))
        self._promoting.add(task)
        task.add_done_callback(self._promoting.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise Contended(f"{name} of {self.group} was demoted while it was being promoted") from None
            task.cancel()
            raise

    async def _make_primary(
        self, name: str, epoch: int, permitted: Callable[[], str | None], owner: bool, since: int | None
    ) -> Promotion:
        store = self.all[name]
        async with self._locks[name]:
            state = await self.observe_one(name)
            owner = owner or _served_since(state, since)
            already = state.role is StoreRole.PRIMARY
            if state.role is StoreRole.STOPPED or (state.role is StoreRole.STALE and owner):
                await store.start(owner=owner)  # else the store itself knows whether it was this very run's primary
            if (reason := permitted()) is not None:
                raise Contended(f"{name} of {self.group} must not become primary: {reason}")
            if isinstance(store, BoundPromotion):
                promotion = await store.promote_if(epoch, permitted, owner=owner)
            else:
                promotion = await store.promote(epoch, owner=owner)
            if already:  # it notes the epoch
                promotion = promotion.model_copy(update={"already": True})
            else:
                log.warning("promoted", group=self.group, store=name, epoch=epoch, position=promotion.position)
            await store.secure()
            await self.observe_one(name)
            self.served[name] = epoch  # last: with an older state beside it, it would look as if the store had died
            return promotion

    # -- ending -------------------------------------------------------------------------------------------------------

    async def demote(self, reason: str) -> dict[str, str]:
        """Ends all writes, whatever state a store is in, and returns the positions that are known.

        Returns only when every store confirmed it; tries again for as long as one does not.
        """
        promoting = list(self._promoting)
        for task in promoting:
            task.cancel()
        names = list(self.all)
        found = await asyncio.gather(*(self._demote_until_confirmed(name, reason) for name in names))
        if any(not task.done() for task in promoting):
            # A promotion that does not let itself be cancelled may have come after the demotion: once more.
            await asyncio.wait(promoting)
            found = await asyncio.gather(*(self._demote_until_confirmed(name, reason) for name in names))
        return {name: position for name, position in zip(names, found, strict=True) if position is not None}

    async def _demote_until_confirmed(self, name: str, reason: str) -> str | None:
        while True:
            try:
                position = await self._demote_once(name)
            except (OSError, KeyError, ValueError, TimeoutError, RecoveryError) as error:
                log.critical("a store cannot be demoted", group=self.group, store=name, error=str(error))
                await asyncio.sleep(0.1)
                continue
            log.warning("demoted", group=self.group, store=name, reason=reason, position=position)
            return position

    async def _demote_once(self, name: str) -> str | None:
        store = self.all[name]
        try:
            async with asyncio.timeout(DEMOTION):
                return await store.demote()
        except Exception as error:  # noqa: BLE001  # whatever failed, a mistake of ours included: the emergency way
            log.error("demoting the emergency way", group=self.group, store=name, error=f"{error!r}")
            emergency = store.emergency()
            await asyncio.to_thread(companion.end, emergency.kind, emergency.detail)
            return None

    async def end_in_order(self, seconds: float) -> dict[str, str]:
        """The planned end of all stores: everything acknowledged is with the standbys. Returns their positions.

        Raises:
            Unreachable: one did not end in that time. The others may have ended.
        """
        names = list(self.all)
        try:
            async with asyncio.timeout(seconds + 2):
                found = await asyncio.gather(*(self.all[name].end_in_order(seconds) for name in names))
        except TimeoutError:
            raise Unreachable(f"the stores of {self.group} did not end in order within {seconds:g} s") from None
        log.warning("ended in order", group=self.group, positions=dict(zip(names, found, strict=True)))
        return dict(zip(names, found, strict=True))

    # -- between orders -----------------------------------------------------------------------------------------------

    async def start_at_rest(self) -> None:
        """Starts clean standbys that do not run. A stale one waits for Reprotect."""
        stopped = [name for name, state in self.states.items() if state.role is StoreRole.STOPPED]
        results = await asyncio.gather(*(self._start(name) for name in stopped), return_exceptions=True)
        for name, result in zip(stopped, results, strict=True):
            if isinstance(result, RecoveryError | OSError):
                log.warning("a standby did not start", group=self.group, store=name, reason=str(result))
            elif isinstance(result, BaseException):
                raise result

    async def _start(self, name: str) -> None:
        async with self._locks[name]:
            await self.all[name].start()

    def tend(self, upstream_of: Callable[[str], Upstream | None]) -> None:
        """Begins the stores' own work between orders; ``close`` ends it. ``upstream_of`` a store: the owner's."""
        for name, store in self.all.items():
            if isinstance(store, Tended):
                self._tending.add(asyncio.create_task(self._tend(name, store, upstream_of)))

    async def close(self) -> None:
        tasks = [*self._tending, *self._promoting]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _tend(self, name: str, store: Tended, upstream_of: Callable[[str], Upstream | None]) -> None:
        said = ""
        while True:
            try:
                async with asyncio.timeout(10):
                    await store.tend(upstream_of(name))
                said = ""
            except Exception as error:  # noqa: BLE001  # also a mistake of ours must not end this for good
                if repr(error) != said:
                    log.warning("a store could not be tended", group=self.group, store=name, reason=f"{error!r}")
                said = repr(error)
            await asyncio.sleep(TEND_PAUSE)


def _served_since(state: StoreState, since: int | None) -> bool:
    return since is not None and state.primary_of is not None and state.primary_of >= since
