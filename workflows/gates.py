"""A person's consent before a step: asked for, given beforehand, or of two persons."""

from __future__ import annotations

from collections.abc import Callable

from temporalio import workflow

from recovery.domain.report import BY_SILENCE
from workflows.calls import Calls
from workflows.control import Consent, Control
from workflows.failures import StepFailed
from workflows.journal import Journal
from workflows.steps import Plan, Step

with workflow.unsafe.imports_passed_through():
    from recovery.domain.plan import PlanRequest
    from recovery.domain.report import RunState, StepState
    from recovery.domain.words import duration
    from recovery.ports.notify import Severity


class Gates:
    """Those of one run. ``alert`` tells people that one waits."""

    def __init__(
        self,
        plan: Plan,
        journal: Journal,
        control: Control,
        calls: Calls,
        alert: Callable[[Severity, str, str], None],
    ) -> None:
        self._plan = plan
        self._journal = journal
        self._control = control
        self._calls = calls
        self._alert = alert

    async def passed(self, step: Step, request: PlanRequest) -> None:
        """Returns when the step may begin. Raises StepFailed when somebody, or everybody's silence, declined."""
        gate, group = step.gate, self._journal.facts.group
        if gate is None or group is None or not gate.asks(context := self._calls.context(step)):
            return
        second = gate.two_persons(context)
        if gate.given(context) and not second:
            who = request.requested_by or "the requester"
            self._journal.act("approve", who, "approved beforehand", step.name)
            self._consented(step, who)
            return
        if second:
            self._control.not_by[step.name] = request.requested_by
        question = f"{gate.question} {gate.because(context)}".strip()
        self._journal.step_state(step, StepState.WAITING)
        self._journal.enter(RunState.WAITING)
        self._alert(Severity.CRITICAL, f"{self._plan.name} of {group.name} waits for an approval", question)
        automatic = request.automatic
        approves = group.approval_default == "approve" and not (automatic or second or gate.only_persons)
        wait = group.failover.approve_timeout if automatic else group.approval_timeout
        default = Consent.APPROVED if approves else Consent.DECLINED
        consent, by_person = await self._control.consented(step.name, wait, default)
        self._journal.enter(self._control.state())
        patience = duration(wait)
        if consent is Consent.APPROVED:
            self._consented(step, self._control.consenters.get(step.name, BY_SILENCE))
        if not by_person:
            self._journal.act(str(consent), BY_SILENCE, f"nobody answered within {patience}", step.name)
        if consent is Consent.DECLINED:
            reason = "declined" if by_person else f"nobody approved within {patience}"
            self._journal.ended(step, StepState.FAILED, error=reason)
            raise StepFailed(step.name, reason)

    def _consented(self, step: Step, who: str) -> None:
        """The step itself may have to say who consented: a person's word is a proof where no guard gives one."""
        consents = {**(self._journal.facts.consents or {}), step.name: who}
        self._journal.facts = self._journal.facts.model_copy(update={"consents": consents})
