"""Rules of Elasticsearch and OpenSearch: who reads what, names, what a copy must hold, which is newer."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from recovery.domain.search import (
    SearchIndex,
    SearchProduct,
    SearchServer,
    SearchSource,
    ShardPosition,
    alias_actions,
    chosen,
    number,
    patterns_digest,
    renamed,
    restore_refusal,
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


# Order


def test_points_of_one_cluster_and_one_choice_stand_by_its_clock() -> None:
    def source(cluster: str, patterns: list[str], at: datetime) -> SearchSource:
        server = SearchServer(product=OS, version="2.19.1", cluster="c", cluster_uuid=cluster)
        return SearchSource(
            server=server, repository="r", snapshot="s", snapshot_uuid="u", patterns=patterns, global_state=False,
            indices=[], shards=0, bytes=0, new_bytes=0, began_at=at, finished_at=at + timedelta(seconds=9),
        )  # fmt: skip

    one = source("a", ["x", "y"], NOON)
    assert one.identity == source("a", ["y", "x"], NOON).identity
    assert len({one.identity, source("b", ["x", "y"], NOON).identity, source("a", ["x"], NOON).identity}) == 3
    later = source("a", ["x", "y"], NOON + timedelta(milliseconds=1))
    assert one.position is not None and later.position is not None and one.position < later.position
    assert one.window == (NOON, NOON + timedelta(seconds=9))
