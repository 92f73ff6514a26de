"""What is read out of pg_waldump's lines."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from recovery.adapters.postgres.diverged_transactions import TransactionReader

MARKS, STATISTIC, CLASS, HEARTBEAT = (1663, 5, 16385), (1663, 5, 2619), (1663, 5, 1259), (1663, 5, 16400)
NAMES = {
    MARKS: "shop.public.marks",
    STATISTIC: "shop.pg_catalog.pg_statistic",
    CLASS: "shop.pg_catalog.pg_class",
    HEARTBEAT: "shop.recovery_plans.heartbeat",
}


def line(manager: str, xid: int, description: str, lsn: str = "0/3000028") -> str:
    return (
        f"rmgr: {manager:<11} len (rec/tot):     54/    54, tx: {xid:>10}, lsn: {lsn}, prev 0/03000000, "
        f"desc: {description}"
    )


def insert(xid: int, node: tuple[int, int, int], operation: str = "INSERT off: 3, flags: 0x00") -> str:
    return line("Heap", xid, f"{operation}, blkref #0: rel {node[0]}/{node[1]}/{node[2]} blk 0 FPW")


def commit(xid: int, second: int = 1, more: str = "") -> str:
    return line("Transaction", xid, f"COMMIT 2026-01-02 03:04:{second:02d}.123456 UTC{more}", f"0/300{xid:04X}")


def read(*lines: str) -> dict[str, Any]:
    reader = TransactionReader()
    for each in lines:
        reader.read(each)
    return reader.summary(NAMES)


def test_a_commit_has_its_time_its_place_and_its_relations() -> None:
    found = read(insert(700, MARKS), insert(700, (1663, 5, 16999)), commit(700, 7))
    [one] = found["transactions"]
    assert (one.xid, one.records, one.lsn) == (700, 2, "0/30002BC")
    assert one.committed_at == datetime(2026, 1, 2, 3, 4, 7, 123456, UTC)
    assert one.relations == ["5/16999", "shop.public.marks"], "what has no name keeps its number"
    assert found["count"] == 1 and found["first_commit_at"] == found["last_commit_at"] == one.committed_at


def test_only_what_was_committed_counts() -> None:
    found = read(
        insert(700, MARKS),
        insert(701, MARKS),
        line("Transaction", 701, "ABORT 2026-01-02 03:04:05.1 UTC"),
        line("Standby", 0, "RUNNING_XACTS nextXid 702 latestCompletedXid 701 oldestRunningXid 702"),
        "pg_waldump: something else",
    )
    assert found["count"] == 0 and found["transactions"] == [] and found["first_commit_at"] is None


def test_subtransactions_belong_to_their_transaction() -> None:
    found = read(insert(700, CLASS), insert(701, MARKS), insert(702, MARKS), commit(700, more="; subxacts: 701 702"))
    [one] = found["transactions"]
    assert one.records == 3 and one.relations == ["shop.public.marks"]


def test_a_prepared_transaction_is_known_by_its_own_number() -> None:
    found = read(insert(700, MARKS), line("Transaction", 0, "COMMIT_PREPARED 700: 2026-01-02 03:04:05.5 UTC"))
    [one] = found["transactions"]
    assert one.xid == 700 and one.relations == ["shop.public.marks"]


def test_a_transaction_that_began_before_the_fork_counts() -> None:
    assert read(commit(700))["count"] == 1


def test_statistics_and_our_own_probe_are_not_the_users() -> None:
    found = read(
        *(insert(700, STATISTIC), insert(700, CLASS, "INPLACE off: 1"), commit(700)),
        *(insert(701, HEARTBEAT), commit(701)),
        *(insert(702, CLASS, "INPLACE off: 1"), commit(702)),
        *(insert(703, CLASS, "HOT_UPDATE off: 1"), commit(703)),
        *(insert(704, HEARTBEAT), insert(704, MARKS), commit(704)),
    )
    assert [one.xid for one in found["transactions"] if not one.maintenance] == [703, 704]
    assert found["count"] == 2 and found["maintenance_count"] == 3


def test_without_names_statistics_are_known_by_their_files() -> None:
    reader = TransactionReader()
    for each in (insert(700, STATISTIC), commit(700), insert(701, MARKS), commit(701)):
        reader.read(each)
    assert reader.summary({})["count"] == 1


def test_many_are_counted_and_the_first_are_listed() -> None:
    reader = TransactionReader()
    for number in range(10_500):
        reader.read(commit(number + 1, number % 60))
    found = reader.summary({})
    assert found["count"] == 10_500 and len(found["transactions"]) == 10_000
