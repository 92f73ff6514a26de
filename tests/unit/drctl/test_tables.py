"""Tables as a terminal shows them: wide, narrow, without colours, in ASCII."""

from __future__ import annotations

import io
import re
from datetime import timedelta

import pytest
from rich.console import Console, RenderableType

from drctl import tables, words
from recovery.domain.recovery_point import (
    Artefact,
    BackupKind,
    Manifest,
    PostgresSource,
    RecoveryPoint,
    StoredObject,
    Verdict,
    VerdictState,
)
from recovery.domain.report import Achieved, RunReport, StepState
from tests.unit.report import samples

NOW = samples.START + timedelta(seconds=20)


def shown(what: RenderableType, *, width: int = 120, colours: bool = False) -> str:
    stream = io.StringIO()
    console = Console(
        file=stream,
        width=width,
        force_terminal=colours,
        color_system="standard" if colours else None,
        highlight=False,
        markup=False,
        emoji=False,
    )
    console.print(what)
    return stream.getvalue()


def plan(report: RunReport, *, unicode: bool = True, width: int = 120) -> str:
    return shown(tables.plan_table(report, NOW, unicode=unicode, width=width), width=width)


def row(text: str, name: str) -> str:
    return next(line for line in text.splitlines() if name in line)


def test_live_row_has_elapsed_budget_left_and_what_remains() -> None:
    running = row(plan(samples.running()), "restore-database")
    for wanted in ("▶", "running", "15 s", "29 m 45 s", "in 9 s"):
        assert wanted in running
    announced = row(plan(samples.running()), "announce-start")
    for wanted in ("✓", "done", "2.2 s", "3", "told ops, pager"):
        assert wanted in announced


def test_title_says_state_route_and_expected_end() -> None:
    [title, *_] = plan(samples.running()).splitlines()
    for wanted in ("Running", "FullRecovery of shop", "region-a → region-b", "20 s", "expected end in 28 s"):
        assert wanted in title


def test_overdrawn_budget_is_negative_and_red(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    report = samples.running()
    steps = [
        step.model_copy(update={"budget": timedelta(seconds=10)}) if step.name == "restore-database" else step
        for step in report.steps
    ]
    table = tables.plan_table(report.model_copy(update={"steps": steps}), NOW, unicode=True)
    text = shown(table, colours=True)
    assert re.search(r"\x1b\[1;31m +-4\.9 s", text)


def test_a_run_that_outlasted_its_rto_says_so_below_its_steps() -> None:
    late = samples.running().model_copy(update={"rto_ends_at": NOW - timedelta(seconds=1)})
    said = f"its RTO ended at {late.rto_ends_at:%H:%M:%S} UTC"
    assert said in shown(tables.plan_table(late, NOW, unicode=True))
    assert said not in shown(tables.plan_table(samples.running(), NOW, unicode=True))


@pytest.mark.parametrize("name", sorted(samples.ALL))
@pytest.mark.parametrize("width", [80, 120])
def test_ascii_holds_nothing_else_and_keeps_to_the_width(name: str, width: int) -> None:
    report = samples.ALL[name]()
    text = plan(report, unicode=False, width=width)
    text += shown(tables.run_summary(report, unicode=False), width=width)
    text += shown(tables.checks_table(report.checks, unicode=False), width=width)
    assert text.isascii()
    assert max(map(len, text.splitlines())) <= width


@pytest.mark.parametrize("name", sorted(samples.ALL))
def test_narrow_keeps_names_and_states(name: str) -> None:
    report = samples.ALL[name]()
    text = plan(report, width=80)
    for step in report.steps:
        if len(step.name) <= 26 and "<" not in step.name:
            assert step.name in text
    assert max(map(len, text.splitlines())) <= 80


def test_symbols_tell_states_apart_without_colour() -> None:
    different = {StepState.UNDO_FAILED, StepState.UNDO_REFUSED}  # both: somebody must look
    for unicode in (True, False):
        signs = [words.symbol(state, unicode) for state in StepState if state not in different | {StepState.UNDOING}]
        assert len(set(signs)) == len(signs)


def test_no_colours_in_a_pipe_or_with_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    report = samples.rolled_back()
    stream = io.StringIO()
    tables.console(stream).print(tables.plan_table(report, NOW), tables.run_summary(report))
    assert "\x1b[" not in stream.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    text = shown(tables.plan_table(report, NOW, unicode=True), colours=True)
    assert "\x1b[31m" not in text
    assert "\x1b[32m" not in text


def test_markup_in_texts_is_shown_as_it_is() -> None:
    report = samples.completed()
    steps = [report.steps[0].model_copy(update={"summary": "[red]not red[/red] [/] :skull:"})]
    assert "[red]not red[/red] [/] :skull:" in plan(report.model_copy(update={"steps": steps}))


def test_escape_sequences_of_a_server_do_not_reach_the_terminal() -> None:
    report = samples.completed()
    steps = [report.steps[0].model_copy(update={"summary": "gone \x1b[2J\x1b]0;title\x07 \u202esdrawkcab"})]
    text = plan(report.model_copy(update={"steps": steps}))
    assert not {"\x1b", "\x07", "\u202e"} & set(text)


def test_encoding_decides_about_unicode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DRCTL_ASCII", raising=False)
    for encoding, expected in (("utf-8", True), ("ascii", False), ("latin-1", False), ("cp437", False)):
        assert words.is_unicode(io.TextIOWrapper(io.BytesIO(), encoding=encoding)) is expected, encoding
    monkeypatch.setenv("DRCTL_ASCII", "1")
    assert not words.is_unicode(io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))


