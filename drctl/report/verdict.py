"""What became of a run, in plain words: the first thing that a reader sees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from recovery.domain import words
from recovery.domain.report import RunReport, RunState, StepRecord, StepState
from recovery.domain.report_text import is_finished, run_words

Tone = Literal["good", "warn", "bad", "busy"]

_SYMBOLS: dict[Tone, str] = {"good": "✓", "warn": "!", "bad": "✗", "busy": "▶"}


@dataclass(frozen=True)
class VerdictText:
    """``tone`` chooses colour and symbol, ``headline`` a few words, ``sentences`` what happened and what is to do."""

    tone: Tone
    headline: str
    sentences: list[str]

    @property
    def symbol(self) -> str:
        return _SYMBOLS[self.tone]


def verdict_of(report: RunReport) -> VerdictText:
    if report.state is RunState.COMPLETED:
        return _completed(report)
    if report.state is RunState.ROLLED_BACK:
        return VerdictText("warn", _ended_words(report, "Rolled back", "and rolled back"), _rolled_back(report))
    if report.state is RunState.ROLLBACK_INCOMPLETE:
        headline = _ended_words(report, "Rollback incomplete", "but the rollback is incomplete")
        return VerdictText("bad", headline, [*_why(report), *_left_behind(report)])
    if report.state is RunState.STOPPED:
        return VerdictText("bad", "Stopped after the point of no return", [*_why(report), *_stopped(report)])
    if report.state is RunState.HELD:
        return VerdictText("bad", "Held: waiting for the operator", _held(report))
    return VerdictText("busy", run_words(report.state), _in_progress(report))


def was_cancelled(report: RunReport) -> bool:
    """Whether a person or a cancellation ended the forward part, not a step."""
    return bool(report.error) and report.failed_step is None and report.state is not RunState.COMPLETED


def _ended_words(report: RunReport, plain: str, after_cancel: str) -> str:
    if not was_cancelled(report):
        return plain
    verb = "Aborted" if any(action.action == "abort" for action in report.actions) else "Cancelled"
    return f"{verb} {after_cancel}"


def _completed(report: RunReport) -> VerdictText:
    achieved = report.achieved
    missed = [
        word
        for word, met in (("RTO", achieved.rto_met), ("RPO", None if achieved.rpo_is_open else achieved.rpo_met))
        if met is False
    ]
    failed_checks = [check.name for check in report.checks if not check.passed]
    sentences = [_where(report)]
    if missed:
        sentences.append(f"The objective for {words.listed(missed)} was missed.")
    if achieved.rpo_is_open:
        sentences.append("Whether the objective for RPO was met is not known: the old side may have served on unseen.")
    if failed_checks:
        sentences.append(f"{words.plural(len(failed_checks), 'check')} failed: {words.listed(failed_checks)}.")
    warned = [step.name for step in report.steps if step.state is StepState.WARNED]
    if warned:
        sentences.append(f"The plan went on although {words.listed(warned)} failed.")
    elif report.warnings:
        sentences.append(f"It left {words.plural(len(report.warnings), 'warning')}.")
    if missed:
        return VerdictText("warn", f"Completed, {words.listed(missed)} missed", sentences)
    if achieved.rpo_is_open:
        return VerdictText("warn", "Completed, RPO perhaps missed", sentences)
    if failed_checks:
        return VerdictText("warn", "Completed, checks failed", sentences)
    if report.warnings or warned:
        count = max(len(report.warnings), len(warned))
        return VerdictText("good", f"Completed with {words.plural(count, 'warning')}", sentences)
    return VerdictText("good", "Completed", sentences)


def _where(report: RunReport) -> str:
    done = sum(step.state in (StepState.DONE, StepState.WARNED) for step in report.steps)
    ended = report.ended_at or report.started_at
    place = f" in {report.target_region}" if report.target_region else ""
    return f"{words.plural(done, 'step')} done{place} within {words.duration(ended - report.started_at)}."


def _why(report: RunReport) -> list[str]:
    if not report.error:
        return []
    reason = report.error.rstrip(".")
    return [f"Step {report.failed_step} failed: {reason}." if report.failed_step else f"{_capital(reason)}."]


def _rolled_back(report: RunReport) -> list[str]:
    undone = len(report.undo_order)
    if not undone:
        return [*_why(report), "Nothing had been changed, so nothing had to be undone."]
    return [*_why(report), f"Everything it had changed was undone, in reverse order: {words.plural(undone, 'step')}."]


def _left_behind(report: RunReport) -> list[str]:
    failed = _named(report, StepState.UNDO_FAILED)
    refused = _named(report, StepState.UNDO_REFUSED)
    sentences = []
    if failed:
        verb = "was" if len(failed) == 1 else "were"
        sentences.append(f"{words.listed(failed)} {verb} not undone: a person must look at what is left.")
    if refused:
        sentences.append(f"Undo of {words.listed(refused)} was refused, because the point of no return had passed.")
    return sentences


def _stopped(report: RunReport) -> list[str]:
    target = f" {report.target_region} may be serving already:" if report.target_region else ""
    return [f"Nothing was undone, because that could have made two primaries.{target} look before you start anything."]


def _held(report: RunReport) -> list[str]:
    held = [step for step in report.steps if step.state is StepState.HELD]
    sentences = [f"Step {step.name} needs a decision{_because(step)}." for step in held] or _why(report)
    return [*sentences, "Nothing goes on and nothing is undone until somebody answers."]


def _because(step: StepRecord) -> str:
    return f": {step.error.rstrip('.')}" if step.error else ""


def _in_progress(report: RunReport) -> list[str]:
    done = sum(step.state in (StepState.DONE, StepState.WARNED, StepState.SKIPPED) for step in report.steps)
    sentences = [f"{done} of {words.plural(len(report.steps), 'step')} done."]
    waiting = _named(report, StepState.WAITING)
    if waiting:
        sentences.append(f"{words.listed(waiting)} cannot start before somebody approves.")
    if report.state is RunState.ROLLING_BACK:
        sentences = [*_why(report), f"{words.plural(len(report.undo_order), 'step')} undone or being undone."]
    if report.eta and not is_finished(report):
        sentences.append(f"Expected end {words.moment(report.eta)}.")
    return sentences


def _named(report: RunReport, state: StepState) -> list[str]:
    return [step.name for step in report.steps if step.state is state]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
