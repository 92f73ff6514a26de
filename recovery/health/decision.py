"""From what vantage points agree on to what is done: nothing, a message, a question, a plan. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum

from pydantic import Field

from recovery.domain.base import Recorded
from recovery.domain.group import GroupSnapshot
from recovery.domain.guarding import Unfenced, left_behind
from recovery.domain.words import duration, listed, moment
from recovery.health.quorum import AUTOMATIC_NEEDS, Outage, Votes, living, settling, standbys
from recovery.ports.notify import Severity

FAILOVER, FULL_RECOVERY = "Failover", "FullRecovery"
REFUSALS = 2
"""Failovers that found no candidate though vantage points see a standby; then the newest recovery point is taken."""


class Answer(StrEnum):
    APPROVED = "approved"
    DECLINED = "declined"


class Question(Recorded):
    """To the operators: may the plan start? An answer that comes late still counts while the region is lost."""

    asked_at: datetime
    deadline: datetime
    needs_answer: bool = False  # it was sent with the words that nothing starts without one
    plan: str = ""  # that it asks for; unknown in a monitor's run of an earlier version
    answer: Answer | None = None
    actor: str = ""
    reason: str = ""


class Action(StrEnum):
    NOTHING = "nothing"
    TELL = "tell"
    ASK = "ask"
    START = "start"


class Decision(Recorded):
    """``key`` keeps a message from being repeated during one outage; ``until``: when to decide again at the latest."""

    action: Action
    why: str
    until: datetime | None = None
    key: str = ""
    severity: Severity = Severity.CRITICAL
    title: str = ""
    plan: str = ""
    approved: bool = False  # a person said so
    by_silence: bool = False  # nobody answered, which is enough where the default says so and every store has a fence


class Case(Recorded):
    """All that counts for a decision."""

    group: GroupSnapshot
    votes: Votes
    outage: Outage | None
    losses: list[datetime]
    question: Question | None = None
    last_automatic_at: datetime | None = None
    runs: str = ""  # the plan that the monitor started and that has not ended
    refusals: int = 0  # failovers of this outage that found no standby to promote
    unfenced: list[Unfenced] = Field(default_factory=list)
    silence_vouches: bool = False  # a monitor's run of an earlier version went by the default all the same
    fences_overrule: bool = False  # and forgot its question, a person's no included, once each store had a fence again

    @property
    def is_up_to_people(self) -> bool:
        """Whether a question is kept to though nothing would be asked by now.

        Somebody has answered it, or was told that nothing starts without an answer and may be at work in the region.
        """
        question = self.question
        if question is None or self.fences_overrule:
            return False
        return question.answer is not None or question.needs_answer

    @property
    def starts_unanswered(self) -> bool:
        """Whether a question that nobody answers ends in a start: never while only a person's word is a fence.

        Nor where people were told that it does not.
        """
        if self.is_up_to_people:
            return False
        open_ones = [*self.unfenced, *left_behind(self.group)]
        return self.group.approval_default == "approve" and (self.silence_vouches or not open_ones)


def policy_of(group: GroupSnapshot, unfenced: Sequence[Unfenced] = ()) -> tuple[str, str]:
    """The policy as it is applied, and why it is not the configured one where that is so.

    Args:
        unfenced: stores of the group whose guards said last that they are kept by a person alone.
    """
    rule, open_ones = group.failover, [*unfenced, *left_behind(group)]
    if rule.policy == "automatic" and len(rule.vantage_points) < AUTOMATIC_NEEDS:
        return "manual", (
            f"automatic failover needs {AUTOMATIC_NEEDS} vantage points, and the configuration has "
            f"{len(rule.vantage_points)}: set failover.vantage_points"
        )
    if rule.policy == "automatic" and not group.guarded:
        return "manual", (
            "automatic failover is refused for a group that cannot be fenced: set guards.token and the guard of "
            "each of its regions"
        )
    if rule.policy == "automatic" and open_ones:
        return "approve", f"automatic failover is refused while {no_fence(open_ones)}"
    if rule.policy == "approve" and group.approval_default == "approve" and open_ones:
        return "approve", f"nobody's silence starts anything while {no_fence(open_ones)}"
    return rule.policy, ""


def no_fence(unfenced: Sequence[Unfenced]) -> str:
    """``redis in us-east-1 (...) has no fence but a person's word``."""
    verb = "has" if len(unfenced) == 1 else "have"
    return f"{listed([one.words for one in unfenced])} {verb} no fence but a person's word"


