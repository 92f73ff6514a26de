"""``drctl backup show``: what is particular to a point's store."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from drctl import backup
from recovery.config import Config
from recovery.domain.copies import Copy, CopyState, Replication
from recovery.domain.managed import SnapshotCopy, SnapshotSource
from recovery.domain.recovery_point import BackupKind, DataStore, RecoveryPoint
from tests.fakes.points import NOW, pg_source, point
from tests.fakes.redis import REPLID, redis_source

MINIMAL = Path(__file__).parents[1] / "config" / "minimal.yaml"


def of_redis() -> RecoveryPoint:
    found = point()
    update = {"store": DataStore.REDIS.value, "kind": BackupKind.RDB, "source": redis_source()}
    return found.model_copy(update={"manifest": found.manifest.model_copy(update=update)})


def at_rds() -> RecoveryPoint:
    found = point()
    snapshot = SnapshotSource(
        name="recovery-1", instance="shop-production", instance_class="db.r6g.large", encrypted=True, gigabytes=20,
        began_at=NOW, taken_at=NOW, copies={"region-a": SnapshotCopy(arn="arn:a", kms_key="key-a")},
        lacking={"region-b": "the region is down"},
    )  # fmt: skip
    source = pg_source("db-ABC", stop_lsn=None, snapshot=snapshot)
    update = {"kind": BackupKind.SNAPSHOT, "source": source}
    return found.model_copy(update={"manifest": found.manifest.model_copy(update=update)})


def facts_of(point: RecoveryPoint, copies: dict[str, Copy], monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    async def examined(config: Config, name: str, point_id: str) -> tuple[RecoveryPoint, dict[str, Copy]]:
        return point, copies

    monkeypatch.setattr(backup, "_examined", examined)
    environment = {"COLUMNS": "200", "TERM": "dumb", "RECOVERY_CONFIG": str(MINIMAL)}
    said = CliRunner().invoke(backup.app, ["show", "point-1"], env=environment)
    assert said.exit_code == 0, said.output
    return {line[:18].strip(): line[18:].strip() for line in said.stdout.splitlines()}


def test_a_snapshot_of_rds_says_where_it_is_and_where_not(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = facts_of(at_rds(), {}, monkeypatch)
    assert facts["Source"] == "region-a, shop-production at RDS, PostgreSQL 16.14"
    assert facts["Instance"] == "db-ABC, db.r6g.large, 20 GiB allocated"
    assert facts["Snapshot"].startswith("recovery-1, encrypted, taken ")
    assert (facts["In region-a"], facts["Not in region-b"]) == ("arn:a, key key-a", "the region is down")


def test_a_point_of_redis_says_where_it_was_read_and_what_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    pending = {Replication.COMPLETED: 117, Replication.PENDING: 1}
    copies = {
        "near": Copy(state=CopyState.WHOLE, replication=pending),
        "far": Copy(state=CopyState.FILLING, detail="1 object so far"),
    }
    facts = facts_of(of_redis(), copies, monkeypatch)
    assert facts["Source"] == "region-a, Redis 7.0.15, sent by its replica 10.0.0.1:6379"
    assert facts["Position"] == f"offset 1234 of replication {REPLID}"
    assert facts["Format"] == "RDB version 10; 300 keys read"
    assert facts["Keys"] == "290 to 300 in database 0, 7 in database 3"
    assert facts["Functions"] == "shop"
    assert facts["At near"] == "whole, replicated: 117 objects, replication pending: 1 object"
    assert facts["At far"] == "being filled: 1 object so far"
