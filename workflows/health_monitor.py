"""The monitor of a group: it decides by what several vantage points see.

``HealthMonitor`` has the id ``health/<group>`` and lives on reports of vantage points, each sent by signal-with-start.
All that it knows is one value, ``MonitorState``, which goes on in the next run when the history has grown.
"""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

from workflows.control import LONGEST_ACTOR, LONGEST_REASON, OperatorCommand
from workflows.failures import explain
from workflows.health_calls import limits
from workflows.health_fences import Fences
from workflows.health_state import HealthView, MonitorState, OwnRun, all_stale_at, view_of
from workflows.health_words import details, ended_alert, lost_words, unfenced_alert
from workflows.steps import HEARTBEAT, PROBE, m, s
from workflows.vantage_monitor import VantageMonitor

with workflow.unsafe.imports_passed_through():
    from activities.monitoring import Monitoring, PlanEnd, Started, StartOrder
    from activities.notifications import Alert, Notifications
    from recovery.domain.group import FailoverRule, GroupSnapshot
    from recovery.domain.guarding import Unfenced, left_behind
    from recovery.domain.health import Report
    from recovery.domain.words import duration, moment
    from recovery.health.decision import Action, Answer, Case, Decision, Question, decide
    from recovery.health.quorum import (
        REMEMBERED,
        Outage,
        Votes,
        count,
        kept,
        newest_owner,
        outage_of,
        pruned,
    )
    from recovery.ports.notify import Severity

MORE_EVENTS = 1_000  # for which a message on its way is waited for
MOST_ALERTS = 50  # undelivered ones
ASK_AGAIN = s(10)  # after a start that was refused or failed
SHORTEST_PAUSE = s(0.05)
LOAD_AGAIN = m(1)  # a configuration that differs from a vantage point's
OF_ONE_PLAN = ("question", "unanswered", "not-started", "cooldown")
"""Keys of messages about a plan that is to start. Those of one that has ended tell nobody of the next."""


