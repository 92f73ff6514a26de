"""A run's report as words: the readable table of the Temporal UI, and sentences that every view shares.

Runs inside the workflow sandbox: pure, fast, no clock. ``now`` is the workflow's time, given by the caller.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from recovery.domain import words
from recovery.domain.objectives import rto_outlook
from recovery.domain.recovered_set import RecoveredSet, RecoveredStore
from recovery.domain.report import Achieved, RunReport, RunState, StepRecord, StepState

LONGEST_CELL = 160  # characters; the whole stays well below what the Temporal UI takes
LONGEST_TABLE = 15_000

SYMBOLS: dict[StepState, str] = {
    StepState.PENDING: "·",
    StepState.RUNNING: "▶",
    StepState.WAITING: "◔",
    StepState.HELD: "‖",
    StepState.DONE: "✓",
    StepState.WARNED: "▲",
    StepState.SKIPPED: "»",
    StepState.FAILED: "✗",
    StepState.CANCELLED: "⊘",
    StepState.UNDOING: "↺",
    StepState.UNDONE: "↩",
    StepState.UNDO_FAILED: "‼",
    StepState.UNDO_REFUSED: "⊗",
}
STATE_WORDS: dict[StepState, str] = {
    StepState.WAITING: "waits for approval",
    StepState.HELD: "held for the operator",
    StepState.WARNED: "failed, plan went on",
    StepState.UNDO_FAILED: "undo failed",
    StepState.UNDO_REFUSED: "not undone: past the pivot",
}
RUN_WORDS: dict[RunState, str] = {
    RunState.RUNNING: "Running",
    RunState.PAUSED: "Paused",
    RunState.HELD: "Held for the operator",
    RunState.WAITING: "Waiting for approval",
    RunState.ROLLING_BACK: "Rolling back",
    RunState.COMPLETED: "Completed",
    RunState.ROLLED_BACK: "Rolled back",
    RunState.ROLLBACK_INCOMPLETE: "Rollback incomplete",
    RunState.STOPPED: "Stopped by the operator",
}
FINISHED = {RunState.COMPLETED, RunState.ROLLED_BACK, RunState.ROLLBACK_INCOMPLETE, RunState.STOPPED}


def state_words(state: StepState) -> str:
    return STATE_WORDS.get(state, state.value.replace("-", " "))


def run_words(state: RunState) -> str:
    return RUN_WORDS.get(state, state.value)


def is_finished(report: RunReport) -> bool:
    return report.state in FINISHED


def elapsed(step: StepRecord, now: datetime | None) -> timedelta | None:
    """From the step's start to its end, or to ``now`` while it runs. None before it started."""
    if step.started_at is None:
        return None
    end = step.ended_at or now
    return max(end - step.started_at, timedelta()) if end else None


def budget_left(step: StepRecord, now: datetime | None) -> timedelta | None:
    """What is left of the budget of a step that runs; negative when it is overdrawn. None for any other state."""
    if step.state is not StepState.RUNNING or step.started_at is None or now is None:
        return None
    return step.budget - (now - step.started_at)


def remaining(step: StepRecord, now: datetime | None) -> timedelta | None:
    """Time until the step is expected to end, from the durations of earlier runs. None where nothing is known, and
    where they left the step out."""
    if not step.expected or step.state not in (StepState.PENDING, StepState.RUNNING, StepState.WAITING):
        return None
    if step.state is StepState.RUNNING and now is None:
        return None
    return max(step.expected - (elapsed(step, now) or timedelta()), timedelta())


def objective_sentence(
    word: str, achieved: timedelta | None, objective: timedelta | None, least: timedelta | None = None
) -> str:
    """``RTO 42 s of 15 min, met`` and its other forms; empty when there is neither figure."""
    if achieved is None:
        return f"{word} not measured, objective {words.duration(objective)}" if objective is not None else ""
    figure = figure_words(achieved, least)
    if objective is None:
        return f"{word} {figure}, no objective set"
    verdict = "met" if achieved <= objective else missed_words(achieved, objective, least)
    return f"{word} {figure} of {words.duration(objective)}, {verdict}"


def figure_words(most: timedelta | None, least: timedelta | None = None) -> str:
    """``6.2 s``, or ``0.4 s to 6.2 s`` where only bounds are known."""
    return words.duration(most) if least is None else f"{words.duration(least)} to {words.duration(most)}"


def missed_words(achieved: timedelta, objective: timedelta, least: timedelta | None = None) -> str:
    """``missed by 3 s``; where the objective lies between the bounds, that it may have been met."""
    over = words.duration(achieved - objective)
    return f"not surely met, over by up to {over}" if least is not None and least <= objective else f"missed by {over}"


def objective_sentences(achieved: Achieved) -> list[str]:
    """Achieved against objective, one sentence each, and the lost transactions where somebody counted them."""
    sentences = [
        objective_sentence("RTO", achieved.rto, achieved.rto_objective),
        objective_sentence("RPO", achieved.rpo, achieved.rpo_objective, achieved.rpo_least),
    ]
    if achieved.lost_transactions is not None:
        sentences.append(f"{words.plural(achieved.lost_transactions, 'lost transaction')}")
    return [sentence for sentence in sentences if sentence]


