"""How the demo ends: two writers are worse than anything else that may go wrong."""

from __future__ import annotations

import pytest

from drctl.demo.outcome import Outcome, outcome
from lab.two_writers import Overlap, Verdict

GOOD = Verdict(counts={}, stretches=[], overlaps=[], unowned={}, first_unowned=None, last_unowned=None)
BOTH = GOOD.model_copy(update={"overlaps": [Overlap(regions=("region-a", "region-b"), begin=1.0, end=2.5)]})
NOBODYS = GOOD.model_copy(update={"unowned": {"region-a": 1}})


@pytest.mark.parametrize("verdict", [BOTH, NOBODYS], ids=["two at once", "one that did not own the group"])
@pytest.mark.parametrize("well", [True, False])
def test_two_writers_are_told_whatever_else_went_well(verdict: Verdict, well: bool) -> None:
    assert outcome(well=well, verdict=verdict) is Outcome.TWO_WRITERS


@pytest.mark.parametrize("verdict", [None, GOOD], ids=["not watched", "one at a time"])
def test_else_the_scenes_decide(verdict: Verdict | None) -> None:
    assert (outcome(well=True, verdict=verdict), outcome(well=False, verdict=verdict)) == (0, 1)