@workflow.defn
class HealthMonitor:
    """Keeps the quorum of one group, and starts a plan when its owner is lost."""

    @workflow.init
    def __init__(self, state: MonitorState | None = None) -> None:
        self.group = workflow.info().workflow_id.removeprefix("health/")
        self.state = state or MonitorState()
        self._dirty = True
        self._is_handing_over = False
        self._following: asyncio.Task[None] | None = None
        self._delivering: asyncio.Task[None] | None = None
        self._minds_search = False  # not in a run that began under a version that left search engines out of account
        self._tells_of_search = False  # nor in one under which people were told of them when a region was lost
        self._tells_of_each_plan = False  # not in a run that began under a version that asked people once an outage
        self._fences_overrule = True  # in a run that began under a version in which a fence that was back did so
        self._fences = Fences(self.group, lambda: self.state, self._fences_are)

    @workflow.run
    async def run(self, state: MonitorState | None = None) -> None:
        self._fences.asked = workflow.patched("strengths-at-run-time")
        self._fences.silence_vouches = not workflow.patched("silence vouches for no fence")
        self._minds_search = workflow.patched("a search engine is left behind")
        self._tells_of_search = workflow.patched("people are told of a search engine that is left behind")
        self._tells_of_each_plan = workflow.patched("people are asked about each plan of an outage")
        self._fences_overrule = not workflow.patched("a question outlives the lack of a fence")
        watching = asyncio.create_task(self._notice_silence())
        fences = asyncio.create_task(self._fences.keep())
        while not self._is_long():
            self._dirty = False
            until = await self._advance()
            workflow.set_current_details(details(self.health()))
            pause = max(until - workflow.now(), SHORTEST_PAUSE) if until is not None else None
            try:
                await workflow.wait_condition(lambda: self._dirty or self._is_long(), timeout=pause)
            except TimeoutError:
                continue
        self._is_handing_over = True
        for task in (watching, fences, self._following, self._delivering):
            if task is not None:
                task.cancel()  # the next run goes on with it
        await workflow.wait_condition(workflow.all_handlers_finished)
        workflow.continue_as_new(self.state.model_copy(update={"runs": self.state.runs + 1}))

    def _is_long(self) -> bool:
        """A message that is on its way is waited for, but not for ever: the next run would send it again."""
        info = workflow.info()
        length, most = info.get_current_history_length(), self.state.most_events
        is_suggested = info.is_continue_as_new_suggested()
        return (length >= most or is_suggested) and (self._delivering is None or length >= most + MORE_EVENTS)

    # Messages.

    @workflow.signal
    def report(self, report: Report) -> None:
        """What a vantage point sees. One that is older than what is known of it changes nothing."""
        if report.group != self.group:
            return
        configured = self.state.snapshot.failover.vantage_points if self.state.snapshot else [report.vantage]
        heard = pruned(kept(self.state.heard, report, workflow.now()), configured)
        if heard is self.state.heard:
            return
        owner, epoch = newest_owner(
            {report.vantage: heard.get(report.vantage, {})}, (self.state.owner, self.state.epoch)
        )
        self._set(heard=heard, owner=owner, epoch=epoch)
        self._dirty = True

    @workflow.query
    def health(self) -> HealthView:
        """Vantage points, votes, streaks, policy, cooldown, open question, last run."""
        state = self.state.model_copy(update={"snapshot": self._rules()})
        return view_of(self.group, state, self._votes(), workflow.now())

    @workflow.update
    def approve(self, command: OperatorCommand) -> str:
        """Lets the plan start that the monitor asked for."""
        return self._answer(Answer.APPROVED, command)

    @approve.validator
    def check_approve(self, command: OperatorCommand) -> None:
        self._check(command)

    @workflow.update
    def decline(self, command: OperatorCommand) -> str:
        """Forbids it, for as long as this outage lasts."""
        return self._answer(Answer.DECLINED, command)

    @decline.validator
    def check_decline(self, command: OperatorCommand) -> None:
        self._check(command)

    def _check(self, command: OperatorCommand) -> None:
        if self.state.question is None or self.state.question.answer is not None:
            raise ApplicationError(f"the monitor of {self.group} asks nothing now", type="Rejected", non_retryable=True)
        if not command.actor.strip() or not command.reason.strip():
            raise ApplicationError("say who and why", type="Rejected", non_retryable=True)
        if len(command.actor) > LONGEST_ACTOR or len(command.reason) > LONGEST_REASON:
            raise ApplicationError(
                f"say it shorter: {LONGEST_ACTOR} characters for who, {LONGEST_REASON:,} for why",
                type="Rejected",
                non_retryable=True,
            )

    def _answer(self, answer: Answer, command: OperatorCommand) -> str:
        assert self.state.question is not None
        answered = {"answer": answer, "actor": command.actor, "reason": command.reason}
        self._set(question=self.state.question.model_copy(update=answered), retry_at=None)
        self._dirty = True
        return f"{self.group}: {answer}"

    # Deciding.

    def _set(self, **changes: Any) -> None:
        self.state = self.state.model_copy(update=changes)

    def _rules(self) -> GroupSnapshot | None:
        """The configuration as this run goes by it."""
        snapshot = self.state.snapshot
        return snapshot if snapshot is None or self._minds_search else snapshot.model_copy(update={"search": None})

    def _votes(self) -> Votes:
        state = self.state
        configured = state.snapshot.failover.vantage_points if state.snapshot else []
        return count(state.heard, configured, state.owner, state.epoch, workflow.now())

    async def _advance(self) -> datetime | None:
        """One decision, carried out. Returns when the next one is due where nothing is heard before."""
        if not await self._load():
            return workflow.now() + ASK_AGAIN
        if self.state.run is not None and self.state.run.end is None and self._following is None:
            self._following = asyncio.create_task(self._follow())
        self._judge()
        if self.state.outage is not None:
            await self._fences.known()
            self._judge()  # what was heard meanwhile counts: the region may be back
        snapshot, now = self._rules(), workflow.now()
        assert snapshot is not None
        case = Case(
            group=snapshot,
            votes=self._votes(),
            outage=self.state.outage,
            losses=self.state.losses,
            question=self.state.question,
            last_automatic_at=self.state.last_automatic_at,
            runs=self.state.run.plan if self.state.run is not None and self.state.run.end is None else "",
            refusals=self.state.refusals,
            unfenced=self.state.unfenced,
            silence_vouches=self._fences.silence_vouches,
            fences_overrule=self._fences_overrule,
        )
        decision = decide(case, now)
        self._set(note=decision.why)
        if decision.action is Action.START:
            if self.state.retry_at is not None and now < self.state.retry_at:
                return self.state.retry_at
            await self._start(decision, case.outage)
            return self.state.retry_at
        if decision.action is Action.ASK:
            assert decision.until is not None
            needed, plan = not case.starts_unanswered, "" if self._fences_overrule else decision.plan
            if self.state.question is not None:
                self._forget_messages_of_the_plan()
            self._set(question=Question(asked_at=now, deadline=decision.until, needs_answer=needed, plan=plan))
        if decision.action in (Action.ASK, Action.TELL):
            self._tell(decision.key, decision.severity, decision.title, f"{decision.why}. {self._words()}")
        return decision.until

    async def _load(self) -> bool:
        """The group's configuration: at the beginning, and again when a vantage point comes with another one."""
        known, now = self.state.snapshot, workflow.now()
        hashes = {entry.report.config_hash for each in self.state.heard.values() for entry in each.values()}
        is_due = self.state.loaded_at is None or now - self.state.loaded_at >= LOAD_AGAIN
        if known is not None and (hashes <= {known.config_hash, *self.state.loaded_for} or not is_due):
            return True
        try:
            found: GroupSnapshot = await workflow.execute_activity_method(
                Monitoring.load_group, self.group, **limits(s(10), m(1))
            )
        except ActivityError as error:
            self._set(note=f"the configuration could not be loaded: {explain(error)}", loaded_at=now)
            return known is not None
        self._set(snapshot=found, loaded_at=now, loaded_for=sorted(hashes))
        return True

    def _judge(self) -> None:
        """Begins or ends the outage by the votes of now."""
        votes, now, outage = self._votes(), workflow.now(), self.state.outage
        if votes.agreed and (outage is None or (outage.region, outage.epoch) != (votes.owner, votes.epoch)):
            losses = [at for at in self.state.losses if now - at < REMEMBERED]
            rule = self.state.snapshot.failover if self.state.snapshot is not None else FailoverRule()
            found = outage_of(votes, now, rule.interval + rule.timeout)
            self._set(outage=found, losses=[*losses, now], starting=None, question=None, told=[], refusals=0)
        elif not votes.agreed and outage is not None:
            if (outage.region, outage.epoch) == (votes.owner, votes.epoch) and self.state.told:
                after = duration(now - outage.began_at)
                title = f"{self.group}: {outage.region} is no longer seen as lost, after {after}"
                self._tell("back", Severity.INFO, title, self._words())
            self._set(outage=None, question=None, told=[], retry_at=None, refusals=0)

    async def _start(self, decision: Decision, outage: Outage | None) -> None:
        assert outage is not None
        incident = self.state.starting or str(workflow.uuid4())  # an attempt of which nobody heard may have begun it
        self._set(starting=incident)
        reason = f"{outage.region} is lost: {lost_words(outage)}; {decision.why}"[:LONGEST_REASON]
        order = StartOrder(
            group=self.group, plan=decision.plan, region=outage.region, epoch=outage.epoch, reason=reason,
            outage_began_at=outage.began_at, incident=incident, approved=decision.approved,
            by_silence=decision.by_silence,
        )  # fmt: skip
        try:
            started: Started = await workflow.execute_activity_method(
                Monitoring.start_plan, order, **limits(s(10), s(30)), summary=f"start {decision.plan}"
            )
        except ActivityError as error:
            self._set(
                retry_at=workflow.now() + ASK_AGAIN, note=f"{decision.plan} could not be started: {explain(error)}"
            )
            self._tell(
                "not-started", Severity.CRITICAL, f"{self.group}: {decision.plan} could not be started",
                f"{explain(error)}. It is tried again every {duration(ASK_AGAIN)}. {self._words()}",
            )  # fmt: skip
            return
        if started.outcome == "started":
            self._begun(decision, order, started)
        elif started.outcome == "moved":
            self._set(
                owner=started.owner, epoch=started.epoch, outage=None, starting=None, question=None, note=started.detail
            )
        else:
            self._set(retry_at=workflow.now() + ASK_AGAIN, note=started.detail)

    def _begun(self, decision: Decision, order: StartOrder, started: Started) -> None:
        now, plan = workflow.now(), started.plan or order.plan
        run = OwnRun(
            plan=plan, workflow_id=started.workflow_id, run_id=started.run_id, started_at=now,
            outage_began_at=order.outage_began_at, reason=order.reason, incident=order.incident,
        )  # fmt: skip
        self._set(run=run, starting=None, last_automatic_at=now, retry_at=None, note=f"{plan} was started")
        title = f"{self.group}: {plan} was started, {order.region} is lost"
        self._tell(
            f"begun {order.incident}", Severity.CRITICAL, title,
            f"{decision.why}. {self._words()} Incident {order.incident}. "
            f"Follow it: drctl status --watch {started.workflow_id}",
        )  # fmt: skip
        self._following = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        """Waits for the end of the plan that was started, and says how it went."""
        run = self.state.run
        assert run is not None
        started = Started(outcome="started", workflow_id=run.workflow_id, run_id=run.run_id)
        try:
            end: PlanEnd = await workflow.execute_activity_method(
                Monitoring.follow_plan,
                args=[self.group, started],
                start_to_close_timeout=timedelta(days=30),
                heartbeat_timeout=HEARTBEAT * 5,
                retry_policy=PROBE,
                summary=f"end of {run.plan}",
            )
        except ActivityError as error:
            if self._is_handing_over:
                return  # that is how a cancelled wait ends
            end = PlanEnd(completed=False, state="unknown", error=explain(error))
        now = workflow.now()
        self._set(run=run.model_copy(update={"end": end, "ended_at": now}), question=None)
        if self._tells_of_each_plan:
            self._forget_messages_of_the_plan()
        if end.owner is not None and end.epoch > self.state.epoch:
            self._set(owner=end.owner, epoch=end.epoch)  # what was seen of the old owner counts no more
        if not end.completed and run.plan == "Failover" and end.step == "choose-target":
            self._set(refusals=self.state.refusals + 1, retry_at=now + ASK_AGAIN)
        if not end.told:  # the run says it itself, once, unless it could not
            title, body, severity = ended_alert(self.group, run.plan, run.reason, end)
            self._tell(f"ended {run.incident}", severity, title, f"{body} Incident {run.incident}.")
        self._following, self._dirty = None, True

    def _forget_messages_of_the_plan(self) -> None:
        self._set(told=[key for key in self.state.told if key not in OF_ONE_PLAN])

    async def _notice_silence(self) -> None:
        """A group that nobody watches any more would never be lost: that is said once."""
        while True:
            stale_at = all_stale_at(self.state)
            if stale_at is None:
                await asyncio.sleep(60)
            elif stale_at > workflow.now():
                await asyncio.sleep((stale_at - workflow.now()).total_seconds() + 1)
            else:
                await self._say_unwatched(stale_at)

    async def _say_unwatched(self, since: datetime) -> None:
        if self.state.unwatched_since is None:
            self._set(unwatched_since=since)
            words = "No vantage point was heard of since, so nothing would fail over by itself. See to the monitors"
            self._tell("", Severity.CRITICAL, f"{self.group}: nobody watches it since {moment(since)}", f"{words}.")
        await workflow.wait_condition(lambda: (all_stale_at(self.state) or since) > workflow.now())
        self._set(unwatched_since=None)

    def _fences_are(self, unfenced: list[Unfenced]) -> None:
        """Tells people what nobody has told them of: an upgrade may bring it, too, or a new configuration."""
        state, rules = self.state, self._rules()
        beside = left_behind(rules) if rules is not None and self._tells_of_search else []
        before = {(one.region, one.store) for one in [*state.unfenced, *state.left_behind]}
        self._dirty |= unfenced != state.unfenced or state.fences_seen_at is None
        self._set(unfenced=unfenced, left_behind=beside, fences_seen_at=workflow.now())
        open_ones = [*unfenced, *beside]
        if {(one.region, one.store) for one in open_ones} - before:
            is_automatic = rules is None or rules.failover.policy == "automatic"
            self._tell("", Severity.WARNING, *unfenced_alert(self.group, open_ones, is_automatic))

    # Telling people.

    def _words(self) -> str:
        outage = self.state.outage
        if outage is None:
            return ""
        objectives = ""
        if self.state.snapshot is not None:
            goals = self.state.snapshot.objectives
            objectives = f" Objectives: RTO {duration(goals.rto)}, RPO {duration(goals.rpo)}."
        return f"{outage.region} fails since {moment(outage.began_at)}: {lost_words(outage)}.{objectives}"

    def _tell(self, key: str, severity: Severity, title: str, body: str) -> None:
        """Once for each key of an outage, or of one of its plans."""
        if key and key in self.state.told:
            return
        unsent = [*self.state.unsent, Alert(severity=severity, title=title, body=body.strip())][-MOST_ALERTS:]
        self._set(told=[*self.state.told, *([key] if key else [])], unsent=unsent)
        if self._delivering is None:
            self._delivering = asyncio.create_task(self._deliver())

    async def _deliver(self) -> None:
        """In their order, each until it was taken or its time is over; a decision never waits for it."""
        while self.state.unsent:
            alert = self.state.unsent[0]
            try:
                await workflow.execute_activity_method(
                    Notifications.alert, alert, **limits(s(30), m(1)), summary=alert.title[:200]
                )
            except ActivityError as error:
                if self._is_handing_over:
                    return
                workflow.logger.error(f"alert not delivered ({alert.title}): {explain(error)}")
            self._set(unsent=self.state.unsent[1:])
        self._delivering = None


MONITORS: list[type] = [HealthMonitor, VantageMonitor]
"""What a worker takes beside the plans."""
