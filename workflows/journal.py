"""What happened to each step so far: the source of the progress query, of the Temporal UI's table and of the report."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from recovery.domain.backup_counts import BACKUP
    from recovery.domain.durations import UNFINISHED, expected_end
    from recovery.domain.objectives import achieved, rto_end
    from recovery.domain.plan import Facts, PlanRequest, StepOutcome, wanted_kinds
    from recovery.domain.recovered_set import RecoveredSet, recovered_set
    from recovery.domain.recovery_point import CheckResult
    from recovery.domain.report import BY_SILENCE, OperatorAction, RunReport, RunState, StepRecord, StepState
    from recovery.domain.report_text import markdown_table
    from recovery.domain.words import duration

from workflows.steps import Plan, Step

# A report is one payload, and Temporal refuses payloads of more than 2 MiB: what a run may gather is bounded.
MOST_CHECKS = 500
MOST_WARNINGS = 100
MOST_ACTIONS = 200
GOES_ON = (RunState.RUNNING, RunState.PAUSED, RunState.WAITING, RunState.HELD)
UNDONE = (RunState.ROLLING_BACK, RunState.ROLLED_BACK, RunState.ROLLBACK_INCOMPLETE)


@dataclass
class Entry:
    """A step's row, as it changes."""

    record: StepRecord

    def change(self, **values: object) -> None:
        self.record = self.record.model_copy(update=values)


