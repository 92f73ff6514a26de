"""At most one primary, at length: tests/model/test_model.py with many more ways. Ask for it with ``-m chaos``."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.model.rules import Rules
from tests.model.test_model import Anything
from tests.model.walks import uneven, walk

LONG = 20
"""Parts, so that they are spread over processes."""

pytestmark = pytest.mark.chaos


@pytest.mark.parametrize("part", range(LONG))
def test_random_ways(part: int) -> None:
    seeds = range(1000 + part * 100, 1000 + (part + 1) * 100)
    happened, found = walk(uneven(Rules()), seeds, steps=400)
    assert found is None
    assert happened["promotions"] > 100


def test_hypothesis_finds_no_second_primary() -> None:
    thorough = settings(
        max_examples=1500, stateful_step_count=80, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    run_state_machine_as_test(Anything, settings=thorough)
