"""The dual-writer checker's judgement: it finds every certain overlap, and none where a failover went by."""

from __future__ import annotations

from pathlib import Path

from lab.two_writers import Accepted, Named, judge, read_accepted, read_named


def writes(region: str, *spans: tuple[float, float], owner: str | None = None) -> list[Accepted]:
    return [
        Accepted(region=region, number=number, began=begin, acknowledged=end, epoch=1, owner=owner)
        for number, (begin, end) in enumerate(spans)
    ]


def steady(region: str, begin: float, end: float) -> list[Accepted]:
    """A write every 50 ms, each acknowledged after 10."""
    count = round((end - begin) / 0.05)
    return writes(region, *((begin + n * 0.05, begin + n * 0.05 + 0.01) for n in range(count)))


def test_a_failover_and_a_failback_are_no_overlap() -> None:
    verdict = judge([*steady("a", 0, 10), *steady("b", 10.2, 20), *steady("a", 20.05, 30)])
    assert not verdict.two_writers
    assert [stretch.region for stretch in verdict.stretches] == ["a", "b", "a"]
    assert verdict.counts == {"a": 399, "b": 196}


def test_two_that_write_at_once_are_found_with_how_long() -> None:
    verdict = judge([*steady("a", 0, 10), *steady("b", 8, 20)])
    assert verdict.two_writers
    (overlap,) = verdict.overlaps
    assert overlap.regions == ("a", "b")
    assert 1.8 < overlap.seconds < 2.0


def test_one_late_write_of_the_old_primary_is_enough() -> None:
    verdict = judge([*steady("a", 0, 10), *writes("a", (15.0, 15.01)), *steady("b", 12, 20)])
    assert verdict.two_writers
    assert verdict.overlaps[0].begin >= 12


def test_a_write_that_may_have_been_committed_before_the_other_began_is_none() -> None:
    """Its server was frozen between the commit and the acknowledgement."""
    assert not judge([*steady("a", 0, 10), *writes("a", (10.0, 15.0)), *steady("b", 12, 20)]).two_writers


def test_two_stretches_of_one_region_around_an_outage_do_not_cover_it() -> None:
    """A wrote, was lost, and was the owner again; meanwhile B was."""
    assert not judge([*steady("a", 0, 5), *steady("b", 6, 9), *steady("a", 10, 15)]).two_writers


def test_writes_under_another_owner_are_counted() -> None:
    verdict = judge([*writes("a", (1.0, 1.1), owner="a"), *writes("a", (2.0, 2.1), (3.0, 3.1), owner="b")])
    assert verdict.unowned == {"a": 2}
    assert (verdict.first_unowned, verdict.last_unowned) == (2.0, 3.1)


def test_the_first_writes_after_a_takeover_are_owned_though_the_record_was_read_before() -> None:
    first = writes("b", (2.0, 2.1), owner="a")
    assert judge([*first, *writes("b", (2.4, 2.5), owner="b")]).unowned == {}
    assert judge([*first, *writes("b", (5.4, 5.5), owner="b")]).unowned == {"b": 1}


def test_a_region_that_dies_with_its_first_write_was_the_owner_as_the_witness_says() -> None:
    alone = [*writes("a", (1.0, 1.1), owner="a"), *writes("b", (2.0, 2.1), owner="a")]
    assert judge(alone, [Named(seen=2.3, owner="b")]).unowned == {}
    assert judge(alone, [Named(seen=5.3, owner="b")]).unowned == {"b": 1}
    assert judge(alone, [Named(seen=0.5, owner="b")]).unowned == {"b": 1}, "it was, and was not any more"


def test_writes_and_what_the_witness_named_stand_in_one_file(tmp_path: Path) -> None:
    file = tmp_path / "accepted.jsonl"
    [write], name = writes("a", (1.0, 1.1), owner="a"), Named(seen=0.9, owner="a")
    file.write_text(f"{name.model_dump_json()}\n{write.model_dump_json()}\n")
    assert (read_accepted(file), read_named(file)) == ([write], [name])


def test_a_line_that_a_kill_cut_off_does_not_count(tmp_path: Path) -> None:
    file = tmp_path / "accepted.jsonl"
    line = writes("a", (1.0, 1.1))[0].model_dump_json()
    file.write_text(f"{line}\n{line[:20]}")
    assert len(read_accepted(file)) == 1
    assert read_accepted(tmp_path / "none") == []
