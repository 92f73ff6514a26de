"""Rules of Elasticsearch and OpenSearch: who reads what, names, what a copy must hold, which snapshots may go."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from recovery.domain.search import (
    SearchIndex,
    SearchProduct,
    SearchServer,
    SearchSnapshot,
    ShardPosition,
    SnapshotMark,
    SnapshotState,
    alias_actions,
    chosen,
    number,
    patterns_digest,
    plan_snapshot_retention,
    renamed,
    restore_refusal,
    snapshot_name,
)

ES, OS = SearchProduct.ELASTICSEARCH, SearchProduct.OPENSEARCH
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("product", "version", "target", "reads", "possible"),
    [
        (ES, "8.17.3", ES, "8.17.3", True),
        (ES, "7.17.0", ES, "8.17.3", True),
        (ES, "8.17.3", ES, "9.1.0", True),
        (ES, "7.17.0", ES, "9.1.0", False),
        (ES, "8.17.4", ES, "8.17.3", False),
        (ES, "8.17.3", ES, "8.9.0", False),
        (OS, "1.3.2", OS, "2.19.1", True),
        (OS, "1.3.2", OS, "3.0.0", False),
        (OS, "2.19.1", OS, "2.9.0", False),
        (OS, "2.19.1", ES, "9.1.0", False),
        (ES, "6.8.0", OS, "1.3.2", True),
        (ES, "7.10.2", OS, "1.3.2", True),
        (ES, "7.10.2", OS, "2.19.1", True),
        (ES, "6.8.0", OS, "2.19.1", False),
        (ES, "7.11.0", OS, "2.19.1", False),
        (ES, "7.10.2", OS, "3.0.0", False),
        (ES, "5.6.0", OS, "1.3.2", False),
    ],
)
def test_which_server_reads_what(
    product: SearchProduct, version: str, target: SearchProduct, reads: str, possible: bool
) -> None:
    server = SearchServer(product=target, version=reads, cluster="west", cluster_uuid="u")
    why = restore_refusal(product, version, server)
    assert (why is None) is possible
    assert why is None or (f"{product.proper_name} {version}" in why and f"{target.proper_name} {reads}" in why)


def test_version_numbers() -> None:
    assert (number("8.17.3"), number("3.0"), number("9.0.0-rc1")) == ((8, 17, 3), (3, 0, 0), (9, 0, 0))
    with pytest.raises(ValueError, match="no version number"):
        number("eight")


def test_patterns_choose_as_a_server_does_and_no_internal_names() -> None:
    names = ["orders-1", "orders-2", "products", ".kibana", "a.b", "axb"]
    assert chosen(["*"], names) == ["a.b", "axb", "orders-1", "orders-2", "products"]
    assert chosen(["orders-*", "-*-2"], names) == ["orders-1"]
    assert chosen(["-orders-1", "orders-1"], names) == ["orders-1"]  # in their order
    assert chosen(["a.b", ".kib*"], names) == [".kibana", "a.b"]
    assert chosen(["nothing-*"], names) == []
    with pytest.raises(ValueError, match=r"it holds no order; it holds \.kibana, a\.b"):
        chosen(["order"], names)


def test_names_are_changed_as_java_changes_them() -> None:
    assert renamed(["orders-1", "x"], r"orders-(\d)", "back-$1") == {"orders-1": "back-1", "x": "x"}
    assert renamed(["a-b"], r"(\w)-(\w)", r"$2.$1") == {"a-b": "b.a"}
    assert renamed(["a"], None, None) == {"a": "a"}


@pytest.mark.parametrize(
    ("pattern", "replacement", "words"),
    [
        ("(", "x", "cannot be used"),
        ("a", "$1", "cannot be used"),
        ("a", None, "go together"),
        ("^", "-", "no index may be called so"),
        ("a", "A", "no index may be called so"),
        (".", "", "no index may be called so"),
        ("a1|a2", "b", "a1 and a2 would both be restored as b"),
    ],
)
def test_names_that_no_index_may_get(pattern: str, replacement: str | None, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        renamed(["a1", "a2"] if "|" in pattern else ["a"], pattern, replacement)


def index(*positions: tuple[int, int], docs: int = 10) -> SearchIndex:
    held = [ShardPosition(at_least=least, at_most=most) for least, most in positions]
    return SearchIndex(index="orders", uuid="u", shards=len(held), docs=docs, positions=held)


@pytest.mark.parametrize(
    ("part", "docs", "positions", "words"),
    [
        (index((4, 4), (4, 4)), 10, [4, 4], None),
        (index((4, 4), (4, 4)), 9, [4, 4], "orders has 9 documents instead of 10"),
        (index((4, 4), (4, 4)), 9, [4, 3], "orders[1] ends at sequence number 3 and the snapshot at 4 or later"),
        (index((4, 4), (4, 4)), 10, [4], "orders has 1 started shards instead of 2"),
        (index((4, 7), (4, 4), docs=13), 12, [6, 4], None),  # written to while the snapshot was taken
        (index((4, 4), (4, 4)), 11, [5, 4], None),  # written to since it was restored
        (index(), 99, [4], None),
    ],
)
def test_what_a_copy_must_hold(part: SearchIndex, docs: int, positions: list[int], words: str | None) -> None:
    assert part.differences(docs, positions) == ([words] if words else [])
    assert part.is_passed_by(positions) is (positions == [5, 4])


def test_aliases_point_to_what_was_restored_in_one_request() -> None:
    actions = alias_actions(
        {"orders-1": "back-1", "orders-2": "back-2"},
        {"orders-1": {"orders": {"filter": {"term": {"a": 1}}}}, "orders-2": {"orders": {"is_write_index": True}}},
        {"orders": ["orders-2", "back-1", "orders-1"], "others": ["x"]},
    )
    assert actions == [
        {"remove": {"index": "orders-1", "alias": "orders"}},
        {"remove": {"index": "orders-2", "alias": "orders"}},
        {"add": {"index": "back-1", "alias": "orders", "filter": {"term": {"a": 1}}}},
        {"add": {"index": "back-2", "alias": "orders", "is_write_index": True}},
    ]


def test_the_digest_of_patterns() -> None:
    assert patterns_digest(["b", "a", "a"]) == patterns_digest(["a", "b"]) != patterns_digest(["a", "b", "-c"])


# Retention


def snapshot(age: int, *, patterns: str = "p", cluster: str = "c", **changed: Any) -> SearchSnapshot:
    """``age`` in days; the point is called as the age."""
    mark = SnapshotMark(point=str(age), product=OS, cluster=cluster, patterns=patterns)
    values: dict[str, Any] = {"state": SnapshotState.SUCCESS, "mark": mark} | changed
    return SearchSnapshot(name=snapshot_name(str(age)), uuid="u", started_at=NOON - timedelta(days=age), **values)


def removed(snapshots: list[SearchSnapshot], expired: set[str], validated: set[str]) -> list[str]:
    plan = plan_snapshot_retention(snapshots, expired, validated)
    assert {*plan.keep, *plan.remove} == plan.reasons.keys() == {one.name for one in snapshots}
    return [name.removeprefix("recovery-") for name in plan.remove]


def test_a_snapshot_goes_once_a_newer_one_is_proven() -> None:
    three = [snapshot(3), snapshot(1), snapshot(2)]
    assert removed(three, {"2", "3"}, {"1"}) == ["2", "3"]
    assert removed(three, {"2", "3"}, {"2"}) == ["3"]
    assert removed(three, {"2", "3"}, set()) == []
    assert removed(three, {"3"}, {"1", "2"}) == ["3"]
    assert removed(three, {"1", "2", "3"}, {"1", "2", "3"}) == ["2", "3"]  # the newest validated one always stays


def test_what_proves_nothing() -> None:
    assert removed([snapshot(2), snapshot(1, patterns="others")], {"2"}, {"1"}) == []
    assert removed([snapshot(2), snapshot(1, cluster="other")], {"2"}, {"1"}) == []
    assert removed([snapshot(2), snapshot(1, state=SnapshotState.PARTIAL)], {"2"}, {"1"}) == []


def test_what_never_goes() -> None:
    running = snapshot(2, state=SnapshotState.IN_PROGRESS)
    assert removed([running, snapshot(1)], {"2"}, {"1"}) == []
    assert removed([snapshot(2, mark=None), snapshot(1)], {"2"}, {"1"}) == []
    assert removed([snapshot(2, state=SnapshotState.FAILED), snapshot(1)], {"2"}, {"1"}) == ["2"]


def test_the_reasons_are_said() -> None:
    plan = plan_snapshot_retention([snapshot(2), snapshot(1), snapshot(9, mark=None)], {"2"}, {"1"})
    assert plan.reasons == {
        "recovery-1": "point 1 is kept",
        "recovery-2": "point 2 is expired and recovery-1 is newer and validated",
        "recovery-9": "not ours",
    }
