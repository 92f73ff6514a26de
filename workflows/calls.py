"""How the engine calls activities: where each runs, how long it may take, and what it is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError

from workflows.failures import StepFailed, explain, nobody_began
from workflows.journal import Journal
from workflows.steps import HEARTBEAT, PERSIST, PROBE, Activity, Plan, Step, Where, m, s

with workflow.unsafe.imports_passed_through():
    from activities.notifications import Alert, Notifications
    from activities.reports import Reports
    from recovery.domain.plan import LockDemand, PlanContext, PlanRequest, StepOutcome
    from recovery.domain.report import RunReport


@dataclass(frozen=True)
class Limits:
    """``attempt`` bounds one try, ``budget`` all of them, ``start_within`` the wait for a worker."""

    attempt: timedelta
    budget: timedelta
    retry: RetryPolicy
    start_within: timedelta | None = None


# The engine's own questions to the ownership record: small, and asked again until the witness answers.
OWN = Limits(attempt=s(10), budget=m(1), retry=PROBE)
OBSERVE = Limits(attempt=s(20), budget=m(1), retry=PROBE)


class Calls:
    """The activities of one run."""

    def __init__(self, plan: Plan, request: PlanRequest, journal: Journal) -> None:
        info = workflow.info()
        self.plan = plan
        self.request = request
        self.run_id = info.run_id
        self.first_run_id = info.first_execution_run_id
        self.workflow_id = info.workflow_id
        self._journal = journal

    def context(self, step: Step, lock: LockDemand | None = None) -> PlanContext:
        """What the step is told: the request, all that the run learned so far, and what it has to ask first."""
        return PlanContext(
            plan=self.plan.name,
            run_id=self.run_id,
            first_run_id=self.first_run_id,
            workflow_id=self.workflow_id,
            step=step.name,
            request=self.request,
            facts=self._journal.facts,
            started_at=self._journal.started_at,
            lock=lock,
        )

    async def forward(self, step: Step, *, past_pivot: bool) -> StepOutcome:
        """Raises ActivityError, or StepFailed where the step's region has no queue."""
        changes = step.undo is not None or step.pivot
        lock = LockDemand.HELD if past_pivot else LockDemand.BEFORE_PIVOT
        group = self._journal.facts.group
        budget = self.plan.budget(step, group.budgets if group else {})
        # Less than the budget, so that the end of either can be told from the other's.
        start_within = min(step.start_within, budget * 0.75) if step.start_within is not None else None
        limits = Limits(min(step.attempt, budget), budget, step.retry, start_within)
        queue = self.queue(step, step.where)
        try:
            return await self._execute(
                step.activity, step, limits, queue, step.name, self._lock(lock) if changes else None
            )
        except ActivityError as error:
            if step.where is Where.KEYHOLDER and nobody_began(error):
                raise StepFailed(step.name, self._no_keyholder()) from error
            raise

    def _no_keyholder(self) -> str:
        return (
            f"no worker of {self._journal.facts.target_region} that holds an age identity took it, and without one no "
            "recovery point opens: set keys.identities in the configuration of a worker there, and see that it runs"
        )

    async def back(self, step: Step) -> StepOutcome:
        """Undoes the step, with its own budget. Raises as ``forward``."""
        assert step.undo is not None
        limits = Limits(step.undo_budget, step.undo_budget, PERSIST)
        queue = self.queue(step, step.undo_where or step.where)
        return await self._execute(step.undo, step, limits, queue, f"undo {step.name}", self._lock(LockDemand.UNDO))

    def _lock(self, demanded: LockDemand) -> LockDemand | None:
        """Only what a run that claimed its group changes is guarded; the steps of the lock itself guard themselves."""
        return demanded if self._journal.facts.ownership_before is not None else None

    async def observe(self, step: Step) -> StepOutcome:
        """Looks whether a pivot took effect. Raises as ``forward``."""
        assert step.observe is not None
        queue = self.queue(step, step.where)
        return await self._execute(step.observe, step, OBSERVE, queue, f"observe {step.name}")

    async def own(self, activity: Activity, step: Step, what: str) -> StepOutcome:
        """A question or note of the engine's own, on the queue of the workflow. Raises ActivityError."""
        return await self._execute(activity, step, OWN, None, f"{what} {step.name}")

    async def alert(self, alert: Alert) -> None:
        """Delivered or noted as not delivered: never raises."""
        try:
            await workflow.execute_activity_method(
                Notifications.alert,
                alert,
                start_to_close_timeout=s(30),
                schedule_to_close_timeout=m(1),
                heartbeat_timeout=HEARTBEAT,
                retry_policy=PROBE,
                summary=alert.title,
            )
        except ActivityError as error:
            self._journal.warn(f"alert not delivered ({alert.title}): {explain(error)}")

    async def store_report(self, report: RunReport) -> None:
        """Stored beside the evidence, or noted as not stored: never raises."""
        try:
            await workflow.execute_activity_method(
                Reports.store,
                report,
                start_to_close_timeout=s(15),
                schedule_to_close_timeout=m(1),
                heartbeat_timeout=HEARTBEAT,
                retry_policy=PROBE,
                summary="store-report",
            )
        except ActivityError as error:
            self._journal.warn(f"the report was not stored beside the evidence: {explain(error)}")

    def queue(self, step: Step, where: Where) -> str | None:
        """The task queue of the region that the step belongs to; None is the queue of this workflow.

        Raises:
            StepFailed: the run's configuration has no such region.
        """
        facts = self._journal.facts
        if where is Where.VALIDATION:
            return facts.group.validation_queue if facts.group is not None else None
        name = {
            Where.SOURCE: facts.source_region,
            Where.TARGET: facts.target_region,
            Where.KEYHOLDER: facts.target_region,
        }.get(where)
        if name is None or facts.group is None:
            return None
        for region in facts.group.regions:
            if region.name == name:
                # A run that an earlier version began knows one queue of the region only, and goes on with it.
                return (region.restore_queue if where is Where.KEYHOLDER else None) or region.task_queue
        known = ", ".join(region.name for region in facts.group.regions)
        raise StepFailed(step.name, f"no worker can be asked: the configuration of the run has {known}, and not {name}")

    async def _execute(
        self,
        activity: Activity,
        step: Step,
        limits: Limits,
        queue: str | None,
        name: str,
        lock: LockDemand | None = None,
    ) -> StepOutcome:
        # The activity is a method of a class that only workers build: it is referenced here, and its definition
        # names it. Waiting for a cancelled step to end is what makes it safe to undo it next.
        call: Callable[..., Any] = activity
        outcome: StepOutcome = await workflow.execute_activity_method(
            call,
            self.context(step, lock),
            task_queue=queue,
            start_to_close_timeout=limits.attempt,
            schedule_to_close_timeout=limits.budget,
            schedule_to_start_timeout=limits.start_within,
            heartbeat_timeout=HEARTBEAT,
            retry_policy=limits.retry,
            cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
            activity_id=name,  # so that an operator can name it: temporal activity pause -w ... -a restore-database
            summary=name,
        )
        return outcome
