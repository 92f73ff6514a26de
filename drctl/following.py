"""Follows a run until it ends: a live table on a terminal, one line for each change elsewhere."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from drctl import words
from drctl.tables import plan_table
from recovery.domain.report import RunReport, RunState, StepRecord, StepState

if TYPE_CHECKING:
    from activities.boundary import StepProgress
    from workers.operations import Handle

REDRAWS_PER_SECOND = 4
PROGRESS_EVERY = timedelta(seconds=30)
"""Without a terminal a long step says this often how far it is."""


async def follow_run(console: Console, handle: Handle) -> RunReport:
    """Shows the run until it has ended, and returns its final report.

    Raises:
        EndedAbruptly, Unreachable, NotFound: see ``workers.operations.follow``.
    """
    return await (_live(console, handle) if console.is_terminal else _lines(console, handle))


async def follow_silently(handle: Handle) -> RunReport:
    """As ``follow_run`` without showing anything."""
    from workers.operations import follow

    return await _last(follow(handle), lambda report, progress: None)


async def _live(console: Console, handle: Handle) -> RunReport:
    from workers.operations import follow

    view = LiveView(console)
    with Live(get_renderable=view.draw, console=console, refresh_per_second=REDRAWS_PER_SECOND) as live:
        try:
            return await _last(follow(handle, silent=view.silence), view.show)
        finally:
            view.progress = {}
            live.refresh()


async def _lines(console: Console, handle: Handle) -> RunReport:
    from workers.operations import follow

    lines = ChangeLines()
    said: list[str] = []

    def show(report: RunReport, progress: dict[str, StepProgress]) -> None:
        said.clear()
        for line in lines.of(report, progress, datetime.now(UTC)):
            console.print(line, markup=False, highlight=False, soft_wrap=True)

    def silence(reason: str) -> None:
        if reason not in said:
            said[:] = [reason]
            console.print(reason, markup=False, highlight=False, soft_wrap=True)

    return await _last(follow(handle, silent=silence), show)


async def _last(
    reports: AsyncIterator[tuple[RunReport, dict[str, StepProgress]]],
    show: Callable[[RunReport, dict[str, StepProgress]], None],
) -> RunReport:
    last: RunReport | None = None
    async for last, progress in reports:
        show(last, progress)
    assert last is not None, "a run that is followed to its end gives a report"
    return last


class LiveView:
    """What a terminal shows of a run now: its table, a bar for each step that says how far it is, open questions."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._unicode = words.is_unicode()
        self._silent = ""
        self.report: RunReport | None = None
        self.progress: dict[str, StepProgress] = {}

    def show(self, report: RunReport, progress: dict[str, StepProgress]) -> None:
        self.report, self.progress, self._silent = report, progress, ""

    def silence(self, reason: str) -> None:
        self._silent = reason

    def draw(self) -> RenderableType:
        if self.report is None:
            return Text(self._silent or "waiting for the run's first word ...", "yellow" if self._silent else "dim")
        parts: list[RenderableType] = [
            plan_table(self.report, datetime.now(UTC), unicode=self._unicode, width=self._console.width)
        ]
        if bars := _bars(self.report, self.progress, self._unicode):
            parts.append(bars)
        parts += [Text(line, "bold yellow") for line in questions(self.report)]
        if self._silent:
            parts.append(Text(self._silent, "yellow"))
        return Group(*parts)


