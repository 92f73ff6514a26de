"""What the demo counts before a loss and after the recovery."""

from __future__ import annotations

from pathlib import Path

from drctl.demo import Story, report_files
from drctl.demo.contents import Count, compared


def test_a_figure_that_is_missing_or_differs_is_not_what_it_was() -> None:
    before = [Count("Redis", "keys", "3"), Count("JetStream", "ORDERS: messages", "7"), Count("Redis", "SHA-256", "a")]
    after = [Count("Redis", "SHA-256", "b"), Count("Redis", "keys", "3")]
    assert [(each.count.what, each.after, each.is_equal) for each in compared(before, after)] == [
        ("keys", "3", True),
        ("ORDERS: messages", None, False),
        ("SHA-256", "b", False),
    ]


def test_each_story_has_a_report_of_its_own() -> None:
    file = Path("here/report.html")
    assert report_files(Story.FAILOVER, file) == {Story.FAILOVER: file}
    assert report_files(Story.ALL, file) == {Story.RECOVERY: file, Story.FAILOVER: Path("here/report-failover.html")}