class Journal:
    """Keeps the rows and shows each change in the Temporal UI."""

    def __init__(self, plan: Plan, request: PlanRequest) -> None:
        info = workflow.info()
        self.plan = plan
        self.request = request
        self.run_id = info.run_id
        self.workflow_id = info.workflow_id
        # Of the first run: a reset must neither rename what the run has made nor restart the clock of its RTO.
        self.started_at = info.workflow_start_time
        self.ended_at: datetime | None = None
        self.state = RunState.RUNNING
        self.entries = {
            step.name: Entry(
                StepRecord(
                    name=step.name,
                    activity=_activity_name(step),
                    where=step.where.value,
                    group=number,
                    budget=step.budget,
                    has_undo=step.undo is not None,
                    pivot=step.pivot,
                )
            )
            for number, steps in plan.groups()
            for step in steps
        }
        self.actions: list[OperatorAction] = []
        self.undo_order: list[str] = []
        self.checks: list[CheckResult] = []
        self.warnings: list[str] = []
        self.failed_step: str | None = None
        self.error = ""
        self.hold_choices: list[str] = []
        self.facts = Facts()
        self._said: set[str] = set()

    def started(self, step: Step) -> None:
        entry = self.entries[step.name]
        entry.change(
            state=StepState.RUNNING,
            started_at=entry.record.started_at or workflow.now(),
            ended_at=None,
            error="",
        )
        self.show()

    def done(self, step: Step, outcome: StepOutcome) -> None:
        self.facts = self.facts.merged(outcome.facts)
        self._checked(outcome.checks)
        for warning in outcome.warnings:
            self._warn_once(step, warning)
        entry = self.entries[step.name]
        entry.change(
            state=StepState.DONE,
            ended_at=workflow.now(),
            attempts=entry.record.attempts + outcome.attempt,
            summary=outcome.summary,
        )
        if outcome.facts.group is not None:
            self._learn(outcome.facts)
        self.show()

    def ended(self, step: Step, state: StepState, *, error: str = "", attempts: int = 0, summary: str = "") -> None:
        entry = self.entries[step.name]
        entry.change(
            state=state,
            ended_at=workflow.now(),
            error=error,
            attempts=entry.record.attempts + attempts,
            summary=summary or entry.record.summary,
        )
        if state is StepState.WARNED:
            self.warn(f"{step.name}: {error}")
        self.show()

    def skipped(self, step: Step, error: str) -> None:
        """After a failure: by whoever acted on the step last, an operator or everybody's silence."""
        last = next(action for action in reversed(self.actions) if action.step == step.name)
        summary, undone = "skipped by the operator", self.entries[step.name].record.undo_summary
        if last.actor == BY_SILENCE:
            summary = f"skipped: {last.reason}"
            self.warn(f"{step.name}: {summary}{f'; undone: {undone}' if undone else ''}. {error}")
        elif step.undo is not None:
            self.warn(f"{step.name}: {summary}: what it did before it failed stays in place. {error}")
        self.ended(step, StepState.SKIPPED, error=error, summary=summary)

    def warn(self, sentence: str) -> None:
        if len(self.warnings) < MOST_WARNINGS:
            self.warnings.append(sentence)
        else:
            self.warnings[-1] = f"{sentence} (the last of more than {MOST_WARNINGS} warnings)"

    def _warn_once(self, step: Step, sentence: str) -> None:
        """What every step would say (that a worker's configuration differs, say) is said once."""
        if sentence not in self._said:
            self._said.add(sentence)
            self.warn(f"{step.name}: {sentence}")

    def _checked(self, checks: list[CheckResult]) -> None:
        """Where there are too many, those that failed are kept."""
        self.checks = [*self.checks, *checks]
        if len(self.checks) > MOST_CHECKS:
            failed = [check for check in self.checks if not check.passed][:MOST_CHECKS]
            passed = [check for check in self.checks if check.passed]
            self.checks = failed + passed[: MOST_CHECKS - len(failed)]

    def state_of(self, step: Step) -> StepState:
        return self.entries[step.name].record.state

    def is_finished(self, step: Step) -> bool:
        return self.state_of(step) not in UNFINISHED

    def waited(self, step: Step, state: StepState, while_: timedelta) -> None:
        """The step was held for its operator so long, and is again what it was before."""
        entry = self.entries[step.name]
        entry.change(state=state, waited=entry.record.waited + while_)
        self.show()

    def step_state(self, step: Step, state: StepState) -> None:
        self.entries[step.name].change(state=state)
        self.show()

    def undoing(self, step: Step) -> None:
        self.undo_order.append(step.name)
        self.entries[step.name].change(state=StepState.UNDOING, undo_started_at=workflow.now())
        self.show()

    def undone(self, step: Step, *, summary: str = "", error: str = "", refused: bool = False) -> None:
        state = StepState.UNDO_REFUSED if refused else StepState.UNDO_FAILED if error else StepState.UNDONE
        self.entries[step.name].change(
            state=state, undo_ended_at=workflow.now(), undo_summary=summary, undo_error=error
        )
        self.show()

    def taken_back(self, step: Step, began: datetime, summary: str) -> None:
        """Undone by itself: the run goes on without it."""
        self.entries[step.name].change(undo_started_at=began, undo_ended_at=workflow.now(), undo_summary=summary)

    def enter(self, state: RunState) -> None:
        self.state = state
        self.show()

    def act(self, action: str, actor: str, reason: str, step: str | None) -> None:
        taken = OperatorAction(action=action, actor=actor, reason=reason, at=workflow.now(), step=step)
        self.actions = [*self.actions, taken][-MOST_ACTIONS:]

    def report(self) -> RunReport:
        """The run as it stands. Pure: it is also what a query sees."""
        group = self.facts.group
        overrides = group.budgets if group else {}
        reached = achieved(self.facts, self.started_at)
        return RunReport(
            plan=self.plan.name,
            group=self.request.group,
            run_id=self.run_id,
            workflow_id=self.workflow_id,
            state=self.state,
            started_at=self.started_at,
            ended_at=self.ended_at,
            reason=self.request.reason,
            requested_by=self.request.requested_by,
            source_region=self.facts.source_region,
            target_region=self.facts.target_region,
            steps=[entry.record for entry in self.entries.values()],
            undo_order=self.undo_order,
            actions=self.actions,
            checks=self.checks,
            warnings=self.warnings,
            achieved=reached,
            recovered_set=self._recovered_set(reached.rpo),
            point_ids=self.facts.points_written or self._points_restored(),
            point_named=self.request.point_id,
            kinds=self._kinds(),
            failed_step=self.failed_step,
            error=self.error,
            config_hash=group.config_hash if group else "",
            critical_path=self.plan.critical_path(overrides),
            eta=self._eta(),
            rto_ends_at=rto_end(self.facts, self.started_at) if self._races() else None,
            hold_choices=self.hold_choices,
            incident_id=self.facts.incident_id,
            candidates=self.facts.candidates or [],
            fence=self.facts.fence,
            promotions=self.facts.promotions,
            losses=self.facts.losses or [],
            divergences=self.facts.divergences or [],
            write_pause=self.facts.write_pause,
            accepted_data_loss=self.request.accept_data_loss,
            forced=self.request.force,
            returned=bool(self.facts.returned),
            watch_until=self.facts.watch_until,
            further_runs=self.facts.further_runs or {},
        )

    def _recovered_set(self, database_rpo: timedelta | None) -> RecoveredSet | None:
        """None once it is undone."""
        return None if self.state in UNDONE else recovered_set(self.facts, self.started_at, database_rpo)

    def _points_restored(self) -> list[str]:
        found = [self.facts.point_id, *(each.point_id for each in self.facts.restored_beside.values())]
        return [point_id for point_id in found if point_id is not None]

    def _kinds(self) -> list[str]:
        group = self.facts.group if self.plan.name == BACKUP else None
        return [] if group is None else [kind.value for kind in wanted_kinds(self.request, group)]

    def show(self) -> None:
        workflow.set_current_details(markdown_table(self.report(), workflow.now()))

    def _learn(self, facts: Facts) -> None:
        """Budgets and expected durations become known with the configuration."""
        if facts.group is None:
            return
        expected = facts.expected_seconds or {}
        for step in self.plan.steps():
            seconds = expected.get(step.name)
            self.entries[step.name].change(
                budget=self.plan.budget(step, facts.group.budgets),
                expected=None if seconds is None else timedelta(seconds=seconds),
            )
        path = self.plan.critical_path(facts.group.budgets)
        rto = facts.group.objectives.rto
        if self.plan.has_rto and path > rto:
            self.warn(
                f"the budgets of this plan add up to {duration(path)}, longer than the RTO of {duration(rto)}: "
                "each step may take its budget, so the objective is not guaranteed"
            )

    def _races(self) -> bool:
        """It goes on to bring a lost service back."""
        return self.plan.has_rto and self.state in GOES_ON

    def _eta(self) -> datetime | None:
        if self.state not in GOES_ON:
            return None
        return expected_end((entry.record for entry in self.entries.values()), workflow.now())


def _activity_name(step: Step) -> str:
    definition = getattr(step.activity, "__temporal_activity_definition", None)
    return str(definition.name) if definition is not None else step.activity.__qualname__
