"""What every plan's workflow answers to: the progress query and the operator's updates."""

from __future__ import annotations

from temporalio import workflow
from temporalio.api.common.v1 import Payload
from temporalio.common import RawValue

from workflows.control import Choice, Consent, OperatorCommand
from workflows.engine import Engine
from workflows.steps import Plan

with workflow.unsafe.imports_passed_through():
    from pydantic import ValidationError

    from recovery.domain.plan import PlanRequest
    from recovery.domain.report import RunReport

NOTHING = RawValue(Payload())
LARGEST_REQUEST = 64 * 1024  # bytes; it travels with every step


def read_request(raw: RawValue) -> PlanRequest:
    """The request, or one that says what is wrong with the input; the plan's first step refuses with these words.

    An input that cannot be decoded must not fail the workflow's task: Temporal would try it again for ever.
    """
    if not raw.payload.metadata:
        return PlanRequest()
    if len(raw.payload.data) > LARGEST_REQUEST:
        return _unreadable(f"it has {len(raw.payload.data):,} bytes, and {LARGEST_REQUEST:,} are the most")
    try:
        request = workflow.payload_converter().from_payload(raw.payload, PlanRequest)
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, each['loc'])) or 'input'}: {each['msg']}" for each in error.errors()[:5]]
        return _unreadable("; ".join(wrong))
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        return _unreadable(str(error))
    return request if isinstance(request, PlanRequest) else _unreadable("it is no JSON object")


def _unreadable(why: str) -> PlanRequest:
    return PlanRequest(unreadable=f'the input is no request ({why[:500]}): expected at least {{"group": "shop"}}')


class PlanWorkflow:
    """Base of the workflow classes; each has its own ``run``, which is one line, and names its ``plan``.

    Updates take ``{"actor": "ana", "reason": "...", "step": "..."}``; a validator rejects what is not possible now,
    so that a rejected one leaves no trace in the history.
    """

    plan: Plan

    def _prepare(self, request: RawValue) -> None:
        self.engine = Engine(self.plan, read_request(request))

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

    @workflow.update(name="accept-loss")
    def accept_loss(self, command: OperatorCommand) -> str:
        """Takes a target that is behind, at the cost that the hold names, and tries the held step again."""
        return self.engine.accept_loss(command)

    @accept_loss.validator
    def check_accept_loss(self, command: OperatorCommand) -> None:
        self.engine.check_accept_loss(command)

    @workflow.update
    def ungraceful(self, command: OperatorCommand) -> str:
        """Goes on with a switchover without the old side's help: what it does not hand over any more is lost."""
        return self.engine.make_ungraceful(command)

    @ungraceful.validator
    def check_ungraceful(self, command: OperatorCommand) -> None:
        self.engine.check_ungraceful(command)
