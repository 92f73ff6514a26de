"""The HTML report: complete, escaped, self-contained, and right about what happened."""

from __future__ import annotations

import itertools
import json
import re
from datetime import timedelta
from html.parser import HTMLParser

import pytest

from drctl.report import render_report
from drctl.report.timeline import timeline_of
from drctl.report.verdict import verdict_of
from recovery.domain.candidates import Candidate
from recovery.domain.report import Achieved, RunReport, RunState, StepState
from tests.unit.report import samples

VOID = {"meta", "br", "link", "img", "hr", "input"}


class Page(HTMLParser):
    """Tags with attributes, visible text, and whether every element was closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.texts.append(" ".join(data.split()))

    @property
    def text(self) -> str:
        return " ".join(text for text in self.texts if text)


@pytest.fixture(params=sorted(samples.ALL))
def report(request: pytest.FixtureRequest) -> RunReport:
    return samples.ALL[request.param]()


def test_every_element_is_closed(report: RunReport) -> None:
    assert Page(render_report(report)).open == []


def test_nothing_is_fetched_and_nothing_is_run(report: RunReport) -> None:
    html = render_report(report)
    page = Page(html)
    for tag, attributes in page.tags:
        assert tag not in {"script", "link", "img", "iframe", "object", "embed", "base", "image", "use"}
        for name, value in attributes.items():
            assert not name.startswith("on"), name
            assert name not in {"src", "srcset", "href", "xlink:href", "action", "background", "poster"}
            assert "url(" not in (value or "") or (value or "").startswith("url(#")
    style = html[html.index("<style>") : html.index("</style>")]
    assert "@import" not in style
    assert "url(" not in style


def test_markup_in_texts_is_only_text() -> None:
    page = Page(render_report(samples.hostile()))
    assert "<script>alert(1)</script>" in page.text
    assert "{{ 7*7 }}" in page.text
    assert "script" not in {tag for tag, _ in page.tags}


def test_same_report_same_bytes(report: RunReport) -> None:
    assert render_report(report) == render_report(report)


def test_page_names_everything_an_auditor_asks_for() -> None:
    report = samples.completed_after_approval()
    text = Page(render_report(report)).text
    for wanted in (
        report.group,
        report.plan,
        report.run_id,
        report.workflow_id,
        report.config_hash,
        report.requested_by,
        report.reason,
        report.point_ids[0],
        "region-a → region-b",
        "2026-11-22 03:04:16 UTC",
        *(step.name for step in report.steps),
        *(step.summary for step in report.steps),
        *(check.name for check in report.checks),
        *(action.reason for action in report.actions),
        *report.warnings,
    ):
        assert wanted in text, wanted


def test_regions_that_were_not_taken_are_shown_with_the_reason() -> None:
    candidates = [
        Candidate(
            region="region-b", eligible=True, priority=90, position="0/5000000", lag_seconds=0.4, lag_limit=30,
            site="a", is_local=True,
        ),
        Candidate(region="region-c", eligible=False, rejected="it does not answer: refused"),
    ]  # fmt: skip
    report = samples.completed().model_copy(update={"candidates": candidates, "target_region": "region-b"})
    text = Page(render_report(report)).text
    for wanted in (
        "Regions that could take over",
        "same site",
        "0/5000000",
        "0.4 s of 30 s",
        "it does not answer: refused",
    ):
        assert wanted in text, wanted


def test_record_can_be_read_back() -> None:
    html = render_report(samples.rolled_back())
    page = Page(html)
    [record] = [text for text in page.texts if text.startswith("{")]
    assert RunReport.model_validate(json.loads(record)) == samples.rolled_back()


@pytest.mark.parametrize(
    ("achieved", "texts", "classes"),
    [
        (
            Achieved(rto=timedelta(seconds=42), rto_objective=timedelta(minutes=15)),
            ["42 s of 15 min", "✓ met, 14 m 18 s to spare"],
            ["tile good"],
        ),
        (
            Achieved(rto=timedelta(minutes=16), rto_objective=timedelta(minutes=15)),
            ["16 min of 15 min", "✗ missed by 1 min", "Completed, RTO missed"],
            ["tile bad"],
        ),
        (
            Achieved(rpo=timedelta(seconds=7), rpo_least=timedelta(seconds=2), rpo_objective=timedelta(minutes=5)),
            ["2 s to 7 s of 5 min", "✓ met, 4 m 53 s to spare"],
            ["tile good"],
        ),
        (
            Achieved(rpo=timedelta(seconds=7), rpo_least=timedelta(seconds=2), rpo_objective=timedelta(seconds=5)),
            ["2 s to 7 s of 5 s", "✗ not surely met, over by up to 2 s", "Completed, RPO perhaps missed"],
            ["tile bad"],
        ),
        (Achieved(rpo_objective=timedelta(minutes=5)), ["– of 5 min", "not measured in this run"], ["tile plain"]),
        (Achieved(lost_transactions=0), ["every acknowledged commit is there"], ["tile good"]),
        (Achieved(lost_transactions=3), ["acknowledged commits that are gone"], ["tile bad"]),
    ],
)
def test_tiles_hold_achieved_against_objective(achieved: Achieved, texts: list[str], classes: list[str]) -> None:
    page = Page(render_report(samples.completed().model_copy(update={"achieved": achieved})))
    for text in texts:
        assert text in page.text
    found = {attributes.get("class") for _, attributes in page.tags}
    assert set(classes) <= found


@pytest.mark.parametrize(
    ("report", "tone", "headline", "sentence"),
    [
        (samples.completed(), "good", "Completed", "15 steps done in region-b within 42 s."),
        (samples.completed_after_approval(), "warn", "Completed, RTO missed", "The objective for RTO was missed."),
        (samples.rolled_back(), "warn", "Rolled back", "undone, in reverse order: 6 steps."),
        (samples.rolled_back(undo_fails=True), "bad", "Rollback incomplete", "restore-streams was not undone"),
        (samples.cancelled(), "warn", "Aborted and rolled back", "Aborted by alice: wrong group."),
        (samples.held(), "bad", "Held: waiting for the operator", "Step confirm-service needs a decision"),
        (samples.waiting(), "busy", "Waiting for approval", "verify-infrastructure cannot start"),
        (samples.running(), "busy", "Running", "8 of 15 steps done."),
        (
            samples.held().model_copy(update={"state": RunState.STOPPED, "error": "aborted"}),
            "bad",
            "Stopped after the point of no return",
            "Nothing was undone",
        ),
    ],
)
def test_verdict_says_what_happened(report: RunReport, tone: str, headline: str, sentence: str) -> None:
    verdict = verdict_of(report)
    assert (verdict.tone, verdict.headline) == (tone, headline)
    assert sentence in " ".join(verdict.sentences)


def test_failed_check_is_not_hidden_behind_completed() -> None:
    report = samples.completed()
    checks = [report.checks[0].model_copy(update={"passed": False})]
    assert verdict_of(report.model_copy(update={"checks": checks})).headline == "Completed, checks failed"


# The chart ----------------------------------------------------------------------------------------------------------


def test_bars_are_inside_and_as_long_as_their_steps() -> None:
    report = samples.completed()
    lanes = {lane.name: lane for lane in timeline_of(report).lanes}
    for step in report.steps:
        [bar] = lanes[step.name].bars
        assert 0 <= bar.x <= bar.x + bar.width <= 100.001
    assert report.ended_at
    share = 21.7 / (report.ended_at - report.started_at).total_seconds() * 100
    assert lanes["restore-database"].bars[0].width == pytest.approx(share, abs=0.01)


def test_undo_lanes_come_in_the_order_in_which_they_ran_and_go_right() -> None:
    report = samples.rolled_back()
    lanes = timeline_of(report).undo_lanes
    assert [lane.name for lane in lanes] == report.undo_order
    places = [lane.bars[0].x for lane in lanes]
    assert places == sorted(places)
    assert {lane.bars[0].kind for lane in lanes} == {"undo"}


def test_undone_step_still_shows_how_it_went_itself() -> None:
    lanes = {lane.name: lane.bars[0].kind for lane in timeline_of(samples.rolled_back()).lanes if lane.bars}
    assert lanes["switch-dns"] == "failed"
    assert lanes["take-ownership"] == "done"
    cancelled = {lane.name: lane.bars[0].kind for lane in timeline_of(samples.cancelled()).lanes if lane.bars}
    assert cancelled["restore-database"] == "cancelled"


def test_failed_undo_has_its_own_kind() -> None:
    lanes = {lane.name: lane.bars[0].kind for lane in timeline_of(samples.rolled_back(undo_fails=True)).undo_lanes}
    assert lanes["restore-streams"] == "undo-failed"
    assert lanes["restore-cache"] == "undo"


def test_hours_of_waiting_do_not_hide_the_steps() -> None:
    timeline = timeline_of(samples.completed_after_approval())
    lanes = {lane.name: lane for lane in timeline.lanes}
    [gap] = timeline.breaks
    assert gap.label == "8 h"
    assert gap.right - gap.left < 15
    assert lanes["restore-database"].bars[0].width > 30
    assert lanes["verify-infrastructure"].bars[0].kind == "wait"
    assert len(lanes["verify-infrastructure"].marks) == 1


def test_short_waits_are_drawn_to_scale() -> None:
    assert timeline_of(samples.completed()).breaks == []


def test_pivot_pause_and_parallel_rows_are_marked() -> None:
    timeline = timeline_of(samples.completed_after_approval())
    [pivot] = timeline.pivots
    lanes = {lane.name: lane for lane in timeline.lanes}
    assert pivot.x == pytest.approx(lanes["open-writes"].bars[0].x, abs=0.01)
    assert [band.label for band in timeline.pauses] == ["paused 0.1 s"]
    together = [lanes[name].parallel for name in ("restore-database", "restore-streams", "restore-cache")]
    assert together == ["first", "middle", "last"]
    assert lanes["verify-data"].parallel == ""


def test_no_pivot_line_before_the_pivot_started() -> None:
    assert timeline_of(samples.rolled_back()).pivots == []


def test_held_step_shows_the_wait_for_a_decision() -> None:
    lanes = {lane.name: lane for lane in timeline_of(samples.held()).lanes}
    assert [bar.kind for bar in lanes["confirm-service"].bars] == ["wait", "failed"]


@pytest.mark.parametrize("name", sorted(samples.ALL))
def test_ticks_grow_and_do_not_crowd(name: str) -> None:
    ticks = timeline_of(samples.ALL[name]()).ticks
    assert len(ticks) <= 11
    assert all(b.x - a.x >= 9.9 for a, b in itertools.pairwise(ticks))


def test_attempts_and_error_are_told_beside_the_bar() -> None:
    lanes = {lane.name: lane.label for lane in timeline_of(samples.held()).lanes}
    assert lanes["announce-start"] == "2.2 s, 3 attempts"
    assert lanes["confirm-service"] == "53 s, 20 attempts, held"


def test_colour_is_never_the_only_sign() -> None:
    """Every kind of bar but the plain one carries a pattern, and every pattern exists."""
    html = render_report(samples.rolled_back(undo_fails=True))
    used = set(re.findall(r'fill="url\(#([a-z-]+)\)"', html))
    defined = set(re.findall(r'<pattern id="([a-z-]+)"', html))
    assert {"undo-hatch", "undo-failed-hatch", "failed-hatch"} <= used <= defined


def test_a_run_that_did_nothing_yet() -> None:
    report = samples.completed().model_copy(
        update={
            "state": RunState.RUNNING,
            "ended_at": None,
            "steps": [
                step.model_copy(update={"state": StepState.PENDING, "started_at": None, "ended_at": None})
                for step in samples.completed().steps
            ],
        }
    )
    assert "0 of 15 steps done" in Page(render_report(report)).text


def test_every_store_of_a_recovery_has_its_row() -> None:
    text = Page(render_report(samples.of_several_stores())).text
    assert "Stores at most 10 m 56 s apart" in text
    assert "postgres 1 m 37 s 2026-11-22 03:02:39 UTC 20261122T025143Z-physical-9c41" in text
    assert "nats 12 m 33 s 2026-11-22 02:51:43 to 02:52:05 UTC 20261122T025143Z-streams-9c41" in text
    assert "not restored: empty target: Redis 10.0.0.9:6379 holds <7> keys" in text
    assert "Recovery set 20261122T025143Z-set-9c41" in text
    assert "at most" not in Page(render_report(samples.completed())).text.partition("What ran when")[0]
