"""The group's lock against lost answers, writers that come between, repetition, and runs that forgot what they did."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.ownership import Ownership
from recovery.domain.group import GroupSnapshot, Objectives, RegionPlan
from recovery.domain.ownership import OwnershipRecord, Phase, Pivot
from recovery.domain.plan import Facts, PlanContext, PlanRequest, StepOutcome
from recovery.errors import Unreachable
from tests.fakes.ownership import FakeOwnershipStore

NOW = datetime(2026, 11, 22, 5, 0, tzinfo=UTC)
GROUP = GroupSnapshot(
    name="shop",
    objectives=Objectives(tier="critical", rto=timedelta(minutes=15), rpo=timedelta(minutes=5)),
    home_region="region-a",
    regions=[RegionPlan(name="region-a", task_queue="a"), RegionPlan(name="region-b", task_queue="b")],
)
STEADY = OwnershipRecord(group="shop", region="region-a", epoch=3, changed_at=NOW)
MINE = STEADY.model_copy(
    update={"phase": Phase.RUNNING, "run": "run-1", "workflow_id": "recover", "plan": "FullRecovery"}
)
TAKEN = MINE.model_copy(update={"region": "region-b", "epoch": 4})
PIVOT = Pivot(run_id="run-1", step="open-writes", at=NOW)
PIVOTED = TAKEN.model_copy(update={"phase": Phase.PIVOTED, "pivot": PIVOT})
MOVED = STEADY.model_copy(update={"region": "region-b", "epoch": 4})  # as it stands after a completed run
THEIRS = MINE.model_copy(update={"run": "run-9", "workflow_id": "other"})
THEY_TOOK = THEIRS.model_copy(update={"region": "region-b", "epoch": 4})

Method = Callable[[Ownership, PlanContext], Awaitable[StepOutcome]]


class Crowded(FakeOwnershipStore):
    """Another writer comes between a read and the next write, so many times."""

    def __init__(self, writers: int = 0) -> None:
        super().__init__()
        self.writers = writers

    async def write(self, record: OwnershipRecord, *, version: str | None) -> str:
        if self.writers and record.group in self.records:
            self.writers -= 1
            current, _ = self.records[record.group]
            self.writes += 1
            self.records[record.group] = (current.model_copy(update={"reason": "renewed"}), str(self.writes))
        return await super().write(record, version=version)


def context(**changes: object) -> PlanContext:
    facts = Facts(group=GROUP, target_region="region-b", ownership_before=STEADY, ownership=MINE)
    values: dict[str, object] = {
        "plan": "FullRecovery", "run_id": "run-1", "first_run_id": "run-1", "workflow_id": "recover",
        "step": "open-writes", "request": PlanRequest(group="shop"), "facts": facts, "started_at": NOW, **changes,
    }  # fmt: skip
    return PlanContext.model_validate(values)


def reset() -> PlanContext:
    """The same run after ``temporal workflow reset``: another run id, the same first run."""
    return context(run_id="run-1b")


def never_claimed() -> PlanContext:
    return context(facts=Facts(group=GROUP), run_id="run-2", first_run_id="run-2", workflow_id="second")


def store_with(record: OwnershipRecord | None, writers: int = 0) -> Crowded:
    store = Crowded(writers)
    if record is not None:
        store.records["shop"] = (record, "0")
    return store


ENDED: set[str] = set()


async def has_ended(workflow_id: str, holder: str) -> bool:
    return holder in ENDED


async def call(method: Method, store: FakeOwnershipStore, given: PlanContext | None = None) -> StepOutcome:
    outcome = await ActivityEnvironment().run(method, Ownership(store, has_ended), given or context())
    assert isinstance(outcome, StepOutcome)
    return outcome


async def refusal(method: Method, store: FakeOwnershipStore, given: PlanContext | None = None) -> str:
    before = dict(store.records)
    with pytest.raises(ApplicationError) as caught:
        await call(method, store, given)
    assert caught.value.type == "Refused" and caught.value.non_retryable
    assert store.records == before, "a refusal changes nothing"
    return caught.value.message


def without_time(store: FakeOwnershipStore) -> OwnershipRecord | None:
    found = store.records.get("shop")
    if found is None:
        return None
    record = found[0].model_copy(update={"changed_at": NOW, "reason": ""})
    return record if record.pivot is None else record.model_copy(update={"pivot": PIVOT})


CHANGES: list[tuple[str, Method, OwnershipRecord | None, OwnershipRecord | None]] = [
    ("the first claim ever", Ownership.claim_run, None, MINE.model_copy(update={"epoch": 1})),
    ("a claim", Ownership.claim_run, STEADY, MINE),
    ("taking ownership", Ownership.take_ownership, MINE, TAKEN),
    ("returning ownership", Ownership.return_ownership, TAKEN, MINE.model_copy(update={"epoch": 5})),
    ("returning what was never taken", Ownership.return_ownership, MINE, MINE),
    ("returning what another run took", Ownership.return_ownership, THEY_TOOK, THEY_TOOK),
    ("recording the pivot", Ownership.record_pivot, TAKEN, PIVOTED),
    ("withdrawing the pivot", Ownership.withdraw_pivot, PIVOTED, TAKEN),
    ("releasing", Ownership.release_run, MINE, STEADY),
    ("releasing after a pivot", Ownership.release_run, PIVOTED, MOVED),
    ("releasing after a stop", Ownership.release_after_stop, PIVOTED, MOVED),
    ("releasing what another run holds", Ownership.release_run, THEIRS, THEIRS),
]  # fmt: skip
each_change = pytest.mark.parametrize(
    ("method", "before", "after"), [row[1:] for row in CHANGES], ids=[row[0] for row in CHANGES]
)


@each_change
async def test_a_change_made_twice_is_made_once(method: Method, before, after):
    store = store_with(before)
    await call(method, store)
    assert without_time(store) == after
    await call(method, store)
    assert without_time(store) == after


@each_change
async def test_a_change_whose_answer_was_lost_is_found_by_the_next_attempt(method: Method, before, after):
    store = store_with(before)
    store.lose_answer = Unreachable("the witness did not answer")
    if before != after:
        with pytest.raises(ApplicationError) as caught:
            await call(method, store)
        assert not caught.value.non_retryable
    await call(method, store)
    assert without_time(store) == after


@each_change
async def test_a_change_survives_writers_that_come_between(method: Method, before, after):
    store = store_with(before, writers=3)
    await call(method, store)
    assert without_time(store) == after


async def test_too_many_writers_end_the_attempt_and_not_the_step():
    with pytest.raises(ApplicationError) as caught:
        await call(Ownership.claim_run, store_with(STEADY, writers=99))
    assert caught.value.type == "Contended" and not caught.value.non_retryable


async def test_the_first_claim_ever_says_who_owned_the_group_before():
    outcome = await call(Ownership.claim_run, store_with(None))
    assert outcome.facts.ownership_before is not None
    assert (outcome.facts.ownership_before.region, outcome.facts.source_region) == ("region-a", "region-a")


async def test_a_repeated_claim_does_not_forget_whose_the_group_was():
    store = store_with(STEADY)
    first = await call(Ownership.claim_run, store)
    second = await call(Ownership.claim_run, store)
    for outcome in (first, second):
        before = outcome.facts.ownership_before
        assert before is not None and (before.region, before.epoch) == ("region-a", 3)


async def test_a_return_after_a_lost_take_gives_the_group_back():
    store = store_with(MINE)
    store.lose_answer = Unreachable("no answer")
    with pytest.raises(ApplicationError):
        await call(Ownership.take_ownership, store)
    outcome = await call(Ownership.return_ownership, store)
    assert "owns shop again" in outcome.summary
    record = without_time(store)
    assert record is not None and (record.region, record.epoch) == ("region-a", 5)


async def test_what_another_run_moved_is_not_said_to_be_as_before():
    outcome = await call(Ownership.return_ownership, store_with(THEY_TOOK))
    assert outcome.summary == f"this run does not hold shop: {THEY_TOOK.region} keeps it, epoch {THEY_TOOK.epoch}"


@pytest.mark.parametrize(
    "method",
    [Ownership.take_ownership, Ownership.record_pivot, Ownership.withdraw_pivot],
    ids=["take", "record", "withdraw"],
)
@pytest.mark.parametrize("record", [None, STEADY, THEIRS], ids=["nobody ever", "nobody", "another run"])
async def test_who_does_not_hold_the_group_changes_nothing(method: Method, record):
    assert "not by this run" in await refusal(method, store_with(record))


class TestAfterThePivot:
    async def test_undo_is_refused_with_what_to_do(self):
        assert "go forward with a new run" in await refusal(Ownership.permit_undo, store_with(PIVOTED))

    async def test_a_reset_run_may_not_undo(self):
        assert "open-writes" in await refusal(Ownership.permit_undo, store_with(PIVOTED), reset())

    async def test_a_reset_run_may_not_claim_again(self):
        assert "point of no return" in await refusal(Ownership.claim_run, store_with(PIVOTED), reset())

    async def test_a_reset_run_may_not_withdraw_what_an_earlier_execution_wrote(self):
        await refusal(Ownership.withdraw_pivot, store_with(PIVOTED), reset())

    async def test_a_pivot_recorded_again_keeps_the_first_time_and_execution(self):
        store = store_with(PIVOTED)
        await call(Ownership.record_pivot, store, reset())
        assert store.records["shop"][0].pivot == PIVOT

    async def test_another_run_may_not_claim(self):
        assert "point of no return" in await refusal(Ownership.claim_run, store_with(PIVOTED), never_claimed())

    async def test_another_run_that_was_refused_ends_without_a_hold(self):
        await call(Ownership.permit_undo, store_with(PIVOTED), never_claimed())

    async def test_a_completed_run_that_is_reset_may_not_undo_what_clients_use(self):
        assert "not by this run" in await refusal(Ownership.permit_undo, store_with(MOVED), reset())


async def test_undo_is_permitted_before_the_pivot():
    await call(Ownership.permit_undo, store_with(MINE))
    await call(Ownership.permit_undo, store_with(MINE), reset())
    await call(Ownership.permit_undo, store_with(None))


async def test_undo_is_refused_when_another_run_took_the_group_over():
    assert "run run-9" in await refusal(Ownership.permit_undo, store_with(THEIRS))


@pytest.mark.parametrize("record", [None, STEADY], ids=["nobody ever", "nobody"])
async def test_a_late_attempt_does_not_lock_the_group_for_a_run_that_is_over(record, monkeypatch):
    monkeypatch.setitem(globals(), "ENDED", {"run-1"})
    assert "has ended" in await refusal(Ownership.claim_run, store_with(record))


async def test_the_lock_of_a_run_that_lives_is_not_taken():
    assert "is being changed by run run-9" in await refusal(Ownership.claim_run, store_with(THEIRS))


async def test_the_lock_of_a_run_that_ended_is_taken_over(monkeypatch):
    monkeypatch.setitem(globals(), "ENDED", {"run-9"})
    outcome = await call(Ownership.claim_run, store_with(THEIRS))
    assert "taken over" in outcome.warnings[0]


async def test_a_later_run_of_the_same_workflow_id_takes_over_what_the_earlier_left():
    later = context(run_id="run-5", first_run_id="run-5")
    outcome = await call(Ownership.claim_run, store_with(MINE), later)
    assert "taken over" in outcome.warnings[0]


@pytest.mark.parametrize(
    ("record", "asked", "region"),
    [(None, None, "region-a"), (TAKEN, None, "region-b"), (TAKEN, "region-a", "region-a")],
    ids=["never claimed", "as recorded", "as asked"],
)
async def test_the_active_region(record, asked, region):
    given = context(request=PlanRequest(group="shop", region=asked))
    outcome = await call(Ownership.find_active_region, store_with(record), given)
    assert outcome.facts.source_region == region


async def test_an_owner_that_the_configuration_does_not_know_is_refused_with_the_known_ones():
    store = store_with(STEADY.model_copy(update={"region": "region-z"}))
    with pytest.raises(ApplicationError, match=r"region-z owns group shop.*region-a, region-b"):
        await call(Ownership.find_active_region, store)
