"""How long steps take, learned from earlier runs."""

from __future__ import annotations

from statistics import median

from recovery.domain.report import RunReport, StepState


def expected_seconds(reports: list[RunReport], plan: str) -> dict[str, float]:
    """Median duration in seconds of each step of the plan, over the runs in which the step was done.

    The time that a step was held for its operator is not in it: it says nothing about the next run.
    """
    seen: dict[str, list[float]] = {}
    for report in reports:
        if report.plan != plan:
            continue
        for step in report.steps:
            if step.state is StepState.DONE and step.started_at is not None and step.ended_at is not None:
                worked = step.ended_at - step.started_at - step.waited
                seen.setdefault(step.name, []).append(worked.total_seconds())
    return {step: median(seconds) for step, seconds in seen.items()}
