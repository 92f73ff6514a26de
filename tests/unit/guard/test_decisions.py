"""What a guard refuses, one reason at a time: each of these records would pass but for that reason."""

from __future__ import annotations

import asyncio
import math
from types import SimpleNamespace
from typing import Any, cast

import pytest

from recovery.domain.ownership import AcknowledgingSet, Demotion, FenceProof, FenceRequest, OwnershipRecord, Phase
from recovery.domain.ownership import RegionLease as Lease
from recovery.guard import decisions
from recovery.guard.decisions import Break, Evidence, Refusal, Settled, Wait, Write
from recovery.guard.lease import Held, Watched, may_take
from recovery.guard.promises import Given, may_promise
from recovery.guard.receiving import against_following, against_stopping
from recovery.guard.record import Record
from recovery.guard.standing import Guarding, Standing
from recovery.ports.guard import GuardedGroup
from tests.fakes.ownership import FakeOwnershipStore
from tests.unit.guard.test_lease import AT, NEVER, fenced_record, holding, order, record

ASKED = FenceRequest(epoch=3, target="B", run="r", at=AT)
PROMISED = NEVER.give("shop", "A/1", 5.0, 100.0)  # until well after 105, by the clock of these tests


def lease(**changed: Any) -> Lease:
    return Lease(**{"region": "A", "instance": "A/1", "serial": 4, "ttl": 5.0, "changed_at": AT, **changed})


def seen(*, returned: float = 10.0, **changed: Any) -> Watched:
    return Watched("A").read((lease(**changed), "v4"), began=returned, returned=returned)


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (None, "no ownership record"),
        (record(region="B"), "belongs to B"),
        (record(guard="A/0"), "guard instance A/0"),
        (record(fencing=ASKED), "asks for the fence"),
    ],
)
def test_a_primary_ends_for_each_thing_that_the_record_says(found: OwnershipRecord | None, why: str) -> None:
    assert decisions.must_demote(record(), "A", holding(), 101.0, read_began=100.6) is None
    assert why in str(decisions.must_demote(found, "A", holding(), 101.0, read_began=100.6))


def test_a_primary_ends_with_its_lease() -> None:
    assert decisions.must_demote(record(), "A", holding(), 105.0, read_began=100.6) == "the lease ended"


@pytest.mark.parametrize(
    ("found", "now", "given", "expected"),
    [
        (record(guard="A/0", region="B"), 101.0, NEVER, Refusal),
        (record(guard="A/0", fencing=ASKED), 101.0, NEVER, Refusal),
        (record(guard="A/0"), 105.0, NEVER, Refusal),
        (record(guard="A/0"), 101.0, PROMISED, Wait),
    ],
    ids=["another owner", "a fence", "no lease", "a promise"],
)
def test_what_keeps_a_guard_from_adopting(found: OwnershipRecord, now: float, given: Given, expected: type) -> None:
    def adopted(found: OwnershipRecord, now: float, given: Given) -> object:
        return decisions.adoption(found, "A", holding(), now, given, AT, anew=False)

    assert isinstance(adopted(record(guard="A/0"), 101.0, NEVER), Write)
    assert isinstance(adopted(found, now, given), expected)


def test_a_demotion_is_confirmed_once_and_to_who_asks_for_it() -> None:
    def confirmed(found: OwnershipRecord, region: str = "A") -> object:
        return decisions.demotion(found, region, "A/1", AT, {"postgres": "0/9"}, planned=False)

    asked = record(fencing=ASKED)
    assert isinstance(confirmed(asked), Write)
    assert isinstance(confirmed(record()), Refusal)
    assert isinstance(confirmed(asked, "B"), Refusal)
    done = Demotion(epoch=3, region="A", instance="A/1", at=AT, positions={"postgres": "0/1"})
    there = asked.model_copy(update={"demotion": done})
    assert confirmed(there) == Settled(there), "where it ended is written once"
    former = asked.model_copy(update={"demotion": done.model_copy(update={"epoch": 2})})
    assert isinstance(confirmed(former), Write)


