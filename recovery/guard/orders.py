"""What plans ask of a guard: fence, unfence, promote, follow. Every order may come twice, late, or to a new process."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from recovery.domain.guarding import GuardOrder, Promotion, StoreState
from recovery.domain.ownership import FenceProof, OwnershipRecord, Strength
from recovery.errors import BadInput, Contended, NotFound, RecoveryError, Refused, Unreachable
from recovery.guard import decisions
from recovery.guard.acknowledging import Acknowledged, zero_loss
from recovery.guard.clock import utc
from recovery.guard.decisions import Break, Evidence, Refusal, Settled, Wait, Write
from recovery.guard.group import GuardedHere
from recovery.guard.standing import Guarding
from recovery.guard.watching import Watching
from recovery.ports.guard import Catching, GuardedStore, PeerGuards

log = structlog.get_logger("recovery.guard")

LOOK = 0.1
"""Seconds between two looks at the record while an order waits."""
FOLLOW = 300.0


@dataclass
class Orders:
    """Carries orders out. ``groups`` are those of this guard's region."""

    shared: Guarding
    groups: Mapping[str, GuardedHere]
    watching: Watching
    peers: PeerGuards

    async def fence(self, order: GuardOrder) -> FenceProof:
        """See ``recovery.ports.guard.Guards``."""
        group = self._target(order)
        until = self._until(order)
        asked_at = math.inf  # when we first knew that the record carries the request
        nudged = False
        while True:
            reason = "the ownership record changes all the time"
            try:
                record = await self._read(group)
                if record.fencing is not None and record.fencing.run == order.run:
                    asked_at = min(asked_at, self.shared.clock())
                    if not nudged:
                        nudged = True
                        self._nudge(order)
                step = self._fence_step(group, record, order, asked_at)
                match step:
                    case Settled():
                        return await self._caught_up(group, step.record, order, until)
                    case Refusal():
                        raise Refused(step.reason)
                    case Write():
                        group.taking_over_since = min(group.taking_over_since, self.shared.clock())
                        await group.record.write(await self._with_zero_loss(group, record, step.record, order))
                        continue
                    case Break():
                        group.taking_over_since = min(group.taking_over_since, self.shared.clock())
                        await self.watching.break_lease(order.source, self._by())
                        continue
                    case Wait():
                        reason = step.reason
            except (Unreachable, Contended) as error:
                reason = str(error)
            if self.shared.clock() >= until:
                raise Unreachable(f"{order.source} is not fenced within {order.deadline:g} s: {reason}")
            await self.watching.wait_for_look(LOOK)

    def _fence_step(
        self, group: GuardedHere, record: OwnershipRecord, order: GuardOrder, asked_at: float
    ) -> Write | Break | Settled | Wait | Refusal:
        asked = record.fencing
        if asked is not None and (asked.run, asked.epoch, asked.planned) == (order.run, order.epoch, False):
            # From planned to unplanned there is no way back: an earlier attempt that still waits goes along.
            order = order.model_copy(update={"planned": False})
        step = decisions.fence_step(
            record,
            order,
            self.shared.region,
            watched=self.watching.watched[order.source],
            fencing_seen=asked_at,
            given=self.shared.given,
            now=self.shared.clock(),
            margin=self.shared.holding.pace.margin,
            holds_lease=self.shared.holding.valid(),
            evidence=Evidence(self._by(), utc(), {name: one.strength for name, one in group.stores.all.items()}),
        )
        if order.planned and isinstance(step, Break):
            # Who wants nothing lost waits for the source's own word, and ends no other group's lease.
            return Wait(f"the guard of {order.source} does not answer: ask for an unplanned fence", LOOK)
        new = step.record.fence if isinstance(step, Write) else None
        if new is not None and new != record.fence and new.how == "never-served":
            # No guard ever held it: then nobody knows of a primary that runs there without one.
            return Wait(f"no guard of {order.source} ever held {order.group}: start it (drctl guard)", LOOK)
        return step

    async def _with_zero_loss(
        self, group: GuardedHere, record: OwnershipRecord, new: OwnershipRecord, order: GuardOrder
    ) -> OwnershipRecord:
        """A proof about to be written says whether the acknowledging set proves that nothing is lost.

        A planned end says it by its final positions, which have to be received first.
        """
        proof = new.fence
        if proof is None or proof == record.fence or order.planned or record.acknowledging is None:
            return new
        proven = dict(proof.strengths)
        for name, store in group.stores.all.items():
            if isinstance(store, Acknowledged):
                reason = await zero_loss(record, store)
                if reason is not None:
                    log.warning("zero loss is not claimed", group=group.name, store=name, reason=reason)
                    return new
                proven[name] = Strength.SYNCHRONOUS
        proof = proof.model_copy(update={"zero_loss": True, "strengths": proven})
        return new.model_copy(update={"fence": proof})

    async def _caught_up(
        self, group: GuardedHere, record: OwnershipRecord, order: GuardOrder, until: float
    ) -> FenceProof:
        """After a planned end: everything up to the source's final positions is here."""
        proof = record.fence
        assert proof is not None, "settled means that the proof stands in the record"
        if order.planned and record.epoch == order.epoch:
            for name, store in group.stores.all.items():
                position = proof.positions.get(name)
                if position is not None and isinstance(store, Catching):
                    await store.wait_for(position, max(0.1, until - self.shared.clock()))
        return proof

    async def unfence(self, order: GuardOrder) -> OwnershipRecord:
        """See ``recovery.ports.guard.Guards``."""
        group = self._group(order)

        def take_back(record: OwnershipRecord | None) -> Write | Settled | Refusal:
            if record is None:
                return Refusal(f"there is no ownership record of {order.group}")
            return decisions.unfence(record, order, utc())

        answer = await group.record.decide(take_back)
        if isinstance(answer, Settled):
            self._nudge(order)
            return answer.record
        raise Refused(getattr(answer, "reason", "the request cannot be taken back"))

    async def promote(self, order: GuardOrder) -> Promotion:
        """See ``recovery.ports.guard.Guards``. Without ``order.store`` all stores; the first one's answer."""
        group = self._target(order)
        names = [order.store] if order.store is not None else list(group.stores.all)
        for name in names:
            self._store(group, name)
        record = await self._take_group(group, order)
        await group.serving.arm()
        since = decisions.brought_here_in(record)
        found = await asyncio.gather(
            *(
                group.stores.make_primary(name, record.epoch, group.against_promotion, owner=False, since=since)
                for name in names
            )
        )
        group.wake()
        return found[0].model_copy(update={"record": group.record.record})

    async def _take_group(self, group: GuardedHere, order: GuardOrder) -> OwnershipRecord:
        until = self._until(order)
        while True:
            reason = "the ownership record changes all the time"
            try:
                step = self._promotion_step(group, await self._read(group), order)
                match step:
                    case Settled():
                        if (reason := group.against_promotion() or "") == "":
                            return step.record
                    case Refusal():
                        raise Refused(step.reason)
                    case Write():
                        group.taking_over_since = min(group.taking_over_since, self.shared.clock())
                        if await group.record.write(step.record):
                            group.serving.taken()
                        continue
                    case Wait():
                        reason = step.reason
            except (Unreachable, Contended) as error:
                reason = str(error)
            if self.shared.clock() >= until:
                raise Unreachable(f"{order.group} could not be taken over within {order.deadline:g} s: {reason}")
            await asyncio.sleep(LOOK)

    def _promotion_step(
        self, group: GuardedHere, record: OwnershipRecord, order: GuardOrder
    ) -> Write | Settled | Wait | Refusal:
        shared = self.shared
        now, held = shared.clock(), shared.holding.held
        taken = record.run == order.run and record.region == shared.region and record.epoch > order.epoch
        if not held.valid(now) and (taken or record.epoch == order.epoch):
            return Wait(f"the guard of {shared.region} holds no lease now: {shared.holding.trouble}", LOOK)
        if taken and (group.anew or record.guard != held.instance):
            # Since it took the group for this very run the guard demoted it, or is another process.
            return decisions.adoption(record, shared.region, held, now, shared.given, utc(), anew=group.anew)
        return decisions.promotion(record, order, shared.region, held, now, shared.given, utc())

    async def follow(self, order: GuardOrder) -> StoreState:
        """See ``recovery.ports.guard.Guards``: of this guard's own region."""
        group = self._group(order)
        record = await self._read(group)
        if record.run != order.run:
            raise Refused(f"{order.group} is locked by the run {record.run}, not by {order.run}")
        if record.region == self.shared.region:
            raise Refused(f"{record.region} owns {order.group}: its stores follow nobody")
        if group.armed:
            raise Unreachable(f"the stores of {order.group} are still being demoted in {self.shared.region}")
        names = [order.store] if order.store is not None else list(group.stores.all)
        states: list[StoreState] = []
        for name in names:
            store = self._store(group, name)
            upstream = group.group.upstreams.get(name, {}).get(record.region)
            if upstream is None:
                raise BadInput(
                    f"the configuration of {self.shared.region}'s guard has no address of {name} in {record.region}"
                )
            states.append(await store.follow(upstream))
        group.wake()
        return states[0]

    # -- small parts --------------------------------------------------------------------------------------------------

    def _group(self, order: GuardOrder) -> GuardedHere:
        return known_group(self.groups, order.group, self.shared.region)

    def _target(self, order: GuardOrder) -> GuardedHere:
        group = self._group(order)
        if order.target != self.shared.region:
            raise Refused(f"the order names {order.target} as its target, this is the guard of {self.shared.region}")
        if order.source not in self.watching.watched:
            known = ", ".join(self.watching.watched) or "none"
            raise Refused(f"{order.source} is no other region of a guarded group here: known are {known}")
        return group

    @staticmethod
    def _store(group: GuardedHere, name: str) -> GuardedStore:
        if name not in group.stores.all:
            raise NotFound(f"{group.name} has no store {name!r} under guard: it has {', '.join(group.stores.all)}")
        return group.stores[name]

    async def _read(self, group: GuardedHere) -> OwnershipRecord:
        record = await group.record.read()
        if record is None:
            raise Refused(f"there is no ownership record of {group.name}: nothing can be fenced or promoted")
        return record

    def _until(self, order: GuardOrder) -> float:
        return self.shared.clock() + order.deadline

    def _by(self) -> str:
        return self.shared.holding.instance

    def _nudge(self, order: GuardOrder) -> None:
        """A hint to the other guard; it finds the record by itself, only later."""

        async def hint() -> None:
            try:
                await self.peers.nudge(order.source, order.group)
            except RecoveryError as error:
                log.info("the other guard could not be told", region=order.source, reason=str(error))

        task = asyncio.create_task(hint())
        _hints.add(task)
        task.add_done_callback(_hints.discard)


