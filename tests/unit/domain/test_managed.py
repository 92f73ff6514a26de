"""What replaces a managed database: the pure choice."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from recovery.domain.managed import (
    SERVES,
    SERVES_NOBODY,
    WILL_NOT_COME,
    ManagedInstance,
    ManagedRule,
    ManagedSnapshot,
    Way,
    choose_way,
    restored_name,
)

NOW = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)
RULE = ManagedRule(instances={"a": "db-a", "b": "db-b", "c": "db-c"})


def replica(region: str, **changed: object) -> ManagedInstance:
    found = ManagedInstance(region=region, name=f"db-{region}", status="available", replica_of="db-a")
    return found.model_copy(update=changed)


def snapshot(name: str, region: str = "a", hours: float = 1, status: str = "available") -> ManagedSnapshot:
    return ManagedSnapshot(
        name=name, region=region, instance="db-a", taken_at=NOW - timedelta(hours=hours), status=status
    )


def test_the_replica_of_highest_priority_is_promoted() -> None:
    way, chosen, _ = choose_way(RULE, "a", [replica("b"), replica("c")], [snapshot("s")], priorities={"b": 50, "c": 90})
    assert (way, chosen) == (Way.PROMOTE, replica("c"))


def test_each_replica_that_cannot_be_promoted_is_named_with_its_reason() -> None:
    replicas = [replica("b", replica_of="another"), replica("c", status="modifying")]
    way, chosen, rejected = choose_way(RULE, "a", replicas, [snapshot("s")])
    assert (way, chosen) == (Way.RESTORE, snapshot("s"))
    assert rejected == ["db-b in b: it is no read replica of db-a", "db-c in c: it is modifying"]


def test_a_replica_that_does_not_follow_is_not_promoted() -> None:
    broken = replica("b", replication_error="it reads from nobody")
    way, chosen, rejected = choose_way(RULE, "a", [broken], [snapshot("s")])
    assert (way, chosen) == (Way.RESTORE, snapshot("s"))
    assert rejected == ["db-b in b: it does not follow: it reads from nobody"]


def test_the_newest_finished_snapshot_is_restored_and_of_two_copies_the_one_at_home() -> None:
    found = [snapshot("half", hours=0, status="creating"), snapshot("old", hours=9)]
    found += [snapshot("new", "b"), snapshot("new", "a")]
    _, chosen, rejected = choose_way(RULE, "a", [], found)
    assert chosen == snapshot("new", "a")
    assert rejected == ["snapshot half: it is creating"]


def test_a_snapshot_that_was_named_is_taken_although_a_replica_follows() -> None:
    way, chosen, _ = choose_way(RULE, "a", [replica("b")], [snapshot("s"), snapshot("t", hours=5)], snapshot="t")
    assert (way, chosen) == (Way.RESTORE, snapshot("t", hours=5))


def test_the_configured_snapshot_counts_only_where_no_replica_follows() -> None:
    rule = RULE.model_copy(update={"snapshot": "daily"})
    assert choose_way(rule, "a", [replica("b")], [snapshot("daily", hours=5)])[0] is Way.PROMOTE
    assert choose_way(rule, "a", [], [snapshot("s"), snapshot("daily", hours=5)])[1] == snapshot("daily", hours=5)


def test_a_region_that_was_named_is_kept_to() -> None:
    way, chosen, rejected = choose_way(RULE, "a", [replica("b")], [snapshot("s", "a")], region="c")
    assert (way, chosen) == (Way.RESTORE, None)
    assert rejected == ["db-b in b: c was asked for"]


@pytest.mark.parametrize("status", ["storage-optimization", "storage-initialization"])
def test_a_replica_whose_volume_rds_still_works_on_is_promoted(status: str) -> None:
    working = replica("b", status=status)
    assert choose_way(RULE, "a", [working], [snapshot("s")])[:2] == (Way.PROMOTE, working)


def test_no_state_says_two_things() -> None:
    assert not SERVES & (SERVES_NOBODY | WILL_NOT_COME)
    # What botocore's waiter db_instance_available gives up at, and what RDS says that only a person mends.
    assert {"failed", "deleting", "incompatible-restore", "incompatible-parameters"} <= WILL_NOT_COME
    assert {"insufficient-capacity", "incompatible-create", "inaccessible-encryption-credentials"} <= WILL_NOT_COME


def test_a_restored_instance_has_a_name_that_rds_takes() -> None:
    cut = restored_name(f"{'shop' * 12}s-production", "0123456789ab")
    assert cut == f"{'shop' * 12}s-0123456789ab", "two hyphens in a row are refused"
    assert len(restored_name("s" * 63, "0123456789ab")) == 63
