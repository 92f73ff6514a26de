"""The text of a failure is masked before Temporal stores it; all else of the failure stays."""

from __future__ import annotations

from typing import Any, cast

import pytest
from temporalio.exceptions import ApplicationError
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput

from recovery.telemetry.redaction import Redactor
from workers.masking import Masking

SECRET = "correct-horse-battery-staple"


class Failing:
    """Stands for everything below: the activity and what wraps it."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error

    async def execute_activity(self, input: Any) -> str:
        if self.error is not None:
            raise self.error
        return "done"


async def run(error: Exception | None) -> Any:
    redactor = Redactor()
    redactor.register(SECRET)
    below = cast(ActivityInboundInterceptor, Failing(error))
    return await Masking(redactor).intercept_activity(below).execute_activity(cast(ExecuteActivityInput, None))


async def test_the_message_is_masked_and_the_rest_stays() -> None:
    with pytest.raises(ApplicationError) as caught:
        await run(ApplicationError(f"refused: password {SECRET}", 3, type="Refused", non_retryable=True))
    error = caught.value
    assert SECRET not in error.message and error.message.startswith("refused")
    assert (error.type, error.non_retryable, list(error.details)) == ("Refused", True, [3])


async def test_no_cause_brings_the_secret_back() -> None:
    try:
        raise ValueError(SECRET)
    except ValueError as cause:
        failure = ApplicationError("failed", type="Unreachable")
        failure.__cause__ = cause
    with pytest.raises(ApplicationError) as caught:
        await run(failure)
    assert caught.value.__cause__ is None and caught.value.__suppress_context__


async def test_what_succeeds_passes_through() -> None:
    assert await run(None) == "done"
