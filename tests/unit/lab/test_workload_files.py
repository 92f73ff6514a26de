"""The workload's file of acknowledged commits."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.errors import LabError
from lab.workload import LossReport, first_after, longest_gap, new_number, read_acknowledged


def test_a_line_that_a_kill_cut_off_does_not_count(tmp_path: Path) -> None:
    file = tmp_path / "acknowledged.log"
    file.write_text("10 1.5\n11 2.5\n12 3")
    assert read_acknowledged(file) == {10: 1.5, 11: 2.5}


@pytest.mark.parametrize("lines", [4, 20_000])
def test_the_first_commit_after_a_moment_is_found_at_the_end_and_far_back(tmp_path: Path, lines: int) -> None:
    file = tmp_path / "acknowledged.log"
    file.write_text("".join(f"{number} {100 + number / 10:.4f}\n" for number in range(lines)) + "9 9999.0")
    last = 100 + (lines - 1) / 10
    assert first_after(file, 100.15) == 100.2
    assert first_after(file, last - 0.05) == pytest.approx(last)
    assert first_after(file, last) is None, "the last line is not whole"


def test_the_longest_gap_is_the_outage(tmp_path: Path) -> None:
    file = tmp_path / "acknowledged.log"
    file.write_text("1 100.0\n2 100.1\n3 107.6\n4 107.4\n5 108.0\n")  # two connections: not in order
    assert longest_gap(file) == (100.1, 107.4)
    file.write_text("1 100.0\n")
    with pytest.raises(LabError, match="fewer than two commits"):
        longest_gap(file)


def report(**changes: object) -> LossReport:
    facts = {
        "acknowledged": 5,
        "present": 3,
        "lost": 2,
        "lost_ids": [4, 5],
        "unacknowledged": 0,
        "first_lost_at": 13.0,
        "last_present_at": 12.0,
        "last_acknowledged_at": 14.0,
    }
    return LossReport.model_validate({**facts, **changes})


@pytest.mark.parametrize(
    ("changes", "seconds"),
    [
        ({}, 2.0),
        ({"lost": 0}, 0.0),
        ({"last_present_at": None}, 1.0),  # all lost: from the first of them
        ({"last_present_at": 14.0}, 0.0),  # a hole in the middle
        ({"last_acknowledged_at": None}, 0.0),
    ],
)
def test_the_achieved_rpo_in_seconds(changes: dict[str, object], seconds: float) -> None:
    assert report(**changes).lost_seconds == seconds


def test_numbers_grow_even_when_the_clock_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab.workload.time.time_ns", lambda: 5_000_000_000_000_000_000)
    numbers = [new_number() for _ in range(5)]
    assert numbers == sorted(set(numbers))
