"""The readable table of the Temporal UI."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest

from recovery.domain.report import Achieved, RunReport, StepState
from recovery.domain.report_text import (
    LONGEST_TABLE,
    SYMBOLS,
    markdown_table,
    objective_sentences,
    run_words,
    state_words,
)
from tests.unit.report import samples


def rows(report: RunReport, seconds: float | None = None) -> dict[str, list[str]]:
    """Cells by the step's name."""
    now = None if seconds is None else samples.START + timedelta(seconds=seconds)
    text = markdown_table(report, now)
    found = {}
    for line in text.splitlines():
        if line.startswith("| ") and "| Step |" not in line:
            cells = [cell.strip() for cell in line.strip("|").split(" | ")]
            found[cells[1]] = cells
    return found


def test_every_state_has_a_symbol_and_words() -> None:
    assert set(SYMBOLS) == set(StepState)
    assert all(state_words(state) for state in StepState)
    assert all(run_words(report.state) for report in (make() for make in samples.ALL.values()))


def test_running_step_shows_elapsed_budget_left_and_expected_end() -> None:
    cells = rows(samples.running(), 20)["restore-database"]
    assert cells[2:7] == ["running", "", "15 s", "29 m 45 s", "in 9 s"]


def test_without_a_clock_nothing_is_guessed() -> None:
    cells = rows(samples.running())["restore-database"]
    assert cells[4:7] == ["–", "", ""]


def test_heading_error_choices_and_figures() -> None:
    text = markdown_table(samples.held(), samples.START)
    assert text.startswith("**Held for the operator**: FullRecovery of shop, region-a → region-b")
    assert "Choose retry, skip, abort." in text
    text = markdown_table(samples.rolled_back())
    assert "**Error** in switch-dns: DNS server" in text
    assert "RTO 42 s of 15 min, met; RPO 1 m 37 s of 5 min, met; 1,284 lost transactions." in markdown_table(
        samples.completed()
    )


@pytest.mark.parametrize("name", sorted(samples.ALL))
def test_a_cell_never_breaks_its_row(name: str) -> None:
    report = samples.ALL[name]()
    table = [line for line in markdown_table(report).splitlines() if line.startswith("|")]
    unescaped = [line.replace("\\\\", "").replace("\\|", "").count("|") for line in table]
    assert set(unescaped) == {9}
    assert "<script" not in markdown_table(report)


def test_length_and_time_are_bounded() -> None:
    report = samples.thirty_steps()
    steps = [step.model_copy(update={"summary": "long " * 5_000}) for step in report.steps] * 10
    began = time.thread_time()  # the processor's time of this thread alone: what else the machine does is not in it
    text = markdown_table(report.model_copy(update={"steps": steps}))
    assert len(text) <= LONGEST_TABLE
    assert time.thread_time() - began < 0.5


@pytest.mark.parametrize(
    ("achieved", "sentences"),
    [
        (Achieved(), []),
        (Achieved(rto_objective=timedelta(minutes=15)), ["RTO not measured, objective 15 min"]),
        (
            Achieved(rto=timedelta(minutes=17), rto_objective=timedelta(minutes=15)),
            ["RTO 17 min of 15 min, missed by 2 min"],
        ),
        (Achieved(rpo=timedelta(), lost_transactions=1), ["RPO 0 s, no objective set", "1 lost transaction"]),
    ],
)
def test_objective_sentences(achieved: Achieved, sentences: list[str]) -> None:
    assert objective_sentences(achieved) == sentences
