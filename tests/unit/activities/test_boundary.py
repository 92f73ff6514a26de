"""What every step has in common: errors that say whether another attempt helps, heartbeats, bounded outcomes."""

from __future__ import annotations

import asyncio
import dataclasses
from datetime import UTC, datetime, timedelta

import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities import boundary
from activities.boundary import StepProgress, report_progress, step
from activities.bounds import LARGEST_OUTCOME, MOST_CHECKS, MOST_WARNINGS, bounded
from activities.lock import guarded_by
from recovery.domain.ownership import OwnershipRecord, Phase
from recovery.domain.plan import Facts, LockDemand, PlanContext, PlanRequest, StepOutcome
from recovery.domain.recovery_point import CheckResult, Verdict, VerdictState
from recovery.errors import BadInput, Refused, Unreachable
from tests.fakes.ownership import FakeOwnershipStore

CONTEXT = PlanContext(
    plan="Rehearsal", run_id="run", workflow_id="wf", step="act", request=PlanRequest(group="shop"),
    started_at=datetime(2026, 11, 22, tzinfo=UTC),
)  # fmt: skip

MINE = OwnershipRecord(
    group="shop", region="region-a", phase=Phase.RUNNING, run="run-1", changed_at=datetime(2026, 11, 22, tzinfo=UTC)
)
THEIRS = MINE.model_copy(update={"run": "run-9"})


class Raising:
    def __init__(self, error: BaseException | None = None, takes: float = 0.0) -> None:
        self.error = error
        self.takes = takes

    @step("raising.act")
    async def act(self, context: PlanContext) -> StepOutcome:
        report_progress(StepProgress(done=5, expected=10))
        await asyncio.sleep(self.takes)
        if self.error is not None:
            raise self.error
        return StepOutcome(summary="done")


def third_attempt() -> ActivityEnvironment:
    environment = ActivityEnvironment()
    environment.info = dataclasses.replace(environment.info, attempt=3)
    return environment


class Driver(Exception):
    """What a library raises that no adapter translated."""


@pytest.mark.parametrize(
    ("error", "kind", "final"),
    [
        (Refused("no"), "Refused", True),
        (Unreachable("no answer"), "Unreachable", False),
        (KeyError("region-z"), "Bug", True),
        (ValueError("odd"), "Bug", True),
        (ConnectionResetError("gone"), "ConnectionResetError", False),
        (TimeoutError(), "TimeoutError", False),
        (Driver("deadlock detected"), "Driver", False),
    ],
)
async def test_errors_say_whether_another_attempt_helps(error, kind, final):
    with pytest.raises(ApplicationError) as caught:
        await third_attempt().run(Raising(error).act, CONTEXT)
    assert (caught.value.type, caught.value.non_retryable) == (kind, final)
    assert caught.value.details[0] == 3, "failed attempts leave no trace in a history: the number travels with them"


async def test_a_cancellation_is_not_an_error():
    environment = ActivityEnvironment()
    running = asyncio.ensure_future(environment.run(Raising(takes=30).act, CONTEXT))
    await asyncio.sleep(0)
    environment.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_the_outcome_carries_the_attempt():
    assert (await third_attempt().run(Raising().act, CONTEXT)).attempt == 3


async def test_heartbeats_carry_the_progress(monkeypatch):
    monkeypatch.setattr(boundary, "HEARTBEAT_EVERY", 0.01)
    environment, beats = ActivityEnvironment(), []
    environment.on_heartbeat = lambda *details: beats.append(details)
    await environment.run(Raising(takes=0.1).act, CONTEXT)
    assert len(beats) >= 3 and beats[0] == (StepProgress(done=5, expected=10),)


async def test_heartbeats_start_from_what_the_last_attempt_reported(monkeypatch):
    monkeypatch.setattr(boundary, "HEARTBEAT_EVERY", 0.01)
    environment, beats = ActivityEnvironment(), []
    environment.info = dataclasses.replace(environment.info, heartbeat_details=["7 of 9"])
    environment.on_heartbeat = lambda *details: beats.append(details)

    class Silent:
        @step("silent.act")
        async def act(self, context: PlanContext) -> StepOutcome:
            await asyncio.sleep(0.05)
            return StepOutcome()

    await environment.run(Silent().act, CONTEXT)
    assert beats[0] == ("7 of 9",)


