"""What the steps of backup and validation make of what the recovery points say."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import AsyncMock

import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.recovery_points import RecoveryPointSteps
from activities.validations import ValidationSteps
from recovery.backup.layout import manifest_key
from recovery.backup.sealing import Sealer
from recovery.domain.plan import Facts, PlanContext, PlanRequest, StepOutcome
from recovery.domain.recovery_point import VerdictState
from recovery.errors import DamagedPages, Refused, Unreachable
from recovery.ports.measurements import Measurements
from recovery.ports.recovery_points import RecoveryPoints
from tests.fakes.points import NOW, verdict_on
from tests.unit.points.rig import Rig
from tests.unit.points.test_chains import add_member


class Measured(SimpleNamespace):
    """Notes the states that were measured."""

    def point_validated(self, verdict: Any, kind: object, finished_at: object) -> None:
        self.states.append(verdict.state)


@pytest.fixture
def measured() -> Measured:
    return Measured(states=[])


@pytest.fixture
def steps(rig: Rig, measured: Measured) -> ValidationSteps:
    return ValidationSteps(cast(RecoveryPoints, rig.points), cast(Measurements, measured))


@pytest.fixture
def taking(rig: Rig, measured: Measured) -> RecoveryPointSteps:
    return RecoveryPointSteps(cast(RecoveryPoints, rig.points), cast(Measurements, measured))


def context(rig: Rig, *, since: timedelta = timedelta(days=36500), **facts: object) -> PlanContext:
    return PlanContext(
        plan="BackupValidation",
        run_id="run-7",
        workflow_id="validate",
        step="a-step",
        request=PlanRequest(group="shop", since=since),
        facts=Facts.model_validate({"group": rig.group, **facts}),
        started_at=NOW,
    )


async def call(step: Callable[[PlanContext], Awaitable[StepOutcome]], about: PlanContext) -> StepOutcome:
    outcome: StepOutcome = await ActivityEnvironment().run(step, about)
    return outcome


async def failure(step: Callable[[PlanContext], Awaitable[StepOutcome]], about: PlanContext) -> str:
    with pytest.raises(ApplicationError) as raised:
        await call(step, about)
    return raised.value.message


async def test_a_daily_validation_takes_unbelieved_points_too(rig: Rig, steps: ValidationSteps) -> None:
    for store in rig.stores:
        rig.change(store, manifest_key("shop", rig.point_id), b"{}")
    chosen = await call(steps.choose_to_validate, context(rig))
    assert chosen.facts.points_to_validate == [rig.point_id]
    found = await call(steps.validate, context(rig, points_to_validate=[rig.point_id]))
    assert [verdict.state for verdict in found.facts.verdicts or []] == [VerdictState.CORRUPT]
    assert found.summary == "0 of 1 VALID"


async def test_an_old_unbelieved_point_is_not_told_every_day(rig: Rig, steps: ValidationSteps) -> None:
    """Its id says when it was taken."""
    old = f"{datetime.now(UTC) - timedelta(days=3):%Y%m%dT%H%M%SZ}-physical-00000000"
    young = f"{datetime.now(UTC) - timedelta(hours=3):%Y%m%dT%H%M%SZ}-physical-00000000"
    for point_id in (old, young):
        await rig.stores[0].put(manifest_key("shop", point_id), b"{}")
    chosen = await call(steps.choose_to_validate, context(rig, since=timedelta(days=1)))
    assert chosen.facts.points_to_validate is not None
    assert young in chosen.facts.points_to_validate
    assert old not in chosen.facts.points_to_validate


async def test_no_point_at_all_is_said(rig: Rig, steps: ValidationSteps) -> None:
    for store in rig.stores:
        await store.delete(list(store.objects))
    assert "no recovery point of the last" in await failure(steps.choose_to_validate, context(rig))


async def test_another_attempt_goes_on_after_the_points_that_have_a_verdict(
    rig: Rig, steps: ValidationSteps, measured: Measured
) -> None:
    about = context(rig, points_to_validate=[rig.point_id])
    await call(steps.validate, about)
    again = await call(steps.validate, about)
    assert (rig.postgres.validated, measured.states) == (1, [VerdictState.VALID])
    assert again.summary == "1 of 1 VALID"


@pytest.mark.parametrize("state", [VerdictState.CORRUPT, VerdictState.RESTORE_FAILED, VerdictState.FAILED])
async def test_one_point_that_is_not_valid_fails_the_validation(
    rig: Rig, steps: ValidationSteps, state: VerdictState
) -> None:
    good, bad = verdict_on(rig.manifest, "digest"), verdict_on(rig.manifest, "digest", state=state)
    words = await failure(steps.judge, context(rig, verdicts=[good, bad]))
    assert f"1 of 2 recovery points are not VALID: {rig.point_id} is {state}" in words
    assert (await call(steps.judge, context(rig, verdicts=[good]))).summary == "all 1 VALID"


async def test_older_points_are_filled_too(rig: Rig, taking: RecoveryPointSteps) -> None:
    """A location that was away for a while gets what it lacks from the next backup on."""
    a, b = rig.stores
    expected = dict(b.objects)
    await b.delete(list(b.objects))
    await call(taking.fill_locations, context(rig))
    assert b.objects == expected == a.objects


async def test_an_older_point_is_filled_after_what_it_builds_on(
    rig: Rig, taking: RecoveryPointSteps, sealer: Sealer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A location that fails again in between holds what can be restored from it."""
    full = await add_member(rig, sealer, 1)
    incremental = await add_member(rig, sealer, 2, full.point_id)
    await rig.stores[1].delete(list(rig.stores[1].objects))
    tries: list[str] = []

    async def fill(group: object, point_id: str, progress: object) -> Any:
        tries.append(point_id)
        return SimpleNamespace(complete=["b"], dropped={})

    monkeypatch.setattr(rig.points, "fill", fill)
    await call(taking.fill_locations, context(rig))
    assert tries == [full.point_id, rig.point_id, incremental.point_id]