class ChangeLines:
    """What is new in a report, as lines: one for each step that changed its state."""

    def __init__(self) -> None:
        self._states: dict[str, StepState] = {}
        self._run_state: RunState | None = None
        self._asked: list[str] = []
        self._progress_at: dict[str, datetime] = {}

    def of(self, report: RunReport, progress: dict[str, StepProgress], now: datetime) -> list[str]:
        lines: list[str] = []
        if self._run_state is None:
            lines.append(f"{words.clock(now)}  {report.plan} of {report.group}, run {report.run_id}")
        lines += [self._changed(step, now) for step in _as_it_went(report) if self._is_new(step)]
        lines += self._far(report, progress, now)
        asked = questions(report)
        lines += [f"{words.clock(now)}  {line}" for line in asked if line not in self._asked]
        self._asked = asked
        if self._run_state is not None and report.state is not self._run_state:
            lines.append(f"{words.clock(now)}  {words.run_words(report.state)}")
        self._run_state = report.state
        self._states = {step.name: step.state for step in report.steps}
        return lines

    def _is_new(self, step: StepRecord) -> bool:
        return step.state is not self._states.get(step.name, StepState.PENDING)

    def _changed(self, step: StepRecord, now: datetime) -> str:
        unicode = words.is_unicode()
        began, ended = (
            (step.undo_started_at, step.undo_ended_at) if step.undo_ended_at else (step.started_at, step.ended_at)
        )
        took = ended - began if began is not None and ended is not None else None
        parts = [
            f"{words.clock(now)}  {words.symbol(step.state, unicode)} {step.name}: {words.state_words(step.state)}"
        ]
        if took is not None and step.state is not StepState.UNDOING:
            parts.append(f" after {words.duration(took)}")
        what = step.undo_error or step.undo_summary or step.error or step.summary
        if what and step.state not in (StepState.RUNNING, StepState.UNDOING):
            parts.append(f": {' '.join(what.split())}")
        return words.plain("".join(parts), unicode)

    def _far(self, report: RunReport, progress: dict[str, StepProgress], now: datetime) -> list[str]:
        lines = []
        for step in _moving(report, progress):
            last = self._progress_at.setdefault(step.name, now)
            if now - last >= PROGRESS_EVERY:
                self._progress_at[step.name] = now
                lines.append(f"{words.clock(now)}    {step.name}: {progress_words(progress[step.activity])}")
        return lines


def progress_words(progress: StepProgress) -> str:
    """``120 MiB of 300 MiB, 40 %, 52 MB/s, 3 s left, physical backup: base.tar``"""
    parts = []
    if progress.done and progress.expected > progress.done:
        share = f"{100 * progress.done / progress.expected:.0f} %"
        parts.append(f"{words.size(progress.done)} of {words.size(progress.expected)}, {share}")
    elif progress.done:
        parts.append(words.size(progress.done))
    if progress.rate > 0:
        parts.append(f"{progress.rate / 1e6:.1f} MB/s")
        if progress.expected > progress.done:
            left = timedelta(seconds=(progress.expected - progress.done) / progress.rate)
            parts.append(f"{words.duration(left)} left")
    if progress.note:
        parts.append(progress.note)
    return ", ".join(parts)


def questions(report: RunReport) -> list[str]:
    """What the run waits for, each with the command that answers it."""
    run = report.workflow_id
    waiting = [step.name for step in report.steps if step.state is StepState.WAITING]
    lines = [
        f"{step} waits for an approval: drctl approve {run} --reason ..., or drctl decline {run} --reason ..."
        for step in waiting
    ]
    lines += [
        f"{choice} Answer with: drctl retry|skip|resume|abort {run} --reason ..." for choice in report.hold_choices
    ]
    if report.state is RunState.PAUSED:
        lines.append(f"the run is paused: drctl resume {run} --reason ...")
    return lines


def _as_it_went(report: RunReport) -> list[StepRecord]:
    """Forward steps in the order of the plan, then those that were undone in the order of their undo."""
    order = {name: number for number, name in enumerate(report.undo_order)}
    return sorted(report.steps, key=lambda step: order.get(step.name, -1))


def _moving(report: RunReport, progress: dict[str, StepProgress]) -> list[StepRecord]:
    going_on = (StepState.RUNNING, StepState.UNDOING)
    return [step for step in report.steps if step.state in going_on and step.activity in progress]


def _bars(report: RunReport, progress: dict[str, StepProgress], unicode: bool) -> Table | None:
    moving = _moving(report, progress)
    if not moving:
        return None
    grid = Table.grid(padding=(0, 1), expand=True)
    grid.add_column(no_wrap=True)
    grid.add_column(width=24)
    grid.add_column(ratio=1, no_wrap=True, overflow="ellipsis" if unicode else "crop")
    for step in moving:
        now = progress[step.activity]
        known = now.expected > 0
        # The size expected is an estimate: a bar that is full before the end would be a lie.
        bar = ProgressBar(
            total=max(now.expected, now.done, 1) if known else None, completed=now.done, pulse=not known, width=24
        )
        grid.add_row(Text(step.name, "bold"), bar, Text(words.plain(progress_words(now), unicode)))
    return grid
