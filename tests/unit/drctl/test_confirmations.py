"""What has to be typed, or said, before a command that takes something away goes on."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest
import typer
from rich.console import Console

from drctl import answers, database, output
from drctl.output import Output, confirm_group
from recovery.domain.plan import PlanRequest
from recovery.domain.report import RunReport
from recovery.errors import BadInput, Refused


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Somebody sits there, and types the last of these."""
    words = [""]
    monkeypatch.setattr(output, "messages", lambda: Console(file=io.StringIO(), force_terminal=True))
    monkeypatch.setattr(typer, "get_text_stream", lambda name: SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr(typer, "prompt", lambda *arguments, **options: words[-1])
    return words


@pytest.mark.parametrize("word", ["", "y", "yes", "SHOP", "shop2", "sho"])
def test_nothing_but_the_groups_name_lets_a_command_go_on(typed: list[str], word: str) -> None:
    for right in ("shop", " shop "):
        typed.append(right)
        confirm_group("shop", "This deletes everything.", yes=False, output=Output.TEXT)
    typed.append(word)
    with pytest.raises(Refused, match="nothing was done: expected shop"):
        confirm_group("shop", "This deletes everything.", yes=False, output=Output.TEXT)


@pytest.mark.parametrize("who", ["a program", "a pipe", "a script"])
def test_where_nobody_can_answer_nothing_is_asked(typed: list[str], monkeypatch: pytest.MonkeyPatch, who: str) -> None:
    typed.append("shop")
    if who == "a pipe":
        monkeypatch.setattr(output, "messages", lambda: Console(file=io.StringIO(), force_terminal=False))
    if who == "a script":
        monkeypatch.setattr(typer, "get_text_stream", lambda name: SimpleNamespace(isatty=lambda: False))
    form = Output.JSON if who == "a program" else Output.TEXT
    with pytest.raises(Refused, match="give --yes when this is meant"):
        confirm_group("shop", "This deletes everything.", yes=False, output=form)
    confirm_group("shop", "This deletes everything.", yes=True, output=form)


@pytest.fixture
def replaced(monkeypatch: pytest.MonkeyPatch) -> list[PlanRequest]:
    """What ``drctl database-failover`` would have started, of a group with a database at RDS."""
    requests: list[PlanRequest] = []
    config = SimpleNamespace(group=lambda name: SimpleNamespace(rds=object()))
    monkeypatch.setattr(database, "load_config", lambda file: config)
    monkeypatch.setattr(database, "chosen_group", lambda loaded, group: "shop")
    monkeypatch.setattr(database, "run_plan", lambda loaded, plan, request, **options: requests.append(request))
    return requests


def test_a_database_is_replaced_once_the_groups_name_was_typed(typed: list[str], replaced: list[PlanRequest]) -> None:
    with pytest.raises(Refused):
        database.database_failover()
    assert replaced == []
    typed.append("shop")
    database.database_failover()
    assert len(replaced) == 1


@pytest.mark.parametrize("option", ["force", "confirm_fence"])
def test_what_replaces_a_database_that_may_serve_needs_a_reason(option: str, replaced: list[PlanRequest]) -> None:
    for reason in ("", "  "):
        with pytest.raises(BadInput, match="expected --reason"):
            database.database_failover(yes=True, reason=reason, **cast(Any, {option: True}))
    assert replaced == []
    database.database_failover(yes=True, reason="it is off", **cast(Any, {option: True}))
    assert len(replaced) == 1


def report(**changed: Any) -> RunReport:
    """As much of one as the questions need."""
    step = SimpleNamespace(pivot=True, name="open-writes", started_at=datetime.now(UTC))
    usual = {"plan": "Failover", "group": "shop", "steps": [step], "candidates": [], "hold_choices": []}
    return cast(RunReport, SimpleNamespace(**{**usual, **changed}))


def test_an_abort_behind_the_pivot_is_confirmed(typed: list[str]) -> None:
    with pytest.raises(Refused):
        answers._confirm_after_pivot(report(), False, Output.TEXT)
    before = SimpleNamespace(pivot=True, name="open-writes", started_at=None)
    answers._confirm_after_pivot(report(steps=[before]), False, Output.TEXT)
    typed.append("shop")
    answers._confirm_after_pivot(report(), False, Output.TEXT)


def test_a_loss_is_confirmed(typed: list[str]) -> None:
    with pytest.raises(Refused):
        answers._confirm_loss(report(), False, Output.TEXT)
    typed.append("shop")
    answers._confirm_loss(report(), False, Output.TEXT)
