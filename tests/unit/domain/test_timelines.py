"""Histories are compared by their forks, never by timeline numbers alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recovery.domain.timelines import History, lsn_order, lsn_text
from recovery.errors import BadInput

A = "7000000000000000001"


@pytest.mark.parametrize(
    ("mine", "position", "upstream"),
    [
        ("1", "0/3000000", "1"),
        ("1", "0/3000000", "1@0/3000000, 2"),
        ("1", "0/2FFFFFF", "1@0/3000000, 2~aaaaaaaa"),
        ("1@0/3000000, 2", "0/5000000", "1@0/3000000, 2@0/5000000, 3"),
        ("1@0/3000000, 2~aaaaaaaa", "0/5000000", "1@0/3000000, 2~aaaaaaaa@0/6000000, 4"),
        ("1@0/3000000, 2~aaaaaaaa", "0/5000000", "1@0/3000000, 2"),
        ("1", "0/3000000", "1@0/3000000, 2@0/3000000, 3"),
    ],
)
def test_ancestors_may_follow(mine: str, position: str, upstream: str) -> None:
    why = History.parse(f"{A}: {mine}").why_not_ancestor_of(History.parse(f"{A}: {upstream}"), position)
    assert why is None


@pytest.mark.parametrize(
    ("mine", "position", "upstream", "because"),
    [
        ("1", "0/3000001", "1@0/3000000, 2", "common history ends at 0/3000000"),
        ("1@0/3000000, 2", "0/3000100", "1@0/4000000, 2", "common history ends"),
        ("1@0/3000000, 2", "0/3000000", "1@0/4000000, 2", "not the same one"),
        ("1@0/3000000, 2~aaaaaaaa", "0/3000100", "1@0/3000000, 2~bbbbbbbb", "common history ends at 0/3000000"),
        ("1@0/3000000, 2~aaaaaaaa", "0/3000000", "1@0/3000000, 2~bbbbbbbb", "not the same one"),
        ("1@0/3000000, 2", "0/5000000", "1", "common history ends"),
        ("1@0/3000000, 2@0/5000000, 3", "0/6000000", "1@0/3000000, 2@0/5500000, 4", "common history ends at 0/5000000"),
        ("2~aaaaaaaa", "0/3", "2~bbbbbbbb", "no timeline in common"),
    ],
)
def test_others_may_not(mine: str, position: str, upstream: str, because: str) -> None:
    why = History.parse(f"{A}: {mine}").why_not_ancestor_of(History.parse(f"{A}: {upstream}"), position)
    assert why is not None and because in why


def test_another_initdb_is_no_relative() -> None:
    why = History.parse("7: 1").why_not_ancestor_of(History.parse("8: 1"), "0/1")
    assert why is not None and "another initdb" in why
    assert History.parse("7: 1").fork_from(History.parse("8: 1")) is None


@pytest.mark.parametrize("text", ["", "7", "7:", "x: 1", "7: 1, 2", "7: 1@0/3, two", "7: 1~zz"])
def test_what_is_no_history_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="no PostgreSQL history"):
        History.parse(text)


@given(st.integers(0, (1 << 64) - 1))
def test_positions_survive_their_text(number: int) -> None:
    assert lsn_order(lsn_text(number)) == number


@pytest.mark.parametrize("text", ["", "16", "x/y", "0/"])
def test_what_is_no_position_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="no WAL position"):
        lsn_order(text)


def test_a_history_survives_its_text() -> None:
    text = f"{A}: 1@0/3000000, 2~9f3c01aa@0/5000000, 3~77b0e15c"
    assert str(History.parse(text)) == text
