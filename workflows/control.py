"""What operators may do to a run, and what a held or paused run waits for."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from pydantic import BaseModel
from temporalio import workflow
from temporalio.exceptions import ApplicationError

from workflows.journal import Journal

with workflow.unsafe.imports_passed_through():
    from recovery.domain.report import RunState


LONGEST_ACTOR, LONGEST_REASON = 100, 1_000  # characters; they stand in every report of the run


class OperatorCommand(BaseModel):
    """The one argument of every update: who, why, and (where several steps wait) which step."""

    actor: str = ""
    reason: str = ""
    step: str | None = None


class Choice(StrEnum):
    """What an operator may answer to a hold."""

    RETRY = "retry"
    SKIP = "skip"
    RESUME = "resume"
    ABORT = "abort"
    ACCEPT_LOSS = "accept-loss"


class Consent(StrEnum):
    APPROVED = "approved"
    DECLINED = "declined"


@dataclass
class Hold:
    """A question to the operator, open until ``answer`` is set. ``note``: what the choices' names do not say."""

    step: str
    reason: str
    choices: tuple[Choice, ...]
    note: str = ""
    answer: Choice | None = None


class Control:
    """Open holds and gates, the pause switch, and the validators of the updates."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.holds: dict[str, Hold] = {}
        self.gates: dict[str, Consent | None] = {}
        self.consenters: dict[str, str] = {}
        self.not_by: dict[str, str] = {}  # step -> who may not consent to it: a second person is asked for
        self.paused = False
        self.rolling_back = False
        self.ended = False

    # Validators: raise to reject an update before it reaches the history.

    def check(self, action: str, command: OperatorCommand) -> None:
        """Raises ApplicationError with what is missing or not possible now."""
        if self.ended:
            raise rejected("the run has ended: nothing can be changed any more")
        if not command.actor.strip() or not command.reason.strip():
            raise rejected(f'{action} needs who and why, for example {{"actor": "ana", "reason": "checked by hand"}}')
        if len(command.actor) > LONGEST_ACTOR or len(command.reason) > LONGEST_REASON:
            raise rejected(f"say it shorter: {LONGEST_ACTOR} characters for who, {LONGEST_REASON:,} for why")
        if self.rolling_back and action in ("pause", "abort") and not self._may_answer(Choice.ABORT, action):
            raise rejected("the run is rolling back already, and that is not interrupted")
        if action in ("approve", "decline"):
            step = self._open_gate(command)
            if action == "approve" and self.not_by.get(step, "").strip().lower() == command.actor.strip().lower():
                raise rejected(f"{step} needs the consent of a second person, and {command.actor} asked for it")
        elif action in ("retry", "skip", "accept-loss"):
            self._open_hold(Choice(action), command)
        elif action == "pause" and self.paused:
            raise rejected("the run is paused already")
        elif action == "resume" and not self.paused:
            self._open_hold(Choice.RESUME, command)

    def _may_answer(self, choice: Choice, action: str) -> bool:
        return action == choice and any(choice in hold.choices for hold in self.holds.values() if hold.answer is None)

    def _open_gate(self, command: OperatorCommand) -> str:
        waiting = [name for name, consent in self.gates.items() if consent is None]
        return _pick("waits for an approval", waiting, command.step)

    def _open_hold(self, choice: Choice, command: OperatorCommand) -> Hold:
        waiting = [hold.step for hold in self.holds.values() if hold.answer is None]
        hold = self.holds[_pick("is held for the operator", waiting, command.step)]
        if choice not in hold.choices:
            raise rejected(f"{hold.step} can be answered with {', '.join(hold.choices)}: not with {choice}")
        return hold

    # Updates: run only when the validator let them pass.

    def consent(self, consent: Consent, command: OperatorCommand) -> str:
        step = self._open_gate(command)
        self.gates[step] = consent
        self.consenters[step] = command.actor
        self._record("approve" if consent is Consent.APPROVED else "decline", command, step)
        return f"{step}: {consent}"

    def answer(self, choice: Choice, command: OperatorCommand) -> str:
        hold = self._open_hold(choice, command)
        hold.answer = choice
        self._record(choice, command, hold.step)
        return f"{hold.step}: {choice}"

    def pause(self, command: OperatorCommand) -> str:
        self.paused = True
        self._record("pause", command, None)
        return "paused: running steps finish, no new one starts"

    def resume(self, command: OperatorCommand) -> str:
        if not self.paused:
            return self.answer(Choice.RESUME, command)
        self.paused = False
        self._record("resume", command, None)
        return "resumed"

    def record_abort(self, command: OperatorCommand) -> None:
        self._record("abort", command, command.step)

    def record_ungraceful(self, command: OperatorCommand) -> None:
        self._record("ungraceful", command, None)

    def abort_holds(self) -> bool:
        """Answers every open hold that allows it with abort; False when none was open."""
        found = False
        for hold in self.holds.values():
            if hold.answer is None and Choice.ABORT in hold.choices:
                hold.answer = Choice.ABORT
                found = True
        return found

    # Waiting, called by the engine.

    def state(self) -> RunState:
        """What the run is doing when one of several questions was answered: another one may still be open."""
        if any(hold.answer is None for hold in self.holds.values()):
            return RunState.HELD
        if any(consent is None for consent in self.gates.values()):
            return RunState.WAITING
        return RunState.RUNNING

    async def while_paused(self) -> None:
        if not self.paused:
            return
        self._journal.enter(RunState.PAUSED)
        await workflow.wait_condition(lambda: not self.paused)
        self._journal.enter(self.state())

    async def answered(self, hold: Hold, patience: timedelta | None) -> Choice | None:
        """Waits for the operator's answer, however long it takes; None when ``patience`` came to its end."""
        self.holds[hold.step] = hold
        self._show_choices()
        self._journal.show()
        try:
            await workflow.wait_condition(lambda: hold.answer is not None, timeout=patience)
        except TimeoutError:
            pass
        finally:
            del self.holds[hold.step]
            self._show_choices()
        return hold.answer

    async def consented(self, step: str, timeout: timedelta, default: Consent) -> tuple[Consent, bool]:
        """The answer, and whether a person gave it in time."""
        self.gates[step] = None
        try:
            await workflow.wait_condition(lambda: self.gates[step] is not None, timeout=timeout)
            answer = self.gates[step]
            assert answer is not None
            return answer, True
        except TimeoutError:
            return default, False
        finally:
            del self.gates[step]

    def _record(self, action: str, command: OperatorCommand, step: str | None) -> None:
        self._journal.act(action, command.actor, command.reason, step)
        self._journal.show()

    def _show_choices(self) -> None:
        self._journal.hold_choices = [
            f"{hold.step}: {hold.reason} Choose {', '.join(hold.choices)}. {hold.note}".strip()
            for hold in self.holds.values()
        ]


def _pick(what: str, waiting: list[str], wanted: str | None) -> str:
    if not waiting:
        raise rejected(f"no step {what} now")
    if wanted is None and len(waiting) == 1:
        return waiting[0]
    if wanted in waiting:
        return str(wanted)
    raise rejected(f"say which step: {', '.join(waiting)} {what}")


def rejected(reason: str) -> ApplicationError:
    return ApplicationError(reason, type="Rejected", non_retryable=True)
