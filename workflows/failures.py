"""How a run ends other than well, and how it says so."""

from __future__ import annotations

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, CancelledError, TimeoutError, TimeoutType

with workflow.unsafe.imports_passed_through():
    from recovery.domain.report import RunReport, RunState

ERROR_TYPES = {
    RunState.ROLLED_BACK: "RolledBack",
    RunState.ROLLBACK_INCOMPLETE: "RollbackIncomplete",
    RunState.STOPPED: "StoppedAfterPivot",
}
"""The type of the ApplicationError that a run ends with, by its final state."""
TOO_LARGE = "Failure exceeds size limit."  # the server's, around what is left of a failure that it has cut
LONGEST_REASON = 2_000  # characters: Temporal refuses payloads of more than 2 MiB, and a refused one jams a run


class StepFailed(Exception):
    """A step failed for good, and the plan's way is to undo. ``kind``: of the library's error that it ended with."""

    def __init__(self, step: str, reason: str, kind: str = "") -> None:
        super().__init__(reason)
        self.step = step
        self.kind = kind


class StoppedByOperator(StepFailed):
    """The operator ended the run after its point of no return: nothing is undone."""


def headline(report: RunReport) -> str:
    """One sentence: what became of the run, and why."""
    where = f" at {report.failed_step}" if report.failed_step else ""
    ends = {
        RunState.ROLLED_BACK: "everything was undone" if report.undo_order else "nothing had been changed",
        RunState.ROLLBACK_INCOMPLETE: "not everything could be undone",
        RunState.STOPPED: "it was stopped after its point of no return and left as it is",
    }
    return f"{report.plan} of {report.group} ended{where}: {report.error}; {ends[report.state]}"


def explain(error: ActivityError | StepFailed) -> str:
    """The cause in words for an operator, never longer than a report can carry."""
    words = str(error) if isinstance(error, StepFailed) else _explain(error)
    return words if len(words) <= LONGEST_REASON else words[: LONGEST_REASON - 1] + "…"


def _explain(error: ActivityError) -> str:
    cause = error.cause
    if isinstance(cause, ApplicationError):
        return cause.message
    if isinstance(cause, CancelledError):
        return "cancelled"
    if isinstance(cause, TimeoutError):
        return _explain_timeout(cause)
    return str(cause or error)


def attempts_of(error: ActivityError | StepFailed) -> int:
    """How many tries the failing step had, as its last try knew; 1 where nobody could say, 0 where none began."""
    if isinstance(error, StepFailed):
        return 0
    last = _last_word(error.cause)
    return last.details[0] if last and last.details and isinstance(last.details[0], int) else 1


def kind_of(error: ActivityError | StepFailed) -> str:
    """The kind of the library's error that the last try ended with; empty where it was none."""
    last = _last_word(error.cause) if isinstance(error, ActivityError) else None
    return (last.type or "") if last is not None else ""


def _last_word(error: BaseException | None) -> ApplicationError | None:
    """What the last attempt said itself, below what the server wraps around it."""
    while error is not None and (not isinstance(error, ApplicationError) or error.message == TOO_LARGE):
        error = error.__cause__
    return error


def nobody_began(error: ActivityError) -> bool:
    """Whether it ended because no worker took it in time."""
    return isinstance(error.cause, TimeoutError) and error.cause.type is TimeoutType.SCHEDULE_TO_START


def _explain_timeout(timeout: TimeoutError) -> str:
    words = {
        TimeoutType.SCHEDULE_TO_START: "no worker of its region took the step in time",
        TimeoutType.SCHEDULE_TO_CLOSE: "its budget was used up",
        TimeoutType.START_TO_CLOSE: "one attempt took longer than allowed and the budget is used up",
        TimeoutType.HEARTBEAT: "its worker went silent and the budget is used up",
    }
    said = words.get(timeout.type, "timed out") if timeout.type is not None else "timed out"
    last = _last_word(timeout.cause)
    if last is not None:
        return f"{said}; the last error was: {last.message}"
    if timeout.type is not TimeoutType.SCHEDULE_TO_CLOSE:
        return said
    if isinstance(timeout.cause, TimeoutError) and timeout.cause.type is TimeoutType.HEARTBEAT:
        return f"{said}; the worker of its last attempt went silent, and no other one took it"
    return f"{said}, and of no attempt is it known how it ended: see whether a worker of its region runs, and its log"
