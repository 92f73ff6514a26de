"""A step that failed for good and is held: until its operator answers, or everybody's silence is an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError

from workflows.amendments import told_to_stop
from workflows.calls import Calls
from workflows.control import Choice, Control, Hold
from workflows.failures import StepFailed, explain
from workflows.journal import Journal
from workflows.steps import Plan, Silence, Step

with workflow.unsafe.imports_passed_through():
    from recovery.domain.report import BY_SILENCE, RunState, StepState
    from recovery.domain.words import duration
    from recovery.ports.notify import Severity

REMINDED = timedelta(hours=1)
"""So long at the least between two messages of one hold: a run's history bears no more than some thousand of them."""


class Holds:
    """Those of one run. ``alert`` tells people; ``to_undo`` are the steps that began and were not undone."""

    def __init__(
        self,
        plan: Plan,
        journal: Journal,
        control: Control,
        calls: Calls,
        alert: Callable[[Severity, str, str], None],
        to_undo: list[Step],
    ) -> None:
        self._plan = plan
        self._journal = journal
        self._control = control
        self._calls = calls
        self._alert = alert
        self._to_undo = to_undo

    async def answered(
        self, step: Step, reason: str, choices: tuple[Choice, ...], patience: timedelta | None
    ) -> Choice:
        """What somebody answers, however long it takes; where ``patience`` comes to its end before, what silence means
        at this step."""
        began, before = workflow.now(), self._journal.state_of(step)
        hold = Hold(step.name, reason, choices, note=_note(step, choices, patience))
        self._begin(step, hold, "is held")
        try:
            choice = await self._answer(step, hold, patience)
        except asyncio.CancelledError:
            self._journal.waited(step, before, workflow.now() - began)
            raise
        self._journal.waited(step, before, workflow.now() - began)
        self._journal.enter(self._control.state())
        return choice

    async def _answer(self, step: Step, hold: Hold, patience: timedelta | None) -> Choice:
        answer = await self._control.answered(hold, patience)
        while answer is None:
            assert patience is not None
            answer, why = await self._by_silence(step)
            silent, again = f"nobody answered within {duration(patience)}", max(patience, REMINDED)
            if answer is not None:
                self._journal.act(answer, BY_SILENCE, silent, step.name)
                break
            self._warn_once(f"{step.name}: {silent}{why}; it stays held, and people are told every {duration(again)}")
            self._begin(step, hold, "is still held", f"{silent}{why}. ")
            answer = await self._control.answered(hold, again)
        return answer

    async def _by_silence(self, step: Step) -> tuple[Choice | None, str]:
        """None where it stays held, and why that is so if it was not meant to be."""
        # Patched: under an earlier version silence undid the run at every step.
        if step.silence is Silence.ABORT or not workflow.patched("silence undoes no recovery"):
            return Choice.ABORT, ""
        if step.silence is Silence.WAIT:
            return None, ""
        why = await self._take_back(step)
        return (None, f", and what the step had done could not be undone: {why}") if why else (Choice.SKIP, "")

    async def _take_back(self, step: Step) -> str:
        """Undoes what a step has done that failed, for the plan goes on without it and nobody looks at that any more.
        Why it could not be; empty where it was."""
        if step not in self._to_undo:
            return ""
        began = workflow.now()
        self._journal.step_state(step, StepState.UNDOING)
        self._journal.enter(self._control.state())
        try:
            outcome = await self._calls.back(step)
        except (ActivityError, StepFailed) as error:
            if told_to_stop():  # the rollback that follows undoes it
                raise asyncio.CancelledError from error
            return explain(error)
        if told_to_stop():
            raise asyncio.CancelledError
        self._to_undo.remove(step)
        self._journal.taken_back(step, began, outcome.summary)
        return ""

    def _begin(self, step: Step, hold: Hold, how: str, first: str = "") -> None:
        self._journal.step_state(step, StepState.HELD)
        self._journal.enter(RunState.HELD)
        answers = f"Choose {', '.join(hold.choices)}: drctl {hold.choices[0]} {self._calls.workflow_id}"
        self._alert(
            Severity.CRITICAL,
            f"{self._plan.name} of {self._journal.request.group} {how} at {step.name}",
            f"{first[:1].upper()}{first[1:]}{hold.reason} {answers}\n{hold.note}".strip(),
        )

    def _warn_once(self, sentence: str) -> None:
        if sentence not in self._journal.warnings:
            self._journal.warn(sentence)


def _note(step: Step, choices: tuple[Choice, ...], patience: timedelta | None) -> str:
    """What an answer does that its name does not say, and what none does."""
    sentences = []
    if Choice.SKIP in choices and step.undo is not None:
        sentences.append("A skip leaves in place what the step has done so far.")
    if patience is not None:
        means = {
            Silence.ABORT: "everything is undone",
            Silence.SKIP: "that is undone, and the plan goes on without the step",
            Silence.WAIT: "people are told again, and it waits on",
        }[step.silence]
        sentences.append(f"Where nobody answers within {duration(patience)}, {means}.")
    return " ".join(sentences)