async def test_a_location_that_takes_no_new_point_is_not_tried_with_every_old_one(
    rig: Rig, taking: RecoveryPointSteps, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.stores[1].delete(list(rig.stores[1].objects))
    tries: list[str] = []

    async def fill(*arguments: object) -> Any:
        tries.append("fill")
        return SimpleNamespace(complete=[], dropped={"b": "away"})

    monkeypatch.setattr(rig.points, "fill", fill)
    words = await failure(taking.fill_locations, context(rig, physical_point="20261123T000000Z-physical-1"))
    assert words == "20261123T000000Z-physical-1 is not at b: away"
    assert tries == ["fill"]


async def validated(rig: Rig, steps: ValidationSteps) -> PlanContext:
    """What the run knows after its validation."""
    about = context(rig, points_to_validate=[rig.point_id])
    return about.model_copy(update={"facts": about.facts.merged((await call(steps.validate, about)).facts)})


async def repaired(rig: Rig, steps: ValidationSteps) -> tuple[PlanContext, StepOutcome]:
    """The same after the repair, and what that said."""
    about = await validated(rig, steps)
    outcome = await call(steps.repair, about)
    return about.model_copy(update={"facts": about.facts.merged(outcome.facts)}), outcome


async def test_a_repaired_point_counts_once_it_was_restored_again(
    rig: Rig, steps: ValidationSteps, measured: Measured
) -> None:
    key = rig.object_keys[0]
    rig.change(rig.stores[1], key, b"damaged")
    about, said = await repaired(rig, steps)
    assert said.warnings == [f"{rig.point_id} was damaged at b, and {key} was written anew from another location"]
    assert about.facts.points_repaired == [rig.point_id]
    assert not (await rig.points.point(rig.group, rig.point_id)).is_valid
    proven = await call(steps.prove_again, about)
    assert [verdict.state for verdict in proven.facts.verdicts or []] == [VerdictState.VALID]
    assert (await rig.points.point(rig.group, rig.point_id)).is_valid
    assert measured.states == [VerdictState.CORRUPT, VerdictState.VALID]


async def test_another_attempt_of_a_repair_still_has_it_proven(rig: Rig, steps: ValidationSteps) -> None:
    """The worker was lost when all was written, and before it could say so."""
    rig.change(rig.stores[1], rig.object_keys[0], b"damaged")
    about = await validated(rig, steps)
    await call(steps.repair, about)
    again = await call(steps.repair, about)
    assert again.facts.points_repaired == [rig.point_id]
    assert again.warnings == []


async def test_another_attempt_of_the_proof_restores_nothing_twice(rig: Rig, steps: ValidationSteps) -> None:
    rig.change(rig.stores[1], rig.object_keys[0], b"damaged")
    about, _ = await repaired(rig, steps)
    await call(steps.prove_again, about)
    restores = rig.postgres.validated
    again = await call(steps.prove_again, about)
    assert [verdict.state for verdict in again.facts.verdicts or []] == [VerdictState.VALID]
    assert rig.postgres.validated == restores


async def test_what_cannot_be_repaired_stays_corrupt(rig: Rig, steps: ValidationSteps) -> None:
    for store in rig.stores:
        rig.change(store, rig.object_keys[0], b"damaged")
    about, said = await repaired(rig, steps)
    assert about.facts.points_repaired == []
    assert f"{rig.point_id} was not repaired: no location holds {rig.object_keys[0]} intact" in said.warnings[0]
    assert "is CORRUPT" in await failure(steps.judge, about)


async def test_a_point_of_which_one_copy_stays_damaged_is_not_proven(rig: Rig, steps: ValidationSteps) -> None:
    rig.change(rig.stores[1], rig.object_keys[0], b"damaged")
    about = await validated(rig, steps)

    async def put(*arguments: object, **conditions: object) -> str:
        raise Refused("b denies access")

    rig.stores[1].put = put  # type: ignore[method-assign]
    said = await call(steps.repair, about)
    assert said.facts.points_repaired == []
    assert said.warnings == [f"{rig.point_id} was not repaired at b: b denies access"]


async def test_a_valid_point_is_left_alone(rig: Rig, steps: ValidationSteps) -> None:
    about, said = await repaired(rig, steps)
    assert said.facts.points_repaired == []
    assert said.warnings == []
    proven = await call(steps.prove_again, about)
    assert proven.facts.verdicts == about.facts.verdicts
    assert rig.postgres.validated == 1


@pytest.mark.parametrize("validated", [True, False])
async def test_damage_at_the_source_is_told_with_the_way_back(
    rig: Rig, taking: RecoveryPointSteps, monkeypatch: pytest.MonkeyPatch, validated: bool
) -> None:
    if validated:
        await rig.validate()
    found = "checksum verification failed in file base/5/16384, block 3"
    monkeypatch.setattr(rig.points, "take", AsyncMock(side_effect=DamagedPages(found)))
    words = await failure(taking.take_physical_backup, context(rig))
    assert words.endswith(found)
    restore = f"drctl restore --group shop --point {rig.point_id} --target-directory"
    assert (restore in words) is validated
    assert ("there is no VALID base backup to go back to" in words) is not validated


async def test_damage_at_the_source_is_not_told_as_the_loss_of_backups_that_nobody_could_look_at(
    rig: Rig, taking: RecoveryPointSteps, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = "checksum verification failed in file base/5/16384, block 3"
    monkeypatch.setattr(rig.points, "take", AsyncMock(side_effect=DamagedPages(found)))
    monkeypatch.setattr(rig.points, "newest_validated", AsyncMock(side_effect=Unreachable("no location answers")))
    words = await failure(taking.take_physical_backup, context(rig))
    assert words.endswith(found)
    assert "there is no VALID base backup" not in words
    assert "which VALID base backup there is could not be read (no location answers)" in words
    assert "drctl backup list --group shop" in words
