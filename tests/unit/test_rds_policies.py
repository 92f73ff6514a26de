"""The policies in deploy/rds keep every worker from what it has no business with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / "deploy" / "rds"


def _statements(name: str, effect: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((FOLDER / f"{name}.json").read_text())["Statement"]
    return [each for each in found if each["Effect"] == effect]


def _actions(statement: dict[str, Any]) -> set[str]:
    named = statement["Action"]
    return {named} if isinstance(named, str) else set(named)


def test_who_restores_can_neither_delete_the_groups_instance_nor_give_it_the_tag_that_lets_it() -> None:
    (never,) = _statements("validation-and-restore", "Deny")
    assert never["Resource"] == "arn:aws:rds:*:ACCOUNT:db:INSTANCE"
    assert _actions(never) == {"rds:DeleteDBInstance", "rds:AddTagsToResource"}
    assert "Condition" not in never


def test_who_backs_up_deletes_nothing_and_who_removes_deletes_snapshots_of_points_only() -> None:
    assert not {each for found in _statements("backup-writer", "Allow") for each in _actions(found) if "Delete" in each}
    deleting = [
        found for found in _statements("retention", "Allow") if any("Delete" in each for each in _actions(found))
    ]
    (only,) = deleting
    assert _actions(only) == {"rds:DeleteDBSnapshot"}
    assert only["Condition"] == {"Null": {"aws:ResourceTag/recovery-plans-point": "false"}}


def test_every_worker_may_what_it_does() -> None:
    allowed = {
        name: {each for found in _statements(name, "Allow") for each in _actions(found)}
        for name in ("backup-writer", "validation-and-restore", "retention")
    }
    assert {"rds:CreateDBSnapshot", "rds:CopyDBSnapshot", "rds:AddTagsToResource"} <= allowed["backup-writer"]
    assert not [each for each in allowed["backup-writer"] if "Restore" in each or "Modify" in each]
    # The group's instance says whose account it is that knows no snapshot.
    assert allowed["retention"] == {"rds:DescribeDBSnapshots", "rds:DescribeDBInstances", "rds:DeleteDBSnapshot"}
    assert "rds:DeleteDBSnapshot" not in allowed["validation-and-restore"]
    (deletes,) = [
        each for each in _statements("validation-and-restore", "Allow") if "rds:DeleteDBInstance" in _actions(each)
    ]
    assert deletes["Condition"] == {"Null": {"aws:ResourceTag/recovery-plans-run": "false"}}
