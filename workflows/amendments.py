"""What an operator may change of a run's request while it goes on: accept a loss, or give up on order."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from temporalio import workflow

from workflows.calls import Calls
from workflows.control import Choice, Control, OperatorCommand, rejected
from workflows.failures import StepFailed
from workflows.journal import Journal
from workflows.steps import Plan, Step

with workflow.unsafe.imports_passed_through():
    from recovery.domain.plan import PlanRequest, StepOutcome


class Amendable:
    """Base of the engine: the request, and the steps that begin again when it changes."""

    plan: Plan
    request: PlanRequest
    journal: Journal
    control: Control
    _calls: Calls
    _pivot_started: bool

    def __init__(self) -> None:
        self._trying: dict[str, asyncio.Task[StepOutcome]] = {}
        self._restarted: set[str] = set()

    def check_accept_loss(self, command: OperatorCommand) -> None:
        """Raises ApplicationError where no step is held for that, or another person has to say it."""
        self.control.check(Choice.ACCEPT_LOSS, command)
        self._check_second_person(command)

    def accept_loss(self, command: OperatorCommand) -> str:
        self._amend(accept_data_loss=True)
        return self.control.answer(Choice.ACCEPT_LOSS, command)

    def check_ungraceful(self, command: OperatorCommand) -> None:
        """Raises ApplicationError where the plan has no orderly part, or it is over."""
        self.control.check("ungraceful", command)
        if not any(step.graceful for step in self.plan.steps()):
            raise rejected(f"{self.plan.name} has no orderly part that could be left out")
        if self._pivot_started or self.control.rolling_back:
            raise rejected("it is too late: the orderly part is over")
        if not self.request.graceful:
            raise rejected("it is ungraceful already")
        self._check_second_person(command)

    def make_ungraceful(self, command: OperatorCommand) -> str:
        """The orderly steps that run now begin again, without the old side's help."""
        self._amend(graceful=False)
        self.control.record_ungraceful(command)
        for name, trying in self._trying.items():
            self._restarted.add(name)
            trying.cancel()
        return "ungraceful from now on: what the old side does not hand over any more is lost"

    def _check_second_person(self, command: OperatorCommand) -> None:
        group, asked_by = self.journal.facts.group, self.request.requested_by.strip().lower()
        if group is not None and group.second_person and asked_by == command.actor.strip().lower():
            raise rejected(f"this costs data and needs a second person: {command.actor} started the run")

    def _amend(self, **changes: object) -> None:
        self.request = self.request.model_copy(update=changes)
        self.journal.request = self._calls.request = self.request

    async def _restartable(self, step: Step, call: Coroutine[Any, Any, StepOutcome]) -> StepOutcome:
        """The call, which an operator's change may end; ``_was_restarted`` tells."""
        trying = self._trying[step.name] = asyncio.create_task(call)
        try:
            return await trying
        except asyncio.CancelledError as error:
            if told_to_stop():
                raise
            raise StepFailed(step.name, "started again") from error
        finally:
            del self._trying[step.name]

    def _was_restarted(self, step: Step) -> bool:
        """Whether an operator's change ended the last try. Asked once."""
        found = step.name in self._restarted
        self._restarted.discard(step.name)
        return found


def told_to_stop() -> bool:
    """Whether this task was cancelled; an activity that ended before the cancel reached it hides the exception."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