def fence(found: OwnershipRecord, watched: Watched, **about: Any) -> decisions.FenceStep:
    usual: dict[str, Any] = {"fencing_seen": 1.0, "given": NEVER, "now": 101.0, "margin": 1.0, "holds_lease": True}
    asked = about.pop("order", order())
    return decisions.fence_step(
        found, asked, "B", watched=watched, evidence=Evidence("B/1", AT), **{**usual, **about}
    )  # fmt: skip


def test_a_proof_needs_more_than_a_lease_that_was_seen_broken() -> None:
    asked, over = record(fencing=ASKED), seen(broken_by="B/1")
    assert isinstance(fence(asked, over), Write)
    assert isinstance(fence(asked, over, holds_lease=False), Wait), "who holds none knows no promises"
    assert isinstance(fence(asked, over, given=PROMISED), Wait)
    former = seen(broken_by="B/1", instance="A/0")
    assert isinstance(fence(asked, former, fencing_seen=11.0), Wait), "a newer instance may hold another lease by now"
    assert isinstance(fence(asked, over, fencing_seen=11.0), Write), "the record's own guard holds no other"


def test_a_lease_is_broken_when_its_time_is_over_and_nothing_was_promised() -> None:
    asked = record(fencing=ASKED)
    assert isinstance(fence(asked, seen()), Break)
    assert isinstance(fence(asked, seen(returned=100.0)), Wait)
    assert isinstance(fence(asked, seen(), given=PROMISED), Wait)
    assert isinstance(fence(asked, seen(), holds_lease=False), Wait)


def test_a_demotion_of_an_earlier_epoch_is_no_proof_of_this_one() -> None:
    former = Demotion(epoch=2, region="A", instance="A/1", at=AT)
    assert isinstance(fence(record(fencing=ASKED, demotion=former), seen(returned=100.0)), Wait)


@pytest.mark.parametrize(
    "changed",
    [{"group": "other"}, {"target": "C"}, {"run": "other"}, {"epoch": 2}, {"epoch": 4}, {"source": "C"}],
    ids=lambda changed: next(iter(changed)),
)
def test_an_order_fits_its_record_in_every_word(changed: dict[str, Any]) -> None:
    assert isinstance(fence(record(), seen()), Write)
    assert isinstance(fence(record(), seen(), order=order(**changed)), Refusal)


def test_another_target_proves_again_what_the_acknowledging_set_says() -> None:
    found = fenced_record().model_copy(update={"acknowledging": AcknowledgingSet(members=["b", "c"])})
    for target, kept in (("B", True), ("C", False)):
        asked = order(target=target, run="r2")
        step = decisions.fence_step(
            found.model_copy(update={"run": "r2"}), asked, target, watched=seen(), fencing_seen=1.0, given=NEVER,
            now=101.0, margin=1.0, evidence=Evidence(f"{target}/1", AT),
        )  # fmt: skip
        assert isinstance(step, Write) and (step.record.fence is not None) is kept


def proof(**changed: Any) -> FenceProof:
    usual = {"epoch": 3, "region": "A", "how": "lease-broken", "by": "B/1", "at": AT, "run": "r"}
    return FenceProof.model_validate({**usual, **changed})


@pytest.mark.parametrize(
    "changed",
    [
        {"fencing": None},
        {"fencing": ASKED.model_copy(update={"target": "C"})},
        {"fencing": ASKED.model_copy(update={"run": "other"})},
        {"fence": None},
        {"fence": proof(epoch=2)},
        {"run": "other"},
        {"epoch": 4},
        {"region": "C"},
    ],
    ids=["no request", "for another target", "of another run", "no proof", "an old proof", "lock", "epoch", "owner"],
)
def test_what_keeps_a_target_from_taking_the_group(changed: dict[str, Any]) -> None:
    mine = holding("B")
    assert isinstance(decisions.promotion(fenced_record(), order(), "B", mine, 101.0, NEVER, AT), Write)
    found = fenced_record().model_copy(update=changed)
    assert isinstance(decisions.promotion(found, order(), "B", mine, 101.0, NEVER, AT), Refusal)


