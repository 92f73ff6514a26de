"""Plans that only wait to be told how they end, for whoever starts plans and follows them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from recovery.domain.report import Achieved, RunReport, RunState


async def _pretend(plan: str, request: RawValue) -> RunReport:
    """Waits to be let go, and ends as the signal says."""
    payload: dict[str, Any] = workflow.payload_converter().from_payload(request.payload, dict)
    ended: list[dict[str, str]] = []
    workflow.set_signal_handler("end", ended.append)
    await workflow.wait_condition(lambda: bool(ended))
    how = ended[0]
    info = workflow.info()
    report = RunReport(
        plan=plan, group=payload["group"], run_id=info.run_id, workflow_id=info.workflow_id,
        state=RunState(how.get("state", "completed")), started_at=workflow.now() - timedelta(seconds=7),
        ended_at=workflow.now(), source_region="region-a", target_region="region-b", steps=[],
        failed_step=how.get("step"), error=how.get("error", ""),
        warnings=["alert not delivered (a pretended plan tells nobody)"],
        achieved=Achieved(
            rto=timedelta(seconds=9), rto_objective=timedelta(minutes=15), rpo=timedelta(seconds=2),
            rpo_objective=timedelta(minutes=5),
        ),
    )  # fmt: skip
    if report.state is not RunState.COMPLETED:
        raise ApplicationError("it did not work", report, type="RolledBack", non_retryable=True)
    return report


@workflow.defn(name="Failover")
class PretendedFailover:
    @workflow.run
    async def run(self, request: RawValue) -> RunReport:
        return await _pretend("Failover", request)


@workflow.defn(name="FullRecovery")
class PretendedRecovery:
    @workflow.run
    async def run(self, request: RawValue) -> RunReport:
        return await _pretend("FullRecovery", request)
