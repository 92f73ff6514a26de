"""Nothing secret leaves a worker in an error: the text of every failure is masked before Temporal stores it."""

from __future__ import annotations

from typing import Any

from temporalio.exceptions import ApplicationError
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from recovery.telemetry.redaction import REDACTOR, Redactor


class Masking(Interceptor):
    """The outermost interceptor: masks known secrets, and what has the form of one, in what failed activities say."""

    def __init__(self, redactor: Redactor = REDACTOR) -> None:
        self._redactor = redactor

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        return _Mask(next, self._redactor)


class _Mask(ActivityInboundInterceptor):
    def __init__(self, next: ActivityInboundInterceptor, redactor: Redactor) -> None:
        super().__init__(next)
        self._redactor = redactor

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        try:
            return await super().execute_activity(input)
        except ApplicationError as error:
            # Without its cause: a chained error would be stored with its own, unmasked text.
            raise ApplicationError(
                self._redactor.mask(error.message),
                *error.details,
                type=error.type,
                non_retryable=error.non_retryable,
                next_retry_delay=error.next_retry_delay,
            ) from None
