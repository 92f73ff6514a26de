"""Runs a table of steps: the only place that executes and undoes.

The rules it keeps are those of the design's section 4; each has a test in ``tests/workflows``.

Three tasks share the work. The *caller's* task (the workflow's ``run``) takes the cancellation that Temporal
delivers and passes it on; it never leaves before the work is over, because a workflow that returns drops whatever
is still to be undone. The *work* task goes forward, rolls back where needed and writes the report. The *forward*
task is the only one that is ever cancelled.
"""

from __future__ import annotations

import asyncio

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

from workflows.amendments import Amendable, told_to_stop
from workflows.calls import Calls
from workflows.control import Choice, Control, OperatorCommand
from workflows.failures import ERROR_TYPES, StepFailed, StoppedByOperator, attempts_of, explain, headline, kind_of
from workflows.gates import Gates
from workflows.holds import Holds
from workflows.journal import Journal
from workflows.steps import HOLD, WARN, Plan, Step

with workflow.unsafe.imports_passed_through():
    from activities.notifications import Alert
    from activities.ownership import Ownership
    from activities.runs import RunFailed
    from recovery.domain.plan import PlanRequest, StepOutcome
    from recovery.domain.recovery_counts import ended_by_choice
    from recovery.domain.report import RunReport, RunState, StepState
    from recovery.errors import DataLoss
    from recovery.ports.notify import Severity


