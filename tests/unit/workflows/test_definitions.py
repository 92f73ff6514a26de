"""What Temporal is told of the plans."""

from __future__ import annotations

from workflows.definitions import WORKFLOWS
from workflows.plans import PLANS


def test_every_plan_is_run_by_a_class_that_is_alone_in_its_module() -> None:
    """The sandbox imports that module for every run, with all that it defines."""
    assert {found.__name__: found.plan for found in WORKFLOWS} == PLANS
    assert len({found.__module__ for found in WORKFLOWS}) == len(WORKFLOWS)
