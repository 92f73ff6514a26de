"""Groups without guards: a person's name is the proof, and nothing is promoted without it."""

from __future__ import annotations

import pytest

from recovery.adapters.unguarded import Unguarded
from recovery.domain.group import GroupSnapshot
from recovery.domain.guarding import GuardOrder, Promotion, StoreRole
from recovery.domain.ownership import OwnershipRecord, Phase, Pivot
from recovery.errors import NotFound, Refused, Unreachable
from recovery.ports.promotion import Fenced
from tests.fakes.handover import NOW, FakeHandover, group_of, state
from tests.fakes.ownership import FakeOwnershipStore

HELD = OwnershipRecord(group="shop", region="a", epoch=3, phase=Phase.RUNNING, run="run-1", changed_at=NOW)
ORDER = GuardOrder(
    group="shop", run="run-1", epoch=3, source="a", target="b", effect_id="e", person="ana", reason="the power is off"
)


@pytest.fixture
def ownership() -> FakeOwnershipStore:
    store = FakeOwnershipStore()
    store.records["shop"] = (HELD, "0")
    return store


@pytest.fixture
def handover() -> FakeHandover:
    return FakeHandover(states={"a": [state(StoreRole.PRIMARY)], "b": [state(StoreRole.STANDBY)]})


@pytest.fixture
def groups(ownership: FakeOwnershipStore, handover: FakeHandover) -> Unguarded:
    return Unguarded(ownership, handover, lambda name: group_of("a", "b", guarded=False))


def record(ownership: FakeOwnershipStore) -> OwnershipRecord:
    return ownership.records["shop"][0]


async def test_a_person_is_the_proof(groups: Unguarded, ownership: FakeOwnershipStore) -> None:
    proof = await groups.fence(ORDER)
    assert (proof.how, proof.by, proof.reason, proof.epoch) == ("person", "ana", "the power is off", 3)
    assert record(ownership).fence == proof
    again = await groups.fence(ORDER.model_copy(update={"person": "ben"}))
    assert again == proof, "a second attempt finds the proof of the first"


async def test_without_a_person_nothing_is_fenced(groups: Unguarded, ownership: FakeOwnershipStore) -> None:
    with pytest.raises(Refused, match="--confirm-fence"):
        await groups.fence(ORDER.model_copy(update={"person": " "}))
    assert record(ownership) == HELD


async def test_nothing_is_promoted_without_the_proof(
    groups: Unguarded, ownership: FakeOwnershipStore, handover: FakeHandover
) -> None:
    with pytest.raises(Refused, match="no proof"):
        await groups.promote(ORDER)
    assert handover.done == [] and record(ownership).region == "a"


async def test_a_promotion_takes_the_next_epoch_first_and_may_be_repeated(
    groups: Unguarded, ownership: FakeOwnershipStore, handover: FakeHandover
) -> None:
    await groups.fence(ORDER)
    for _ in range(2):
        promotion = await groups.promote(ORDER)
        assert promotion.epoch == 4 and promotion.record is not None and promotion.record.region == "b"
    assert (record(ownership).epoch, record(ownership).fencing) == (4, None)
    assert handover.done == ["promote b for epoch 4"] * 2


@pytest.mark.parametrize("changed", [{"run": "another"}, {"epoch": 4}, {"region": "c"}], ids=["run", "epoch", "owner"])
async def test_a_late_order_changes_nothing(
    groups: Unguarded, ownership: FakeOwnershipStore, handover: FakeHandover, changed: dict[str, object]
) -> None:
    await groups.fence(ORDER)
    moved = record(ownership).model_copy(update=changed)
    ownership.records["shop"] = (moved, "9")
    with pytest.raises(Refused):
        await groups.promote(ORDER)
    assert record(ownership) == moved and handover.done == []


async def test_a_fence_is_taken_back_only_before_the_pivot(groups: Unguarded, ownership: FakeOwnershipStore) -> None:
    await groups.fence(ORDER)
    pivot = Pivot(run_id="run-1", step="promote-postgres", at=NOW)
    pivoted = record(ownership).model_copy(update={"phase": Phase.PIVOTED, "pivot": pivot})
    before = record(ownership)
    ownership.records["shop"] = (pivoted, "5")
    ownership.writes = 5
    with pytest.raises(Refused):
        await groups.unfence(ORDER)
    ownership.records["shop"] = (before, "5")
    after = await groups.unfence(ORDER)
    assert (after.fence, after.fencing, after.epoch) == (None, None, 4)
    assert await groups.unfence(ORDER) == after, "there is nothing left to take back"


async def test_a_second_primary_is_named(groups: Unguarded, handover: FakeHandover) -> None:
    handover.states["c"] = [state(StoreRole.PRIMARY)]
    with pytest.raises(Refused, match="switch it off"):
        await groups.follow("c", ORDER)
    assert (await groups.follow("b", ORDER)).role is StoreRole.STANDBY
    with pytest.raises(NotFound):
        await groups.follow("b", ORDER.model_copy(update={"store": "redis"}))


async def test_only_postgres_is_promoted_without_a_guard(groups: Unguarded) -> None:
    await groups.fence(ORDER)
    with pytest.raises(Refused, match="only a guard"):
        await groups.promote(ORDER.model_copy(update={"store": "redis"}))


# A manager of the database that fences it.


class Manager:
    """``recovery.ports.promotion.PostgresPromotion``."""

    def __init__(self, fenced: Fenced | None) -> None:
        self.fenced = fenced

    async def fence(self, group: GroupSnapshot, source: str, target: str) -> Fenced | None:
        return self.fenced

    async def unfence(self, group: GroupSnapshot, source: str) -> None:
        raise Unreachable("no member answered")

    async def promote(self, group: GroupSnapshot, region: str, epoch: int) -> Promotion:
        raise AssertionError("nothing is promoted here")


@pytest.mark.parametrize(
    ("role", "hands_over", "positions"),
    [
        (StoreRole.STANDBY, False, {"postgres": "0/4000000"}),
        (StoreRole.STANDBY, True, {}),  # what it is now is not where it will end
        (StoreRole.PRIMARY, False, {}),
    ],
)
async def test_where_a_fenced_side_ended_is_part_of_the_proof(
    ownership: FakeOwnershipStore, role: StoreRole, hands_over: bool, positions: dict[str, str]
) -> None:
    handover = FakeHandover(states={"a": [state(role)], "b": [state(StoreRole.STANDBY)]})
    manager = Manager(Fenced("it follows", hands_over=hands_over))
    groups = Unguarded(ownership, handover, lambda name: group_of("a", "b", guarded=False), lambda group: manager)
    proof = await groups.fence(ORDER)
    assert (proof.how, proof.reason, proof.hands_over, proof.positions) == (
        "managed", "it follows", hands_over, positions,
    )  # fmt: skip


async def test_a_fenced_side_that_does_not_say_where_it_ended_is_fenced_nevertheless(
    ownership: FakeOwnershipStore,
) -> None:
    groups = Unguarded(
        ownership, FakeHandover(states={}), lambda name: group_of("a", "b", guarded=False),
        lambda group: Manager(Fenced("it follows")),
    )  # fmt: skip
    assert (await groups.fence(ORDER)).positions == {}