class Engine(Amendable):
    """One run of one plan."""

    def __init__(self, plan: Plan, request: PlanRequest) -> None:
        super().__init__()
        self.plan = plan
        self.request = request
        self.journal = Journal(plan, request)
        self.control = Control(self.journal)
        self._calls = Calls(plan, request, self.journal)
        self._gates = Gates(plan, self.journal, self.control, self._calls, self._alert)
        self._to_undo: list[Step] = []
        self._holds = Holds(plan, self.journal, self.control, self._calls, self._alert, self._to_undo)
        self._forward: asyncio.Task[None] | None = None
        self._alerts: list[asyncio.Task[None]] = []
        self._stop_reason = ""
        self._cancelled = False
        self._told_elsewhere = False  # by the run of its own that failed
        self._pivot_started = False
        self._beside: list[asyncio.Task[None]] = []

    async def run(self) -> RunReport:
        """Runs the plan to its end and returns the report.

        Raises:
            ApplicationError: of a type named in ``failures.ERROR_TYPES``, with the report as its detail.
            asyncio.CancelledError: the run was cancelled, and all that it had done was undone.
        """
        work = asyncio.create_task(self._work())
        while not work.done():
            try:
                await asyncio.shield(work)
            except asyncio.CancelledError:
                if work.done():
                    break  # it came in the very moment of the end: what was done is what counts
                self._cancelled = True
                self.stop("the run was cancelled")
                _uncancel()
        work.result()
        report = self.journal.report()
        if report.state is RunState.COMPLETED:
            return report
        if self._cancelled and report.state is RunState.ROLLED_BACK:
            raise asyncio.CancelledError
        raise ApplicationError(headline(report), report, type=ERROR_TYPES[report.state], non_retryable=True)

    def stop(self, reason: str) -> None:
        """Ends the forward part: at once before a pivot; after it the operator is asked at the next step."""
        # Patched: a run that was stopped in its pause under an earlier version went on only when it was resumed.
        if self._pivot_started and self.control.paused and workflow.patched("a stop ends a pause"):
            self.control.paused = False
        if self._stop_reason:
            return
        self._stop_reason = reason
        if self._forward is not None and not self._pivot_started:
            self._forward.cancel()

    def abort(self, command: OperatorCommand) -> str:
        """The operator's abort: answers an open hold, or stops what runs."""
        self.control.record_abort(command)
        if not self.control.abort_holds():
            self.stop(f"aborted by {command.actor}: {command.reason}")
        return "aborting"

    # The whole run: forward, then whatever its end asks for, then the report.

    async def _work(self) -> None:
        state = await self._outcome()
        self.journal.ended_at = workflow.now()
        self.control.ended = True
        self.journal.enter(state)
        if state is not RunState.COMPLETED and self._has_to_be_told():
            self._alert_failure()
        for alert in self._alerts:
            await alert
        await self._calls.store_report(self.journal.report())
        await workflow.wait_condition(workflow.all_handlers_finished)

    async def _outcome(self) -> RunState:
        try:
            if self._stop_reason:
                raise asyncio.CancelledError
            self._forward = asyncio.create_task(self._go_forward())
            await self._forward
            return RunState.COMPLETED
        except StoppedByOperator as stopped:
            self.journal.error = str(stopped)
            return await self._leave_as_it_is()
        except StepFailed as failed:
            self.journal.failed_step = failed.step
            self.journal.error = str(failed)
            self._told_elsewhere = failed.kind == RunFailed.__name__
        except asyncio.CancelledError:
            # Not a cancellation of this task (nobody cancels it): the forward task was told to stop.
            self.journal.error = self._stop_reason
        return await self._roll_back()

    async def _go_forward(self) -> None:
        rows = list(self.plan.rows)
        while rows:
            row = rows.pop(0)
            if isinstance(row, Step):
                await self._step(row)
                continue
            steps, after = row.steps, rows[0] if rows else None
            if isinstance(after, Step) and after.apart and not workflow.patched(after.apart):
                steps, rows = (*steps, after), rows[1:]
            if not row.since or workflow.patched(row.since):
                await self._together(steps)
            else:
                for step in steps:
                    await self._step(step)
        if self._beside:
            await workflow.wait(self._beside)

    async def _together(self, steps: tuple[Step, ...]) -> None:
        """All at the same time. The first that fails stops the others, and they are waited for."""
        tasks: list[asyncio.Task[None]] = []
        for step in steps:
            task = asyncio.create_task(self._step(step), name=step.name)
            (self._beside if step.beside else tasks).append(task)
        stopped = False
        try:
            await workflow.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        except asyncio.CancelledError:  # no finally: what is thrown away by a worker that ends must not wait again
            stopped = True
        for task in tasks:
            task.cancel()
        stopped |= await self._all_done(tasks)
        failures = [task.exception() for task in tasks if not task.cancelled() and task.exception() is not None]
        if stopped:
            raise asyncio.CancelledError
        if failures:
            raise failures[0]  # type: ignore[misc]

    async def _all_done(self, tasks: list[asyncio.Task[None]]) -> bool:
        """Waits for all, however often this task is cancelled meanwhile; True when it was."""
        stopped = False
        while not all(task.done() for task in tasks):
            try:
                await workflow.wait(tasks)
            except asyncio.CancelledError:
                if all(task.done() for task in tasks):
                    raise
                stopped = True
                _uncancel()
        return stopped

    # One step forward.

    async def _step(self, step: Step) -> None:
        if not self._is_wanted(step):
            return
        try:
            await self._gates.passed(step, self.request)
            while self._is_wanted(step) and not await self._tried(step):
                pass
        except asyncio.CancelledError:
            if not self.journal.is_finished(step):
                self.journal.ended(step, StepState.CANCELLED)
            raise

    def _is_wanted(self, step: Step) -> bool:
        """Asked before each try: an operator may have changed the request meanwhile."""
        if step.when is None or step.when(self._calls.context(step)):
            return True
        self.journal.ended(step, StepState.SKIPPED, summary="not asked for")
        return False

    async def _tried(self, step: Step) -> bool:
        """One try, with all that its budget allows. False: the operator wants another one."""
        await self._between_steps(step)
        try:
            outcome = await self._run_step(step)
        except (ActivityError, StepFailed) as error:
            if told_to_stop():
                self.journal.ended(step, StepState.CANCELLED, error=explain(error), attempts=attempts_of(error))
                raise asyncio.CancelledError from error
            if self._was_restarted(step):
                return False
            return await self._after_failure(step, error)
        self._was_restarted(step)
        self.journal.done(step, outcome)
        if told_to_stop():
            # The step was done before the cancellation reached it; the cancellation still counts.
            raise asyncio.CancelledError
        return True

    async def _between_steps(self, step: Step) -> None:
        await self.control.while_paused()
        if self._stop_reason and self._pivot_started:
            reason = f"{self._stop_reason}, after the point of no return: nothing can be undone any more."
            choice = await self._hold(step, reason, (Choice.RESUME, Choice.ABORT))
            if choice is Choice.ABORT:
                raise StoppedByOperator(step.name, reason)
            self._stop_reason = ""

    async def _run_step(self, step: Step) -> StepOutcome:
        self._calls.queue(step, step.where)  # a step that nobody can be asked for has not begun
        if step.undo is not None and step not in self._to_undo:
            self._to_undo.append(step)  # before it starts: a step that timed out may have worked
        self.journal.started(step)
        if step.pivot:
            await self._record_pivot(step)
        forward = self._calls.forward(step, past_pivot=self._pivot_started)
        return await (self._restartable(step, forward) if step.graceful else forward)

    async def _record_pivot(self, step: Step) -> None:
        """Written where a reset of this workflow cannot forget it, before the step starts."""
        if self._pivot_started:
            return  # another try of the step: it is written already
        self._pivot_started = True  # from here on a cancellation must not cut in
        try:
            await self._calls.own(Ownership.record_pivot, step, "record")
        except ActivityError:
            await self._withdraw_pivot(step)
            raise
        if self._stop_reason:
            # The cancellation came first: the step is not started, and what was done can still be undone.
            await self._withdraw_pivot(step)
            raise asyncio.CancelledError

    async def _withdraw_pivot(self, step: Step) -> None:
        """Where this fails too, the ownership record says so, and nothing is undone without the operator."""
        self._pivot_started = False
        try:
            await self._calls.own(Ownership.withdraw_pivot, step, "withdraw")
        except ActivityError as error:
            self.journal.warn(f"{step.name}: the recorded point of no return was not withdrawn: {explain(error)}")

    async def _after_failure(self, step: Step, error: ActivityError | StepFailed) -> bool:
        """False: try the step again. True: go on without it. Raises where the forward part ends here."""
        reason = explain(error)
        if step.pivot and self._pivot_started and await self._took_effect(step, reason):
            return True
        if step.on_failure is WARN:
            self.journal.ended(step, StepState.WARNED, error=reason, attempts=attempts_of(error))
            return True
        self.journal.ended(step, StepState.FAILED, error=reason, attempts=attempts_of(error))
        costs_data = step.costs_data and kind_of(error) == DataLoss.__name__
        if step.on_failure is not HOLD and not self._pivot_started and not costs_data:
            raise StepFailed(step.name, reason, kind_of(error))
        offered = (Choice.RETRY, Choice.ACCEPT_LOSS if costs_data else Choice.SKIP, Choice.ABORT)
        choice = await self._hold(step, reason, offered)
        if choice in (Choice.RETRY, Choice.ACCEPT_LOSS):
            return False
        if choice is Choice.SKIP:
            self.journal.skipped(step, reason)
            return True
        if self._pivot_started:
            raise StoppedByOperator(step.name, reason)
        raise StepFailed(step.name, reason)

    async def _took_effect(self, step: Step, reason: str) -> bool:
        """Looks at the real state after a failed pivot."""
        if step.observe is None:
            return False
        try:
            seen = await self._calls.observe(step)
        except (ActivityError, StepFailed) as error:
            self.journal.warn(f"{step.name}: its effect could not be observed: {explain(error)}")
            return False
        if not seen.effect_present:
            return False
        self.journal.done(step, seen.model_copy(update={"warnings": [f"reported a failure but took effect: {reason}"]}))
        return True

    async def _hold(self, step: Step, reason: str, choices: tuple[Choice, ...]) -> Choice:
        """Waits for the operator. Where undoing is still allowed, the configuration may bound how long."""
        group = self.journal.facts.group
        can_undo = Choice.ABORT in choices and not self._pivot_started and not self.control.rolling_back
        patience = group.hold_timeout if group and can_undo else None
        return await self._holds.answered(step, reason, choices, patience)

    # Backwards.

    async def _roll_back(self) -> RunState:
        """Undoes in reverse order. A failing undo is reported and does not stop the others."""
        for task in self._beside:
            task.cancel()
        if self._beside:
            await workflow.wait(self._beside)
        if not self._to_undo:
            return RunState.ROLLED_BACK
        self.control.rolling_back = True
        self.journal.enter(RunState.ROLLING_BACK)
        if self.plan.locks_group and not await self._may_undo():
            return await self._leave_as_it_is()
        complete = True
        for step in reversed(self._to_undo):
            complete &= await self._undo_step(step)
        if complete:
            return RunState.ROLLED_BACK
        self._alert(
            Severity.CRITICAL,
            f"{self.plan.name} of {self.request.group} could not be undone completely",
            f"See the report of {self._calls.workflow_id}: it names each undo that failed.",
        )
        return RunState.ROLLBACK_INCOMPLETE

    async def _may_undo(self) -> bool:
        """Asks the ownership record whether a pivot had started, which a reset of this workflow may have forgotten."""
        step = self._to_undo[-1]
        while True:
            try:
                await self._calls.own(Ownership.permit_undo, step, "permit undo from")
                return True
            except ActivityError as error:
                reason = f"nothing was undone: {explain(error)}"
                choice = await self._hold(step, reason, (Choice.RETRY, Choice.ABORT))
                self.journal.enter(RunState.ROLLING_BACK)
                if choice is Choice.ABORT:
                    for left in self._to_undo:
                        self.journal.undone(left, error=reason, refused=True)
                    return False

    async def _undo_step(self, step: Step) -> bool:
        self.journal.undoing(step)
        try:
            outcome = await self._calls.back(step)
        except (ActivityError, StepFailed) as error:
            self.journal.undone(step, error=explain(error))
            return False
        self.journal.undone(step, summary=outcome.summary)
        return True

    async def _leave_as_it_is(self) -> RunState:
        """The operator ended a run that must not be undone: the group is released, all else stays."""
        if self.plan.locks_group:
            try:
                await self._calls.own(Ownership.release_after_stop, self.plan.first(), "release after")
            except ActivityError as error:
                self.journal.warn(f"the group could not be released: {explain(error)}")
        return RunState.STOPPED

    def _has_to_be_told(self) -> bool:
        """A plan that moves its group, however it ended; another, where nobody chose its end and no step told of it."""
        if self.plan.locks_group:
            return True
        report = self.journal.report()
        told = any(step.name == self.plan.told_by and step.state is StepState.DONE for step in report.steps)
        told |= self._told_elsewhere
        # Patched: under an earlier version such a run ended in silence.
        return not told and not ended_by_choice(report) and workflow.patched("every failed end is told")

    def _alert_failure(self) -> None:
        report = self.journal.report()
        where = f" at {report.failed_step}" if report.failed_step else ""
        self._alert(self.plan.severity, f"{self.plan.name} of {report.group} failed{where}", headline(report))

    def _alert(self, severity: Severity, title: str, body: str) -> None:
        """Sends a message beside the plan, which neither waits for it nor fails with it."""
        message = Alert(severity=severity, title=title, body=body)
        self._alerts.append(asyncio.create_task(self._calls.alert(message)))


def _uncancel() -> None:
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()
