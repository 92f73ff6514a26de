"""What plans ask of a guard: fence, unfence, promote, follow. Every order may come twice, late, or to a new process."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from recovery.domain.guarding import GuardOrder, Promotion, Stopped, StoreState
from recovery.domain.ownership import AcknowledgingSet, FenceProof, OwnershipRecord, Strength
from recovery.errors import BadInput, Contended, NotFound, RecoveryError, Refused, Unreachable
from recovery.guard import decisions
from recovery.guard.acknowledging import Acknowledged
from recovery.guard.clock import utc
from recovery.guard.decisions import Break, Evidence, Refusal, Settled, Wait, Write
from recovery.guard.group import GuardedHere
from recovery.guard.quorum import Judgement, Quorum
from recovery.guard.receiving import against_following, against_stopping
from recovery.guard.standing import Guarding
from recovery.guard.watching import Watching
from recovery.ports.guard import Catching, GuardedStore, PeerGuards

log = structlog.get_logger("recovery.guard")

LOOK = 0.1
"""Seconds between two looks at the record while an order waits."""


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
        judgement: Judgement | None = None
        while True:
            reason = "the ownership record changes all the time"
            try:
                record = await self._read(group)
                if record.fencing is not None and record.fencing.run == order.run:
                    asked_at = min(asked_at, self.shared.clock())
                    if not nudged:
                        nudged = True
                        self._nudge(order)
                    if judgement is None and (quorum := self._quorum(group, record, order)) is not None:
                        judgement = await quorum
                step = self._fence_step(group, record, order, asked_at)
                match step:
                    case Settled():
                        return await self._caught_up(group, step.record, order, until)
                    case Refusal():
                        raise Refused(step.reason)
                    case Write():
                        group.taking_over_since = min(group.taking_over_since, self.shared.clock())
                        await group.record.write(_judged(step.record, record, judgement), over=record)
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
            evidence=Evidence(self._by(), utc()),
        )
        if order.planned and isinstance(step, Break):
            # Who wants nothing lost waits for the source's own word, and ends no other group's lease.
            return Wait(f"the guard of {order.source} does not answer: ask for an unplanned fence", LOOK)
        new = step.record.fence if isinstance(step, Write) else None
        if new is not None and new != record.fence and new.how == "never-served":
            # No guard ever held it: then nobody knows of a primary that runs there without one.
            return Wait(f"no guard of {order.source} ever held {order.group}: start it (drctl guard)", LOOK)
        return step

    def _quorum(
        self, group: GuardedHere, record: OwnershipRecord, order: GuardOrder
    ) -> Coroutine[Any, Any, Judgement] | None:
        """Where the record claims that nothing can be lost: whether that is so for this target.

        A planned end says it by its final positions, which have to be received first.
        """
        asked, claimed = record.fencing, record.acknowledging
        if asked is None or asked.planned or asked.epoch != record.epoch or claimed is None:
            return None
        if record.fence is not None and record.fence.epoch == record.epoch:
            return None
        return self._judge(group, claimed, order)

    async def _judge(self, group: GuardedHere, claimed: AcknowledgingSet, order: GuardOrder) -> Judgement:
        """Raises Refused where something may be lost that was promised to be kept, unless the order accepts that."""
        judgement = Judgement(f"{group.name} has no store here that could acknowledge")
        for name, store in group.stores.all.items():
            if isinstance(store, Acknowledged):
                regions = [peer for peer in group.group.peers if peer != order.source]
                upstreams = group.group.upstreams.get(name, {})
                async with group.stores.receiving[name]:
                    quorum = Quorum(store, upstreams, regions, self.peers, self.shared.clock)
                    judgement = await quorum.judge(claimed, order)
        if judgement.why_not is not None:
            log.warning("zero loss is not proven", group=group.name, reason=judgement.why_not)
            if not order.accept_loss:
                raise Refused(
                    f"commits that {order.source} acknowledged may be lost by a promotion of {order.target}: "
                    f"{judgement.why_not}. Name another target, or start again with --accept-data-loss and a reason"
                )
        return judgement

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
                record = await self._read(group)
                step = self._promotion_step(group, record, order)
                match step:
                    case Settled():
                        if (reason := group.against_promotion() or "") == "":
                            return step.record
                    case Refusal():
                        raise Refused(step.reason)
                    case Write():
                        group.taking_over_since = min(group.taking_over_since, self.shared.clock())
                        if await group.record.write(step.record, over=record):
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
            return decisions.adoption(
                record, shared.region, held, now, shared.given, utc(), anew=group.anew, strengths=group.strengths
            )
        return decisions.promotion(
            record, order, shared.region, held, now, shared.given, utc(), strengths=group.strengths
        )

    async def follow(self, order: GuardOrder) -> StoreState:
        """See ``recovery.ports.guard.Guards``: of this guard's own region."""
        group = self._group(order)
        record = await self._read(group)
        if record.run != order.run:
            raise Refused(f"{order.group} is locked by the run {record.run}, not by {order.run}")
        if (why := against_following(record, self.shared.region)) is not None:
            raise Refused(why)
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
            async with group.stores.receiving[name]:
                if (why := against_following(await self._read(group), self.shared.region)) is not None:
                    raise Refused(why)
                states.append(await store.follow(upstream))
        group.wake()
        return states[0]

    async def stop_receiving(self, order: GuardOrder) -> Stopped:
        """See ``recovery.ports.guard.PeerGuards``: of this guard's own region."""
        group = self._group(order)
        for name, store in group.stores.all.items():
            if not isinstance(store, Acknowledged) or store.member is None:
                continue
            async with group.stores.receiving[name]:
                # Read within the turn: what begins to follow after this knows of the request.
                if (why := against_stopping(await self._read(group), order, self.shared.region)) is not None:
                    raise Refused(why)
                position = await store.stop_receiving()
            log.warning("a standby receives nothing more", group=group.name, store=name, run=order.run)
            return Stopped(region=self.shared.region, member=store.member, position=position)
        raise Refused(f"{self.shared.region} has no standby of {order.group} that acknowledges commits")

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


def _judged(new: OwnershipRecord, before: OwnershipRecord, judgement: Judgement | None) -> OwnershipRecord:
    """A proof about to be written says what the acknowledging set proves."""
    proof = new.fence
    if judgement is None or proof is None or proof == before.fence:
        return new
    found: dict[str, Any] = {"stopped": judgement.stopped}
    if judgement.why_not is None:
        proven = {**proof.strengths, "postgres": Strength.SYNCHRONOUS}
        found |= {"zero_loss": True, "strengths": proven}
    return new.model_copy(update={"fence": proof.model_copy(update=found)})


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
