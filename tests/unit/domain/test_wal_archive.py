"""Pieces, ranges, gaps and forks of a WAL archive."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recovery.domain.timelines import lsn_order
from recovery.domain.wal_archive import (
    Branch,
    WalPiece,
    WalRange,
    contiguous_end,
    folder_timeline,
    gaps_between,
    history_timeline,
    lineage_ranges,
    merged,
    pieces_for,
    resume_position,
    segment_file,
    segment_range,
    served_range,
    tips,
    unit_bytes,
)
from recovery.errors import BadInput

MB = 1 << 20
SPACE = 60  # positions of the properties below, small so that ranges meet

positions = st.integers(0, SPACE)
ranges = st.tuples(positions, positions).filter(lambda p: p[0] != p[1]).map(lambda p: WalRange(min(p), max(p)))
range_lists = st.lists(ranges, max_size=8)


def covered(found: list[WalRange]) -> set[int]:
    return {position for each in found for position in range(each.start, each.end)}


@given(range_lists)
def test_merged_ranges_hold_the_same_positions_and_never_touch(found: list[WalRange]) -> None:
    result = merged(found)
    assert covered(result) == covered(found)
    assert all(before.end < after.start for before, after in itertools.pairwise(result))


@given(range_lists)
def test_gaps_are_exactly_what_is_missing_between_the_ends(found: list[WalRange]) -> None:
    held = covered(found)
    whole = set(range(min(held), max(held) + 1)) if held else set()
    assert covered(gaps_between(found)) == whole - held


@given(range_lists, positions)
def test_the_contiguous_end_has_everything_before_it_and_not_the_next(found: list[WalRange], start: int) -> None:
    end = contiguous_end(found, start)
    held = covered(found)
    assert set(range(start, end)) <= held
    assert end not in held


@given(range_lists, positions)
def test_an_archiver_goes_on_before_any_hole_that_the_server_can_still_fill(
    found: list[WalRange], restart: int
) -> None:
    position = resume_position(found, restart)
    held = covered(found)
    assert set(range(restart, position)) <= held, "nothing that the server has is left out"
    assert position not in held or position == restart
    assert position >= restart or not set(range(position, restart)) & held


@st.composite
def lineages(draw: st.DrawFn) -> Branch:
    numbers = sorted(draw(st.sets(st.integers(1, 6), min_size=1, max_size=4)))
    places = sorted(draw(st.lists(positions, min_size=len(numbers) - 1, max_size=len(numbers) - 1)))
    return Branch(numbers[-1], tuple(zip(numbers[:-1], places, strict=True)))


@given(lineages(), st.data())
def test_a_lineage_has_of_each_timeline_only_its_own_stretch(branch: Branch, data: st.DataObject) -> None:
    pieces = {stretch.branch: data.draw(range_lists) for stretch in branch.stretches()}
    expected = {
        position
        for stretch in branch.stretches()
        for position in covered(pieces[stretch.branch])
        if position >= stretch.begin and (stretch.left_at is None or position < stretch.left_at)
    }
    assert covered(lineage_ranges(branch, pieces)) == expected


@given(lineages(), st.integers(1, 6), ranges, st.none() | positions)
def test_no_recovery_passes_a_fork_on_an_older_timeline(
    branch: Branch, timeline: int, segment: WalRange, until: int | None
) -> None:
    served = served_range(branch, timeline, segment, until)
    left = dict(branch.forks).get(timeline, None if timeline == branch.timeline else 0)
    limits = [limit for limit in (left, until, segment.end) if limit is not None]
    began = max((place for number, place in branch.forks if number < timeline), default=0)
    if min(limits) <= segment.start or segment.end <= began:
        assert served is None
    else:
        assert served == WalRange(segment.start, min(limits))


@given(st.lists(st.tuples(ranges, st.none() | st.integers(0, 3)), max_size=10), ranges)
def test_chosen_pieces_follow_each_other_and_get_as_far_as_any_do(
    found: list[tuple[WalRange, int | None]], wanted: WalRange
) -> None:
    pieces = [WalPiece(each.start, each.end, epoch) for each, epoch in found]
    chosen = pieces_for(pieces, wanted)
    position = wanted.start
    for piece in chosen:
        assert piece.start <= position < piece.end
        position = piece.end
    reach = contiguous_end([piece.range for piece in pieces], wanted.start)
    assert min(position, wanted.end) == min(reach, wanted.end)


def test_a_whole_unit_is_taken_instead_of_its_partials() -> None:
    whole = WalPiece(0, 16)
    assert pieces_for([WalPiece(0, 7, 1), WalPiece(7, 12, 1), whole], WalRange(0, 16)) == [whole]


@given(st.integers(0, 1 << 63), st.integers(1, 1 << 30), st.none() | st.integers(0, 10**9))
def test_names_of_pieces_can_be_read_back_and_sort_by_position(start: int, size: int, epoch: int | None) -> None:
    piece = WalPiece(start, start + size, epoch)
    assert WalPiece.parse(piece.name) == piece
    assert piece.name < WalPiece(start + 1, start + size + 1, epoch).name


@pytest.mark.parametrize(
    "name", ["", "0-1", f"{5:016X}-{5:016X}", f"{6:016X}-{5:016X}", f"{1:016X}-{2:016X}.e", f"{1:016X}-{2:016X}.x"]
)
def test_other_names_are_no_pieces(name: str) -> None:
    with pytest.raises(BadInput, match="names no piece of WAL"):
        WalPiece.parse(name)


@pytest.mark.parametrize("size", [MB, 16 * MB, 64 * MB, 1 << 30])
@given(number=st.integers(0, 1 << 22), timeline=st.integers(1, 1 << 20))
def test_names_of_segments_can_be_read_back(size: int, number: int, timeline: int) -> None:
    name = segment_file(timeline, number * size + size // 2, size)
    assert segment_range(name, size) == (timeline, WalRange(number * size, (number + 1) * size))


def test_segment_names_are_postgresqls() -> None:
    assert segment_file(1, lsn_order("0/3000028"), 16 * MB) == "000000010000000000000003"
    assert segment_file(0x1F, lsn_order("16/B374D848"), 16 * MB) == "0000001F00000016000000B3"
    assert segment_range("000000010000000000000100", 16 * MB) is None, "a log has 256 segments of 16 MB"
    assert segment_range("00000002.history", 16 * MB) is None
    assert history_timeline("0000000A.history") == 10
    assert history_timeline("000000010000000000000003") is None


def test_units_are_segments_up_to_16_mebibytes() -> None:
    assert [unit_bytes(size) for size in (MB, 16 * MB, 1 << 30)] == [MB, 16 * MB, 16 * MB]
    for size in (0, 3 * MB, MB // 2, 1 << 31):
        with pytest.raises(BadInput, match="no segment size"):
            unit_bytes(size)


HISTORY = "1\t0/5000000\tno recovery target specified\n\n2\t0/7000028\tbefore 2026-01-01 \n"


def test_a_history_file_tells_the_ancestry() -> None:
    branch = Branch.from_history(3, HISTORY)
    assert branch == Branch(3, ((1, 0x5000000), (2, 0x7000028)))
    assert str(branch) == "1@0/5000000, 2@0/7000028, 3"
    assert [stretch.branch for stretch in branch.stretches()] == [Branch(1), Branch(2, ((1, 0x5000000),)), branch]
    assert [branch.stretch_at(at).branch.timeline for at in (0, 0x4FFFFFF, 0x5000000, 0x7000028)] == [1, 1, 2, 3]


@pytest.mark.parametrize("text", ["", "1\n", "one 0/5\n", "2\t0/5000000\n1\t0/6000000\n", "1 0/7\n2 0/6\n", "3 0/5\n"])
def test_what_is_no_history_is_refused(text: str) -> None:
    with pytest.raises(BadInput):
        Branch.from_history(3, text)


def test_equal_numbers_with_other_forks_are_other_timelines() -> None:
    one, other = Branch(2, ((1, 100),)), Branch(2, ((1, 200),))
    assert one.folder != other.folder
    assert folder_timeline(one.folder) == folder_timeline(other.folder) == 2
    assert folder_timeline("history.json") is None
    child = Branch(3, ((1, 100), (2, 300)))
    assert child.contains(one, 300) and not child.contains(one, 301)
    assert not child.contains(other, 250)
    assert child.contains(Branch(1), 100) and not child.contains(Branch(1), 101)
    assert tips([Branch(1), one, other, child]) == [other, child]
