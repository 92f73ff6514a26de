"""``docs/plans.md`` says what the tables say."""

from __future__ import annotations

import pytest

from workflows import document
from workflows.plans import PLANS
from workflows.steps import Step


def test_the_page_is_up_to_date():
    assert document.TARGET.read_text() == document.document(), "run: python -m workflows.document > docs/plans.md"


def test_check_notices_a_page_that_is_not(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(document, "TARGET", tmp_path / "plans.md")
    assert document.main(["--check"]) == 1
    (tmp_path / "plans.md").write_text(document.document())
    assert document.main(["--check"]) == 0
    (tmp_path / "plans.md").write_text(document.document().replace("budget", "bugdet", 1))
    assert document.main(["--check"]) == 1
    assert "python -m workflows.document" in capsys.readouterr().err


@pytest.mark.parametrize(
    "step", [pytest.param(step, id=f"{p.name}.{step.name}") for p in PLANS.values() for step in p.steps()]
)
def test_every_step_says_what_it_does(step: Step):
    for method in filter(None, (step.activity, step.undo, step.observe)):
        assert document._said(method).endswith("."), f"{method.__qualname__} has no docstring"


def test_every_plan_and_step_is_on_the_page():
    page = document.document()
    for plan in PLANS.values():
        assert f"## {plan.name}\n" in page
        assert all(f"`{step.name}`" in page for step in plan.steps())
