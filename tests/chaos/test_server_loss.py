"""SIGKILL of the Temporal server, and its restart, while a run stands on either side of every step and every undo."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.chaos.cases import REHEARSALS, Case, faults_in_undo, forward_kills
from tests.chaos.stage import Stage, judge
from tests.chaos.temporal_server import TemporalServer
from tests.chaos.world import Fault

AT_ONCE = 80  # runs
PATIENCE = 180  # seconds, for as many runs


@pytest.fixture
async def fragile(tmp_path: Path) -> AsyncIterator[Stage]:
    server = TemporalServer(tmp_path)
    stage = Stage(server, await server.start(), tmp_path, pairs=1)
    try:
        yield stage
    finally:
        stage.close()
        await server.kill()


def cases() -> list[Case]:
    """Where the workers are killed elsewhere, they are only held up here, until the server is gone.

    What is told only once is left out: it may be told or not, depending on how long the server was away. So is what
    gives its worker two seconds to begin: with so many runs at once, they are not enough.
    """
    left_out = {
        step.name
        for table in REHEARSALS.values()
        for step in table.steps
        if step.retry.maximum_attempts == 1 or step.start_within is not None
    }
    kills = [case for case in [*forward_kills(), *faults_in_undo()] if case.faults[-1].kind == "kill"]
    found = [case for case in kills if case.faults[-1].at not in left_out]
    blocked = []
    for case in found:
        *others, last = case.faults
        faults = (*others, Fault("block", last.at, last.side))
        blocked.append(Case(case.plan, "server", faults, case.end, variant=case.variant))
    return blocked


def a_quarter(found: list[Case]) -> list[Case]:
    """Before the effect of one step, after that of the next but one."""
    return [case for number, case in enumerate(found) if number % 8 in (0, 5)]


@pytest.mark.parametrize(
    "chosen",
    [
        pytest.param(a_quarter(cases()), id="a quarter"),
        *(
            pytest.param(cases()[first : first + AT_ONCE], id=f"all from {first}", marks=pytest.mark.chaos)
            for first in range(0, len(cases()), AT_ONCE)
        ),
    ],
)
async def test_the_server_is_killed_and_comes_back(fragile: Stage, chosen: list[Case]) -> None:
    async with fragile.pair() as pair, asyncio.timeout(PATIENCE):
        runs = [(case, *await fragile.start(case.plan, pair.queue, list(case.faults), case.variant)) for case in chosen]
        for case, world, _ in runs:
            await fragile.struck(world, case.faults[-1])
        await fragile.server.kill()
        for case, world, _ in runs[::2]:
            world.release(case.faults[-1])  # these steps end while nobody can be told
        fragile.client = await fragile.server.start()
        for case, world, _ in runs[1::2]:
            world.release(case.faults[-1])
        for case, world, started in runs:
            handle = fragile.client.get_workflow_handle(started.id)
            held = await fragile.end_or_hold(handle)
            judge(case, await fragile.outcome(world, handle, held))
