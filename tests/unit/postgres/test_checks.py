"""Every check passes on what was promised, and fails, alone, on the one promise that does not hold."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from recovery.adapters.postgres.checks import judge, matches
from recovery.adapters.postgres.fingerprint import Content, LargeObjects
from recovery.adapters.postgres.observation import Observation
from recovery.domain.recovery_point import (
    BackupKind,
    CheckResult,
    DataStore,
    Manifest,
    PostgresSource,
    TableFingerprint,
    kinds_of,
)

CRITICAL = ["orders", "public.customers"]


def manifest(kind: BackupKind = BackupKind.LOGICAL, **changes: object) -> Manifest:
    now = datetime(2026, 11, 22, tzinfo=UTC)
    source = PostgresSource(
        system_identifier="1",
        server_version="16.14",
        major=16,
        timeline=1,
        databases=["shop"],
        roles=["postgres", "clerk"],
        extensions=["shop.vector 0.8.0"],
        canary="point during" if kind is BackupKind.PHYSICAL else None,
        tables=[
            TableFingerprint(table="shop.public.customers", rows=3, checksum="33"),
            TableFingerprint(table="shop.public.empty", rows=0, checksum="0"),
            TableFingerprint(table="shop.public.huge", rows=1, checksum=None),
            TableFingerprint(table="shop.public.orders", rows=5, checksum="55"),
            TableFingerprint(table="shop.public.payments", rows=7, hashes="77"),
        ],
        table_count=5,
        sequences={"shop.public.up": 10, "shop.public.down": -10, "shop.public.dropped": 5},
        sequences_after={"shop.public.up": 14, "shop.public.down": -12},
        large_objects=1,
        large_object_checksums={"shop": "99"},
        fingerprints_taken="same-snapshot",
    )
    return Manifest(
        point_id="point",
        group="shop",
        kind=kind,
        started_at=now,
        finished_at=now,
        source=source.model_copy(update=changes),
        source_region="region-a",
        artefacts=[],
        recipients=[],
        run_id="run",
    )


def seen(**changes: object) -> Observation:
    contents = {
        "shop.public.customers": Content(3, "33"),
        "shop.public.empty": Content(0, "0"),
        "shop.public.huge": Content(1, None),
        "shop.public.orders": Content(5, "55"),
        "shop.public.payments": Content(7, None, "77"),
    }
    found = Observation(
        contents=contents,
        tables=set(contents),
        sequences={"shop.public.up": (14, 1), "shop.public.down": (-12, -1)},
        large_objects={"shop": LargeObjects(1, "99")},
        roles=["postgres", "clerk", "one_more"],
        extensions=["shop.plpgsql 1.0", "shop.vector 0.8.0"],
        canaries={"point", "point during"},
        indexes_checked=4,
    )
    for name, value in changes.items():
        setattr(found, name, value)
    return found


def failed(point: Manifest, found: Observation) -> dict[str, str]:
    return {result.name: result.detail for result in judge(point, found, CRITICAL) if not result.passed}


@pytest.mark.parametrize("kind", kinds_of(DataStore.POSTGRES))
def test_kept_promises_pass(kind: BackupKind) -> None:
    assert failed(manifest(kind), seen()) == {}


def without(*names: str) -> Observation:
    found = seen()
    for name in names:
        found.tables.discard(name)
        found.contents.pop(name, None)
    return found


def with_content(name: str, content: Content) -> Observation:
    found = seen()
    found.contents[name] = content
    return found


BROKEN: list[tuple[str, Observation, str]] = [
    ("tables-readable", seen(unreadable={"shop.public.empty": "invalid page"}), "shop.public.empty (invalid page)"),
    ("fingerprints", without("shop.public.empty"), "shop.public.empty is missing"),
    ("fingerprints", with_content("shop.public.orders", Content(4, "55")), "4 rows instead of 5"),
    ("fingerprints", with_content("shop.public.orders", Content(5, "56")), "content differs"),
    ("fingerprints", with_content("shop.public.payments", Content(7, None, "78")), "content differs"),
    ("fingerprints", with_content("shop.public.payments", Content(7, "77")), "7 rows, and their content differs"),
    ("fingerprints", with_content("shop.public.huge", Content(2, None)), "2 rows instead of 1"),
    ("sequences", seen(sequences={"shop.public.up": (9, 1), "shop.public.down": (-12, -1)}), "up stands at 9"),
    ("sequences", seen(sequences={"shop.public.up": (15, 1), "shop.public.down": (-12, -1)}), "between 10 and 14"),
    ("sequences", seen(sequences={"shop.public.up": (14, 1), "shop.public.down": (-9, -1)}), "down stands at -9"),
    ("sequences", seen(sequences={"shop.public.up": (14, 1)}), "shop.public.down is missing"),
    ("large-objects", seen(large_objects={"shop": LargeObjects(1, "98")}), "those of shop differ"),
    ("large-objects", seen(large_objects={"shop": LargeObjects(0, "99")}), "0 instead of 1"),
    ("roles", seen(roles=["postgres"]), "missing: clerk"),
    ("extensions", seen(extensions=["shop.plpgsql 1.0"]), "shop.vector"),
]


@pytest.mark.parametrize(("check", "found", "words"), BROKEN, ids=[f"{entry[0]}: {entry[2]}" for entry in BROKEN])
def test_a_broken_promise_fails_its_own_check(check: str, found: Observation, words: str) -> None:
    result = failed(manifest(), found)
    assert list(result) == [check]
    assert words in result[check]


def test_a_critical_table_that_is_missing_or_empty_fails() -> None:
    result = failed(manifest(), without("shop.public.orders"))
    assert set(result) == {"critical-tables", "fingerprints"}
    assert "orders is missing" in result["critical-tables"]
    emptied = failed(manifest(), with_content("shop.public.orders", Content(0, "0")))
    assert "shop.public.orders is empty, the source's had 5 rows" in emptied["critical-tables"]
    unknown = manifest(tables=[])
    assert "critical-tables" in failed(unknown, with_content("shop.public.orders", Content(0, "0")))


def test_a_critical_table_that_was_empty_may_be_empty() -> None:
    assert [r.name for r in judge(manifest(), seen(), ["empty"]) if not r.passed] == []


def test_a_missing_canary_fails_and_one_that_was_never_written_is_named() -> None:
    physical = manifest(BackupKind.PHYSICAL)
    assert list(failed(physical, seen(canaries={"point"}))) == ["canary"]
    silent = manifest(BackupKind.PHYSICAL, canary=None, notes=["no canary was written: the source is a standby"])
    result = next(result for result in judge(silent, seen(), []) if result.name == "canary")
    assert result.passed
    assert result.detail == "not available: no canary was written: the source is a standby"


def test_a_physical_point_may_have_sequences_logged_ahead_but_no_further() -> None:
    def at(value: int) -> Observation:
        return seen(sequences={"shop.public.up": (value, 1), "shop.public.down": (-12, -1)})

    physical = manifest(BackupKind.PHYSICAL)
    assert failed(physical, at(14 + 33)) == {}
    assert list(failed(physical, at(14 + 34))) == ["sequences"]
    assert list(failed(physical, at(9))) == ["sequences"]


def test_a_physical_points_extensions_have_the_same_version() -> None:
    newer = seen(extensions=["shop.plpgsql 1.0", "shop.vector 0.8.1"])
    assert failed(manifest(), newer) == {}
    assert list(failed(manifest(BackupKind.PHYSICAL), newer)) == ["extensions"]


def test_a_damaged_index_fails() -> None:
    found = failed(manifest(BackupKind.PHYSICAL), seen(broken_indexes={"shop.public.orders_pkey": "item order"}))
    assert found == {"indexes": "damaged: shop.public.orders_pkey (item order)"}


def test_without_amcheck_that_is_said() -> None:
    physical = manifest(BackupKind.PHYSICAL)
    result = next(result for result in judge(physical, seen(indexes_checked=None), []) if result.name == "indexes")
    assert result.passed
    assert result.detail.startswith("not available")


def collated(**found: object) -> CheckResult:
    """Of a point whose database and one collation have version 2.31, on a server with 2.36 of the database's."""
    point = manifest(BackupKind.PHYSICAL, collation_versions={"shop": "2.31", "shop.german": "2.31", "gone": "1"})
    here = seen(collations={"shop": "2.36", "shop.german": "2.31"}, **found)
    assert failed(point, here) == {}
    return next(result for result in judge(point, here, []) if result.name == "collations")


