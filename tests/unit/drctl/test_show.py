"""``drctl backup show``: what is particular to a point's store."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from drctl import backup
from recovery.config import Config
from recovery.domain.copies import Copy, CopyState, Replication
from recovery.domain.recovery_point import BackupKind, DataStore, RecoveryPoint
from tests.fakes.points import point
from tests.fakes.redis import REPLID, redis_source

MINIMAL = Path(__file__).parents[1] / "config" / "minimal.yaml"


def of_redis() -> RecoveryPoint:
    found = point()
    update = {"store": DataStore.REDIS.value, "kind": BackupKind.RDB, "source": redis_source()}
    return found.model_copy(update={"manifest": found.manifest.model_copy(update=update)})


def test_a_point_of_redis_says_where_it_was_read_and_what_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    async def examined(config: Config, name: str, point_id: str) -> tuple[RecoveryPoint, dict[str, Copy]]:
        pending = {Replication.COMPLETED: 117, Replication.PENDING: 1}
        return of_redis(), {
            "near": Copy(state=CopyState.WHOLE, replication=pending),
            "far": Copy(state=CopyState.FILLING, detail="1 object so far"),
        }

    monkeypatch.setattr(backup, "_examined", examined)
    environment = {"COLUMNS": "200", "TERM": "dumb", "RECOVERY_CONFIG": str(MINIMAL)}
    said = CliRunner().invoke(backup.app, ["show", "point-1"], env=environment)
    assert said.exit_code == 0, said.output
    facts = {line[:18].strip(): line[18:].strip() for line in said.stdout.splitlines()}
    assert facts["Source"] == "region-a, Redis 7.0.15, sent by its replica 10.0.0.1:6379"
    assert facts["Position"] == f"offset 1234 of replication {REPLID}"
    assert facts["Format"] == "RDB version 10; 300 keys read"
    assert facts["Keys"] == "290 to 300 in database 0, 7 in database 3"
    assert facts["Functions"] == "shop"
    assert facts["At near"] == "whole, replicated: 117 objects, replication pending: 1 object"
    assert facts["At far"] == "being filled: 1 object so far"