def test_a_target_that_has_the_group_has_it_for_its_own_run_and_while_nobody_fences_it() -> None:
    mine, taken = holding("B"), record(region="B", guard="B/1", epoch=4)
    assert decisions.promotion(taken, order(), "B", mine, 101.0, NEVER, AT) == Settled(taken)
    for changed in ({"run": "other"}, {"fencing": ASKED.model_copy(update={"epoch": 4, "target": "A"})}):
        found = taken.model_copy(update=changed)
        assert isinstance(decisions.promotion(found, order(), "B", mine, 101.0, NEVER, AT), Refusal)


def test_a_confirmed_demotion_waits_for_no_promise_and_a_broken_lease_does() -> None:
    mine = holding("B")
    assert isinstance(decisions.promotion(fenced_record(), order(), "B", mine, 101.0, PROMISED, AT), Wait)
    confirmed = fenced_record().model_copy(update={"fence": proof(how="demotion-confirmed")})
    assert isinstance(decisions.promotion(confirmed, order(), "B", mine, 101.0, PROMISED, AT), Write)


@pytest.mark.parametrize(
    "changed", [{"run": "other"}, {"region": "B"}, {"phase": Phase.PIVOTED}], ids=["lock", "owner", "pivot"]
)
def test_a_fence_is_taken_back_by_its_run_before_anything_was_promoted(changed: dict[str, Any]) -> None:
    assert isinstance(decisions.unfence(fenced_record(), order(), AT), Write)
    assert isinstance(decisions.unfence(fenced_record().model_copy(update=changed), order(), AT), Refusal)
    back = record(epoch=4)
    assert decisions.unfence(back, order(), AT) == Settled(back), "a second attempt begins no further epoch"


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"ttl": 5.1}, "longer"),
        ({"watched": seen(broken_by="B/1")}, "has ended"),
        ({"watched": seen(released=True)}, "has ended"),
        ({"watched": seen(instance="A/2")}, "has ended"),
        ({"record": record(region="B")}, "being taken over"),
        ({"record": record(fencing=ASKED)}, "being taken over"),
    ],
    ids=["ttl", "broken", "given back", "another instance", "ours", "being fenced"],
)
def test_what_is_not_promised(changed: dict[str, Any], why: str) -> None:
    usual: dict[str, Any] = {
        "group": "shop", "epoch": 3, "holder": "A/1", "ttl": 5.0, "region": "B", "record": record(),
        "watched": seen(), "taking_over": False,
    }  # fmt: skip
    assert may_promise(NEVER, **usual) is None
    assert why in str(may_promise(NEVER, **{**usual, **changed}))


def test_a_lease_is_taken_over_and_broken_only_as_it_was_watched() -> None:
    assert may_take((lease(), "v4"), seen(), 101.0, 1.0) is None
    assert may_take((lease(), "v9"), seen(), 101.0, 1.0) is not None, "it was renewed since"
    assert not seen(broken_by="B/1").may_break(101.0, 1.0)
    for nothing in (Watched("A"), seen(broken_by="B/1"), seen(released=True)):
        with pytest.raises(ValueError, match="no lease of A to break"):
            nothing.breaking("B/1", AT)


def test_a_lease_that_was_given_back_is_held_no_more_whatever_is_confirmed_later() -> None:
    held, pending = holding().renewal(101.0, AT)
    back, _ = held.renewal(102.0, AT, released=True)
    for late in (back.confirmed(pending.serial, "v2", 102.5), back.seen((pending, "v2"), 102.5)):
        assert late == back and not late.valid(102.5)


def test_a_standby_receives_from_an_owner_that_nobody_fences() -> None:
    assert against_following(record(), "B") is None
    assert "follow nobody" in str(against_following(record(), "A"))
    assert "nobody begins to follow" in str(against_following(record(fencing=ASKED), "B"))


