"""A run followed through outages of its worker and of Temporal itself."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError
from temporalio.exceptions import ApplicationError, TerminatedError
from temporalio.service import RPCError, RPCStatusCode

from recovery.domain.report import RunReport, RunState
from recovery.errors import NotFound, Unreachable
from workers import operations
from workers.operations import EndedAbruptly, follow, result

RUNNING, COMPLETED = WorkflowExecutionStatus.RUNNING, WorkflowExecutionStatus.COMPLETED


def rpc(status: RPCStatusCode) -> RPCError:
    return RPCError("no answer", status, b"")


def report(state: RunState = RunState.RUNNING) -> RunReport:
    return RunReport(
        plan="Backup", group="shop", run_id="run-1", workflow_id="backup/shop", state=state,
        started_at=datetime(2026, 11, 22, tzinfo=UTC), steps=[],
    )  # fmt: skip


class FakeHandle:
    """Answers each question with the next of its answers; the last one is repeated. An exception is raised."""

    id = "backup/shop"

    def __init__(self, *, describe: list[Any], query: list[Any], outcome: Any = None) -> None:
        self._answers = {"describe": describe, "query": query}
        self._outcome = outcome

    def _next(self, what: str) -> Any:
        answers = self._answers[what]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def describe(self) -> Any:
        status = self._next("describe")
        return SimpleNamespace(status=status, raw_description=SimpleNamespace(pending_activities=[]))

    async def query(self, name: str, result_type: type) -> RunReport:
        found: RunReport = self._next("query")
        return found

    async def result(self) -> RunReport:
        if isinstance(self._outcome, Exception):
            raise self._outcome
        found: RunReport = self._outcome
        return found


async def followed(handle: FakeHandle, silent: Callable[[str], None] | None = None) -> list[RunState]:
    seen = follow(handle, every=0.001, silent=silent)  # type: ignore[arg-type]  # a handle in all that is asked of it
    return [current.state async for current, _ in seen]


async def test_an_outage_is_told_and_lived_through() -> None:
    unavailable = rpc(RPCStatusCode.UNAVAILABLE)
    handle = FakeHandle(
        describe=[RUNNING, unavailable, unavailable, RUNNING, COMPLETED],
        query=[report(), rpc(RPCStatusCode.FAILED_PRECONDITION), report()],
        outcome=report(RunState.COMPLETED),
    )
    told: list[str] = []
    assert await followed(handle, told.append) == [RunState.RUNNING, RunState.COMPLETED]
    assert [line.split(":")[0] for line in told] == [
        "Temporal does not answer",
        "Temporal does not answer",
        "no worker answers for backup/shop",
    ]


async def test_an_outage_without_end_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "OUTAGE_SECONDS", 0.02)
    handle = FakeHandle(describe=[RUNNING, rpc(RPCStatusCode.UNAVAILABLE)], query=[report()])
    with pytest.raises(Unreachable, match="Temporal does not answer any more"):
        await followed(handle)


async def test_another_error_of_temporal_is_not_waited_out() -> None:
    with pytest.raises(RPCError):
        await followed(FakeHandle(describe=[rpc(RPCStatusCode.PERMISSION_DENIED)], query=[report()]))
    with pytest.raises(NotFound, match="there is no run backup/shop"):
        await followed(FakeHandle(describe=[RUNNING], query=[rpc(RPCStatusCode.NOT_FOUND)]))


async def test_an_ended_run_needs_no_worker() -> None:
    nobody = rpc(RPCStatusCode.FAILED_PRECONDITION)
    completed = FakeHandle(describe=[COMPLETED], query=[nobody], outcome=report(RunState.COMPLETED))
    assert await followed(completed) == [RunState.COMPLETED]
    error = ApplicationError("ended", report(RunState.ROLLED_BACK).model_dump(mode="json"), type="RolledBack")
    failed = FakeHandle(
        describe=[WorkflowExecutionStatus.FAILED], query=[nobody], outcome=WorkflowFailureError(cause=error)
    )
    assert await followed(failed) == [RunState.ROLLED_BACK]
    assert (await result(failed)).state is RunState.ROLLED_BACK  # type: ignore[arg-type]


async def test_a_run_that_temporal_ended_itself_is_no_success() -> None:
    outcome = WorkflowFailureError(cause=TerminatedError("by hand"))
    handle = FakeHandle(describe=[WorkflowExecutionStatus.TERMINATED], query=[report()], outcome=outcome)
    with pytest.raises(
        EndedAbruptly, match=r"was terminated in Temporal itself: nothing was undone.*drctl release shop"
    ):
        await followed(handle)
    with pytest.raises(EndedAbruptly):
        await result(handle)  # type: ignore[arg-type]
