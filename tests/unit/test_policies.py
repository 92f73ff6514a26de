"""The policies in deploy/s3 grant what they are for, and nothing that destroys to whoever backs up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "deploy" / "s3"
NAMES = ("backup-writer", "retention", "restore-reader")


def _statements(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((FOLDER / f"{name}.json").read_text())["Statement"]
    return found


def _actions(name: str) -> set[str]:
    listed = [statement["Action"] for statement in _statements(name)]
    return {action for each in listed for action in ([each] if isinstance(each, str) else each)}


def test_there_are_no_others() -> None:
    assert sorted(file.stem for file in FOLDER.glob("*.json")) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_each_allows_by_name_and_for_one_prefix_only(name: str) -> None:
    for statement in _statements(name):
        assert statement["Effect"] == "Allow"
        assert statement["Resource"] in ("arn:aws:s3:::BUCKET", "arn:aws:s3:::BUCKET/PREFIX/*")
    assert not {action for action in _actions(name) if "*" in action}


def test_who_backs_up_adds_only() -> None:
    assert not {action for action in _actions("backup-writer") if "Delete" in action or "Bypass" in action}
    (put,) = [entry for entry in _statements("backup-writer") if "s3:PutObject" in entry["Action"]
              and isinstance(entry["Action"], str)]  # fmt: skip
    assert put["Condition"] == {"Null": {"s3:if-none-match": "false"}}


def test_who_restores_changes_nothing_and_who_removes_writes_nothing() -> None:
    assert _actions("restore-reader") == {"s3:GetObject", "s3:ListBucket"}
    assert _actions("retention") == {"s3:GetObject", "s3:ListBucket", "s3:DeleteObject"}