_hints: set[asyncio.Task[None]] = set()


def known_group(groups: Mapping[str, GuardedHere], name: str, region: str) -> GuardedHere:
    """Raises NotFound with the known ones."""
    if name not in groups:
        raise NotFound(f"the guard of {region} guards no group {name!r}: it guards {', '.join(groups) or 'none'}")
    return groups[name]


class Running:
    """Orders on their way: one that comes again attaches to the one that is being carried out.

    An order goes on when who asked goes away; asking again finds its answer for a while.
    """

    KEPT = 64

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[Any]] = {}

    async def answer(self, key: str, work: Callable[[], Coroutine[Any, Any, Any]], wait: float) -> Any:
        """The order's answer, or its error; None while it is not there after ``wait`` seconds."""
        task = self._tasks.get(key)
        if task is None:
            for old in [old for old, kept in self._tasks.items() if kept.done()][: -self.KEPT]:
                del self._tasks[old]
            task = self._tasks[key] = asyncio.create_task(work())
            task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        done, _ = await asyncio.wait({task}, timeout=wait)
        if not done:
            return None
        if self._tasks.get(key) is task:
            del self._tasks[key]
        if task.cancelled():
            raise Unreachable("the order was ended by another one")
        return task.result()

    async def stop(self, prefix: str) -> None:
        """Ends orders whose key begins so: what they began is taken back."""
        tasks = [task for key, task in self._tasks.items() if key.startswith(prefix)]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=5)

    async def close(self) -> None:
        await self.stop("")