def test_summary_names_error_undo_order_and_what_was_left_behind() -> None:
    text = shown(tables.run_summary(samples.rolled_back(undo_fails=True), unicode=True), width=200)
    assert "Rollback incomplete: FullRecovery of shop in 44 s" in text
    assert "switch-dns: DNS server" in text
    assert "Undone in this order: switch-dns, take-ownership, restore-cache" in text
    assert "restore-streams was not undone: NATS at 127.0.0.1:4223 did not answer" in text


def test_summary_of_several_stores_names_each_of_them() -> None:
    text = shown(tables.run_summary(samples.of_several_stores(), unicode=True), width=200)
    for wanted in (
        "postgres 1 m 37 s", "2026-11-22 02:51:43 to 02:52:05 UTC", "20261122T025143Z-streams-9c41",
        "redis not restored empty target: Redis 10.0.0.9:6379 holds <7> keys",
        "20261122T025143Z-set-9c41: at most 10 m 56 s apart",
    ):  # fmt: skip
        assert wanted in re.sub(" +", " ", text), text


def test_summary_of_a_held_run_gives_the_choices() -> None:
    assert "Choose retry, skip, abort." in shown(tables.run_summary(samples.held(), unicode=True), width=200)


def test_objectives_met_and_missed() -> None:
    text = shown(tables.objectives_table(samples.completed_after_approval(), unicode=True))
    rto, rpo, lost = (row(text, name) for name in ("RTO", "RPO", "Lost"))
    assert "8 h 1 m" in rto
    assert "✗ missed by 7 h 46 m" in rto
    assert "✓ met, 3 m 23 s to spare" in rpo
    assert "none is missing" in lost
    bounds = Achieved(rpo=timedelta(seconds=7), rpo_least=timedelta(seconds=2), rpo_objective=timedelta(seconds=5))
    unsure = samples.completed().model_copy(update={"achieved": bounds})
    assert "not surely met, over by up to 2 s" in row(
        shown(tables.objectives_table(unsure, unicode=True)), "2 s to 7 s"
    )


