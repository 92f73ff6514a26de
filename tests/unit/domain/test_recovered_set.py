"""What each store of a recovery lost, and how far apart the stores stand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from recovery.domain.group import GroupSnapshot, Objectives
from recovery.domain.ownership import FenceProof
from recovery.domain.plan import Facts, RestoredServer
from recovery.domain.recovered_set import RecoveredSet, RecoveredStore, recovered_set
from recovery.domain.recovery_point import BackupKind, DataStore
from recovery.domain.recovery_set import ChosenSet, SetPart
from recovery.domain.recovery_target import ChosenRecovery, ReachedPoint, RecoveryTarget
from recovery.domain.report import RunReport, RunState
from recovery.domain.report_text import markdown_table, store_sentences

OUTAGE = datetime(2026, 11, 22, 10, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def at(minutes_before: float) -> datetime:
    return OUTAGE - minutes_before * MINUTE


def part(store: DataStore, began: float, finished: float, left: str = "") -> SetPart:
    return SetPart(
        store=store, point_id=f"point-of-{store}", began_at=at(began), finished_at=at(finished), left=left
    )  # fmt: skip


def server(held_until: float, reached: ReachedPoint | None = None) -> RestoredServer:
    return RestoredServer(
        region="region-b", host="127.0.0.1", port=1, database="", kind=BackupKind.RDB, point_id="point",
        last_commit_at=at(held_until), reached=reached,
    )  # fmt: skip


PARTS = [
    part(DataStore.POSTGRES, 62, 60),
    part(DataStore.NATS, 61, 59),
    part(DataStore.REDIS, 61.5, 61.5),
    SetPart(store=DataStore.SEARCH, left="recovery set set-1 has no point of it"),
]
FACTS = Facts(
    group=GroupSnapshot(
        name="shop", home_region="region-a", regions=[],
        objectives=Objectives(tier="critical", rto=15 * MINUTE, rpo=5 * MINUTE),
    ),
    chosen_set=ChosenSet(set_id="set-1", parts=PARTS),
    outage_began_at=OUTAGE,
    restored=server(60),
    restored_nats=server(61),
    restored_redis=server(61.5),
    service_restored_at=OUTAGE + MINUTE,
)  # fmt: skip


def recovered(**changes: Any) -> RecoveredSet:
    found = recovered_set(FACTS.model_copy(update=changes), OUTAGE, 60 * MINUTE)
    assert found is not None
    return found


def by_store(found: RecoveredSet) -> dict[str, RecoveredStore]:
    return {each.store: each for each in found.stores}


def test_each_store_has_its_own_loss_and_the_window_bounds_how_far_apart_they_stand() -> None:
    found = recovered()
    losses = {name: store.rpo for name, store in by_store(found).items()}
    assert losses == {"postgres": 60 * MINUTE, "nats": 61 * MINUTE, "redis": 61.5 * MINUTE, "search": None}
    assert found.skew == 3 * MINUTE  # 62 to 59 minutes before the outage
    assert [name for name, store in by_store(found).items() if store.restored] == ["postgres", "nats", "redis"]
    assert by_store(found)["search"].left == "recovery set set-1 has no point of it"


def test_a_store_loses_what_the_old_side_can_have_taken_until_its_fence() -> None:
    proof = FenceProof(epoch=1, region="a", how="lease-broken", by="b/1", at=OUTAGE + 0.1 * MINUTE, run="r1")
    assert by_store(recovered(fence=proof))["nats"].rpo == 61.1 * MINUTE


def test_a_store_that_was_left_counts_for_nothing() -> None:
    left = [each.model_copy(update={"left": "it holds 7 keys"}) if each.store == "nats" else each for each in PARTS]
    found = recovered(chosen_set=ChosenSet(set_id="set-1", parts=left), restored_nats=None)
    assert (by_store(found)["nats"].rpo, found.skew) == (None, 2 * MINUTE)


def test_a_store_whose_restore_an_operator_skipped_is_not_silently_left_out() -> None:
    found = by_store(recovered(restored_redis=None))["redis"]
    assert not found.restored
    assert "did not complete" in found.left and "point-of-redis" in found.left
    unfinished = by_store(recovered(restored_redis=None, service_restored_at=None))["redis"]
    assert (unfinished.left, unfinished.rpo) == ("", None)


@pytest.mark.parametrize(
    ("target", "stands_at", "skew"),
    [
        ({"time": at(30)}, at(30), 31.5 * MINUTE),
        ({"latest": True}, at(2), 59.5 * MINUTE),
    ],
)
def test_a_database_that_went_on_with_archived_wal_stands_where_that_ended(
    target: dict[str, Any], stands_at: datetime, skew: timedelta
) -> None:
    recovery = ChosenRecovery(
        target=RecoveryTarget.model_validate(target), system_identifier="7000", timeline=1, until="0/5", start="0/3"
    )
    reached = ReachedPoint(timeline=1, lsn="0/5", new_timeline=2, last_commit_at=at(2))
    found = recovered(recovery=recovery, restored=server(60, reached))
    database = by_store(found)["postgres"]
    assert (database.from_at, database.until_at, found.skew) == (stands_at, stands_at, skew)
    assert by_store(found)["redis"].until_at == at(61.5)


def test_a_group_of_one_store_has_none() -> None:
    assert recovered_set(FACTS.model_copy(update={"chosen_set": None}), OUTAGE, None) is None


def test_every_store_is_said_by_its_name() -> None:
    report = RunReport(
        plan="FullRecovery", group="shop", run_id="run-1", workflow_id="recovery/shop", state=RunState.COMPLETED,
        started_at=OUTAGE, steps=[], recovered_set=recovered(),
    )  # fmt: skip
    sentences = store_sentences(report.recovered_set)
    assert sentences == [
        "postgres: RPO 1 h, from point-of-postgres, as of 2026-11-22 08:58:00 to 09:00:00 UTC",
        "nats: RPO 1 h 1 m, from point-of-nats, as of 2026-11-22 08:59:00 to 09:01:00 UTC",
        "redis: RPO 1 h 2 m, from point-of-redis, as of 2026-11-22 08:58:30 UTC",
        "search: not restored: recovery set set-1 has no point of it",
        "recovery set set-1: the stores stand at most 3 min apart",
    ]
    table = markdown_table(report)
    assert all(name in table for name in ("postgres: RPO 1 h", "search: not restored", "at most 3 min apart"))