def store_sentences(found: RecoveredSet | None) -> list[str]:
    """Each store of the group by its name: what it lost, or why it was left; and how far apart they stand."""
    if found is None:
        return []
    sentences = [_store_sentence(each) for each in found.stores]
    if found.skew is not None:
        by = f"recovery set {found.set_id}: " if found.set_id is not None else ""
        sentences.append(f"{by}the stores stand at most {words.duration(found.skew)} apart")
    return sentences


def _store_sentence(store: RecoveredStore) -> str:
    if store.left:
        return f"{store.store}: not restored: {store.left}"
    came = f"from {store.point_id}" + (f", as of {as_of(store)}" if store.until_at is not None else "")
    if store.rpo is not None:
        return f"{store.store}: RPO {words.duration(store.rpo)}, {came}"
    return f"{store.store}: {'restored' if store.restored else 'to be restored'} {came}"


def as_of(store: RecoveredStore) -> str:
    """The moment at which a restored store stands, or the while in which it was read."""
    if store.from_at is None or store.from_at == store.until_at:
        return words.moment(store.until_at)
    return f"{words.moment(store.from_at).removesuffix(' UTC')} to {words.clock(store.until_at)} UTC"


def markdown_table(report: RunReport, now: datetime | None = None) -> str:
    """The run as Markdown for Temporal's current details.

    ``now`` is the workflow's time: with it, running steps show elapsed time, budget left and what remains.
    """
    lines = [_heading(report, now), ""]
    lines += ["| | Step | State | Attempts | Elapsed | Budget left | Expected end | What |"]
    lines += ["|---|---|---|--:|--:|--:|--:|---|"]
    lines += [_row(step, now) for step in report.steps]
    lines += _after_table(report, now)
    text = "\n".join(lines)
    return text if len(text) <= LONGEST_TABLE else text[: LONGEST_TABLE - 2] + "\n…"


def _heading(report: RunReport, now: datetime | None) -> str:
    parts = [f"**{run_words(report.state)}**: {_cell(report.plan)} of {_cell(report.group)}"]
    if report.source_region and report.target_region and report.source_region != report.target_region:
        parts.append(f"{_cell(report.source_region)} → {_cell(report.target_region)}")
    elif report.target_region or report.source_region:
        parts.append(_cell(report.target_region or report.source_region or ""))
    end = report.ended_at or now
    if end:
        parts.append(f"{words.duration(end - report.started_at)} so far" if not report.ended_at else _took(report))
    if report.eta and not report.ended_at:
        parts.append(f"expected end {words.clock(report.eta)} UTC")
    return ", ".join(parts)


def _took(report: RunReport) -> str:
    return f"took {words.duration((report.ended_at or report.started_at) - report.started_at)}"


def _row(step: StepRecord, now: datetime | None) -> str:
    what = step.error or step.undo_error or step.undo_summary or step.summary
    left = budget_left(step, now)
    rest = remaining(step, now) if step.state is StepState.RUNNING else None
    cells = [
        SYMBOLS.get(step.state, "?"),
        _cell(step.name) + (" (pivot)" if step.pivot else ""),
        state_words(step.state),
        str(step.attempts) if step.attempts else "",
        words.duration(elapsed(step, now)) if step.started_at else "",
        words.duration(left) if left is not None else "",
        f"in {words.duration(rest)}" if rest is not None else "",
        _cell(what),
    ]
    return "| " + " | ".join(cells) + " |"


def _after_table(report: RunReport, now: datetime | None) -> list[str]:
    lines: list[str] = []
    if now is not None and (outlook := rto_outlook(report, now)):
        lines += ["", f"**RTO**: {outlook}."]
    if figures := objective_sentences(report.achieved):
        lines += ["", "; ".join(figures) + "."]
    if stores := store_sentences(report.recovered_set):
        lines += ["", "**Stores**", *(f"- {_cell(sentence)}" for sentence in stores)]
    if report.error:
        lines += ["", f"**Error** in {_cell(report.failed_step or 'the run')}: {_cell(report.error)}"]
    if report.hold_choices:
        lines += ["", "**Choices**", *(f"- {_cell(choice)}" for choice in report.hold_choices)]
    if report.warnings:
        lines += ["", "**Warnings**", *(f"- {_cell(warning)}" for warning in report.warnings[:10])]
    return lines


def _cell(text: str) -> str:
    """One line that cannot break the table or smuggle in markup."""
    flat = " ".join(words.printable(text).split())
    if len(flat) > LONGEST_CELL:
        flat = flat[: LONGEST_CELL - 1] + "…"
    for sign in "\\|`*_[]":
        flat = flat.replace(sign, "\\" + sign)
    return flat.replace("<", "&lt;").replace(">", "&gt;")