def point(number: int, verdict: VerdictState | None, locations: list[str]) -> RecoveryPoint:
    finished = samples.START - timedelta(hours=number)
    manifest = Manifest(
        point_id=f"2026112{number}T000000Z-physical-{number}",
        group="shop",
        kind=BackupKind.PHYSICAL,
        started_at=finished - timedelta(minutes=1),
        finished_at=finished,
        source=PostgresSource(system_identifier="1", server_version="16.14", major=16, timeline=1),
        source_region="region-a",
        artefacts=[
            Artefact(name="base.tar", objects=[StoredObject(key="k", size=300 * 2**20, sha256="0", plain_size=2**30)])
        ],
        recipients=["age1"],
        run_id="r",
    )
    found = None
    if verdict is not None:
        found = Verdict(
            point_id=manifest.point_id,
            group="shop",
            state=verdict,
            reason="" if verdict is VerdictState.VALID else "base.tar: object 3 differs from its SHA-256",
            location="primary",
            manifest_sha256="0",
            validated_at=finished + timedelta(minutes=5),
            duration=timedelta(seconds=9),
            run_id="v",
        )
    return RecoveryPoint(manifest=manifest, verdict=found, locations=locations)


def test_points_show_size_place_and_verdict_with_age() -> None:
    points = [
        point(1, VerdictState.VALID, ["primary", "secondary"]),
        point(2, VerdictState.CORRUPT, ["primary"]),
        point(3, None, []),
    ]
    text = shown(tables.points_table(points, now=samples.START, unicode=True), width=200)
    valid, corrupt, fresh = (row(text, entry.point_id) for entry in points)
    for wanted in ("physical", "1 GiB", "300 MiB", "primary, secondary", "VALID 55 min ago"):
        assert wanted in valid
    assert "CORRUPT base.tar: object 3 differs from its SHA-256" in corrupt
    assert "not yet validated" in fresh
    assert "none complete" in fresh
    narrow = shown(tables.points_table(points, now=samples.START, unicode=False, width=80), width=80)
    assert max(map(len, narrow.splitlines())) <= 80
    assert "CORRUPT" in narrow


def test_incremental_base_backups_stand_below_what_they_build_on() -> None:
    full, other = point(1, None, ["primary"]), point(2, None, ["primary"])
    source = full.manifest.postgres.model_copy(update={"bases": [full.point_id]})
    last = point(3, None, ["primary"])
    last = last.model_copy(update={"manifest": last.manifest.model_copy(update={"source": source})})
    text = shown(tables.points_table([last, other, full], now=samples.START, unicode=True), width=200)
    lines = [line for line in text.splitlines() if "physical" in line]
    assert [line.lstrip().startswith("└ ") for line in lines] == [False, True, False]
    assert f"└ {last.point_id}" in row(text, last.point_id)
    assert "physical +1" in row(text, last.point_id)
    assert full.point_id in lines[0]
    ascii_only = shown(tables.points_table([last, full], now=samples.START, unicode=False), width=200)
    assert f"`- {last.point_id}" in row(ascii_only, last.point_id)


def test_a_point_whose_base_is_gone_is_not_shown_as_valid() -> None:
    last = point(3, VerdictState.VALID, ["primary"])
    whole = shown(tables.points_table([last], now=samples.START, unicode=True), width=200)
    text = shown(tables.points_table([last], lacking={last.point_id: ["the-base"]}, now=samples.START), width=200)
    assert "VALID" in row(whole, last.point_id) and "VALID" not in row(text, last.point_id)
    assert "cannot be restored without the-base" in row(text, last.point_id)


def test_no_points_is_said() -> None:
    assert "no recovery points" in shown(tables.points_table([], unicode=True))


def test_failed_checks_come_first() -> None:
    report = samples.completed()
    failed = report.checks[2].model_copy(update={"passed": False})
    lines = shown(tables.checks_table([*report.checks[:2], failed], unicode=True)).splitlines()
    rows = [line for line in lines if "passed" in line or "failed" in line]
    assert "sequences" in rows[0]
    assert "✗" in rows[0]