@pytest.mark.parametrize(
    ("found", "asked", "region"),
    [
        (record(fencing=ASKED), order(), "A"),
        (record(), order(), "B"),
        (record(fencing=ASKED), order(run="other"), "B"),
        (record(fencing=ASKED), order(target="C"), "B"),
        (record(fencing=ASKED, epoch=4), order(), "B"),
    ],
    ids=["owner", "no request", "run", "target", "epoch"],
)
def test_a_standby_is_stopped_by_the_request_that_stands_in_the_record(
    found: OwnershipRecord, asked: Any, region: str
) -> None:
    assert against_stopping(record(fencing=ASKED), order(), "B") is None
    assert against_stopping(found, asked, region) is not None


def standing() -> Standing:
    """Of a group that may be primary here."""
    shared = SimpleNamespace(
        region="A", holding=SimpleNamespace(held=holding()), records=FakeOwnershipStore(), clock=lambda: 101.0,
        deadlines=SimpleNamespace(disarm=lambda name: None),
    )  # fmt: skip
    found = Standing(GuardedGroup("shop", "A", []), cast(Guarding, shared))
    found.record.record, found.record.began = record(), 100.6
    return found


@pytest.mark.parametrize("change", ["stopping", "demoting", "anew"])
def test_nothing_is_promoted_while_the_guard_ends_the_group_or_after_it(change: str) -> None:
    group = standing()
    assert group.against_promotion() is None
    setattr(group, change, True)
    assert group.against_promotion() is not None and group.against() is None


def test_a_store_at_rest_follows_the_owner_and_nobody_while_it_is_fenced() -> None:
    group = standing()
    group.group.upstreams["postgres"] = {"A": cast(Any, "here"), "B": cast(Any, "there")}
    assert group.upstream_of("postgres") is None, "it is the owner's own"
    group.record.record = record(region="B")
    assert cast(Any, group.upstream_of("postgres")) == "there"
    group.record.record = record(region="B", fencing=ASKED)
    assert group.upstream_of("postgres") is None


def test_a_takeover_is_over_when_a_later_reading_tells_of_no_fence() -> None:
    group = standing()
    for began, found, over in ((100.0, record(), False), (102.0, fenced_record(), False), (102.0, record(), True)):
        group.taking_over_since, group.record.began, group.record.record = 101.0, began, found
        group._learned()
        assert group.taking_over is not over


async def test_a_reading_that_was_overtaken_teaches_nothing() -> None:
    """What it met may be what was there before our own write."""
    times = iter([1.0, 2.0, 3.0])
    store, go_on = FakeOwnershipStore(), asyncio.Event()
    store.records["shop"] = (record(), "0")
    known = Record("shop", store, lambda: next(times))
    read = store.read

    async def late(group: str) -> tuple[OwnershipRecord, str] | None:
        found = await read(group)
        await go_on.wait()
        return found

    store.read = late  # type: ignore[method-assign]
    reading = asyncio.create_task(known.read())
    await asyncio.sleep(0)
    store.read = read  # type: ignore[method-assign]
    await known.read()
    assert await known.write(record(epoch=9), over=known.record)
    go_on.set()
    await reading
    assert known.record is not None and known.record.epoch == 9 and known.began > 1.0


def test_a_deadline_is_the_leases_where_the_promises_are_of_another_time() -> None:
    """The companion is told it: a promise of an earlier epoch keeps nothing primary."""
    group, later = standing(), 200.0
    held: Held = group.shared.holding.held

    def promised(epoch: int, instance: str) -> float:
        group.received = cast(
            Any, SimpleNamespace(epoch=epoch, instance=instance, deadline=lambda _: later, until=later)
        )
        return group.deadline()

    assert promised(3, "A/1") == later
    assert promised(2, "A/1") == held.deadline == 105.0
    assert promised(3, "A/0") == held.deadline
    group.received = None
    group.shared.holding.held = held.seen((lease(broken_by="B/1"), "vX"), 101.0)
    assert group.deadline() == -math.inf