def check(number: int, passed: bool = True) -> CheckResult:
    return CheckResult(name=f"check {number}", passed=passed, detail="x" * 5_000)


def verdict(number: int) -> Verdict:
    return Verdict(
        point_id=f"point-{number}", group="shop", state=VerdictState.CORRUPT, reason="r" * 9_000,
        checks=[check(n) for n in range(50)], location="s3", manifest_sha256="0" * 64,
        validated_at=datetime(2026, 11, 22, tzinfo=UTC), duration=timedelta(seconds=3), run_id="run",
    )  # fmt: skip


def test_too_many_checks_keep_those_that_failed():
    given = [check(n) for n in range(1_000)] + [check(n, passed=False) for n in range(1_000, 1_010)]
    outcome = bounded(StepOutcome(checks=given))
    assert len(outcome.checks) == MOST_CHECKS
    assert sum(not each.passed for each in outcome.checks) == 10
    assert "810 of 1010 checks are not listed here" in outcome.warnings[0]


def test_long_sentences_and_many_warnings_are_shortened():
    outcome = bounded(StepOutcome(summary="s" * 100_000, warnings=["w" * 9_000] * 10_000))
    assert len(outcome.warnings) == MOST_WARNINGS
    assert "9951 further warnings" in outcome.warnings[-1]
    assert len(outcome.model_dump_json()) < 64 * 1024


def test_what_is_short_stays_as_it_is():
    given = StepOutcome(summary="did it", warnings=["mind this"], checks=[CheckResult(name="a", passed=True)])
    assert bounded(given) == given


def test_many_verdicts_still_fit():
    outcome = bounded(StepOutcome(facts=Facts(verdicts=[verdict(n) for n in range(300)])))
    assert outcome.facts.verdicts is not None and len(outcome.facts.verdicts) == 300
    assert len(outcome.model_dump_json()) < LARGEST_OUTCOME


def test_what_cannot_be_left_out_is_refused_in_a_sentence():
    with pytest.raises(BadInput, match="ask for less at once"):
        bounded(StepOutcome(facts=Facts(points_to_validate=["p" * 60] * 20_000)))


class TestLock:
    """A step that changes the outside asks the ownership record in each of its attempts."""

    CONTEXT = CONTEXT.model_copy(
        update={"facts": Facts(ownership=MINE), "run_id": "run-1", "lock": LockDemand.BEFORE_PIVOT}
    )
    PIVOTED = MINE.model_copy(update={"phase": Phase.PIVOTED})
    FREE = MINE.model_copy(update={"run": None, "phase": Phase.STEADY})

    async def begin(self, record: OwnershipRecord, lock: LockDemand) -> None:
        store = FakeOwnershipStore()
        store.records["shop"] = (record, "1")
        with guarded_by(store):
            await ActivityEnvironment().run(Raising().act, self.CONTEXT.model_copy(update={"lock": lock}))

    @pytest.mark.parametrize(
        ("record", "lock"),
        [(MINE, LockDemand.BEFORE_PIVOT), (MINE, LockDemand.HELD), (PIVOTED, LockDemand.HELD), (MINE, LockDemand.UNDO)],
    )
    async def test_begins(self, record: OwnershipRecord, lock: LockDemand):
        await self.begin(record, lock)

    @pytest.mark.parametrize(
        ("record", "lock"),
        [
            (PIVOTED, LockDemand.BEFORE_PIVOT), (FREE, LockDemand.BEFORE_PIVOT), (THEIRS, LockDemand.BEFORE_PIVOT),
            (FREE, LockDemand.HELD), (THEIRS, LockDemand.HELD),
            (PIVOTED, LockDemand.UNDO), (FREE, LockDemand.UNDO), (THEIRS, LockDemand.UNDO),
        ],
    )  # fmt: skip
    async def test_is_refused(self, record: OwnershipRecord, lock: LockDemand):
        with pytest.raises(ApplicationError) as caught:
            await self.begin(record, lock)
        assert caught.value.type == "Refused" and caught.value.non_retryable

    async def test_is_refused_by_a_worker_that_cannot_ask(self):
        with pytest.raises(ApplicationError, match="without a LockGuard"):
            await ActivityEnvironment().run(Raising().act, self.CONTEXT)

    async def test_needs_no_worker_that_can_ask_where_nothing_is_locked(self):
        await ActivityEnvironment().run(Raising().act, self.CONTEXT.model_copy(update={"lock": None}))
