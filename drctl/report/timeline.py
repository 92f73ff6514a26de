"""The chart of a run: one lane per step, then one per undo in the order in which they ran."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from drctl.report.scale import Break, Scale, Span, Tick
from recovery.domain import words
from recovery.domain.report import OperatorAction, RunReport, StepRecord, StepState
from recovery.domain.report_text import SYMBOLS, is_finished, state_words

BarKind = Literal["done", "failed", "warned", "running", "cancelled", "undo", "undo-failed", "wait"]

Anchor = Literal["start", "end", "inside"]  # "inside": before its place, upon the bar

_CONSENTS = {"approve", "approved", "decline", "declined"}
_LEAST_WIDTH = 0.35  # percent: even an instant is seen


@dataclass(frozen=True)
class Bar:
    """Percent of the width; ``title`` is what a pointer shows."""

    kind: BarKind
    x: float
    width: float
    title: str


@dataclass(frozen=True)
class Mark:
    """A person's action on this lane."""

    x: float
    title: str


@dataclass(frozen=True)
class Lane:
    name: str
    note: str  # under the name
    symbol: str
    kind: str  # for the symbol's colour
    bars: list[Bar]
    marks: list[Mark]
    label: str
    label_x: float
    label_anchor: Anchor
    description: str  # the whole lane in words, for a screen reader
    parallel: str = ""  # "first", "middle", "last" of rows that ran together
    muted: bool = False


@dataclass(frozen=True)
class Line:
    x: float
    label: str
    anchor: str


@dataclass(frozen=True)
class Band:
    x: float
    width: float
    label: str


@dataclass(frozen=True)
class Timeline:
    lanes: list[Lane]
    undo_lanes: list[Lane]
    ticks: list[Tick]
    breaks: list[Break]
    pivots: list[Line]
    pauses: list[Band]
    axis_marks: list[Mark] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)  # what the legend must explain


def as_of(report: RunReport) -> datetime:
    """The last moment that the report knows of: its end, or the newest event of a run that goes on."""
    if report.ended_at is not None:
        return report.ended_at
    moments = [report.started_at, *(action.at for action in report.actions)]
    for step in report.steps:
        times = (step.started_at, step.ended_at, step.undo_started_at, step.undo_ended_at)
        moments += [moment for moment in times if moment is not None]
    return max(moments)


def forward_kind(step: StepRecord, report: RunReport) -> BarKind:
    """How the step itself went, also when its undo ran afterwards and took over its state."""
    kinds: dict[StepState, BarKind] = {
        StepState.DONE: "done",
        StepState.WARNED: "warned",
        StepState.FAILED: "failed",
        StepState.HELD: "failed",
        StepState.CANCELLED: "cancelled",
        StepState.RUNNING: "running",
        StepState.SKIPPED: "warned",
    }
    if step.state in kinds:
        return kinds[step.state]
    if step.error == "cancelled" or (not step.error and not step.attempts and step.name != report.failed_step):
        return "cancelled"  # it was under way when the run was told to stop
    if step.error or step.name == report.failed_step:
        return "failed"
    return "done"


def forward_symbol(step: StepRecord, report: RunReport) -> str:
    """The symbol for how the step itself went."""
    states = {"done": StepState.DONE, "failed": StepState.FAILED, "cancelled": StepState.CANCELLED}
    is_over = step.state.value.startswith("undo")
    return SYMBOLS[states[forward_kind(step, report)]] if is_over else SYMBOLS[step.state]


def timeline_of(report: RunReport) -> Timeline:
    now = as_of(report)
    waits = {step.name: _waits(step, report, now) for step in report.steps}
    busy = [span for step in report.steps for span in _busy(step, now)]
    scale = Scale(report.started_at, now, busy)
    lanes = [_lane(step, report, scale, now, waits[step.name]) for step in report.steps]
    by_name = {step.name: step for step in report.steps}
    undone = [_undo_lane(by_name[name], scale, now) for name in report.undo_order if name in by_name]
    used = {bar.kind for lane in [*lanes, *undone] for bar in lane.bars}
    return Timeline(
        lanes=lanes,
        undo_lanes=undone,
        ticks=scale.ticks(),
        breaks=scale.breaks(),
        pivots=[_line(step, scale) for step in report.steps if step.pivot and step.started_at],
        pauses=_pauses(report, scale, now),
        axis_marks=[_mark(action, scale) for action in report.actions if action.step not in by_name],
        kinds=sorted(used),
    )


def _lane(step: StepRecord, report: RunReport, scale: Scale, now: datetime, waits: list[Span]) -> Lane:
    kind = forward_kind(step, report)
    bars = [_bar("wait", span, scale, f"waited {words.duration(span[1] - span[0])} for a person") for span in waits]
    if step.started_at is not None:
        bars.append(_bar(kind, (step.started_at, step.ended_at or now), scale, _title(step, kind, now)))
    label = _label(step, kind, now, waits, report)
    x, anchor = _label_place(bars, label)
    known = [action for action in report.actions if action.step == step.name]
    return Lane(
        name=step.name,
        note=step.where,
        symbol=forward_symbol(step, report),
        kind=kind if step.started_at else "none",
        bars=bars,
        marks=[_mark(action, scale) for action in known],
        label=label,
        label_x=x,
        label_anchor=anchor,
        description=f"{step.name}: {state_words(step.state)}. {label}",
        parallel=_parallel(step, report),
        muted=step.started_at is None and not bars,
    )


