"""The lease, the promises and the decisions, one rule at a time; tests/model/test_model.py has them together."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import pytest

from recovery.domain.guarding import GuardOrder
from recovery.domain.ownership import (
    AcknowledgingSet,
    FenceProof,
    FenceRequest,
    OwnershipRecord,
    Phase,
    RegionLease,
)
from recovery.guard import decisions, notes
from recovery.guard.decisions import Evidence, Refusal, Settled, Wait, Write
from recovery.guard.lease import Held, Watched, least_margin, may_take
from recovery.guard.promises import Given, Received, may_promise

AT = datetime(2026, 1, 1, tzinfo=UTC)
NEVER = Given(-math.inf, 5.0, 1.0)


def holding(region: str = "A", now: float = 100.0) -> Held:
    held, lease = Held.take(region, f"{region}/1", 5.0, None).renewal(now, AT)
    return held.confirmed(lease.serial, "v1", now + 0.5)


def record(**changed: object) -> OwnershipRecord:
    return OwnershipRecord(
        **{"group": "shop", "epoch": 3, "region": "A", "guard": "A/1", "run": "r", "changed_at": AT, **changed}
    )


def order(**changed: object) -> GuardOrder:
    usual = {"group": "shop", "run": "r", "epoch": 3, "source": "A", "target": "B", "effect_id": "e"}
    return GuardOrder(**{**usual, **changed})


def test_a_renewal_counts_from_before_it_was_sent_whenever_it_is_confirmed() -> None:
    held, lease = Held.take("A", "A/1", 5.0, None).renewal(100.0, AT)
    assert not held.valid(100.0)
    held = held.confirmed(lease.serial, "v1", 103.0)
    assert held.deadline == 105.0
    assert held.valid(104.9) and not held.valid(105.0)


def test_an_unknown_outcome_is_settled_by_reading_and_its_serial_is_never_used_again() -> None:
    held = holding()
    held, lost = held.renewal(101.0, AT)
    held, second = held.renewal(102.0, AT)
    assert second.serial > lost.serial
    held = held.seen((lost, "v2"), 103.0)
    assert (held.deadline, held.version) == (106.0, "v2")
    held = held.seen((second, "v3"), 104.0)
    assert held.deadline == 107.0


def test_a_broken_or_replaced_lease_is_lost_for_good() -> None:
    held = holding()
    stands = RegionLease(region="A", instance="A/1", serial=1, ttl=5.0, changed_at=AT)
    for found in (stands.model_copy(update={"broken_by": "B/1"}), stands.model_copy(update={"instance": "A/2"})):
        lost = held.seen((found, "vX"), 101.0)
        assert not lost.valid(101.0) and lost.left(101.0) == 0
        with pytest.raises(ValueError, match="renews no more"):
            lost.renewal(102.0, AT)
        assert lost.confirmed(1, "v1", 101.0).lost == lost.lost
    with pytest.raises(ValueError, match="never used"):
        Held.take("A", "A/1", 5.0, (stands, "v1"))


def test_a_gap_is_remembered_so_that_records_from_before_it_do_not_count() -> None:
    held, lease = holding().renewal(110.0, AT)
    held = held.confirmed(lease.serial, "v2", 110.5)
    assert held.valid_from == 110.5
    assert decisions.may_be_primary(record(), "A", held, 111.0, read_began=110.6)
    assert "gap" in str(decisions.must_demote(record(), "A", held, 111.0, read_began=110.4))


def test_a_watcher_counts_from_after_its_first_reading_of_what_stands() -> None:
    lease = RegionLease(region="A", instance="A/1", serial=4, ttl=5.0, changed_at=AT)
    watched = Watched("A").read((lease, "v4"), began=10.0, returned=12.0).read((lease, "v4"), began=13.0, returned=14.0)
    assert watched.unchanged_for(15.0) == 3.0
    assert not watched.may_break(12.0 + 5.0 + 1.1, 1.0), "the configured margin is smaller than two clocks allow"
    assert watched.may_break(12.0 + 5.0 + least_margin(5.0), 1.0)
    assert watched.read((lease, "v3"), began=9.0, returned=20.0) == watched, "a reading that was overtaken"
    renewed = watched.read((lease.model_copy(update={"serial": 5}), "v5"), began=15.0, returned=16.0)
    assert renewed.unchanged_for(17.0) == 1.0


def test_what_a_restarted_witness_says_is_no_renewal() -> None:
    """Killed in its midst, it may know no lease for a moment, or an older one: the holder is as silent as before."""
    lease = RegionLease(region="A", instance="A/1", serial=4, ttl=5.0, changed_at=AT)
    older = lease.model_copy(update={"serial": 3})
    watched = Watched("A")
    assert watched.silent_for(9.0) is None
    watched = watched.read((lease, "v4"), began=10.0, returned=10.0)
    gone = watched.read(None, began=30.0, returned=30.0)
    for forgetful in (
        gone,
        gone.read((lease, "v4"), began=31.0, returned=31.0),
        gone.read((older, "v3"), began=31.0, returned=31.0),
    ):
        assert forgetful.silent_for(32.0) == 22.0
        assert forgetful.unchanged_for(32.0) < 2.0, "a lease is broken only after it was watched anew"
    broken = lease.model_copy(update={"broken_by": "B/1"})
    assert watched.read((broken, "v4b"), began=31.0, returned=31.0).silent_for(32.0) == 22.0
    later = lease.model_copy(update={"serial": 5, "changed_at": AT + timedelta(seconds=21)})
    assert gone.read((later, "v5"), began=31.0, returned=31.0).silent_for(32.0) == 1.0
    taken = gone.read((lease.model_copy(update={"instance": "A/2"}), "v6"), began=31.0, returned=31.0)
    assert taken.silent_for(32.0) == 1.0


@pytest.mark.parametrize(
    ("stamp", "silent"),
    [
        (1.0, 24.0),  # it was made a second after the last one, and a restarted witness tells of it only now
        (60.0, 2.0),  # the holder's clock was put forward: it was made before it was read
        (-60.0, 22.0),  # put back: it was not there yet at the last good read
    ],
)
def test_a_renewal_that_is_seen_late_is_dated_by_its_holders_stamps(stamp: float, silent: float) -> None:
    lease = RegionLease(region="A", instance="A/1", serial=4, ttl=5.0, changed_at=AT)
    watched = Watched("A").read((lease, "v4"), began=9.0, returned=10.0)
    late = lease.model_copy(update={"serial": 5, "changed_at": AT + timedelta(seconds=stamp)})
    known = watched.read((lease, "v4"), began=13.0, returned=13.0) if stamp < 0 else watched
    assert known.read((late, "v5"), began=32.0, returned=33.0).silent_for(35.0) == silent


def test_a_lease_is_taken_over_only_when_its_holder_cannot_be_at_work() -> None:
    lease = RegionLease(region="A", instance="A/1", serial=4, ttl=5.0, changed_at=AT)
    watched = Watched("A").read((lease, "v4"), began=10.0, returned=10.0)
    assert "may still hold" in str(may_take((lease, "v4"), watched, 11.0, 1.2))
    assert may_take((lease, "v4"), watched, 17.0, 1.2) is None
    assert may_take((lease, "v4"), watched, 11.0, 1.2, dead=("A/1",)) is None
    assert may_take((lease.model_copy(update={"released": True}), "v5"), watched, 11.0, 1.2) is None
    assert may_take(None, watched, 11.0, 1.2) is None


def test_all_have_to_promise_and_a_promise_counts_from_the_question() -> None:
    held = holding()
    one = Received("shop", 3, "A/1").promised("B", sent=103.0, now=104.0, held=held, peers=["B", "C"])
    assert one.deadline(held) == 105.0
    both = one.promised("C", sent=103.5, now=104.5, held=held, peers=["B", "C"])
    assert both.deadline(held) == 108.0
    assert decisions.may_be_primary(record(), "A", held, 107.9, read_began=102.0, received=both)
    assert not decisions.may_be_primary(record(epoch=4), "A", held, 107.9, read_began=102.0, received=both)
    late = both.promised("B", sent=108.0, now=108.5, held=held, peers=["B"])
    assert not late.valid(108.5, held), "what ended is not revived"


def test_a_promise_binds_longer_than_it_is_counted_and_is_remembered_as_a_silence_after_a_restart() -> None:
    given = Given(0.0, 5.0, 1.0)
    assert given.quarantined(1.0) > 5.0 and given.binds_lease("A/1", 1.0) > 0
    given = given.give("shop", "A/1", 5.0, 50.0)
    assert given.binds_lease("A/1", 55.9) > 0 and given.binds_primary("shop", 55.9) > 0
    assert given.binds_lease("A/1", 57.0) == 0 == given.binds_proof("shop", 57.0)
    with pytest.raises(ValueError, match="longer"):
        given.give("shop", "A/1", 6.0, 60.0)


def test_nothing_is_promised_once_a_takeover_may_be_under_way() -> None:
    lease = RegionLease(region="A", instance="A/1", serial=4, ttl=5.0, changed_at=AT)
    watched = Watched("A").read((lease, "v4"), began=1.0, returned=1.0)

    def against(watched: Watched = watched, known: OwnershipRecord | None = None, taking: bool = False) -> str | None:
        return may_promise(
            NEVER, group="shop", epoch=3, holder="A/1", ttl=5.0, region="B", record=known, watched=watched,
            taking_over=taking,
        )  # fmt: skip

    assert against() is None
    assert "break" in str(against(watched.breaking("B/1", AT)[0]))
    assert "takes" in str(against(taking=True))
    assert "epoch 4" in str(against(known=record(epoch=4)))


def test_a_fence_goes_from_the_request_to_a_proof_and_a_late_attempt_changes_nothing() -> None:
    evidence, watched = Evidence("B/1", AT), Watched("A")

    def step(found: OwnershipRecord, asked: GuardOrder | None = None) -> decisions.FenceStep:
        return decisions.fence_step(
            found, asked or order(), "B", watched=watched, fencing_seen=1.0, given=NEVER, now=9.0, margin=1.0,
            evidence=evidence,
        )  # fmt: skip

    first = step(record())
    assert isinstance(first, Write) and first.record.fencing is not None
    assert isinstance(step(first.record), Wait)
    ended = decisions.demotion(first.record, "A", "A/1", AT, {"postgres": "0/1"}, planned=False)
    assert isinstance(ended, Write)
    proven = step(ended.record)
    assert isinstance(proven, Write) and proven.record.fence is not None
    assert (proven.record.fence.how, proven.record.fence.positions) == ("demotion-confirmed", {"postgres": "0/1"})
    assert step(proven.record) == Settled(proven.record)
    for wrong in (order(epoch=2), order(run="other"), order(source="C"), order(target="C")):
        assert isinstance(step(record(), wrong), Refusal)

    taken_back = decisions.unfence(proven.record, order(), AT)
    assert isinstance(taken_back, Write)
    assert (taken_back.record.fencing, taken_back.record.fence, taken_back.record.epoch) == (None, None, 4)
    assert isinstance(step(taken_back.record), Refusal)
    assert isinstance(
        decisions.unfence(proven.record.model_copy(update={"phase": Phase.PIVOTED}), order(), AT), Refusal
    )


def test_a_broken_lease_proves_until_when_its_holder_can_have_served() -> None:
    """An operator may come hours later: what counts is when the lease was renewed last, or a promise bound."""
    lease = RegionLease(region="A", instance="A/1", serial=4, ttl=5.0, changed_at=AT)
    seen = Watched("A").read((lease, "v4"), began=9.9, returned=10.0)
    broken, written = seen.breaking("B/1", AT)
    broken = broken.read((written, "v5"), began=3609.9, returned=3610.0)
    asked = record(fencing=FenceRequest(epoch=3, target="B", run=order().run, planned=False, at=AT))

    def served_until(watched: Watched, given: Given) -> float:
        step = decisions.fence_step(
            asked, order(), "B", watched=watched, fencing_seen=1.0, given=given, now=3611.0, margin=2.0,
            evidence=Evidence("B/1", AT),
        )  # fmt: skip
        assert isinstance(step, Write) and step.record.fence is not None
        return 3611.0 - (AT - step.record.fence.last_write_by).total_seconds()

    assert served_until(broken, NEVER) == pytest.approx(10.1 + 5.0 + 2.0), "ttl and margin after the last renewal"
    first_seen = Watched("A").read((written, "v5"), began=3609.9, returned=3610.0)
    assert served_until(first_seen, NEVER) == pytest.approx(3611.0), "it was never seen alive: nothing earlier is known"
    unseen = seen.read((written.model_copy(update={"serial": 90}), "v91"), began=3609.9, returned=3610.0)
    assert served_until(unseen, NEVER) == pytest.approx(3611.0), "it was renewed while this guard did not see it"
    promised = NEVER.give("shop", "A/1", 5.0, 100.0).give("other", "A/1", 5.0, 3000.0)
    assert served_until(broken, promised) == pytest.approx(106.1, abs=0.1), "the witness was away, and it went on"
    assert served_until(broken, Given(3600.0, 5.0, 2.0)) == pytest.approx(3607.0, abs=0.2), (
        "it may have promised before"
    )


def fenced_record() -> OwnershipRecord:
    asked = FenceRequest(epoch=3, target="B", run=order().run, planned=False, at=AT)
    proof = FenceProof(epoch=3, region="A", how="lease-broken", by="B/1", at=AT, run=order().run)
    return record(fencing=asked, fence=proof)


def test_a_promotion_needs_the_proof_of_this_epoch_and_an_own_lease_and_forgets_the_old_set() -> None:
    fenced = fenced_record().model_copy(update={"acknowledging": AcknowledgingSet(members=["b"])})
    mine = holding("B")
    taken = decisions.promotion(fenced, order(), "B", mine, 101.0, NEVER, AT)
    assert isinstance(taken, Write)
    new = taken.record
    assert (new.region, new.epoch, new.guard, new.fencing, new.acknowledging) == ("B", 4, "B/1", None, None)
    assert decisions.promotion(new, order(), "B", mine, 102.0, NEVER, AT) == Settled(new)
    assert isinstance(decisions.promotion(fenced, order(), "B", mine, 106.0, NEVER, AT), Refusal), "no lease"
    assert isinstance(decisions.promotion(record(), order(), "B", mine, 101.0, NEVER, AT), Refusal), "no proof"
    promised = Given(-math.inf, 5.0, 1.0).give("shop", "A/1", 5.0, 100.0)
    assert isinstance(decisions.promotion(fenced, order(), "B", mine, 101.0, promised, AT), Wait)


def test_the_owners_guard_adopts_with_a_new_epoch_but_never_while_a_fence_is_asked_for() -> None:
    held = holding()
    again = decisions.adoption(record(guard="A/0"), "A", held, 101.0, NEVER, AT, anew=False)
    assert isinstance(again, Write) and (again.record.guard, again.record.epoch) == ("A/1", 4)
    assert isinstance(decisions.adoption(record(), "A", held, 101.0, NEVER, AT, anew=False), Settled)
    assert isinstance(decisions.adoption(fenced_record(), "A", held, 101.0, NEVER, AT, anew=True), Refusal)
    assert isinstance(notes.claim(fenced_record(), "A", "A/1", None, AT), Refusal)
