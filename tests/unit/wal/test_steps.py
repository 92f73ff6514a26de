"""What plans make of a moment to recover to."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar, cast

import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.recovery_points import RecoveryPointSteps
from activities.restores import RestoreSteps
from recovery.domain.group import GroupSnapshot, PostgresAt, RegionPlan, WalRule
from recovery.domain.ownership import OwnershipRecord
from recovery.domain.plan import Facts, PlanContext, PlanRequest, RestoredServer, StepOutcome
from recovery.domain.recovery_point import BackupKind, VerdictState
from recovery.domain.recovery_target import ChosenRecovery, ReachedPoint, RecoveryTarget, Window, choose
from recovery.errors import NotFound, RecoveryError, Refused
from recovery.ports.measurements import Measurements
from recovery.ports.recovery_points import Expired, ExpiredWal, RecoveryPoints, RecoveryTargets, RestoreOrder, Restores
from tests.fakes.points import NOW
from tests.fakes.points import point as listed_point
from tests.unit.wal.test_recoveries import GROUP

CHOSEN = ChosenRecovery(
    target=RecoveryTarget(lsn="0/5000000"), system_identifier="7000", timeline=2, forks=[(1, "0/4000000")],
    until="0/5000000", start="0/3000100",
)  # fmt: skip


class Targets:
    def __init__(self) -> None:
        self.asked: list[tuple[RecoveryTarget, str | None]] = []
        self.expired = 0
        self.removed = ExpiredWal(7)
        self.missing: RecoveryError | None = None

    async def choose(self, group: GroupSnapshot, target: RecoveryTarget, point_id: str | None = None) -> Any:
        self.asked.append((target, point_id))
        if self.missing is not None:
            raise self.missing
        return listed_point(state=VerdictState.VALID), CHOSEN

    async def expire(self, group: GroupSnapshot) -> ExpiredWal:
        self.expired += 1
        return self.removed


class Points:
    async def newest_validated(self, group: GroupSnapshot, kind: BackupKind) -> Any:
        return listed_point(state=VerdictState.VALID)

    async def expire(self, group: GroupSnapshot, now: object, *, dry_run: bool) -> Expired:
        return Expired({}, {}, 0)


def steps(targets: Targets | None) -> RecoveryPointSteps:
    return RecoveryPointSteps(
        cast(RecoveryPoints, Points()), cast(Measurements, SimpleNamespace()), cast(RecoveryTargets, targets)
    )


def context(folder: str | None = "/srv/data", *, wal: WalRule | None = None, **request: object) -> PlanContext:
    region = RegionPlan(name="region-a", task_queue="a", postgres=PostgresAt(host="127.0.0.1", data_directory=folder))
    group = GROUP.model_copy(update={"regions": [region], "wal": wal})
    return PlanContext(
        plan="FullRecovery", run_id="run-7", workflow_id="recovery/shop", step="a-step",
        request=PlanRequest.model_validate({"group": "shop", **request}),
        facts=Facts(group=group, target_region="region-a", point_id="point-1", recovery=CHOSEN), started_at=NOW,
    )  # fmt: skip


async def call(step: Any, about: PlanContext) -> StepOutcome:
    outcome: StepOutcome = await ActivityEnvironment().run(step, about)
    return outcome


async def test_a_moment_chooses_the_point_and_the_way() -> None:
    targets = Targets()
    found = await call(steps(targets).choose_validated, context(target={"lsn": "0/5000000"}, point_id="point-1"))
    assert targets.asked == [(RecoveryTarget(lsn="0/5000000"), "point-1")]
    assert (found.facts.point_id, found.facts.recovery) == ("point-1", CHOSEN)
    assert found.summary.endswith("; WAL to 0/5000000 on timeline 2")


async def test_without_one_nothing_is_asked_of_the_archive() -> None:
    targets = Targets()
    found = await call(steps(targets).choose_validated, context())
    assert (targets.asked, found.facts.recovery) == ([], None)
    assert "WAL" not in found.summary
    expired = await call(steps(targets).expire, context())
    assert (targets.expired, "WAL" in expired.summary) == (0, False)


async def test_a_recovery_goes_to_the_end_of_the_archive_unless_it_is_told_otherwise() -> None:
    targets, archived = Targets(), WalRule()
    found = await call(steps(targets).choose_validated, context(wal=archived))
    assert targets.asked == [(RecoveryTarget(latest=True), None)]
    assert found.facts.recovery == CHOSEN
    beside = context(wal=archived).model_copy(update={"plan": "Restore"})
    assert (await call(steps(targets).choose_validated, beside)).facts.recovery is None
    targets.missing = NotFound("no recovery point lies in archived WAL")
    found = await call(steps(targets).choose_validated, context(wal=archived))
    assert found.facts.recovery is None
    assert found.warnings == ["the recovery ends with its recovery point: no recovery point lies in archived WAL"]
    targets.missing = Refused("several timelines")
    with pytest.raises(ApplicationError, match="several timelines"):
        await call(steps(targets).choose_validated, context(wal=archived))


class Branches(Targets):
    """After two recoveries to a moment of timeline 1."""

    windows: ClassVar = [
        Window(
            system_identifier="7000", point_id="point-1", point_timeline=1, timeline=number, forks=[(1, left)],
            first="0/1000", first_time=NOW, last="0/9000",
        )
        for number, left in ((2, "0/5000"), (3, "0/4000"))
    ]  # fmt: skip

    async def choose(self, group: GroupSnapshot, target: RecoveryTarget, point_id: str | None = None) -> Any:
        return listed_point(state=VerdictState.VALID), choose(target, self.windows)[1]


@pytest.mark.parametrize(
    ("lineage", "timeline", "why"),
    [(None, 3, "which was begun last"), ("7000: 1@0/5000, 2", 2, "which the group is on")],
)
async def test_a_recovery_that_nobody_can_be_asked_about_chooses_among_timelines(
    lineage: str | None, timeline: int, why: str
) -> None:
    about = context(wal=WalRule())
    record = OwnershipRecord(group="shop", region="region-a", lineage=lineage, changed_at=NOW)
    about = about.model_copy(update={"facts": about.facts.model_copy(update={"ownership": record})})
    found = await call(steps(Branches()).choose_validated, about)
    assert found.facts.recovery is not None and found.facts.recovery.timeline == timeline
    (warning,) = found.warnings
    assert f"timeline {timeline}, {why}: the latest archived WAL exists on several timelines" in warning
    with pytest.raises(ApplicationError, match="say which with --timeline"):
        await call(steps(Branches()).choose_validated, context(wal=WalRule(), target={"latest": True}))


async def test_retention_removes_wal_where_it_is_archived() -> None:
    targets = Targets()
    expired = await call(steps(targets).expire, context(wal=WalRule()))
    assert (expired.summary.endswith("; 7 pieces of WAL removed"), expired.warnings) == (True, [])
    targets.removed = ExpiredWal(0, "b did not answer")
    expired = await call(steps(targets).expire, context(wal=WalRule()))
    assert expired.warnings == ["no archived WAL was removed: b did not answer"]


@pytest.mark.parametrize(
    ("targets", "folder", "words"),
    [(Targets(), None, "needs a physical recovery point and a folder"), (None, "/srv", "reads no WAL archive")],
)
async def test_a_moment_that_this_plan_cannot_go_to_is_refused(
    targets: Targets | None, folder: str | None, words: str
) -> None:
    with pytest.raises(ApplicationError, match=words):
        await call(steps(targets).choose_validated, context(folder, target={"latest": True}))


async def test_the_restore_gets_the_way_and_says_where_it_ended() -> None:
    orders: list[RestoreOrder] = []

    class FakeRestores:
        async def restore(self, order: RestoreOrder, progress: object) -> RestoredServer:
            orders.append(order)
            reached = ReachedPoint(timeline=2, lsn="0/4FFFF00", new_timeline=3)
            return RestoredServer(
                region="region-a", host="h", port=1, database="d", kind=BackupKind.PHYSICAL, point_id="point-1",
                reached=reached,
            )  # fmt: skip

    restoring = RestoreSteps(cast(Restores, FakeRestores()), cast(Measurements, SimpleNamespace()))
    found = await call(restoring.restore_database, context())
    assert orders[0].recovery == CHOSEN
    assert found.summary.endswith("; recovered to timeline 2, 0/4FFFF00; goes on with timeline 3")
    assert [(check.name, check.passed) for check in found.checks] == [("recovery target", True)]