def test_a_server_that_sorts_otherwise_warns_with_the_command_that_mends_it() -> None:
    """An on-call engineer restores on another image: searches by text would miss rows, and nothing else would say."""
    result = collated(indexes_checked=None)
    assert result.detail == "other versions than at the source: shop (2.31 there, 2.36 here)"
    assert (
        """psql -d shop -c 'REINDEX DATABASE "shop"' -c 'ALTER DATABASE "shop" REFRESH COLLATION VERSION'"""
        in result.warning
    )
    assert "german" not in result.warning


def test_a_collation_that_is_not_here_is_rebuilt_by_its_name() -> None:
    point = manifest(BackupKind.PHYSICAL, collation_versions={"shop": "2.36", "shop.german": "2.31"})
    here = seen(collations={"shop": "2.36", "shop.german": None}, indexes_checked=None)
    result = next(result for result in judge(point, here, []) if result.name == "collations")
    assert "shop.german (2.31 there, none here)" in result.detail
    assert """-c 'REINDEX DATABASE "shop"' -c 'ALTER COLLATION "german" REFRESH VERSION'""" in result.warning


def test_indexes_that_amcheck_found_in_order_need_no_rebuilding() -> None:
    result = collated(indexes_checked=4)
    assert "amcheck found each of 4 B-tree indexes in the order of this server" in result.detail
    assert result.warning == ""


def test_an_index_that_another_collation_puts_out_of_order_is_no_damage_of_the_point() -> None:
    order = {"shop.public.by_name": "item order invariant violated"}
    result = collated(broken_indexes=order, sorted_by={"shop.public.by_name": {"shop"}})
    assert "not in the order of this server: shop.public.by_name" in result.warning


@pytest.mark.parametrize("collations", [{"shop.german"}, set()])
def test_an_index_by_what_sorts_as_before_is_damaged(collations: set[str]) -> None:
    point = manifest(BackupKind.PHYSICAL, collation_versions={"shop": "2.31"})
    key = "shop.public.orders_pkey"
    here = seen(collations={"shop": "2.36"}, broken_indexes={key: "item order"}, sorted_by={key: collations})
    assert list(failed(point, here)) == ["indexes"]


def test_the_versions_of_the_source_and_none_at_all_are_no_news() -> None:
    for recorded, here in (({"shop": "2.36"}, {"shop": "2.36"}), ({}, {"shop": "2.36"}), ({}, {"shop": None})):
        point = manifest(BackupKind.PHYSICAL, collation_versions=recorded)
        results = judge(point, seen(collations=here, indexes_checked=None), [])
        assert all(result.passed and not result.warning for result in results)


@pytest.mark.parametrize(
    ("name", "meant"), [("orders", True), ("public.orders", True), ("shop.public.orders", True), ("ders", False)]
)
def test_a_table_may_be_named_in_three_ways(name: str, meant: bool) -> None:
    assert matches("shop.public.orders", name) is meant
