"""Archived WAL is read back: what is damaged or missing is found before a recovery needs it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.notifications import Notifications
from activities.validations import ValidationSteps
from recovery.adapters.incident_text import TemplateIncidentWriter
from recovery.backup.sealing import Opener, Sealer
from recovery.domain.group import GroupSnapshot, WalRule
from recovery.domain.plan import Facts, PlanContext, PlanRequest, StepOutcome
from recovery.domain.wal_archive import WalRange
from recovery.domain.wal_read_back import WalReadBack, lost_ranges
from recovery.errors import RecoveryError, Unreachable, WrongKey
from recovery.ports.measurements import Measurements
from recovery.ports.notify import Severity
from recovery.ports.recovery_points import RecoveryPoints, RecoveryTargets
from tests.fakes.notifier import FakeNotifier
from tests.fakes.object_store import UnreadableStore
from tests.fakes.points import NOW
from tests.fakes.wal import FIRST, SEGMENT
from tests.unit.wal.test_recoveries import GROUP, Rig, made_rig
from workflows.plans.backup_validation import reads_wal_back

ALWAYS = datetime(2000, 1, 1, tzinfo=UTC)


@pytest.fixture
def stores() -> list[UnreadableStore]:
    return [UnreadableStore("a"), UnreadableStore("b")]


@pytest.fixture
async def rig(sealer: Sealer, opener: Opener, stores: list[UnreadableStore]) -> Rig:
    made = made_rig(sealer, opener, list(stores))
    made.server.write(2 * SEGMENT + 5000)
    await made.archive()
    return made


async def read(rig: Rig, since: datetime = ALWAYS) -> tuple[WalReadBack, list[tuple[int, int, str]]]:
    told: list[tuple[int, int, str]] = []
    found = await rig.archives.read_back(GROUP, since, lambda done, expected, what: told.append((done, expected, what)))
    return found, told


def objects(store: UnreadableStore) -> list[str]:
    """The keys of the WAL itself, by position."""
    return sorted(key for key in store.objects if key.endswith(".zst.age"))


def flip(store: UnreadableStore, key: str) -> None:
    body = bytearray(store.objects[key])
    body[len(body) // 2] ^= 1
    store.objects[key] = bytes(body)


async def test_sound_wal_is_read_at_every_location(rig: Rig, stores: list[UnreadableStore]) -> None:
    found, told = await read(rig)
    assert (found.damaged, found.lost, found.silent) == ([], [], [])
    assert found.pieces == 2 * len(objects(stores[0]))
    assert found.read_bytes >= 2 * (rig.server.position - FIRST)
    ends = [(done, what) for done, expected, what in told if done == expected]
    assert [what for _, what in ends] == ["a", "b"]


async def test_what_was_stored_before_is_not_read_again(rig: Rig) -> None:
    assert (await read(rig, datetime.now(UTC) + timedelta(minutes=1)))[0] == WalReadBack()


@pytest.mark.parametrize("how", ["flipped", "gone", "exchanged"])
async def test_damage_at_one_location_is_named_and_nothing_is_lost(
    rig: Rig, stores: list[UnreadableStore], how: str
) -> None:
    first, second = objects(stores[0])[:2]
    if how == "flipped":
        flip(stores[0], first)
    elif how == "gone":
        await stores[0].delete([first])
    else:
        stores[0].objects[first] = stores[0].objects[second]
    found, _ = await read(rig)
    (words,) = found.damaged
    assert words.startswith(f"WAL from {WalRange(FIRST, FIRST + SEGMENT)} of timeline 1 at a: ")
    assert (found.lost, found.silent) == ([], [])


async def test_what_no_location_gives_is_lost(rig: Rig, stores: list[UnreadableStore]) -> None:
    for store in stores:
        flip(store, objects(store)[1])
    found, _ = await read(rig)
    assert len(found.damaged) == 2
    assert found.lost == [f"WAL from {WalRange(FIRST + SEGMENT, FIRST + 2 * SEGMENT)} of timeline 1"]


async def test_a_location_that_is_away_is_named_and_makes_up_for_nothing(
    rig: Rig, stores: list[UnreadableStore]
) -> None:
    stores[1].broken = lambda method, key: Unreachable("no route") if method == "get" else None
    flip(stores[0], objects(stores[0])[0])
    found, _ = await read(rig)
    assert found.silent == ["b: no route"]
    assert found.lost == [f"WAL from {WalRange(FIRST, FIRST + SEGMENT)} of timeline 1"]


async def test_what_retention_removes_meanwhile_is_no_damage(rig: Rig, stores: list[UnreadableStore]) -> None:
    record = min(key for key in stores[0].objects if "/pieces/" in key)

    def removed(method: str, key: str) -> RecoveryError | None:
        if (method, key) == ("get", record) and record in stores[0].objects:
            del stores[0].objects[record], stores[0]._about[record]
        return None

    stores[0].broken = removed
    found, _ = await read(rig)
    assert record not in stores[0].objects
    assert (found.damaged, found.lost) == ([], [])


async def test_without_a_key_nothing_is_called_sound(rig: Rig) -> None:
    rig.archives.keys = replace(rig.archives.keys, opener=None)
    with pytest.raises(WrongKey):
        await read(rig)


def test_a_damaged_range_is_lost_unless_others_cover_all_of_it() -> None:
    damaged = [WalRange(100, 200)]
    assert lost_ranges(damaged, [WalRange(0, 150), WalRange(150, 300)]) == []
    assert lost_ranges(damaged, [WalRange(0, 150), WalRange(151, 300)]) == damaged
    assert lost_ranges(damaged, [WalRange(0, 100), WalRange(200, 300)]) == damaged
    assert lost_ranges([*damaged, WalRange(200, 300)], []) == [WalRange(100, 300)]


# As a validation uses it.


class Targets:
    def __init__(self, found: WalReadBack) -> None:
        self.found = found
        self.since: list[datetime] = []

    async def read_back(self, group: GroupSnapshot, since: datetime, progress: Any) -> WalReadBack:
        self.since.append(since)
        return self.found


def context(**facts: object) -> PlanContext:
    group = GROUP.model_copy(update={"wal": WalRule()})
    return PlanContext(
        plan="BackupValidation", run_id="run-7", workflow_id="validate", step="a-step",
        request=PlanRequest(group="shop"), facts=Facts.model_validate({"group": group, **facts}), started_at=NOW,
    )  # fmt: skip


def steps(found: WalReadBack) -> tuple[ValidationSteps, Targets]:
    targets = Targets(found)
    return ValidationSteps(
        cast(RecoveryPoints, SimpleNamespace()), cast(Measurements, SimpleNamespace()), cast(RecoveryTargets, targets)
    ), targets


async def call(step: Any, about: PlanContext) -> StepOutcome:
    outcome: StepOutcome = await ActivityEnvironment().run(step, about)
    return outcome


async def test_a_daily_validation_says_what_it_read_and_what_is_wrong() -> None:
    sound, targets = steps(WalReadBack(pieces=5, read_bytes=80 << 20))
    outcome = await call(sound.read_back_wal, context())
    assert outcome.summary == "5 pieces of WAL, 80 MiB, read back"
    assert (outcome.facts.wal_lost, outcome.warnings, [check.passed for check in outcome.checks]) == ([], [], [True])
    assert datetime.now(UTC) - targets.since[0] > timedelta(hours=24), "what came since the last one began, and more"

    half, _ = steps(WalReadBack(pieces=5, damaged=["WAL from 0/1 to 0/2 at a: torn"], silent=["b: no route"]))
    outcome = await call(half.read_back_wal, context())
    assert outcome.warnings == ["WAL from 0/1 to 0/2 at a: torn", "its WAL was not read back at b: no route"]
    assert [check.passed for check in outcome.checks] == [True], "another location has it"


async def test_lost_wal_fails_the_validation_and_people_are_told() -> None:
    lost, _ = steps(WalReadBack(pieces=5, damaged=["x"], lost=["WAL from 0/1 to 0/2 of timeline 1"]))
    outcome = await call(lost.read_back_wal, context())
    assert [check.passed for check in outcome.checks] == [False]
    about = context(verdicts=[], wal_lost=outcome.facts.wal_lost)
    with pytest.raises(ApplicationError, match=r"0/1 to 0/2 of timeline 1 cannot be read at any .*take a base backup"):
        await call(lost.judge, about)
    notifier = FakeNotifier()
    await call(Notifications(notifier, TemplateIncidentWriter()).announce_verdict, about)
    (message,) = notifier.sent
    assert (message.severity, message.title) == (Severity.CRITICAL, "archived WAL of shop is lost")
    assert "No location gives WAL from 0/1 to 0/2" in message.body and "drctl backup run" in message.body


def test_the_daily_run_reads_it_back_and_one_after_a_backup_does_not() -> None:
    daily = context()
    assert reads_wal_back(daily)
    assert not reads_wal_back(daily.model_copy(update={"request": PlanRequest(group="shop", point_id="one")}))
    assert not reads_wal_back(daily.model_copy(update={"facts": Facts(group=GROUP)})), "no WAL is archived"