def decide(case: Case, now: datetime) -> Decision:
    """What to do now. Asked again with every report, so it must be the same as long as nothing changes."""
    outage = case.outage
    if outage is None:
        return _nothing("the owner is not lost")
    if case.runs:
        return _nothing(f"{case.runs} is under way")
    settled_at = outage.agreed_at + settling(case.losses, case.group, now)
    if now < settled_at:
        times = len(case.losses)
        return _nothing(f"{outage.region} was lost {times} times lately: it has to stay lost", until=settled_at)
    policy, why = policy_of(case.group, case.unfenced)
    if policy == "manual":
        command = f"drctl failover --group {case.group.name}"
        words = why or "the group's policy is manual"
        return _tell("manual", f"{_lost(case)}: nothing was started", f"{words}. Start it with: {command}")
    has_standby = bool(standbys(case.votes)) and case.refusals < REFUSALS
    plan = FAILOVER if has_standby else FULL_RECOVERY
    if plan == FULL_RECOVERY and not living(case.votes):
        return _tell(
            "no-region",
            f"{_lost(case)}, and there is no healthy region to go to",
            "Every other region of the group is lost as well, as far as anybody sees. Nothing can be started",
        )
    if policy == "automatic" and case.is_up_to_people:
        return _asked(case, plan, now, "the question said that nothing starts without an answer")
    return _asked(case, plan, now, why) if policy == "approve" else _automatic(case, plan, now)


def _automatic(case: Case, plan: str, now: datetime) -> Decision:
    if case.last_automatic_at is not None and not case.refusals:
        until = case.last_automatic_at + case.group.failover.cooldown
        if now < until:
            words = (
                f"The last automatic run began at {moment(case.last_automatic_at)}, and "
                f"{duration(case.group.failover.cooldown)} lie between two. It starts at {moment(until)} unless the "
                f"region is back, or now with: drctl failover --group {case.group.name}"
            )
            return _tell("cooldown", f"{_lost(case)}: nothing was started yet", words, until=until)
    return Decision(action=Action.START, plan=plan, why=f"policy automatic, {_agreed(case)}")


def _asked(case: Case, plan: str, now: datetime, because: str) -> Decision:
    question = case.question
    if question is None or _asks_for_less(question, plan):
        wait = duration(case.group.failover.approve_timeout)
        return Decision(
            action=Action.ASK,
            plan=plan,
            key="question",
            until=now + case.group.failover.approve_timeout,
            title=f"{_lost(case)}: may {plan} start?",
            why=(f"A person is asked because {because}. " if because else "")
            + f"Answer with: drctl health --group {case.group.name} --approve (or --decline) --reason ... "
            f"Without an answer within {wait} it {'starts' if case.starts_unanswered else 'does not start'}",
        )
    if question.answer is Answer.APPROVED:
        words = f"approved by {question.actor}: {question.reason}"
        return Decision(action=Action.START, plan=plan, why=words, approved=True)
    if question.answer is Answer.DECLINED:
        return _nothing(f"declined by {question.actor}: {question.reason}")
    if now < question.deadline:
        return _nothing("waits for an approval", until=question.deadline)
    if case.starts_unanswered:
        words = "nobody answered, and the default is to approve"
        return Decision(action=Action.START, plan=plan, why=words, by_silence=True)
    return _tell(
        "unanswered",
        f"{_lost(case)}: nobody answered, and nothing was started",
        (f"Only a person may start it: {because}. " if because else "")
        + f"It can still be approved: drctl health --group {case.group.name} --approve --reason ...",
    )


def _asks_for_less(question: Question, plan: str) -> bool:
    """Nobody was asked about a restore yet: the standby that the question was about is gone since. A no stays a no."""
    return (question.plan, plan) == (FAILOVER, FULL_RECOVERY) and question.answer is not Answer.DECLINED


def _lost(case: Case) -> str:
    assert case.outage is not None
    return f"{case.group.name}: {case.outage.region} is lost"


def _agreed(case: Case) -> str:
    assert case.outage is not None
    voters, all_of_them = case.outage.voters, len(case.group.failover.vantage_points)
    return f"{len(voters)} of {all_of_them} vantage points agree ({listed(voters)})"


def _nothing(why: str, until: datetime | None = None) -> Decision:
    return Decision(action=Action.NOTHING, why=why, until=until)


def _tell(key: str, title: str, why: str, until: datetime | None = None) -> Decision:
    return Decision(action=Action.TELL, key=key, title=title, why=why, until=until)
