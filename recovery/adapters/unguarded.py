"""Groups without guards: the words of ``recovery.ports.guard.Guards``, with a person in the place of the proof.

Nothing here can prove that the old primary is off. So an order to fence needs the name of a person who looked, and that
name is the proof that the record keeps. Only PostgreSQL is promoted this way.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from recovery.domain.group import GroupSnapshot
from recovery.domain.guarding import GroupState, GuardOrder, GuardStatus, Promotion, StoreRole, StoreState
from recovery.domain.ownership import FenceProof, FenceRequest, OwnershipRecord, Phase, Strength
from recovery.errors import Contended, NotFound, Refused
from recovery.ports.handover import Handover
from recovery.ports.ownership import OwnershipStore

STORE = "postgres"
ATTEMPTS = 5
Change = Callable[[OwnershipRecord], OwnershipRecord | None]


class Unguarded:
    """``recovery.ports.guard.Guards`` for groups whose regions have none.

    Args:
        snapshot: the group of that name.
    """

    def __init__(self, ownership: OwnershipStore, handover: Handover, snapshot: Callable[[str], GroupSnapshot]) -> None:
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
        """See the port. Raises Refused where no person vouches that the old primary is off."""
        if not order.person.strip():
            raise Refused(
                f"{order.group} has no guards: a person has to confirm that {order.source} is off (--confirm-fence)"
            )
        now = datetime.now(UTC)
        proof = FenceProof(
            epoch=order.epoch,
            region=order.source,
            how="person",
            by=order.person,
            at=now,
            run=order.run,
            strengths={STORE: Strength.MANUAL},
            reason=order.reason,
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
            if record.fencing is None:
                return None
            if record.run != order.run or record.phase is Phase.PIVOTED:
                raise Refused(f"{order.group} is not this run's before its point of no return: nothing is taken back")
            cleared = {"fencing": None, "demotion": None, "fence": None, "epoch": record.epoch + 1}
            return record.model_copy(update={**cleared, "changed_at": datetime.now(UTC)})

        return await self._change(order.group, unfence)

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
        promotion = await self._handover.promote(self._snapshot(order.group), order.target, record.epoch)
        return promotion.model_copy(update={"record": record})

    async def follow(self, region: str, order: GuardOrder) -> StoreState:
        """See the port: whether it follows is looked at; who starts and re-points it is its own service manager."""
        states = await self._handover.observe(self._snapshot(order.group), region)
        for state in states:
            if state.store == (order.store or STORE):
                if state.role is StoreRole.PRIMARY:
                    raise Refused(f"{region} is a primary and does not own {order.group}: switch it off")
                return state
        raise NotFound(f"region {region} has no {order.store or STORE} of {order.group}")

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
