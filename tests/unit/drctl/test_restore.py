"""What ``drctl restore`` asks for, and which options it refuses together."""

from __future__ import annotations

from typing import Any

import pytest

from recovery.domain.recovery_point import BackupKind, DataStore
from recovery.domain.search import SearchChoice
from tests.unit.drctl.rig import drctl


def test_restore_of_streams_asks_for_what_was_said(asked: list[Any]) -> None:
    point = "20261122T101500Z-streams-1a2b3c4d"
    said = drctl(
        "restore", "-s", "nats", "--stream", "orders", "--stream", "audit", "--replicas", "1", "--replace", "-y"
    )
    assert said.exit_code == 0, said.stderr
    assert drctl("restore", "--point", point, "--stream", "orders", "--target-stream", "copy").exit_code == 0
    first, second = (request for _, request, _ in asked)
    assert (first.store, first.streams, first.replicas, first.replace) == (
        DataStore.NATS, ("orders", "audit"), 1, True,
    )  # fmt: skip
    assert (second.point_id, second.streams, second.target_stream, second.replace) == (
        point,
        ("orders",),
        "copy",
        False,
    )


def test_restore_of_redis_asks_for_what_was_said(asked: list[Any]) -> None:
    assert (
        drctl("restore", "-s", "redis", "--way", "keys", "--replace", "--yes", "--to-region", "region-b").exit_code == 0
    )
    placed = drctl(
        "restore", "--point", "20261122T101500Z-rdb-1a2b3c4d", "--target-directory", "/srv/r", "--append-only"
    )
    assert placed.exit_code == 0, placed.stderr
    assert drctl("restore", "--store", "redis", "--target-directory", "/srv/r").exit_code == 0
    first, second, third = (request for _, request, _ in asked)
    assert (first.store, first.way, first.replace, first.kind) == (DataStore.REDIS, "keys", True, None)
    assert (second.target_directory, second.append_only, second.way) == ("/srv/r", True, None)
    assert (third.kind, third.store, third.append_only) == (None, DataStore.REDIS, False)


def test_restore_of_a_search_engine_asks_for_what_was_said(asked: list[Any]) -> None:
    said = drctl(
        "restore", "-s", "search", "--index", "orders-*", "--index", "products", "--rename-pattern", "^",
        "--rename-replacement", "back-", "--no-aliases", "--global-state", "--repository", "replica", "--replicas", "0",
    )  # fmt: skip
    assert said.exit_code == 0, said.stderr
    assert drctl("restore", "--point", "20261122T101500Z-search-1a2b3c4d", "--replace", "-y").exit_code == 0
    first, second = (request for _, request, _ in asked)
    assert (first.store, first.replicas, first.kind) == (DataStore.SEARCH, 0, None)
    assert first.search == SearchChoice(
        indices=("orders-*", "products"), rename_pattern="^", rename_replacement="back-", aliases=False,
        global_state=True, repository="replica",
    )  # fmt: skip
    assert (second.search, second.replace) == (None, True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--replace"], "--replace goes with --store nats or redis or search, or a point of it"),
        (["--store", "nats", "--index", "orders"], "--index goes with --store search"),
        (["--store", "nats", "--no-aliases"], "--no-aliases goes with --store search"),
        (["--store", "nats", "--replicas", "0"], "a stream has one at least"),
        (["--store", "search", "--rename-pattern", "x"], "expected --rename-pattern and --rename-replacement together"),
        (["--store", "search", "--target-port", "5440"], "--target-port goes with --store postgres"),
        (["--point", "20261122T101500Z-physical-1a2b3c4d", "--stream", "orders"], "--stream goes with --store nats"),
        (["--point", "20261122T101500Z-streams-1a2b3c4d", "--store", "postgres"], "is of nats, and not of postgres"),
        (["--store", "nats", "--target-port", "5440"], "--target-port goes with --store postgres, or a point of it"),
        (["--store", "nats", "--target-instance", "a"], "--target-instance goes with --store postgres"),
        (["--store", "nats", "--latest"], "(or another moment) goes with --store postgres"),
        (["--store", "redis", "--stream", "orders"], "--stream goes with --store nats"),
        (["--store", "redis", "--append-only"], "name its folder with --target-directory"),
        (["--store", "redis", "--target-directory", "/srv/redis", "--way", "keys"], "are for a running server"),
        (["--way", "keys"], "--way goes with --store redis"),
    ],
)
def test_options_of_another_store_are_refused(asked: list[Any], arguments: list[str], said: str) -> None:
    refused = drctl("restore", *arguments)
    assert refused.exit_code == 2
    assert said in refused.stderr
    assert asked == []


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (["--target-database", "copy"], BackupKind.LOGICAL),
        (["--target-directory", "/srv/copy"], BackupKind.PHYSICAL),
        (["--target-port", "5440"], BackupKind.PHYSICAL),
        (["--target-instance", "shop-back"], BackupKind.SNAPSHOT),
        ([], None),
        (["--target-database", "copy", "--point", "20261122T101500Z-logical-1a2b3c4d"], None),
    ],
)
def test_restore_takes_the_kind_that_fits_its_target(
    asked: list[Any], arguments: list[str], kind: BackupKind | None
) -> None:
    assert drctl("restore", *arguments).exit_code == 0
    assert asked[0][1].kind is kind


def test_restore_refuses_targets_of_both_kinds_and_relative_folders(asked: list[Any]) -> None:
    assert drctl("restore", "--target-database", "copy", "--target-port", "5440").exit_code == 2
    assert "expected an absolute path" in drctl("restore", "--target-directory", "copy").stderr
    assert drctl("restore", "--target-port", "70000").exit_code == 2
    assert (
        "leave out the other targets"
        in drctl("restore", "--target-instance", "shop-back", "--target-database", "copy").stderr
    )
    for name in ("shop--back", "1shop", "shop_back", "shop-"):
        assert "expected a name that RDS takes" in drctl("restore", "--target-instance", name).stderr
    assert asked == []


@pytest.mark.parametrize(
    ("options", "lost"),
    [
        ("--store redis --to-region region-b", "deletes in region-b every key of its Redis"),
        ("--store nats --stream orders --stream audit", "the 2 streams orders and audit"),
        ("--store nats", "each stream of the point"),
        ("--point 20261122T101500Z-search-1a2b3c4d --index orders-*", "what orders-* names"),
    ],
)
def test_what_replace_deletes_is_said_and_confirmed(options: str, lost: str, asked: list[Any]) -> None:
    refused = drctl("restore", *options.split(), "--replace")
    said = " ".join(refused.output.split())
    assert refused.exit_code == 2 and lost in said and "give --yes" in said and asked == []
    assert drctl("restore", *options.split(), "--replace", "--yes").exit_code == 0 and len(asked) == 1
