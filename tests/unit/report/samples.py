"""Reports of runs as they happen: completed, rolled back, held, cancelled, waiting, very short and very long."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from recovery.domain.recovered_set import RecoveredSet, RecoveredStore
from recovery.domain.recovery_point import CheckResult
from recovery.domain.report import Achieved, OperatorAction, RunReport, RunState, StepRecord, StepState

START = datetime(2026, 11, 22, 3, 4, 16, tzinfo=UTC)

# name, activity, where, group, start, duration, budget, attempts, summary
_ROWS: list[tuple[str, str, str, int, float, float, float, int, str]] = [
    ("load-configuration", "configuration.load", "control", 0, 0, 0.2, 120, 1, "configuration 7f3a loaded"),
    ("claim-group", "ownership.claim_run", "control", 1, 0.2, 0.1, 120, 1, "epoch 4 claimed"),
    ("choose-target", "restores.choose_target", "control", 2, 0.4, 0.3, 60, 1, "region-b, priority 90"),
    (
        "choose-recovery-point",
        "points.choose_validated",
        "target",
        3,
        0.7,
        0.6,
        120,
        1,
        "physical, validated 12 min ago",
    ),
    ("announce-start", "notifications.announce_start", "control", 4, 1.3, 2.2, 60, 3, "told ops, pager"),
    ("verify-infrastructure", "restores.verify_infrastructure", "target", 5, 3.6, 1.4, 300, 1, "9 of 9 checks passed"),
    ("restore-database", "restores.restore_database", "target", 6, 5.1, 21.7, 1800, 2, "1.1 GiB restored at 52 MiB/s"),
    ("restore-streams", "restores.restore_streams", "target", 6, 5.1, 9.3, 900, 1, "3 streams, 100,000 messages"),
    ("restore-cache", "restores.restore_cache", "target", 6, 5.1, 4.0, 600, 1, "212 MiB"),
    ("verify-data", "restores.verify_data", "target", 7, 26.9, 6.1, 600, 1, "14 tables equal to their fingerprints"),
    ("take-ownership", "ownership.take_ownership", "control", 8, 33.1, 0.4, 120, 1, "epoch 5, region-b"),
    ("switch-dns", "dns.point_at_target", "control", 9, 33.6, 1.1, 300, 1, "db.shop.test -> 198.51.100.7"),
    ("open-writes", "restores.open_writes", "target", 10, 34.8, 2.0, 300, 1, "writable since 03:04:52"),
    ("confirm-service", "restores.confirm_service", "target", 11, 36.9, 4.4, 300, 1, "first commit after 41.2 s"),
    (
        "notify-stakeholders",
        "notifications.announce_end",
        "control",
        12,
        41.4,
        0.9,
        60,
        1,
        "told ops, pager, status page",
    ),
]
_UNDO = {"claim-group", "restore-database", "restore-streams", "restore-cache", "take-ownership", "switch-dns"}


def _at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def _steps(delay_after: float = 1e9, delay: float = 0.0) -> list[StepRecord]:
    steps = []
    for name, activity, where, group, begin, taken, budget, attempts, summary in _ROWS:
        shift = delay if begin >= delay_after else 0.0
        steps.append(
            StepRecord(
                name=name,
                activity=activity,
                where=where,
                group=group,
                state=StepState.DONE,
                started_at=_at(begin + shift),
                ended_at=_at(begin + shift + taken),
                attempts=attempts,
                budget=timedelta(seconds=budget),
                expected=timedelta(seconds=taken * 1.1),
                summary=summary,
                has_undo=name in _UNDO,
                pivot=name == "open-writes",
            )
        )
    return steps


def _base(**changes: object) -> RunReport:
    report = RunReport(
        plan="FullRecovery",
        group="shop",
        run_id="0199f3a2-7c41-7e1a-9a70-5d2f0c1be0aa",
        workflow_id="recovery/shop",
        state=RunState.COMPLETED,
        started_at=START,
        ended_at=_at(42.5),
        reason="region-a lost power; its disks and its store are gone",
        requested_by="alice@example.com",
        source_region="region-a",
        target_region="region-b",
        steps=_steps(),
        checks=[
            CheckResult(name="every table readable to its last row", passed=True, detail="14 tables", seconds=3.1),
            CheckResult(name="row counts and checksums", passed=True, detail="equal, same snapshot", seconds=1.4),
            CheckResult(name="sequences", passed=True, detail="6 ahead of their columns", seconds=0.2),
            CheckResult(name="write probe", passed=True, detail="committed in 3 ms", seconds=0.1),
        ],
        achieved=Achieved(
            rto=timedelta(seconds=42),
            rto_objective=timedelta(minutes=15),
            rpo=timedelta(seconds=97),
            rpo_objective=timedelta(minutes=5),
            lost_transactions=1_284,
        ),
        point_ids=["20261122T025143Z-physical-9c41"],
        config_hash="sha256:7f3a91c2be04d6a1",
        critical_path=timedelta(minutes=58),
    )
    return report.model_copy(update=changes)


def completed() -> RunReport:
    return _base()


def of_several_stores() -> RunReport:
    """One store was not restored."""
    stores = [
        RecoveredStore(
            store="postgres", point_id="20261122T025143Z-physical-9c41", restored=True, from_at=_at(-97.0),
            until_at=_at(-97.0), rpo=timedelta(seconds=97),
        ),
        RecoveredStore(
            store="nats", point_id="20261122T025143Z-streams-9c41", restored=True, from_at=_at(-753.0),
            until_at=_at(-731.0), rpo=timedelta(seconds=753),
        ),
        RecoveredStore(store="redis", left="empty target: Redis 10.0.0.9:6379 holds <7> keys"),
    ]  # fmt: skip
    return _base(
        recovered_set=RecoveredSet(set_id="20261122T025143Z-set-9c41", stores=stores, skew=timedelta(seconds=656))
    )


def completed_after_approval() -> RunReport:
    """Eight hours of waiting for a person in the middle, and a pause."""
    hours = timedelta(hours=8)
    return _base(
        steps=_steps(delay_after=3.6, delay=hours.total_seconds()),
        ended_at=_at(42.5) + hours,
        actions=[
            OperatorAction(
                action="approve",
                actor="bob",
                reason="confirmed with the provider: region-a is not coming back tonight",
                at=_at(3.6) + hours - timedelta(milliseconds=100),
                step="verify-infrastructure",
            ),
            OperatorAction(action="pause", actor="alice", reason="look at the disk first", at=_at(33.0) + hours),
            OperatorAction(action="resume", actor="alice", reason="fine", at=_at(33.1) + hours),
        ],
        warnings=["the budgets of this plan add up to 58 min, longer than the RTO of 15 min"],
        achieved=Achieved(
            rto=timedelta(hours=8, seconds=42),
            rto_objective=timedelta(minutes=15),
            rpo=timedelta(seconds=97),
            rpo_objective=timedelta(minutes=5),
            lost_transactions=0,
        ),
    )


def rolled_back(*, undo_fails: bool = False) -> RunReport:
    """The switch of the DNS record fails; everything before is undone in reverse order."""
    steps = _steps()
    failing = next(i for i, step in enumerate(steps) if step.name == "switch-dns")
    error = (
        "DNS server 127.0.0.1:5353 does not let the TSIG key 'plans.' update zone shop.test: "
        "add it to the zone's update policy."
    )
    steps[failing] = steps[failing].model_copy(update={"state": StepState.FAILED, "error": error, "summary": ""})
    for i in range(failing + 1, len(steps)):
        steps[i] = steps[i].model_copy(
            update={"state": StepState.PENDING, "started_at": None, "ended_at": None, "attempts": 0, "summary": ""}
        )
    order = ["switch-dns", "take-ownership", "restore-cache", "restore-streams", "restore-database", "claim-group"]
    moment = 34.9
    for name in order:
        index = next(i for i, step in enumerate(steps) if step.name == name)
        bad = undo_fails and name == "restore-streams"
        steps[index] = steps[index].model_copy(
            update={
                "state": StepState.UNDO_FAILED if bad else StepState.UNDONE,
                "undo_started_at": _at(moment),
                "undo_ended_at": _at(moment + 1.3),
                "undo_summary": "" if bad else f"{name} is as it was before",
                "undo_error": "NATS at 127.0.0.1:4223 did not answer within 5 s." if bad else "",
            }
        )
        moment += 1.4
    return _base(
        state=RunState.ROLLBACK_INCOMPLETE if undo_fails else RunState.ROLLED_BACK,
        steps=steps,
        ended_at=_at(moment + 0.3),
        undo_order=order,
        failed_step="switch-dns",
        error=error,
        achieved=Achieved(rto_objective=timedelta(minutes=15), rpo_objective=timedelta(minutes=5)),
        checks=[],
    )


def held() -> RunReport:
    """Writes were opened, but the service does not answer."""
    steps = _steps()
    index = next(i for i, step in enumerate(steps) if step.name == "confirm-service")
    error = "http://198.51.100.7/health answered 503 in all of 20 attempts."
    steps[index] = steps[index].model_copy(
        update={"state": StepState.HELD, "error": error, "ended_at": _at(90), "attempts": 20, "summary": ""}
    )
    steps[index + 1] = steps[index + 1].model_copy(
        update={"state": StepState.PENDING, "started_at": None, "ended_at": None, "attempts": 0, "summary": ""}
    )
    return _base(
        state=RunState.HELD,
        steps=steps,
        ended_at=None,
        failed_step=None,
        hold_choices=[f"confirm-service: {error} Choose retry, skip, abort."],
        actions=[
            OperatorAction(
                action="retry", actor="alice", reason="restarted the proxy", at=_at(60), step="confirm-service"
            ),
            OperatorAction(action="pause", actor="bob", reason="wait for the vendor", at=_at(130)),
        ],
        achieved=Achieved(rto_objective=timedelta(minutes=15), rpo_objective=timedelta(minutes=5)),
    )


def cancelled() -> RunReport:
    """Cancelled by the operator in the middle of the restore."""
    steps = _steps()
    for i, step in enumerate(steps):
        if step.name in ("restore-database", "restore-streams", "restore-cache"):
            steps[i] = step.model_copy(
                update={
                    "state": StepState.UNDONE,
                    "ended_at": min(step.ended_at or START, _at(12)),
                    "undo_started_at": _at(12.5 + i),
                    "undo_ended_at": _at(13.2 + i),
                    "undo_summary": "removed",
                    "error": "cancelled" if step.name == "restore-database" else "",
                }
            )
        elif i > 8:
            steps[i] = step.model_copy(
                update={"state": StepState.PENDING, "started_at": None, "ended_at": None, "attempts": 0, "summary": ""}
            )
    return _base(
        state=RunState.ROLLED_BACK,
        steps=steps,
        ended_at=_at(22),
        undo_order=["restore-database", "restore-streams", "restore-cache"],
        error="aborted by alice: wrong group",
        actions=[OperatorAction(action="abort", actor="alice", reason="wrong group", at=_at(12))],
        achieved=Achieved(rto_objective=timedelta(minutes=15), rpo_objective=timedelta(minutes=5)),
        checks=[CheckResult(name="disk space", passed=False, detail="2.1 GiB free, 3 GiB needed")],
    )


def running() -> RunReport:
    """In the middle of the restore."""
    steps = _steps()
    for i, step in enumerate(steps):
        if step.name == "restore-database":
            steps[i] = step.model_copy(
                update={"state": StepState.RUNNING, "ended_at": None, "attempts": 0, "summary": ""}
            )
        elif i > 8:
            steps[i] = step.model_copy(
                update={"state": StepState.PENDING, "started_at": None, "ended_at": None, "attempts": 0, "summary": ""}
            )
    return _base(
        state=RunState.RUNNING,
        steps=steps,
        ended_at=None,
        eta=_at(48),
        checks=[],
        achieved=Achieved(rto_objective=timedelta(minutes=15), rpo_objective=timedelta(minutes=5)),
    )


def waiting() -> RunReport:
    """For an approval, at the gate."""
    steps = _steps()
    for i, step in enumerate(steps):
        if i >= 5:
            state = StepState.WAITING if i == 5 else StepState.PENDING
            steps[i] = step.model_copy(
                update={"state": state, "started_at": None, "ended_at": None, "attempts": 0, "summary": ""}
            )
    return _base(state=RunState.WAITING, steps=steps, ended_at=None, checks=[], achieved=Achieved())


def one_step() -> RunReport:
    return _base(
        plan="Retention",
        steps=_steps()[:1],
        ended_at=_at(0.2),
        checks=[],
        source_region=None,
        target_region=None,
        requested_by="",
        reason="",
        achieved=Achieved(),
        point_ids=[],
    )


def thirty_steps() -> RunReport:
    """Thirty steps over hours, one of which failed and was passed over."""
    steps = []
    moment = 0.0
    for i in range(30):
        taken = 40.0 * (1 + (i * 7) % 11)
        steps.append(
            StepRecord(
                name=f"step-number-{i + 1}-with-a-rather-long-name",
                activity=f"system{i}.do_something_{i}",
                where="target" if i % 3 else "control",
                group=i // 2 if 10 <= i < 14 else 100 + i,
                state=StepState.WARNED if i == 17 else StepState.SKIPPED if i == 20 else StepState.DONE,
                started_at=None if i == 20 else _at(moment),
                ended_at=_at(moment + taken),
                attempts=1 + (i % 4 == 0) * 2,
                budget=timedelta(seconds=taken * (0.8 if i == 6 else 2)),
                summary="A sentence that says what this step did, with figures: 12 objects, 3.4 GiB, 1,024 rows.",
                error="The message was not delivered: pager: no answer within 10 s." if i == 17 else "",
                has_undo=i % 2 == 0,
                pivot=i == 24,
            )
        )
        moment += 0.0 if i in (10, 12) else taken
    return _base(
        steps=steps,
        ended_at=_at(moment + 5),
        warnings=[f"step-number-{n}: something to look at" for n in (3, 18)],
        achieved=Achieved(
            rto=timedelta(seconds=moment),
            rto_objective=timedelta(minutes=15),
            rpo=timedelta(seconds=0),
            rpo_objective=timedelta(minutes=5),
        ),
    )


def hostile() -> RunReport:
    """Markup and control characters wherever text comes from outside."""
    nasty = "<script>alert(1)</script>\"'&]]>{{ 7*7 }}\x00|`*"
    report = _base(group=nasty, reason=nasty, requested_by=nasty, error=nasty, warnings=[nasty], config_hash=nasty)
    steps = [step.model_copy(update={"summary": nasty, "error": nasty, "activity": nasty}) for step in report.steps]
    return report.model_copy(
        update={
            "steps": [steps[0].model_copy(update={"name": nasty}), *steps[1:]],
            "actions": [OperatorAction(action=nasty, actor=nasty, reason=nasty, at=_at(1), step="open-writes")],
            "checks": [CheckResult(name=nasty, passed=False, detail=nasty)],
            "hold_choices": [nasty],
            "point_ids": [nasty],
        }
    )


ALL = {
    function.__name__: function
    for function in (
        completed,
        of_several_stores,
        completed_after_approval,
        rolled_back,
        held,
        cancelled,
        running,
        waiting,
        one_step,
        thirty_steps,
        hostile,
    )
}
