"""Reports and recovery points as tables for a terminal: live, narrow, without colours, or in ASCII.

Colour is never the only sign. Rich drops colours by itself for ``NO_COLOR`` and pipes; ``Console`` from
``drctl.tables.console()`` also falls back to ASCII where the encoding cannot hold our signs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TextIO, TypedDict

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from drctl import words
from recovery.domain.chains import as_trees
from recovery.domain.copies import Copy, CopyState
from recovery.domain.objectives import rto_outlook
from recovery.domain.recovered_set import RecoveredSet
from recovery.domain.recovery_point import CheckResult, RecoveryPoint, VerdictState
from recovery.domain.recovery_set import RecoverySet, SetState
from recovery.domain.report import RunReport, StepRecord, StepState
from recovery.domain.report_text import as_of, budget_left, elapsed, figure_words, is_finished, missed_words, remaining


class _Look(TypedDict):
    box: box.Box
    pad_edge: bool
    collapse_padding: bool


NARROW = 100  # columns; below it, what can be left out is
_PIPE_WIDTH = 120
PIPE_WIDTH = 200
"""In a pipe, of tables with ids that must stay on one line."""


def console(stream: TextIO | None = None, *, width: int | None = None) -> Console:
    """Writes to standard output unless told otherwise; wide enough for a table when that is a pipe."""
    target = stream or sys.stdout
    if width is None and not target.isatty():
        width = _PIPE_WIDTH
    return Console(file=target, width=width, highlight=False, emoji=False, markup=False)


def plan_table(report: RunReport, now: datetime, *, unicode: bool | None = None, width: int = _PIPE_WIDTH) -> Table:
    """The run's steps for a live view; ``now`` is the viewer's clock.

    Below 100 columns attempts, budget and the expected end go into the last column or away.
    """
    unicode = words.is_unicode() if unicode is None else unicode
    narrow = width < NARROW
    columns = [
        Column("", width=1, no_wrap=True),
        Column("Step", no_wrap=True, overflow="ellipsis" if unicode else "crop", max_width=26 if narrow else 34),
        Column("State", no_wrap=not narrow, max_width=12 if narrow else 24),
        Column("Elapsed", justify="right", no_wrap=True),
    ]
    if not narrow:
        columns.append(Column("Budget left", justify="right", no_wrap=True))
        columns.append(Column("Expected", justify="right", no_wrap=True))
        columns.append(Column("Tries", justify="right", no_wrap=True))
    columns.append(Column("What", ratio=1, overflow="fold"))
    table = Table(*columns, **_look(unicode), expand=True, title=_title(report, now, unicode), title_justify="left")
    clock = now if report.ended_at is None else report.ended_at
    for step in report.steps:
        table.add_row(*_step_cells(step, report, clock, unicode, narrow), end_section=False)
    if outlook := rto_outlook(report, now):
        table.caption, table.caption_style, table.caption_justify = words.plain(outlook, unicode), "bold yellow", "left"
    return table


def run_summary(report: RunReport, *, unicode: bool | None = None) -> RenderableType:
    """What became of the run in a few lines: verdict, why, objectives, warnings, what a person has to do."""
    unicode = words.is_unicode() if unicode is None else unicode
    lines: list[RenderableType] = [_headline(report, unicode)]
    if report.error:
        where = f"{report.failed_step}: " if report.failed_step else ""
        lines.append(_line(where + report.error, unicode, "red"))
    if report.undo_order:
        lines.append(_line(f"Undone in this order: {', '.join(report.undo_order)}.", unicode, "magenta"))
    left = [step for step in report.steps if step.state in (StepState.UNDO_FAILED, StepState.UNDO_REFUSED)]
    lines += [
        _line(f"{step.name} was not undone: {step.undo_error or words.state_words(step.state)}", unicode, "bold red")
        for step in left
    ]
    lines += [_line(choice, unicode, "bold yellow") for choice in report.hold_choices]
    lines += [_line(f"Warning: {warning}", unicode, "yellow") for warning in report.warnings]
    if _has_objectives(report):
        lines.append(objectives_table(report, unicode=unicode))
    if report.recovered_set is not None:
        lines.append(stores_table(report.recovered_set, unicode=unicode))
    return Group(*lines)


def objectives_table(report: RunReport, *, unicode: bool | None = None) -> Table:
    """Achieved RTO and RPO beside their objectives, with a bar, and the lost transactions."""
    unicode = words.is_unicode() if unicode is None else unicode
    achieved = report.achieved
    table = Table(
        Column("", no_wrap=True),
        Column("Achieved", justify="right", no_wrap=True),
        Column("Objective", justify="right", no_wrap=True),
        Column("", no_wrap=True),
        Column("Verdict", overflow="fold"),
        **_look(unicode),
    )
    for name, value, goal, least in (
        ("RTO", achieved.rto, achieved.rto_objective, None),
        ("RPO", achieved.rpo, achieved.rpo_objective, achieved.rpo_least),
    ):
        table.add_row(
            name,
            words.plain(figure_words(value, least), unicode),
            words.plain(words.duration(goal), unicode),
            _gauge(value, goal, unicode),
            _judged(value, goal, least, unicode),
        )
    lost = achieved.lost_transactions
    if lost is not None:
        style = "green" if lost == 0 else "yellow" if achieved.rpo_met else "bold red"
        said = "none is missing" if lost == 0 else "acknowledged, but gone"
        table.add_row("Lost transactions", f"{lost:,}", "", "", Text(said, style))
    return table


def stores_table(found: RecoveredSet, *, unicode: bool | None = None) -> Table:
    """Every store of a recovered group: what it lost, and as of when it stands; or why it was left as it was."""
    unicode = words.is_unicode() if unicode is None else unicode
    table = Table(
        Column("Store", no_wrap=True),
        Column("RPO", justify="right", no_wrap=True),
        Column("As of", overflow="fold"),
        Column("From", overflow="fold"),
        **_look(unicode),
    )
    for store in found.stores:
        if store.left:
            table.add_row(store.store, Text("not restored", "yellow"), "", words.plain(store.left, unicode))
            continue
        rpo = words.plain(words.duration(store.rpo), unicode)
        table.add_row(store.store, rpo, words.plain(as_of(store), unicode), words.plain(store.point_id or "", unicode))
    if found.skew is not None:
        table.caption = f"{found.set_id or 'the stores'}: at most {words.duration(found.skew)} apart"
    return table


def points_table(
    points: Iterable[RecoveryPoint],
    *,
    copies: Mapping[str, Mapping[str, Copy]] | None = None,
    lacking: Mapping[str, Sequence[str]] | None = None,
    now: datetime | None = None,
    unicode: bool | None = None,
    width: int = _PIPE_WIDTH,
) -> Table:
    """Recovery points, in the order given: kind, when, size, where, verdict with its age.

    Incremental base backups stand below the full one that they build on, where the first of them would. Below 100
    columns without the stored size.

    Args:
        copies: by point, by location; else only the locations that have it are shown.
        lacking: by point, what it builds on and cannot be had now.
    """
    unicode = words.is_unicode() if unicode is None else unicode
    narrow = width < NARROW
    now = now or datetime.now(UTC)
    table = Table(
        Column("Recovery point", overflow="fold", min_width=14),
        Column("Kind", no_wrap=True),
        Column("Finished", overflow="fold", min_width=10),
        Column("Size", justify="right", no_wrap=True),
        **_look(unicode),
    )
    if not narrow:
        table.add_column("Stored", justify="right", no_wrap=True)
    table.add_column("Locations", overflow="fold", min_width=9)
    table.add_column("Verdict", overflow="fold", min_width=10)
    branch = "└ " if unicode else "`- "
    for depth, point in as_trees(points):
        manifest = point.manifest
        stored = [] if narrow else [words.size(manifest.stored_bytes)]
        table.add_row(
            (branch if depth else "") + words.plain(point.point_id, unicode),
            manifest.kind.value + (f" +{depth}" if depth else ""),
            words.moment(manifest.finished_at),
            words.size(manifest.plain_bytes),
            *stored,
            words.plain(_locations(point, (copies or {}).get(point.point_id, {})), unicode) or "none complete",
            _verdict(point, (lacking or {}).get(point.point_id, ()), now, unicode),
        )
    if not table.rows:
        table.caption = "no recovery points"
    return table


def sets_table(sets: Iterable[RecoverySet], states: Mapping[str, SetState], *, unicode: bool | None = None) -> Table:
    """Recovery sets, in the order given: when their points were read, which they are, and what is known of them."""
    unicode = words.is_unicode() if unicode is None else unicode
    table = Table("Recovery set", "Read", "Within", "Points", "State", **_look(unicode))
    for found in sets:
        lacking = f", without {', '.join(found.missing)}" if found.missing else ""
        table.add_row(
            found.set_id,
            words.moment(found.window[0]),
            words.duration(found.width),
            words.plain("\n".join(each.point_id for each in found.members), unicode),
            f"{states[found.set_id].value}{lacking}",
        )
    if not table.rows:
        table.caption = "no recovery sets: a backup of several stores writes one"
    return table


def checks_table(checks: Iterable[CheckResult], *, unicode: bool | None = None) -> Table:
    """Checks of a validation or a plan, failed ones first."""
    unicode = words.is_unicode() if unicode is None else unicode
    table = Table(
        Column("", width=1, no_wrap=True),
        Column("Check", overflow="fold"),
        Column("Result", no_wrap=True),
        Column("Took", justify="right", no_wrap=True),
        Column("Detail", ratio=1, overflow="fold"),
        **_look(unicode),
        expand=True,
    )
    for check in sorted(checks, key=lambda check: check.passed):
        style = "green" if check.passed else "bold red"
        sign = words.symbol(StepState.DONE if check.passed else StepState.FAILED, unicode)
        table.add_row(
            Text(sign, style),
            words.plain(check.name, unicode),
            Text("passed" if check.passed else "failed", style),
            words.duration(timedelta(seconds=check.seconds)) if check.seconds else "",
            words.plain(check.detail, unicode),
        )
    if not table.rows:
        table.caption = "no checks were made"
    return table


# Cells --------------------------------------------------------------------------------------------------------------


def _step_cells(
    step: StepRecord, report: RunReport, now: datetime, unicode: bool, narrow: bool
) -> list[RenderableType]:
    style = words.STATE_STYLES[step.state]
    spent, left = elapsed(step, now), budget_left(step, now)
    rest = None if is_finished(report) else remaining(step, now)
    cells: list[RenderableType] = [
        Text(words.symbol(step.state, unicode), style),
        Text(words.plain(step.name, unicode), "bold" if step.state is StepState.RUNNING else ""),
        Text(_state(step, report), style),
        words.duration(spent) if spent is not None else "",
    ]
    if not narrow:
        overdrawn = left is not None and left < timedelta()
        cells.append(Text(words.duration(left) if left is not None else "", "bold red" if overdrawn else ""))
        cells.append(_expected(step, rest))
        cells.append(str(step.attempts) if step.attempts else "")
    cells.append(_what(step, now, narrow, unicode))
    return cells


def _state(step: StepRecord, report: RunReport) -> str:
    if step.state is StepState.PENDING and (is_finished(report) or report.undo_order):
        return "not reached"
    return words.state_words(step.state) + (", pivot" if step.pivot and step.state is StepState.DONE else "")


def _expected(step: StepRecord, rest: timedelta | None) -> Text:
    if step.state is StepState.RUNNING and rest is not None:
        return Text(f"in {words.duration(rest)}", "cyan")
    return Text(words.duration(rest) if rest is not None else "", "dim")


def _what(step: StepRecord, now: datetime, narrow: bool, unicode: bool) -> Text:
    """A problem whole, over several lines; anything else on one line, so that a live view keeps its height."""
    problem = step.undo_error or step.error
    text = Text(no_wrap=not problem, overflow="fold" if problem else "ellipsis" if unicode else "crop")
    if narrow and step.attempts > 1:
        text.append(f"{step.attempts} tries. ", "dim")
    if problem:
        text.append(words.plain(problem, unicode), "red")
        if step.undo_summary:
            text.append(f" {words.plain(step.undo_summary, unicode)}", "magenta")
        return text
    if narrow and step.state is StepState.RUNNING and not step.summary:
        return text.append(words.plain(_in_short(step, now), unicode), "cyan")
    return text.append(words.plain(step.undo_summary or step.summary, unicode), "magenta" if step.undo_summary else "")


def _in_short(step: StepRecord, now: datetime) -> str:
    left, rest = budget_left(step, now), remaining(step, now)
    parts = [f"about {words.duration(rest)} to go"] if rest is not None else []
    if left is not None:
        parts.append(f"budget {words.duration(left)}")
    return ", ".join(parts)


def _title(report: RunReport, now: datetime, unicode: bool) -> Text:
    title = Text()
    title.append(words.run_words(report.state), words.RUN_STYLES[report.state])
    title.append(words.plain(f"  {report.plan} of {report.group}", unicode), "bold")
    if report.source_region and report.target_region and report.source_region != report.target_region:
        title.append(words.plain(f"  {report.source_region} → {report.target_region}", unicode))
    spent = (report.ended_at or now) - report.started_at
    title.append(f"  {words.duration(max(spent, timedelta()))}")
    if report.eta is not None and not is_finished(report):
        left = report.eta - now
        title.append(f"  expected end in {words.duration(max(left, timedelta()))}", "cyan")
    return title


def _headline(report: RunReport, unicode: bool) -> Text:
    text = Text()
    text.append(words.run_words(report.state), words.RUN_STYLES[report.state])
    text.append(words.plain(f": {report.plan} of {report.group}", unicode))
    if report.ended_at is not None:
        text.append(f" in {words.duration(report.ended_at - report.started_at)}")
    return text.append(f" (run {words.plain(report.run_id, unicode)})", "dim")


def _line(text: str, unicode: bool, style: str) -> Text:
    return Text(words.plain(text, unicode), style)


def _has_objectives(report: RunReport) -> bool:
    achieved = report.achieved
    return any(
        value is not None for value in (achieved.rto, achieved.rpo, achieved.rto_objective, achieved.lost_transactions)
    )


def _gauge(value: timedelta | None, goal: timedelta | None, unicode: bool, cells: int = 16) -> Text:
    """The used share of the objective; a full bar with ``>`` when it is overdrawn."""
    if value is None or not goal:
        return Text("")
    full, empty = ("█", "░") if unicode else ("#", ".")
    if value > goal:
        return Text(full * cells + ">", "red")
    used = max(round(value / goal * cells), 1 if value else 0)
    return Text(full * used + empty * (cells - used) + " ", "green")


def _judged(value: timedelta | None, goal: timedelta | None, least: timedelta | None, unicode: bool) -> Text:
    if value is None:
        return Text("not measured", "dim")
    if goal is None:
        return Text("no objective set", "dim")
    if value <= goal:
        return Text(words.plain(f"✓ met, {words.duration(goal - value)} to spare", unicode), "green")
    return Text(words.plain(f"✗ {missed_words(value, goal, least)}", unicode), "bold red")


def _locations(point: RecoveryPoint, copies: Mapping[str, Copy]) -> str:
    return ", ".join(f"{name}{copy_words(copy)}" for name, copy in copies.items()) or ", ".join(point.locations)


def copy_words(copy: Copy, *, briefly: bool = True) -> str:
    """`` (being filled)``; briefly nothing for a copy that is as it should be."""
    said = [] if briefly and copy.state is CopyState.WHOLE else [copy.state.value]
    if copy.detail and not briefly:
        said[-1] += f": {copy.detail}"
    if copy.worst is not None and briefly:
        said.append(copy.worst.words)
    elif not briefly:
        said += [f"{each.words}: {words.plural(count, 'object')}" for each, count in copy.replication.items()]
    return f" ({', '.join(said)})" if said else ""


def _verdict(point: RecoveryPoint, lacking: Sequence[str], now: datetime, unicode: bool) -> Text:
    verdict = point.verdict
    if lacking:
        return Text(f"cannot be restored without {', '.join(lacking)}", "red")
    if verdict is None:
        return Text("not yet validated", "yellow")
    age = words.duration(max(now - verdict.validated_at, timedelta()))
    text = Text(verdict.state.value, words.VERDICT_STYLES[verdict.state])
    if verdict.state is not VerdictState.VALID and verdict.reason:
        text.append(f" {words.plain(verdict.reason, unicode)}", "red")
    return text.append(f" {age} ago", "dim")


def _look(unicode: bool) -> _Look:
    if unicode:
        return {"box": box.SIMPLE_HEAD, "pad_edge": False, "collapse_padding": True}
    return {"box": box.ASCII2, "pad_edge": True, "collapse_padding": False}
