"""What a guard does for a group that may be primary here: adopted, armed, promoted, and kept so."""

from __future__ import annotations

import asyncio

from recovery.domain.guarding import StoreRole
from recovery.domain.ownership import OwnershipRecord
from recovery.errors import Refused
from recovery.guard import decisions, notes
from recovery.guard.acknowledging import Acknowledged, Acknowledging
from recovery.guard.clock import utc
from recovery.guard.decisions import Refusal, Settled, Wait, Write
from recovery.guard.standing import Standing
from recovery.guard.synchronous import OnStandbyLoss


class Serving:
    """Of one group."""

    def __init__(self, here: Standing) -> None:
        self._here = here
        group = here.group
        self._acknowledging = {
            name: Acknowledging(store, group.acknowledging, OnStandbyLoss(group.on_standby_loss), here.shared.clock)
            for name, store in here.stores.all.items()
            if isinstance(store, Acknowledged)
        }

    async def serve(self) -> None:
        """The group may be primary: keeps every store that is to be primary so."""
        here = self._here
        record = here.record.record
        if record is None:
            return
        here.inherited = None
        await self.arm()
        await here.stores.observe()
        if here.is_restored:
            return
        if here.anew:
            record = await self.adopt(anew=True)
        wanted = self.wanted(record)
        results = await asyncio.gather(*(self._keep(name, record) for name in wanted), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        await self._note()
        await self._keep_acknowledging()

    async def _note(self) -> None:
        """Each time that the owner's PostgreSQL has another history (it was promoted, or its region took the group), or
        that a store of it is fenced in another way."""
        here, shared = self._here, self._here.shared
        state, known = here.stores.states.get("postgres"), here.record.record
        lineage = state.history if state is not None and state.role is StoreRole.PRIMARY else None
        if known is None or (lineage in (None, known.lineage) and known.strengths == here.strengths):
            return

        def note(record: OwnershipRecord | None) -> Write | Settled | Refusal:
            if record is None:
                return Refusal(f"there is no ownership record of {here.name}")
            return notes.standing(record, shared.region, shared.holding.instance, lineage, here.strengths)

        await here.record.decide(note)

    async def _keep_acknowledging(self) -> None:
        """What commits wait for, and what the record claims of it; see ``recovery.guard.synchronous``."""
        here = self._here
        for name, acknowledging in self._acknowledging.items():
            if (state := here.stores.states.get(name)) is None or state.role is not StoreRole.PRIMARY:
                continue
            reasons = await acknowledging.keep(here.record, here.shared.region, here.shared.holding.held.instance)
            if reasons:
                here.warn("acknowledging", f"zero loss is not claimed: {'; '.join(reasons)}")
            else:
                here.warnings.pop("acknowledging", None)

    async def _keep(self, name: str, record: OwnershipRecord) -> None:
        stores = self._here.stores
        state, epoch = stores.states[name], stores.served.get(name)
        if state.role is StoreRole.UNREACHABLE or (state.role is StoreRole.PRIMARY and epoch == record.epoch):
            return
        if state.role is not StoreRole.PRIMARY and epoch == record.epoch:
            # It died while the lease was held. Each time as primary has an epoch of its own.
            if state.role is not StoreRole.STANDBY:
                await stores[name].start(owner=True)
            record = await self.adopt(anew=True)
        await stores.make_primary(name, record.epoch, self._here.against_promotion, owner=True)

    def wanted(self, record: OwnershipRecord) -> list[str]:
        """Stores that this guard makes primary by itself.

        While a run that brought the group here is at work, its steps say when each store is promoted; what was once
        primary since then is kept, also when this process is another one than that which promoted it.
        """
        since = decisions.brought_here_in(record)
        return list(self._here.stores.all) if since is None else self._here.stores.served_since(since)

    async def arm(self) -> None:
        """Before anything becomes primary, and whenever it is: the companion knows what to end, and when.

        Raises:
            Unreachable: the companion does not run, or its file cannot be written.
        """
        here, shared = self._here, self._here.shared
        if not here.armed:
            await shared.companion.wait_until_it_lives()
        here.armed = True
        emergencies = [store.emergency() for store in here.group.stores]
        await shared.deadlines.arm(here.name, emergencies, here.deadline())

    async def adopt(self, *, anew: bool) -> OwnershipRecord:
        """Compare-and-swap: this guard's instance holds the group, with the next epoch. Raises Refused."""
        here, shared = self._here, self._here.shared

        def adopt(record: OwnershipRecord | None) -> Write | Settled | Wait | Refusal:
            if record is None:
                return Refusal(f"there is no ownership record of {here.name}")
            held, now = shared.holding.held, shared.clock()
            return decisions.adoption(
                record, shared.region, held, now, shared.given, utc(), anew=anew, strengths=here.strengths
            )

        answer = await here.record.decide(adopt)
        if isinstance(answer, Settled):
            self.taken()
            return answer.record
        raise Refused(f"{here.name} was not adopted: {getattr(answer, 'reason', answer)}")

    def taken(self) -> None:
        """The record says since a moment that this guard's instance holds the group."""
        self._here.anew = False