def _undo_lane(step: StepRecord, scale: Scale, now: datetime) -> Lane:
    failed = step.state in (StepState.UNDO_FAILED, StepState.UNDO_REFUSED)
    start, end = step.undo_started_at or now, step.undo_ended_at or now
    title = f"undo of {step.name}: {state_words(step.state)}, took {words.duration(end - start)}"
    bar = _bar("undo-failed" if failed else "undo", (start, end), scale, title)
    taken = words.duration(end - start)
    label = taken if step.state is StepState.UNDONE else f"{state_words(step.state)}, {taken}"
    x, anchor = _label_place([bar], label)
    return Lane(
        name=step.name,
        note="undo",
        symbol=SYMBOLS[step.state],
        kind=bar.kind,
        bars=[bar],
        marks=[],
        label=label,
        label_x=x,
        label_anchor=anchor,
        description=title,
    )


def _bar(kind: BarKind, span: Span, scale: Scale, title: str) -> Bar:
    left, right = scale.at(span[0]), scale.at(span[1])
    width = max(right - left, _LEAST_WIDTH)
    return Bar(kind, round(min(left, 100 - width), 3), round(width, 3), title)


def _title(step: StepRecord, kind: BarKind, now: datetime) -> str:
    assert step.started_at is not None
    taken = words.duration((step.ended_at or now) - step.started_at)
    return f"{step.name}: {kind}, from {words.clock(step.started_at)} UTC, {taken}"


def _label(step: StepRecord, kind: BarKind, now: datetime, waits: list[Span], report: RunReport) -> str:
    if step.started_at is None:
        if step.state is StepState.SKIPPED:
            return "skipped"
        if waits:
            return "waiting for approval" if step.state is StepState.WAITING else "not approved"
        return "not reached" if is_finished(report) or report.undo_order else ""
    parts = [words.duration((step.ended_at or now) - step.started_at)]
    if step.attempts > 1:
        parts.append(f"{step.attempts} attempts")
    if step.state is StepState.SKIPPED:
        parts.append("skipped")
    elif step.state is StepState.HELD:
        parts.append("held")
    elif kind != "done":
        parts.append("failed" if kind in ("failed", "warned") else kind)
    return ", ".join(parts)


def _label_place(bars: list[Bar], label: str) -> tuple[float, Anchor]:
    """Right of the bars where there is room, else left of them, else inside at their end."""
    if not bars:
        return 0.0, "start"
    right = max(bar.x + bar.width for bar in bars)
    left = min(bar.x for bar in bars)
    needed = 32 if len(label) < 12 else 46  # percent, on a phone
    if right <= 100 - needed:
        return right, "start"
    return (left, "end") if left >= needed else (right, "inside")


def _waits(step: StepRecord, report: RunReport, now: datetime) -> list[Span]:
    """When the step waited for people: for an approval before its start, for a decision after its failure."""
    spans: list[Span] = []
    earlier = [other.ended_at for other in report.steps if other.group < step.group and other.ended_at]
    ready = max(earlier, default=report.started_at)
    for action in report.actions:
        if action.step == step.name and action.action in _CONSENTS and action.at > ready:
            spans.append((ready, action.at))
    if step.state is StepState.WAITING:
        spans.append((ready, now))
    if step.state is StepState.HELD and step.ended_at is not None and now > step.ended_at:
        spans.append((step.ended_at, now))
    return spans


def _busy(step: StepRecord, now: datetime) -> list[Span]:
    spans: list[Span] = []
    if step.started_at is not None:
        spans.append((step.started_at, step.ended_at or now))
    if step.undo_started_at is not None:
        spans.append((step.undo_started_at, step.undo_ended_at or now))
    return spans


def _pauses(report: RunReport, scale: Scale, now: datetime) -> list[Band]:
    bands: list[Band] = []
    since: OperatorAction | None = None
    for action in report.actions:
        if action.action == "pause" and since is None:
            since = action
        elif action.action in ("resume", "abort") and since is not None:
            bands.append(_band(since.at, action.at, scale))
            since = None
    if since is not None:
        bands.append(_band(since.at, now, scale))
    return bands


def _band(start: datetime, end: datetime, scale: Scale) -> Band:
    left, right = scale.at(start), scale.at(end)
    return Band(left, max(right - left, _LEAST_WIDTH), f"paused {words.duration(end - start)}")


def _line(step: StepRecord, scale: Scale) -> Line:
    x = scale.at(step.started_at) if step.started_at else 0.0
    return Line(x, "point of no return", "end" if x > 55 else "start")


def _mark(action: OperatorAction, scale: Scale) -> Mark:
    return Mark(
        scale.at(action.at), f"{action.action} by {action.actor} at {words.clock(action.at)} UTC: {action.reason}"
    )


def _parallel(step: StepRecord, report: RunReport) -> str:
    together = [other.name for other in report.steps if other.group == step.group]
    if len(together) < 2:
        return ""
    place = together.index(step.name)
    return "first" if place == 0 else "last" if place == len(together) - 1 else "middle"
