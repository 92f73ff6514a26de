"""Fills the page: everything is computed here, the template only places it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from importlib import resources
from typing import Literal

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from drctl.report.timeline import as_of, forward_kind, forward_symbol, timeline_of
from drctl.report.verdict import verdict_of
from recovery.domain import words
from recovery.domain.report import RunReport, StepRecord, StepState
from recovery.domain.report_text import SYMBOLS, figure_words, is_finished, missed_words, state_words
from recovery.domain.report_text import as_of as as_of_words

LEGEND = {
    "done": "done",
    "running": "running",
    "failed": "failed",
    "warned": "failed or skipped, the plan went on",
    "cancelled": "cancelled",
    "wait": "waiting for a person",
    "undo": "undo",
    "undo-failed": "undo failed or refused",
}


@dataclass(frozen=True)
class Tile:
    """One big figure. ``fill`` and ``goal`` are percent of the bar; None draws no bar."""

    name: str
    figure: str
    of: str
    verdict: str
    tone: Literal["good", "bad", "plain"]
    fill: float | None = None
    goal: float | None = None


@dataclass(frozen=True)
class StepRow:
    number: int
    name: str
    activity: str
    where: str
    symbol: str
    state: str
    then: str  # what became of it afterwards
    kind: str
    started: str
    offset: str
    took: str
    budget: str
    budget_share: float | None  # percent
    expected: str
    attempts: int
    summary: str
    error: str
    pivot: bool
    has_undo: bool
    together: bool


@dataclass(frozen=True)
class StoreRow:
    """A store of a recovered group. ``left``: why it is as it was."""

    name: str
    rpo: str
    as_of: str
    point: str
    left: str


@dataclass(frozen=True)
class UndoRow:
    name: str
    symbol: str
    state: str
    failed: bool
    started: str
    took: str
    summary: str
    error: str


def render_report(report: RunReport) -> str:
    """One HTML file without scripts, fonts, images or any other fetch; the same report gives the same bytes."""
    return _template().render(
        report=report,
        verdict=verdict_of(report),
        finished=is_finished(report),
        title=f"{report.plan} of {report.group}: {verdict_of(report).headline}",
        route=_route(report),
        tiles=_tiles(report),
        stores=_store_rows(report),
        timeline=timeline_of(report),
        legend=LEGEND,
        steps=[_step_row(number, step, report) for number, step in enumerate(report.steps, 1)],
        undone=_undo_rows(report),
        now=as_of(report),
        longest_name=max((len(step.name) for step in report.steps), default=0),
        record=report.model_dump_json(indent=2),
        words=words,
    )


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("drctl.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["style"] = resources.files("drctl.report").joinpath("style.css").read_text("utf-8")
    return environment.get_template("report.html.j2")


def _printable(value: object) -> object:
    """Control characters are not allowed in HTML, and bidirectional ones could turn a sentence around."""
    return words.printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _route(report: RunReport) -> str:
    source, target = report.source_region, report.target_region
    if source and target and source != target:
        return f"{source} → {target}"
    return target or source or ""


def _tiles(report: RunReport) -> list[Tile]:
    achieved, finished = report.achieved, is_finished(report)
    tiles = []
    for name, figure, objective, least in (
        ("Achieved RTO", achieved.rto, achieved.rto_objective, None),
        ("Achieved RPO", achieved.rpo, achieved.rpo_objective, achieved.rpo_least),
    ):
        if figure is not None or objective is not None:
            tiles.append(_objective(name, figure, objective, finished, least))
    if tiles or achieved.lost_transactions is not None:
        tiles.append(_lost(achieved.lost_transactions, achieved.rpo_met))
    return [*tiles, _duration_tile(report)]


def _objective(
    name: str,
    achieved: timedelta | None,
    objective: timedelta | None,
    finished: bool,
    least: timedelta | None = None,
) -> Tile:
    of = f"of {words.duration(objective)}" if objective is not None else "no objective set"
    if achieved is None:
        return Tile(name, words.NOTHING, of, "not measured in this run" if finished else "not measured yet", "plain")
    figure = figure_words(achieved, least)
    if objective is None:
        return Tile(name, figure, of, "", "plain")
    longest = max(achieved, objective) or timedelta(seconds=1)
    fill, goal = achieved / longest * 100, objective / longest * 100
    if achieved <= objective:
        spare = words.duration(objective - achieved)
        return Tile(name, figure, of, f"✓ met, {spare} to spare", "good", fill, goal)
    return Tile(name, figure, of, f"✗ {missed_words(achieved, objective, least)}", "bad", fill, goal)


def _lost(count: int | None, rpo_met: bool | None) -> Tile:
    if count is None:
        return Tile("Lost transactions", words.NOTHING, "", "nobody counted them", "plain")
    if count == 0:
        return Tile("Lost transactions", "0", "", "✓ every acknowledged commit is there", "good")
    if rpo_met:
        return Tile("Lost transactions", f"{count:,}", "", "acknowledged commits, within the RPO", "plain")
    return Tile("Lost transactions", f"{count:,}", "", "acknowledged commits that are gone", "bad")


def _duration_tile(report: RunReport) -> Tile:
    spent = as_of(report) - report.started_at
    budgets = f"budgets allow {words.duration(report.critical_path)}" if report.critical_path else ""
    name = "Whole run" if is_finished(report) else "Running for"
    return Tile(name, words.duration(spent), words.plural(len(report.steps), "step"), budgets, "plain")


def _store_rows(report: RunReport) -> list[StoreRow]:
    found = report.recovered_set
    return [
        StoreRow(
            name=store.store,
            rpo=words.duration(store.rpo),
            as_of="" if store.left else as_of_words(store),
            point=store.point_id or "",
            left=store.left,
        )
        for store in (found.stores if found is not None else [])
    ]


def _step_row(number: int, step: StepRecord, report: RunReport) -> StepRow:
    taken = _taken(step, as_of(report))
    return StepRow(
        number=number,
        name=step.name,
        activity=step.activity,
        where=step.where,
        symbol=forward_symbol(step, report),
        state=_state(step, report),
        then=state_words(step.state) if step.state.value.startswith("undo") else "",
        kind=forward_kind(step, report) if step.started_at else "none",
        started=words.clock(step.started_at) if step.started_at else "",
        offset=f"+{words.duration(step.started_at - report.started_at)}" if step.started_at else "",
        took=words.duration(taken) if taken is not None else "",
        budget=words.duration(step.budget),
        budget_share=None if taken is None or not step.budget else taken / step.budget * 100,
        expected=words.duration(step.expected) if step.expected else "",
        attempts=step.attempts,
        summary=step.summary,
        error=step.error,
        pivot=step.pivot,
        has_undo=step.has_undo,
        together=sum(other.group == step.group for other in report.steps) > 1,
    )


def _state(step: StepRecord, report: RunReport) -> str:
    if step.state is StepState.PENDING and (is_finished(report) or report.undo_order):
        return "not reached"
    if step.state.value.startswith("undo"):
        return forward_kind(step, report)
    return state_words(step.state)


def _undo_rows(report: RunReport) -> list[UndoRow]:
    by_name = {step.name: step for step in report.steps}
    rows = []
    for step in (by_name[name] for name in report.undo_order if name in by_name):
        end = step.undo_ended_at or (as_of(report) if step.state is StepState.UNDOING else None)
        rows.append(
            UndoRow(
                name=step.name,
                symbol=SYMBOLS[step.state],
                state=state_words(step.state),
                failed=step.state in (StepState.UNDO_FAILED, StepState.UNDO_REFUSED),
                started=words.clock(step.undo_started_at),
                took=words.duration(end - step.undo_started_at) if end and step.undo_started_at else "",
                summary=step.undo_summary,
                error=step.undo_error,
            )
        )
    return rows


def _taken(step: StepRecord, now: datetime) -> timedelta | None:
    return None if step.started_at is None else (step.ended_at or now) - step.started_at
