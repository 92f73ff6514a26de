"""A recovery set's further stores: checked, restored, verified and opened each by its own part."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import create_autospec

import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities import set_restores
from activities.set_restores import SetRestoreSteps
from recovery.domain.group import GroupSnapshot, Objectives, PostgresAt, RegionPlan
from recovery.domain.plan import Facts, PlanContext, PlanRequest, RestoredServer, StepOutcome
from recovery.domain.recovery_point import BackupKind, CheckResult, DataStore
from recovery.domain.recovery_set import ChosenSet, SetPart
from recovery.errors import Refused, Unreachable
from recovery.ports.recovery_points import RestoreOrder, Restores
from tests.fakes.measurements import FakeMeasurements

NOW = datetime(2026, 11, 22, tzinfo=UTC)
REGION = RegionPlan(
    name="region-b", task_queue="b", postgres=PostgresAt(host="127.0.0.1"), nats="127.0.0.1:4222",
    redis="127.0.0.1:6379", search="http://127.0.0.1:9200",
)  # fmt: skip
GROUP = GroupSnapshot(
    name="shop", home_region="region-a", regions=[REGION],
    objectives=Objectives(tier="critical", rto=timedelta(minutes=15), rpo=timedelta(minutes=5)),
)  # fmt: skip
POINTS = {store: f"point-of-{store}" for store in DataStore}
CHOSEN = ChosenSet(set_id="set-1", parts=[SetPart(store=store, point_id=point) for store, point in POINTS.items()])
RESTORED = RestoredServer(
    region="region-b", host="127.0.0.1", port=6379, database="", kind=BackupKind.RDB, point_id="point-of-redis",
    restored_bytes=4096,
)  # fmt: skip


@pytest.fixture
def restores() -> Any:
    found = create_autospec(Restores, instance=True)
    found.verify_infrastructure.return_value = [CheckResult(name="empty target", passed=True)]
    found.restore.return_value = RESTORED
    found.verify.return_value = [CheckResult(name="keys", passed=True)]
    return found


def context(step: str, **facts: Any) -> PlanContext:
    return PlanContext(
        plan="FullRecovery", run_id="run-1", workflow_id="recovery/shop", step=step, started_at=NOW,
        request=PlanRequest(group="shop"),
        facts=Facts(**{"group": GROUP, "target_region": "region-b", "chosen_set": CHOSEN, **facts}),
    )  # fmt: skip


async def call(restores: Any, method: str, about: PlanContext, permit: Any = None) -> StepOutcome:
    steps = SetRestoreSteps(restores, FakeMeasurements(), permit)
    outcome: StepOutcome = await ActivityEnvironment().run(getattr(steps, method), about)
    return outcome


def refusing(store: DataStore, said: Callable[[], Any]) -> Callable[[RestoreOrder], Any]:
    """An answer of ``verify_infrastructure``, whose place of one store is not ready."""

    async def answer(order: RestoreOrder) -> list[CheckResult]:
        if order.point_id != POINTS[store]:
            return [CheckResult(name="empty target", passed=True)]
        found = said()
        if isinstance(found, Exception):
            raise found
        if asyncio.iscoroutine(found):
            await found
        return [CheckResult(name="empty target", passed=False, detail="it holds 7 keys")]

    return answer


async def test_every_further_store_is_checked_and_the_database_is_not(restores: Any) -> None:
    outcome = await call(restores, "check_stores", context("check-stores"))
    asked = {each.args[0].point_id for each in restores.verify_infrastructure.await_args_list}
    assert asked == set(POINTS.values()) - {POINTS[DataStore.POSTGRES]}
    assert (outcome.warnings, outcome.facts.chosen_set) == ([], CHOSEN)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (lambda: None, "empty target: it holds 7 keys"),
        (lambda: Unreachable("it does not answer"), "target server: it does not answer"),
        (lambda: asyncio.sleep(30), "target server: no answer within 0 s"),
    ],
    ids=["not empty", "silent", "hangs"],
)
async def test_a_store_whose_place_is_not_ready_is_left_and_named(
    restores: Any, monkeypatch: pytest.MonkeyPatch, said: Callable[[], Any], words: str
) -> None:
    monkeypatch.setattr(set_restores, "CHECK_SECONDS", 0.05)
    restores.verify_infrastructure.side_effect = refusing(DataStore.REDIS, said)
    outcome = await call(restores, "check_stores", context("check-stores"))
    found = outcome.facts.chosen_set
    assert found is not None
    assert [part.store for part in found.further] == [DataStore.NATS, DataStore.SEARCH]
    (warning,) = outcome.warnings
    assert warning == (
        f"redis is not restored: {words}. Its point is put back with drctl restore --point point-of-redis"
    )


async def test_a_set_that_was_named_is_restored_whole_or_not_at_all(restores: Any) -> None:
    restores.verify_infrastructure.side_effect = refusing(DataStore.REDIS, lambda: None)
    named = CHOSEN.model_copy(update={"named": True})
    with pytest.raises(ApplicationError, match="cannot take the whole of recovery set set-1: redis: empty target"):
        await call(restores, "check_stores", context("check-stores", chosen_set=named))


@pytest.mark.parametrize(
    ("method", "store"),
    [
        ("restore_streams", DataStore.NATS),
        ("restore_redis", DataStore.REDIS),
        ("restore_search", DataStore.SEARCH),
    ],
)
async def test_each_step_restores_and_removes_its_own_part(restores: Any, method: str, store: DataStore) -> None:
    about = context(method.replace("_", "-"))
    outcome = await call(restores, method, about)
    assert outcome.facts.restored_beside == {store: RESTORED}
    restores.remove.return_value = True
    assert (await call(restores, "remove_restored", about)).summary == "removed"
    for asked in (restores.restore, restores.remove):
        order = asked.await_args.args[0]
        assert (order.point_id, order.region, order.restore_id) == (POINTS[store], "region-b", about.effect_id)
        assert not order.replace


async def test_streams_are_written_only_as_their_guard_permits(restores: Any) -> None:
    async def permit(group: GroupSnapshot, region: str, store: str) -> None:
        raise Refused(f"{store} in {region} stands under a guard")

    outcome = await call(restores, "check_stores", context("check-stores"), permit)
    assert [warning.partition(":")[0] for warning in outcome.warnings] == ["nats is not restored"]
    with pytest.raises(ApplicationError, match="nats in region-b stands under a guard"):
        await call(restores, "restore_streams", context("restore-streams"), permit)
    restores.restore.assert_not_awaited()


async def test_data_that_are_not_right_are_said_by_store(restores: Any) -> None:
    facts = {"restored_redis": RESTORED, "restored_nats": RESTORED}
    passed = await call(restores, "verify_stores", context("verify-stores", **facts))
    assert passed.summary == "2 checks of nats and redis passed"
    restores.verify.return_value = [CheckResult(name="keys", passed=False, detail="0 keys, and 7 were restored")]
    with pytest.raises(ApplicationError, match="not right: keys: 0 keys, and 7 were restored"):
        await call(restores, "verify_stores", context("verify-stores", **facts))


async def test_what_was_restored_is_opened_and_nothing_else(restores: Any) -> None:
    outcome = await call(restores, "open_stores", context("open-stores", restored=RESTORED, restored_redis=RESTORED))
    restores.open_writes.assert_awaited_once_with(GROUP, RESTORED)
    assert outcome.summary == "in service: redis"
