"""Every plan, every step, both sides of its effect: a run ends as without the fault, or undone, or held.

Plain ``pytest`` takes a pairwise choice, ``pytest -m chaos`` the whole matrix.
"""

from __future__ import annotations

import asyncio

import pytest

from tests.chaos.cases import Case, everything
from tests.chaos.stage import Played, judge

ALL = everything()


@pytest.mark.chaos
@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
async def test_never_half(case: Case, played: dict[Case, asyncio.Task[Played]]) -> None:
    judge(case, await played[case])
