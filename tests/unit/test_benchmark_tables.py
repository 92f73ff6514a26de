"""What `make bench` says of its figures."""

from __future__ import annotations

import argparse

import pytest

from bench.backups.__main__ import parts, size
from bench.backups.measuring import Cost, Row
from bench.backups.table import Rows, Verdict, rows_table, verdicts_table
from bench.backups.turns import OURS, PGBACKREST_SEALED, ZSTD, judge_physical


def test_medians_decide_and_a_peer_that_did_not_run_decides_nothing() -> None:
    rows = Rows()
    for ours, theirs in ((5.0, 8.0), (6.0, 8.0), (90.0, 8.0)):
        rows[OURS].costs.append(Cost(ours, 9.0, 500))
        rows[PGBACKREST_SEALED].costs.append(Cost(theirs, 10.0))
    speed, processor = judge_physical(rows)
    assert (speed.figure, speed.reached) == (0.75, True)
    assert (processor.figure, processor.reached) == (0.9, True)
    assert not rows.measured(ZSTD)
    rows[PGBACKREST_SEALED].costs += [Cost(7.9, 8.9)] * 5
    assert [verdict.reached for verdict in judge_physical(rows)] == [False, False]


def test_a_limit_from_below_is_missed_by_less() -> None:
    assert Verdict("faster", 30.0, 30, " x", least=True).reached
    assert not Verdict("faster", 29.9, 30, " x", least=True).reached
    assert "| faster | at least 30 x | 29.90 x | **not reached** |" in verdicts_table(
        [Verdict("faster", 29.9, 30, " x", least=True)]
    )


def test_a_row_shows_its_median_and_its_spread() -> None:
    row = Row("ours", [Cost(3.0, 1.0), Cost(1.0, 1.0), Cost(2.0, 4.0, 7_000_000)])
    assert "| ours | 2.00 | 1.00 to 3.00 | 1.0 | 7 | 3 |" in rows_table([row])


def test_sizes_and_parts_are_read_or_refused_with_what_is_expected() -> None:
    assert size("100MB") == 100_000_000
    assert size("4GB") == 4_000_000_000
    assert parts("physical,wal") == ["physical", "wal"]
    with pytest.raises(argparse.ArgumentTypeError, match="say 100MB"):
        size("much")
    with pytest.raises(argparse.ArgumentTypeError, match="physical, scripts"):
        parts("everything")
