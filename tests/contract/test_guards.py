"""One contract for ``Guards``: the fake that plans are tested with, groups without guards, and guards of real servers.

Whichever region owns the group, a test moves or fences it from there; so one lab serves all of them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import pytest_asyncio

from recovery.adapters.guard_client import GuardClient
from recovery.adapters.unguarded import Unguarded
from recovery.domain.group import GroupSnapshot
from recovery.domain.guarding import GuardOrder, StoreRole
from recovery.domain.ownership import OwnershipRecord, Phase
from recovery.errors import Contended, NotFound, Refused, Unreachable
from recovery.ports.guard import Guards
from recovery.ports.ownership import OwnershipStore
from tests.fakes.handover import GROUP, NOW, FakeGuards, FakeHandover, group_of, state
from tests.fakes.ownership import FakeOwnershipStore
from tests.integration.guard_rig import A, B, GuardedLab, guarded_lab

SILENT = "region-silent"
STANDS = {A: [state(StoreRole.PRIMARY)], B: [state(StoreRole.STANDBY)]}


@dataclass
class Scene:
    """``steady`` returns once one region is primary and the other follows. ``proves``: no person has to vouch."""

    guards: Guards
    ownership: OwnershipStore
    steady: Callable[[], Awaitable[None]]
    proves: bool = True

    async def record(self) -> OwnershipRecord:
        found = await self.ownership.read(GROUP)
        assert found is not None
        return found[0]

    async def note(self, **values: object) -> OwnershipRecord:
        """As a plan writes into the record, beside the guards."""
        while True:
            found = await self.ownership.read(GROUP)
            assert found is not None
            record = found[0].model_copy(update=values)
            try:
                await self.ownership.write(record, version=found[1])
            except Contended:
                continue
            return record

    async def claim(self, run: str, **values: object) -> GuardOrder:
        """A run takes the lock; the order to move the group away from its owner."""
        await self.steady()
        record = await self.note(run=run, plan="Failover", phase=Phase.RUNNING)
        target = B if record.region == A else A
        order = GuardOrder(
            group=GROUP, run=run, epoch=record.epoch, source=record.region, target=target, effect_id=run,
            store="postgres", person="ana", deadline=30.0,
        )  # fmt: skip
        return order.model_copy(update=values)

    async def role(self, region: str) -> StoreRole:
        (found,) = (await self.guards.status(region, GROUP)).groups
        return found.stores[0].role


async def at_once() -> None:
    return


def owned_by_a() -> FakeOwnershipStore:
    ownership = FakeOwnershipStore()
    ownership.records[GROUP] = (OwnershipRecord(group=GROUP, region=A, epoch=3, changed_at=NOW), "0")
    return ownership


@asynccontextmanager
async def fake(lab: Callable[[], Awaitable[GuardedLab]]) -> AsyncIterator[Scene]:
    ownership = owned_by_a()
    yield Scene(FakeGuards(ownership, dict(STANDS), groups={GROUP}), ownership, at_once)


@asynccontextmanager
async def unguarded(lab: Callable[[], Awaitable[GuardedLab]]) -> AsyncIterator[Scene]:
    ownership = owned_by_a()

    def snapshot(name: str) -> GroupSnapshot:
        if name != GROUP:
            raise NotFound(f"no group {name}")
        return group_of(A, B, guarded=False)

    yield Scene(Unguarded(ownership, FakeHandover(dict(STANDS)), snapshot), ownership, at_once, proves=False)


@asynccontextmanager
async def guarded(lab: Callable[[], Awaitable[GuardedLab]]) -> AsyncIterator[Scene]:
    rig = await lab()
    async with GuardClient({**rig.addresses, SILENT: "http://127.0.0.1:1"}, rig.token) as client:

        async def steady() -> None:
            async def is_so() -> bool:
                record = await rig.record()
                (first,), (second,) = [(await client.status(region, GROUP)).groups for region in rig.regions]
                roles = {group.stores[0].role for group in (first, second)}
                # A guard tells the record as it read it last.
                known = {(group.owner, group.epoch) for group in (first, second)}
                return roles == {StoreRole.PRIMARY, StoreRole.STANDBY} and known == {(record.region, record.epoch)}

            await rig.until("one region is primary and the other follows, and both guards know it", is_so)

        yield Scene(client, rig.witness, steady)
        await rig.free()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def lab(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Callable[[], Awaitable[GuardedLab]]]:
    """Started when it is asked for."""
    started: list[GuardedLab] = []
    held = guarded_lab(tmp_path_factory.mktemp("guards"), replication=True)

    async def start() -> GuardedLab:
        if not started:
            started.append(await held.__aenter__())
            await started[0].steady()
        return started[0]

    yield start
    if started:
        await held.__aexit__(None, None, None)


@pytest_asyncio.fixture(params=[fake, unguarded, guarded], ids=lambda made: made.__name__, loop_scope="session")
async def scene(request: pytest.FixtureRequest, lab: Callable[[], Awaitable[GuardedLab]]) -> AsyncIterator[Scene]:
    async with request.param(lab) as made:
        yield made


async def test_a_status_tells_the_stores_and_the_owner(scene: Scene) -> None:
    order = await scene.claim("run-look")
    for region, role in ((order.source, StoreRole.PRIMARY), (order.target, StoreRole.STANDBY)):
        status = await scene.guards.status(region, GROUP)
        (found,) = status.groups
        assert (status.region, found.group, found.epoch, found.owner) == (region, GROUP, order.epoch, order.source)
        assert [(store.store, store.role) for store in found.stores] == [("postgres", role)]
    with pytest.raises(NotFound, match="unknown"):
        await scene.guards.status(order.source, "unknown")
    with pytest.raises(Unreachable, match=SILENT):
        await scene.guards.status(SILENT, GROUP)


async def test_orders_of_others_change_nothing(scene: Scene) -> None:
    order = await scene.claim("run-mine")
    before = await scene.record()
    for changed in ({"run": "another"}, {"epoch": order.epoch + 1}, {"epoch": order.epoch - 1}):
        with pytest.raises(Refused):
            await scene.guards.fence(order.model_copy(update=changed))
    with pytest.raises(Refused, match="fence|proof"):
        await scene.guards.promote(order)
    for asked in (scene.guards.unfence, scene.guards.promote):
        with pytest.raises(Refused):
            await asked(order.model_copy(update={"run": "another"}))
    with pytest.raises(Refused):
        await scene.guards.follow(order.target, order.model_copy(update={"run": "another"}))
    with pytest.raises(Refused, match="owns"):
        await scene.guards.follow(order.source, order)
    assert await scene.record() == before
    assert await scene.role(order.source) is StoreRole.PRIMARY


async def test_a_promotion_takes_the_next_epoch_once_and_the_others_follow_it(scene: Scene) -> None:
    order = await scene.claim("run-move", planned=True)
    proof = await scene.guards.fence(order)
    promotion = await scene.guards.promote(order)
    assert (promotion.store, promotion.epoch, promotion.already) == ("postgres", order.epoch + 1, False)
    assert promotion.record is not None and promotion.record.region == order.target
    record = await scene.record()
    assert (record.region, record.epoch, record.fencing) == (order.target, order.epoch + 1, None)
    assert record.fence == proof, "why there can be no other primary stays known"
    again = await scene.guards.promote(order)
    assert (again.epoch, again.already) == (promotion.epoch, True)
    assert await scene.guards.fence(order) == proof, "an attempt that comes late finds its answer"
    with pytest.raises(Refused):
        await scene.guards.unfence(order)
    record = await scene.record()
    assert (record.region, record.epoch, record.fencing, record.fence) == (order.target, order.epoch + 1, None, proof)
    assert await scene.role(order.target) is StoreRole.PRIMARY
    back = order.model_copy(update={"source": order.target, "target": order.source})
    with pytest.raises(Refused, match="owns"):
        await scene.guards.follow(order.target, back)
    with pytest.raises(NotFound):
        await scene.guards.follow(order.source, back.model_copy(update={"store": "redis"}))
    if scene.proves:
        assert (await scene.guards.follow(order.source, back)).role is StoreRole.STANDBY
    else:
        with pytest.raises(Refused, match="switch it off"):
            await scene.guards.follow(order.source, back)


async def test_a_fence_is_proven_once_and_its_proof_stands_in_the_record(scene: Scene) -> None:
    order = await scene.claim("run-fence")
    proof = await scene.guards.fence(order)
    assert (proof.epoch, proof.region, proof.run) == (order.epoch, order.source, order.run)
    record = await scene.record()
    assert record.fence == proof and record.fencing is not None
    assert (record.fencing.run, record.fencing.target) == (order.run, order.target)
    assert (record.region, record.epoch) == (order.source, order.epoch), "nothing is moved yet"
    assert await scene.guards.fence(order) == proof
    if scene.proves:
        assert await scene.role(order.source) is not StoreRole.PRIMARY
    await scene.note(phase=Phase.PIVOTED)
    with pytest.raises(Refused):
        await scene.guards.unfence(order)
    assert (await scene.record()).fence == proof
    await scene.note(phase=Phase.RUNNING)
    back = await scene.guards.unfence(order)
    assert (back.region, back.fencing, back.fence) == (order.source, None, None)
    assert back.epoch > order.epoch, "no late attempt of the order fits any more"
    again = await scene.guards.unfence(order)
    assert (again.region, again.fencing, again.fence) == (order.source, None, None)
    for late in (scene.guards.fence, scene.guards.promote):
        with pytest.raises(Refused):
            await late(order)
    await scene.steady()
    assert (await scene.record()).region == order.source
    assert await scene.role(order.source) is StoreRole.PRIMARY
