"""What an operator reads of a step that failed, where no attempt had a word of its own."""

from __future__ import annotations

import pytest
from temporalio.exceptions import ActivityError, ApplicationError, RetryState, TimeoutError, TimeoutType

from workflows.failures import explain

USED_UP = TimeoutType.SCHEDULE_TO_CLOSE


def failed(cause: BaseException) -> ActivityError:
    error = ActivityError(
        "Activity task failed", scheduled_event_id=1, started_event_id=2, identity="worker",
        activity_type="guarding.promote_postgres", activity_id="promote-postgres", retry_state=RetryState.TIMEOUT,
    )  # fmt: skip
    error.__cause__ = cause
    return error


def timed_out(kind: TimeoutType, cause: BaseException | None = None) -> TimeoutError:
    error = TimeoutError("activity timeout", type=kind, last_heartbeat_details=[])
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("cause", "words"),
    [
        (
            timed_out(USED_UP, ApplicationError("the guard of b takes no connection", 7, type="Unreachable")),
            "its budget was used up; the last error was: the guard of b takes no connection",
        ),
        (
            timed_out(USED_UP, timed_out(TimeoutType.HEARTBEAT)),
            "its budget was used up; the worker of its last attempt went silent, and no other one took it",
        ),
        (
            timed_out(USED_UP),
            "its budget was used up, and of no attempt is it known how it ended: see whether a worker of its region "
            "runs, and its log",
        ),
        (timed_out(TimeoutType.SCHEDULE_TO_START), "no worker of its region took the step in time"),
    ],
)
def test_a_used_up_budget_says_what_it_was_used_up_by(cause: BaseException, words: str) -> None:
    assert explain(failed(cause)) == words
