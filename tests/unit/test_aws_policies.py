"""Each policy for RDS and Route 53 allows what its worker calls: derived from the adapters' own source."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from botocore import xform_name

ROOT = Path(__file__).parents[2]
WORKERS: dict[str, dict[str, set[str]]] = {
    "rds/backup-writer": {"rds": {"instance"}, "rds_snapshots": {"snapshot", "take", "copy"}},
    "rds/retention": {"rds_snapshots": {"of_points", "account", "snapshot", "delete"}},
    "rds/validation-and-restore": {
        "rds": {"instance", "restore", "remove"},
        "rds_snapshots": {"snapshot", "account", "restored", "take_on", "note_opened"},
    },
    "rds/failover": {
        "rds": {
            "instance", "events", "snapshots", "promote", "restore", "remove", "set_security_groups", "reboot", "stop",
            "start",
        },
    },
    "route53/records": {"route53": {"read", "replace", "settle", "_place", "_sets", "_change", "_until_in_sync"}},
}  # fmt: skip
"""Policy -> adapter -> its methods that this worker calls."""


def operations(module: str) -> dict[str, set[str]]:
    """Method -> operations of the API in it."""
    service = "route53" if module == "route53" else "rds"
    names = botocore.session.get_session().get_service_model(service).operation_names
    known = {xform_name(name): f"{service}:{name}" for name in names}
    found: dict[str, set[str]] = {}
    for method in ast.walk(ast.parse((ROOT / f"recovery/adapters/{module}.py").read_text())):
        if isinstance(method, ast.AsyncFunctionDef):
            found.setdefault(method.name, set()).update(
                known[name] for node in ast.walk(method) if (name := _called(node)) in known
            )
    return found


def _called(node: ast.AST) -> str:
    """``client.x(...)``, or the x of ``client.get_paginator("x")``."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return ""
    if not isinstance(node.func.value, ast.Name) or node.func.value.id != "client":
        return ""
    if node.func.attr == "get_paginator" and isinstance(node.args[0], ast.Constant):
        return str(node.args[0].value)
    return node.func.attr


def allowed(policy: str) -> set[str]:
    statements: list[dict[str, Any]] = json.loads((ROOT / f"deploy/{policy}.json").read_text())["Statement"]
    named = [each["Action"] for each in statements if each["Effect"] == "Allow"]
    return {action for each in named for action in ([each] if isinstance(each, str) else each)}


@pytest.mark.parametrize("policy", WORKERS)
def test_a_worker_may_what_it_calls_and_no_more(policy: str) -> None:
    needed: set[str] = set()
    for module, methods in WORKERS[policy].items():
        of = operations(module)
        assert methods <= set(of), "these are its methods"
        needed |= {each for method in methods for each in of[method]}
    if {"rds:RestoreDBInstanceFromDBSnapshot", "rds:CreateDBSnapshot", "rds:CopyDBSnapshot"} & needed:
        needed.add("rds:AddTagsToResource")  # their Tags need it, too
    assert {each for each in allowed(policy) if not each.startswith("kms:")} == needed


@pytest.mark.parametrize("module", ["rds", "rds_snapshots", "route53"])
def test_every_call_is_some_workers(module: str) -> None:
    theirs = {method for methods in WORKERS.values() for method in methods.get(module, set())}
    assert {method for method, called in operations(module).items() if called} <= theirs


def test_every_policy_has_its_worker() -> None:
    there = {f"{folder}/{file.stem}" for folder in ("rds", "route53") for file in (ROOT / "deploy" / folder).glob("*")}
    assert there == set(WORKERS)


def test_a_failover_never_deletes_or_tags_the_groups_instance_and_opens_only_what_it_made() -> None:
    statements = json.loads((ROOT / "deploy/rds/failover.json").read_text())["Statement"]
    named = {each["Sid"]: each for each in statements}
    assert named["NeverTheInstanceItself"]["Effect"] == "Deny"
    assert named["NeverTheInstanceItself"]["Action"] == ["rds:DeleteDBInstance", "rds:AddTagsToResource"]
    assert named["FenceAndPromoteTheGroupsInstances"]["Resource"] == "arn:aws:rds:*:ACCOUNT:db:INSTANCE"
    only = {"Null": {"aws:ResourceTag/recovery-plans-run": "false"}}
    assert named["OpenOrDeleteOnlyWhatARunMade"]["Condition"] == only
