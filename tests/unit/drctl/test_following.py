"""A run followed without a terminal: one line for each change. With one: bars, and what it waits for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from activities.boundary import StepProgress
from drctl.following import PROGRESS_EVERY, ChangeLines, LiveView, progress_words, questions
from recovery.domain.report import RunReport, RunState, StepRecord, StepState

NOW = datetime(2026, 11, 22, 10, 15, tzinfo=UTC)


def row(name: str, state: StepState = StepState.PENDING, **fields: object) -> StepRecord:
    started = None if state is StepState.PENDING else NOW
    return StepRecord.model_validate(
        {
            "name": name, "activity": f"a.{name}", "where": "control", "group": 0, "state": state,
            "started_at": started, "budget": timedelta(minutes=1), **fields,
        }
    )  # fmt: skip


def report(*steps: StepRecord, state: RunState = RunState.RUNNING, **fields: object) -> RunReport:
    return RunReport.model_validate(
        {
            "plan": "Backup", "group": "shop", "run_id": "run-1", "workflow_id": "backup/shop", "state": state,
            "started_at": NOW, "steps": steps, **fields,
        }
    )  # fmt: skip


def test_each_change_is_one_line_and_no_change_is_none() -> None:
    lines = ChangeLines()
    first = report(row("load", StepState.RUNNING), row("take"))
    assert lines.of(first, {}, NOW) == ["10:15:00  Backup of shop, run run-1", "10:15:00  ▶ load: running"]
    assert lines.of(first, {}, NOW) == []
    done = row("load", StepState.DONE, ended_at=NOW + timedelta(seconds=2), summary="tier critical\nand more")
    assert lines.of(report(done, row("take", StepState.RUNNING)), {}, NOW) == [
        "10:15:00  ✓ load: done after 2 s: tier critical and more",
        "10:15:00  ▶ take: running",
    ]


def test_a_step_that_failed_and_was_undone_says_both() -> None:
    lines = ChangeLines()
    failed = row("take", StepState.FAILED, ended_at=NOW + timedelta(seconds=1), error="no space")
    assert "10:15:00  ✗ take: failed after 1 s: no space" in lines.of(report(failed), {}, NOW)
    undone = failed.model_copy(update={"state": StepState.UNDONE, "undo_summary": "3 objects removed"})
    said = lines.of(report(undone, state=RunState.ROLLED_BACK), {}, NOW)
    assert said == ["10:15:00  ↩ take: undone after 1 s: 3 objects removed", "10:15:00  Rolled back"]


def test_a_long_step_says_how_far_it_is_now_and_then() -> None:
    lines = ChangeLines()
    running = report(row("take", StepState.RUNNING))
    progress = {"a.take": StepProgress(done=1_000_000, expected=4_000_000, rate=500_000.0, note="base.tar")}
    lines.of(running, progress, NOW)
    assert lines.of(running, progress, NOW + PROGRESS_EVERY / 2) == []
    said = lines.of(running, progress, NOW + PROGRESS_EVERY)
    assert said == ["10:15:30    take: 977 KiB of 3.8 MiB, 25 %, 0.5 MB/s, 6 s left, base.tar"]


@pytest.mark.parametrize(
    ("progress", "words"),
    [
        (StepProgress(), ""),
        (StepProgress(note="starting"), "starting"),
        (StepProgress(done=2048, rate=1e6), "2 KiB, 1.0 MB/s"),
        (StepProgress(done=4096, expected=2048, rate=1e6), "4 KiB, 1.0 MB/s"),  # an estimate that was too low
    ],
)
def test_progress_in_words(progress: StepProgress, words: str) -> None:
    assert progress_words(progress) == words


def test_what_a_run_waits_for_names_the_command_that_answers() -> None:
    waiting = report(row("gated", StepState.WAITING), state=RunState.WAITING)
    assert questions(waiting) == [
        "gated waits for an approval: drctl approve backup/shop --reason ..., or drctl decline backup/shop --reason ..."
    ]
    held = report(row("check", StepState.HELD), state=RunState.HELD, hold_choices=["check: bad. Choose retry, abort."])
    assert questions(held) == [
        "check: bad. Choose retry, abort. Answer with: drctl retry|skip|resume|abort backup/shop --reason ..."
    ]
    lines = ChangeLines()
    assert [line for line in lines.of(held, {}, NOW) if "Answer with" in line]
    assert not [line for line in lines.of(held, {}, NOW) if "Answer with" in line], "a question is asked once"
    assert questions(report(state=RunState.PAUSED)) == ["the run is paused: drctl resume backup/shop --reason ..."]


def test_the_live_view_shows_a_bar_while_a_step_says_how_far_it_is() -> None:
    console = Console(width=140, force_terminal=True, no_color=True)
    view = LiveView(console)

    def drawn() -> str:
        with console.capture() as captured:
            console.print(view.draw())
        return captured.get()

    assert "waiting for the run's first word" in drawn()
    view.silence("no worker answers")
    assert "no worker answers" in drawn()
    running = report(row("take", StepState.RUNNING))
    view.show(running, {"a.take": StepProgress(done=50, expected=100, rate=10.0, note="base.tar")})
    shown = drawn()
    assert "50 B of 100 B, 50 %" in shown and "base.tar" in shown and "━" in shown
    assert "no worker answers" not in shown
    view.show(report(row("take", StepState.DONE)), {"a.take": StepProgress(done=50, expected=100)})
    assert "50 B of 100 B" not in drawn()
