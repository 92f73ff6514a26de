"""What every plan's workflow answers to: the progress query and the operator's updates."""

from __future__ import annotations

from temporalio import workflow

from workflows.control import Choice, Consent, OperatorCommand
from workflows.engine import Engine
from workflows.steps import Plan

with workflow.unsafe.imports_passed_through():
    from recovery.domain.plan import PlanRequest
    from recovery.domain.report import RunReport


class PlanWorkflow:
    """Base of the workflow classes; each has its own ``run``, which is one line, and names its ``plan``.

    Updates take ``{"actor": "ana", "reason": "...", "step": "..."}``; a validator rejects what is not possible now,
    so that a rejected one leaves no trace in the history.
    """

    plan: Plan

    def _prepare(self, request: PlanRequest) -> None:
        self.engine = Engine(self.plan, request)

    @workflow.query
    def progress(self) -> RunReport:
        """The report so far: steps, times, budgets, ETA, open questions."""
        return self.engine.journal.report()

    @workflow.update
    def approve(self, command: OperatorCommand) -> str:
        """Consents to the step that waits for an approval."""
        return self.engine.control.consent(Consent.APPROVED, command)

    @approve.validator
    def check_approve(self, command: OperatorCommand) -> None:
        self.engine.control.check("approve", command)

    @workflow.update
    def decline(self, command: OperatorCommand) -> str:
        """Refuses the step that waits for an approval; what was done is undone."""
        return self.engine.control.consent(Consent.DECLINED, command)

    @decline.validator
    def check_decline(self, command: OperatorCommand) -> None:
        self.engine.control.check("decline", command)

    @workflow.update
    def pause(self, command: OperatorCommand) -> str:
        """Starts no further step until resume."""
        return self.engine.control.pause(command)

    @pause.validator
    def check_pause(self, command: OperatorCommand) -> None:
        self.engine.control.check("pause", command)

    @workflow.update
    def resume(self, command: OperatorCommand) -> str:
        """Ends a pause, or goes on after a hold that offers it."""
        return self.engine.control.resume(command)

    @resume.validator
    def check_resume(self, command: OperatorCommand) -> None:
        self.engine.control.check("resume", command)

    @workflow.update
    def retry(self, command: OperatorCommand) -> str:
        """Tries the held step again, with its whole budget."""
        return self.engine.control.answer(Choice.RETRY, command)

    @retry.validator
    def check_retry(self, command: OperatorCommand) -> None:
        self.engine.control.check("retry", command)

    @workflow.update
    def skip(self, command: OperatorCommand) -> str:
        """Goes on without the held step."""
        return self.engine.control.answer(Choice.SKIP, command)

    @skip.validator
    def check_skip(self, command: OperatorCommand) -> None:
        self.engine.control.check("skip", command)

    @workflow.update
    def abort(self, command: OperatorCommand) -> str:
        """Ends the run: before its point of no return everything is undone, after it nothing is."""
        return self.engine.abort(command)

    @abort.validator
    def check_abort(self, command: OperatorCommand) -> None:
        self.engine.control.check("abort", command)
