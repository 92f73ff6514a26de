"""How long steps take, learned from earlier runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from statistics import median

from recovery.domain.report import RunReport, StepRecord, StepState

UNFINISHED = frozenset({StepState.PENDING, StepState.RUNNING, StepState.WAITING, StepState.HELD})


def expected_seconds(reports: list[RunReport], plan: str) -> dict[str, float]:
    """Median duration in seconds of each step of the plan, over the runs in which the plan went on after it.

    A step that was not asked for took no time, and one that failed where the plan goes on took what it took. The time
    that a step was held for its operator is not in it: it says nothing about the next run.
    """
    seen: dict[str, list[float]] = {}
    for report in reports:
        if report.plan != plan:
            continue
        for step in report.steps:
            seconds = _seconds(step)
            if seconds is not None:
                seen.setdefault(step.name, []).append(seconds)
    return {step: median(seconds) for step, seconds in seen.items()}


def _seconds(step: StepRecord) -> float | None:
    if step.state is StepState.SKIPPED and not step.error:  # one that its operator skipped had failed before
        return 0.0
    if step.state not in (StepState.DONE, StepState.WARNED) or step.started_at is None or step.ended_at is None:
        return None
    return (step.ended_at - step.started_at - step.waited).total_seconds()


def expected_end(steps: Iterable[StepRecord], now: datetime) -> datetime | None:
    """Now plus what earlier runs took for the rows that are left; None until every row has been seen before."""
    left = [step for step in steps if step.state in UNFINISHED]
    if any(step.expected is None for step in left):
        return None
    return _end(left, now, lambda step: step.expected or timedelta())


def latest_end(steps: Iterable[StepRecord], now: datetime) -> datetime:
    """Now plus what is left of the budgets. Waiting for people is not in it."""
    return _end([step for step in steps if step.state in UNFINISHED], now, lambda step: step.budget)


def _end(left: Iterable[StepRecord], now: datetime, takes: Callable[[StepRecord], timedelta]) -> datetime:
    """Of rows that run one after the other, each as long as its longest step."""
    rows: dict[int, timedelta] = {}
    for step in left:
        elapsed = now - step.started_at - step.waited if step.started_at else timedelta()
        rows[step.group] = max(rows.get(step.group, timedelta()), takes(step) - elapsed)
    return now + sum(rows.values(), timedelta())
