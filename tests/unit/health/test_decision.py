"""Quorum and decision, without a workflow around them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from recovery.domain.group import FailoverRule, GroupSnapshot, Objectives, RegionPlan
from recovery.domain.guarding import Unfenced
from recovery.domain.health import RegionReport, Report, Verdict
from recovery.domain.search import SearchRule
from recovery.health.decision import Action, Answer, Case, Decision, Question, decide
from recovery.health.quorum import (
    MOST_STRANGERS,
    Heard,
    Vote,
    count,
    kept,
    living,
    majority,
    newest_owner,
    outage_of,
    pruned,
    settling,
    standbys,
)

NOW = datetime(2026, 11, 22, 10, tzinfo=UTC)
POINTS = ["region-a", "region-b", "outside"]


def group(**rule: Any) -> GroupSnapshot:
    return GroupSnapshot(
        name="shop",
        objectives=Objectives(tier="critical", rto=timedelta(minutes=15), rpo=timedelta(minutes=5)),
        home_region="region-a",
        regions=[RegionPlan(name=name, task_queue=name, guard="http://x") for name in ("region-a", "region-b")],
        failover=FailoverRule(
            **{"policy": "automatic", "interval": timedelta(seconds=1), "vantage_points": POINTS, **rule}
        ),
    )


def report(vantage: str, verdict: Verdict, **said: Any) -> Report:
    regions = {
        "region-a": RegionReport(verdict=verdict, failing_since=NOW - timedelta(seconds=len(vantage))),
        "region-b": RegionReport(verdict=Verdict.HEALTHY, is_alive=True, is_standby=True),
    }
    usual = {
        "group": "shop", "source": "process", "generation": 1, "serial": 1, "beat": 10.0, "owner": "region-a",
        "epoch": 1, "regions": regions,
    }  # fmt: skip
    return Report(vantage=vantage, **{**usual, **said})


def heard(*reports: Report, at: datetime = NOW) -> dict[str, dict[str, Heard]]:
    found: dict[str, dict[str, Heard]] = {}
    for each in reports:
        found = kept(found, each, at)
    return found


def lost_case(rules: GroupSnapshot | None = None, **changes: Any) -> Case:
    rules = rules or group()
    votes = count(
        heard(*(report(name, Verdict.LOST) for name in POINTS)), rules.failover.vantage_points, "region-a", 1, NOW
    )
    outage = outage_of(votes, NOW)
    return Case(group=rules, votes=votes, outage=outage, losses=[NOW]).model_copy(update=changes)


def test_an_outage_begins_when_a_majority_begins_to_see_it() -> None:
    """A vantage point that was cut off from the owner long before saw no outage: the others reached it."""

    def since(name: str, seconds: float) -> Report:
        seen = RegionReport(verdict=Verdict.LOST, failing_since=NOW - timedelta(seconds=seconds))
        return report(name, Verdict.LOST, regions={"region-a": seen})

    def began(*seconds: float) -> float:
        ballots = heard(*(since(name, each) for name, each in zip(POINTS, seconds, strict=True)))
        votes = count(ballots, POINTS, "region-a", 1, NOW)
        return (NOW - outage_of(votes, NOW, timedelta(seconds=2)).began_at).total_seconds()

    assert began(60, 5, 4.5) == 5
    assert began(5, 4.5, 4) == 5, "one loss, and the first probe that failed"
    assert began(60, 50, 4) == 50


@pytest.mark.parametrize(("configured", "needed"), [(0, 0), (1, 1), (2, 2), (3, 2), (4, 3), (5, 3)])
def test_a_majority_is_of_the_configured_ones(configured: int, needed: int) -> None:
    assert majority(configured) == needed


def test_nobody_configured_never_agrees() -> None:
    votes = count(heard(report("outside", Verdict.LOST)), [], "region-a", 1, NOW)
    assert not votes.agreed


def test_a_vote_is_stale_after_three_beats() -> None:
    of = heard(report("outside", Verdict.LOST))
    votes = count(of, POINTS, "region-a", 1, NOW + timedelta(seconds=30))
    assert [ballot.vote for ballot in votes.ballots] == [Vote.NONE, Vote.NONE, Vote.LOST]
    votes = count(of, POINTS, "region-a", 1, NOW + timedelta(seconds=31))
    assert votes.ballots[2].vote is Vote.NONE and votes.ballots[2].why == "silent"


def test_a_vote_counts_under_the_epoch_in_which_it_was_seen() -> None:
    of = heard(report("outside", Verdict.LOST, epoch=1), report("region-b", Verdict.LOST, epoch=2))
    votes = count(of, POINTS, "region-a", 2, NOW)
    assert [ballot.vantage for ballot in votes.lost] == ["region-b"]
    assert votes.ballots[2].why == "has not heard of the present owner yet"
    unknown = count(of, POINTS, None, 0, NOW)
    assert {ballot.vote for ballot in unknown.ballots} == {Vote.NONE}
    assert unknown.ballots[2].why == "who owns the group is not known yet"


def test_an_older_report_never_replaces_a_newer_one() -> None:
    of = heard(
        report("outside", Verdict.HEALTHY, generation=2),
        report("outside", Verdict.LOST, serial=99),
        report("outside", Verdict.LOST, generation=2),
    )
    assert count(of, POINTS, "region-a", 1, NOW).ballots[2].vote is Vote.HEALTHY


def test_automatic_without_a_fence_is_manual() -> None:
    rules = group()
    open_one = [rules.regions[0], rules.regions[1].model_copy(update={"guard": None})]
    found = decide(lost_case(rules.model_copy(update={"regions": open_one})), NOW)
    assert found.action is Action.TELL and "cannot be fenced" in found.why
    found = decide(lost_case(group(vantage_points=POINTS[1:])), NOW)
    assert found.action is Action.TELL and "needs 3 vantage points" in found.why


REDIS = Unfenced(region="region-a", store="redis", detail="its file says replicaof no one")


def test_automatic_is_a_question_while_a_store_has_no_fence() -> None:
    found = decide(lost_case(unfenced=[REDIS]), NOW)
    assert found.action is Action.ASK and found.plan == "Failover"
    assert "redis in region-a (its file says replicaof no one) has no fence" in found.why
    both = decide(lost_case(unfenced=[REDIS, REDIS.model_copy(update={"region": "region-b"})]), NOW)
    assert "and redis in region-b (its file says replicaof no one) have no fence" in both.why
    yes = Question(asked_at=NOW, deadline=NOW + timedelta(minutes=15), answer=Answer.APPROVED, actor="ana", reason="ok")
    assert decide(lost_case(unfenced=[REDIS], question=yes), NOW).action is Action.START
    assert decide(lost_case(), NOW).action is Action.START


def test_a_fence_does_not_matter_where_people_decide_anyway() -> None:
    assert decide(lost_case(group(policy="manual"), unfenced=[REDIS]), NOW).action is Action.TELL
    asked = decide(lost_case(group(policy="approve"), unfenced=[REDIS]), NOW)
    assert asked.action is Action.ASK and "fence" not in asked.why


@pytest.mark.parametrize("policy", ["automatic", "approve"])
def test_nobodys_silence_stands_for_a_fence(policy: str) -> None:
    rules = group(policy=policy).model_copy(update={"approval_default": "approve"})
    asked = decide(lost_case(rules, unfenced=[REDIS]), NOW)
    assert asked.action is Action.ASK and "redis in region-a" in asked.why
    assert "within 15 min it does not start" in asked.why
    question = Question(asked_at=NOW, deadline=NOW + timedelta(minutes=15))
    late = NOW + timedelta(minutes=16)
    silent = decide(lost_case(rules, unfenced=[REDIS], question=question), late)
    assert silent.action is Action.TELL and "redis in region-a" in silent.why
    yes = question.model_copy(update={"answer": Answer.APPROVED, "actor": "ana", "reason": "redis is off"})
    answered = decide(lost_case(rules, unfenced=[REDIS], question=yes), late)
    assert answered.action is Action.START and answered.approved and not answered.by_silence
    fenced = decide(lost_case(rules, question=question), late)
    assert fenced.action is Action.START and not fenced.approved


@pytest.mark.parametrize("policy", ["automatic", "approve"])
def test_a_question_is_kept_to_when_the_fence_is_back(policy: str) -> None:
    """What was lacking when it was sent is lacking no more: people were told that it is theirs to say."""
    rules = group(policy=policy).model_copy(update={"approval_default": "approve"})
    question = Question(asked_at=NOW, deadline=NOW + timedelta(minutes=15), needs_answer=True, actor="ana", reason="x")
    late = NOW + timedelta(minutes=16)
    case = lost_case(rules, question=question)
    assert decide(case, NOW).action is Action.NOTHING and decide(case, NOW).until == question.deadline
    silent = decide(case, late)
    assert silent.action is Action.TELL and silent.key == "unanswered"
    assert ("said that nothing starts without an answer" in silent.why) is (policy == "automatic")
    no, yes = (case.model_copy(update={"question": question.model_copy(update={"answer": each})}) for each in _ANSWERS)
    for now in (NOW, late):
        assert decide(no, now).action is Action.NOTHING and "declined by ana" in decide(no, now).why
        assert decide(yes, now).action is Action.START and decide(yes, now).approved
    for each in (case, no):
        before = decide(each.model_copy(update={"fences_overrule": True}), late)
        assert (before.action is Action.START) is (each is case or policy == "automatic")
    promised = case.model_copy(update={"question": question.model_copy(update={"needs_answer": False})})
    assert decide(promised, late).action is Action.START, "its words were that it starts"


@pytest.mark.parametrize("answer", [None, Answer.APPROVED, Answer.DECLINED])
def test_a_yes_to_a_failover_is_none_to_a_restore(answer: Answer | None) -> None:
    """The standby that the question was about is gone: a restore costs more, and nobody was asked about it."""
    rules = group(policy="approve").model_copy(update={"approval_default": "approve"})
    question = Question(
        asked_at=NOW, deadline=NOW + timedelta(minutes=15), plan="Failover", answer=answer, actor="ana", reason="x"
    )
    for now in (NOW, NOW + timedelta(minutes=16)):
        found = decide(lost_case(rules, question=question, refusals=2), now)
        if answer is Answer.DECLINED:
            assert found.action is Action.NOTHING
            continue
        assert found.action is Action.ASK and "may FullRecovery start?" in found.title
        asked = question.model_copy(update={"plan": found.plan})
        assert decide(lost_case(rules, question=asked, refusals=2), NOW).action is not Action.ASK
        assert decide(lost_case(rules, question=asked), NOW).action is not Action.ASK, "a failover costs less"


_ANSWERS = (Answer.DECLINED, Answer.APPROVED)


@pytest.mark.parametrize("policy", ["automatic", "approve"])
@pytest.mark.parametrize("derived", [True, False])
def test_a_search_engine_that_no_failover_moves_is_a_question(policy: str, derived: bool) -> None:
    rules = group(policy=policy)
    regions = [region.model_copy(update={"search": f"https://{region.name}:9200"}) for region in rules.regions]
    beside = {"regions": regions, "search": SearchRule(derived=derived), "approval_default": "approve"}
    rules = rules.model_copy(update=beside)
    found = decide(lost_case(rules), NOW)
    assert found.action is (Action.START if derived and policy == "automatic" else Action.ASK)
    assert ("search in region-a and region-b (no failover moves or fences it" in found.why) is not derived
    silent = Question(asked_at=NOW, deadline=NOW)
    assert decide(lost_case(rules, question=silent), NOW).action is (Action.START if derived else Action.TELL)
    elsewhere = rules.model_copy(update={"regions": group().regions})
    assert "search" not in decide(lost_case(elsewhere), NOW).why


def test_the_highest_epoch_names_the_owner() -> None:
    of = heard(
        report("region-a", Verdict.LOST),
        report("outside", Verdict.HEALTHY, owner="region-b", epoch=2),
        report("region-b", Verdict.LOST),
    )
    assert newest_owner(of, (None, 0)) == ("region-b", 2)
    assert newest_owner(of, ("region-a", 3)) == ("region-a", 3)


def test_an_outage_begins_with_the_earliest_failed_probe_of_those_who_vote() -> None:
    case = lost_case()
    assert case.outage is not None
    assert case.outage.began_at == NOW - timedelta(seconds=len("region-a"))


def test_strangers_are_forgotten_before_those_who_are_configured() -> None:
    of = heard(report("outside", Verdict.LOST))
    for number in range(MOST_STRANGERS + 10):
        of = pruned(kept(of, report(f"stranger-{number}", Verdict.LOST), NOW + timedelta(seconds=number)), POINTS)
    assert len(of) == MOST_STRANGERS + 1 and "outside" in of and "stranger-0" not in of


def test_standbys_and_living_regions_are_those_that_somebody_with_a_vote_sees() -> None:
    case = lost_case()
    assert standbys(case.votes) == ["region-b"] and living(case.votes) == ["region-b"]
    nobody = count({}, POINTS, "region-a", 1, NOW)
    assert standbys(nobody) == [] and living(nobody) == []


def test_the_first_two_losses_are_followed_at_once_and_later_ones_have_to_last() -> None:
    waits = [settling([NOW] * losses, group(), NOW).total_seconds() for losses in (1, 2, 3, 4, 20)]
    assert waits[:2] == [0, 0] and waits[2] == 30 and waits[3] == 60 and waits[4] == 600
    assert settling([NOW] * 9, group(), NOW + timedelta(minutes=10)) == timedelta()
    case = lost_case(losses=[NOW] * 3)
    assert decide(case, NOW).action is Action.NOTHING
    assert decide(case, NOW).until == NOW + timedelta(seconds=30)
    assert decide(case, NOW + timedelta(seconds=31)).action is Action.START


def test_an_owner_that_is_not_lost_is_left_where_it_is() -> None:
    found = decide(lost_case(outage=None), NOW)
    assert found.action is Action.NOTHING and found.why == "the owner is not lost"


def test_without_any_healthy_region_nothing_is_started_and_somebody_hears_of_it() -> None:
    dead = RegionReport(verdict=Verdict.LOST, failing_since=NOW)
    told = ("region-a", "outside")  # a region whose own vantage point still tells is there to recover to
    reports = [report(name, Verdict.LOST, regions={"region-a": dead, "region-b": dead}) for name in told]
    votes = count(heard(*reports), POINTS, "region-a", 1, NOW)
    found = decide(lost_case(votes=votes, outage=outage_of(votes, NOW)), NOW)
    assert found.action is Action.TELL and "no healthy region to go to" in found.title


def test_automatic_starts_a_failover() -> None:
    found = decide(lost_case(), NOW)
    assert (found.action, found.plan, found.approved) == (Action.START, "Failover", False)


def test_cooldown_holds_an_automatic_run_back_and_nothing_else() -> None:
    before = NOW - timedelta(minutes=29)
    found = decide(lost_case(last_automatic_at=before), NOW)
    assert found.action is Action.TELL and found.until == before + timedelta(minutes=30)
    assert decide(lost_case(last_automatic_at=before), NOW + timedelta(minutes=1)).action is Action.START
    assert decide(lost_case(last_automatic_at=before, refusals=1), NOW).plan == "Failover"
    assert decide(lost_case(last_automatic_at=before, refusals=2), NOW).plan == "FullRecovery"


def test_nothing_is_decided_while_the_own_run_goes_on() -> None:
    assert decide(lost_case(runs="Failover"), NOW).action is Action.NOTHING


def _asked(answer: Answer | None = None, *, late: bool = False, default: str = "decline") -> Decision:
    question = Question(
        asked_at=NOW, deadline=NOW + timedelta(minutes=15), answer=answer, actor="ana", reason="by hand"
    )
    rules = group(policy="approve").model_copy(update={"approval_default": default})
    return decide(lost_case(rules, question=question), NOW + timedelta(minutes=16 if late else 1))


def test_approval() -> None:
    assert decide(lost_case(group(policy="approve")), NOW).action is Action.ASK
    assert _asked().action is Action.NOTHING
    approved = _asked(Answer.APPROVED)
    assert approved.action is Action.START and approved.approved
    assert _asked(Answer.DECLINED).action is Action.NOTHING
    assert _asked(late=True).action is Action.TELL
    silent = _asked(late=True, default="approve")
    assert silent.action is Action.START and silent.by_silence and not silent.approved
    assert _asked(Answer.APPROVED, late=True).action is Action.START, "an answer that comes late still counts"
