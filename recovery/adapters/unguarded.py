"""Groups without guards: the words of ``recovery.ports.guard.Guards``, with a person in the place of the proof.

Nothing of ours can prove that the old primary is off. Where Patroni manages PostgreSQL it may: then its word is the
proof. Else an order to fence needs the name of a person who looked, and that name is what the record keeps. Only
PostgreSQL is promoted this way.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import structlog

from recovery.domain.group import GroupSnapshot
from recovery.domain.guarding import GroupState, GuardOrder, GuardStatus, Promotion, StoreRole, StoreState
from recovery.domain.ownership import FenceProof, FenceRequest, OwnershipRecord, Phase, Strength
from recovery.errors import Contended, NotFound, Refused, Unreachable
from recovery.ports.handover import Handover
from recovery.ports.ownership import OwnershipStore
from recovery.ports.promotion import Fenced, PostgresPromotion

log = structlog.get_logger("recovery.guarding")

STORE = "postgres"
ATTEMPTS = 5
Change = Callable[[OwnershipRecord], OwnershipRecord | None]


class Unguarded:
    """``recovery.ports.guard.Guards`` for groups whose regions have none.

    Args:
        snapshot: the group of that name.
        promotion: who else makes the group's PostgreSQL primary; None: we do, by ``pg_promote``.
    """

    def __init__(
        self,
        ownership: OwnershipStore,
        handover: Handover,
        snapshot: Callable[[str], GroupSnapshot],
        promotion: Callable[[GroupSnapshot], PostgresPromotion | None] = lambda group: None,
    ) -> None:
        self._promotion = promotion
        self._ownership = ownership
        self._handover = handover
        self._snapshot = snapshot

    async def status(self, region: str, group: str | None = None) -> GuardStatus:
        """See the port: the servers themselves are asked."""
        if group is None:
            raise NotFound(f"region {region} has no guard: name the group")
        found = await self._ownership.read(group)
        record = found[0] if found else None
        states = await self._handover.observe(self._snapshot(group), region)
        seen = GroupState(
            group=group,
            epoch=record.epoch if record else None,
            owner=record.region if record else None,
            stores=states,
        )
        return GuardStatus(region=region, instance="none", ttl=0.0, holds_lease=False, groups=[seen])

    async def fence(self, order: GuardOrder) -> FenceProof:
        """See the port. Raises Refused where no person vouches that the old primary is off, nor its manager does."""
        said = await self._fenced_by_manager(order)
        # Of one that hands over the last position is not known before it has.
        positions = await self._final_positions(order) if said is not None and not said.hands_over else {}
        if said is None and not order.person.strip():
            raise Refused(
                f"{order.group} has no guards: a person has to confirm that {order.source} is off (--confirm-fence)"
            )
        now = datetime.now(UTC)
        proof = FenceProof(
            epoch=order.epoch,
            region=order.source,
            how="person" if said is None else "managed",
            by=order.person if said is None else self._snapshot(order.group).managed_by,
            at=now,
            run=order.run,
            strengths={STORE: Strength.MANUAL},
            positions=positions,
            hands_over=said is not None and said.hands_over,
            reason=order.reason if said is None else said.why,
        )
        request = FenceRequest(epoch=order.epoch, target=order.target, run=order.run, planned=order.planned, at=now)

        def fence(record: OwnershipRecord) -> OwnershipRecord | None:
            if record.fence is not None and (record.fence.run, record.fence.epoch) == (order.run, order.epoch):
                return None
            _demand_order(record, order)
            return record.model_copy(update={"fencing": request, "fence": proof, "changed_at": now})

        record = await self._change(order.group, fence)
        assert record.fence is not None, "it was written, or was there"
        return record.fence

    async def unfence(self, order: GuardOrder) -> OwnershipRecord:
        """See the port."""

        def unfence(record: OwnershipRecord) -> OwnershipRecord | None:
            if record.run != order.run or record.phase is Phase.PIVOTED:
                raise Refused(f"{order.group} is not this run's before its point of no return: nothing is taken back")
            if record.region != order.source:
                # Its manager would make the old side a primary beside the new one.
                raise Refused(f"{order.group} was taken over by {record.region} in epoch {record.epoch}")
            if record.fencing is None:
                return None
            cleared = {"fencing": None, "demotion": None, "fence": None, "epoch": record.epoch + 1}
            return record.model_copy(update={**cleared, "changed_at": datetime.now(UTC)})

        record = await self._change(order.group, unfence)
        group = self._snapshot(order.group)
        manager = self._promotion(group)
        if manager is not None:
            try:
                await manager.unfence(group, order.source)
            except Unreachable as error:
                if record.epoch != order.epoch:
                    raise
                # No proof was ever written: it did not answer then either, so there is nothing of it to take back.
                log.warning("the old side's manager does not answer", group=order.group, why=str(error))
        return record

    async def promote(self, order: GuardOrder) -> Promotion:
        """See the port."""
        if order.store not in (None, STORE):
            raise Refused(f"{order.store} of {order.group} has no guard: only a guard promotes it")

        def take(record: OwnershipRecord) -> OwnershipRecord | None:
            if record.run == order.run and record.region == order.target and record.epoch > order.epoch:
                return None
            _demand_order(record, order)
            if record.fence is None or record.fence.epoch != order.epoch:
                raise Refused(f"there is no proof that {order.source} is fenced in epoch {order.epoch}")
            taken = {"region": order.target, "epoch": record.epoch + 1, "fencing": None, "demotion": None}
            return record.model_copy(update={**taken, "changed_at": datetime.now(UTC), "reason": order.reason})

        record = await self._change(order.group, take)
        group = self._snapshot(order.group)
        promotion = await (self._promotion(group) or self._handover).promote(group, order.target, record.epoch)
        return promotion.model_copy(update={"record": record})

    async def follow(self, region: str, order: GuardOrder) -> StoreState:
        """See the port: whether it follows is looked at; who starts and re-points it is its own service manager."""
        found = await self._ownership.read(order.group)
        if found is None or found[0].run != order.run:
            raise Refused(f"{order.group} is held by run {found[0].run if found else None}, not by {order.run}")
        if found[0].region == region:
            raise Refused(f"{region} owns {order.group}: it follows nobody")
        states = await self._handover.observe(self._snapshot(order.group), region)
        for state in states:
            if state.store == (order.store or STORE):
                if state.role is StoreRole.PRIMARY:
                    raise Refused(f"{region} is a primary and does not own {order.group}: switch it off")
                return state
        raise NotFound(f"region {region} has no {order.store or STORE} of {order.group}")

    async def _final_positions(self, order: GuardOrder) -> dict[str, str]:
        """Where the fenced side's WAL ends, as far as it says so. Not known where it does not answer."""
        try:
            states = await self._handover.observe(self._snapshot(order.group), order.source)
        except Unreachable:
            return {}
        return {each.store: each.position for each in states if each.role is StoreRole.STANDBY and each.position}

    async def _fenced_by_manager(self, order: GuardOrder) -> Fenced | None:
        """Why the old primary accepts no write any more, where whoever manages it made sure."""
        group = self._snapshot(order.group)
        manager = self._promotion(group)
        if manager is None:
            return None
        found = await self._ownership.read(order.group)
        if found is None:
            raise Refused(f"group {order.group} has no ownership record: it was never claimed")
        _demand_order(found[0], order)
        return await manager.fence(group, order.source, order.target)

    async def _change(self, group: str, change: Change) -> OwnershipRecord:
        for _ in range(ATTEMPTS):
            found = await self._ownership.read(group)
            if found is None:
                raise Refused(f"group {group} has no ownership record: it was never claimed")
            after = change(found[0])
            if after is None:
                return found[0]
            try:
                await self._ownership.write(after, version=found[1])
            except Contended:
                continue
            return after
        raise Contended(f"the ownership record of {group} changed {ATTEMPTS} times while it was being written")


def _demand_order(record: OwnershipRecord, order: GuardOrder) -> None:
    if record.run != order.run:
        raise Refused(f"{order.group} is held by run {record.run}, not by {order.run}")
    if (record.epoch, record.region) != (order.epoch, order.source):
        raise Refused(
            f"{record.region} owns {order.group} in epoch {record.epoch}; the order is about {order.source} "
            f"and epoch {order.epoch}"
        )
