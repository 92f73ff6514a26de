"""Snapshots of one RDS instance stand in the order in which RDS took them."""

from __future__ import annotations

from datetime import datetime, timedelta

from recovery.domain.managed import SnapshotCopy, SnapshotSource
from recovery.domain.point_order import newest_first
from recovery.domain.recovery_point import PostgresSource, RecoveryPoint
from tests.fakes.points import NOW, point


def snapshot(number: int, *, ended: timedelta, taken_at: datetime) -> RecoveryPoint:
    entry = point(number, age=ended, lsn=None)
    source = PostgresSource(
        system_identifier="db-ABCDEF",
        server_version="16.4",
        major=16,
        timeline=0,
        cluster_bytes=20,
        snapshot=SnapshotSource(
            name=f"recovery-{number}",
            instance="shop-production",
            began_at=taken_at,
            taken_at=taken_at,
            copies={"eu-central-1": SnapshotCopy(arn="arn")},
        ),
    )
    return entry.model_copy(update={"manifest": entry.manifest.model_copy(update={"source": source})})


def test_a_workers_wrong_clock_does_not_make_a_snapshot_the_newest() -> None:
    late = snapshot(1, ended=timedelta(days=1), taken_at=NOW)
    early = snapshot(2, ended=timedelta(), taken_at=NOW - timedelta(milliseconds=5))  # its worker's clock runs ahead
    assert [entry.point_id for entry in newest_first([early, late])] == ["point-1", "point-2"]
