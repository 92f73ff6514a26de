"""One server and a few pairs of workers for all cases, which run several at a time."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.chaos.cases import Case, pairwise
from tests.chaos.stage import Played, Stage
from tests.chaos.temporal_server import TemporalServer

PAIRS = 6


def case_of(item: pytest.Item) -> Case | None:
    params = getattr(getattr(item, "callspec", None), "params", {})
    case = params.get("case")
    return case if isinstance(case, Case) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without ``-m chaos`` (and unless cases are named) a pairwise choice stands for the whole matrix."""
    if "chaos" in str(config.option.markexpr) or config.option.keyword or any("::" in arg for arg in config.args):
        return
    matrix = [case for item in items if (case := case_of(item))]
    chosen = set(pairwise(matrix))
    left_out = [item for item in items if item.get_closest_marker("chaos") and case_of(item) not in chosen]
    config.hook.pytest_deselected(items=left_out)
    dropped = set(left_out)
    items[:] = [item for item in items if item not in dropped]


@pytest.fixture(scope="session")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    root: Path = tmp_path_factory.mktemp("chaos")
    server = TemporalServer(root)
    client = await server.start()
    stage = Stage(server, client, root, PAIRS)
    try:
        yield stage
    finally:
        stage.close()
        await server.kill()


@pytest.fixture
async def alone(stage: Stage, played: dict[Case, asyncio.Task[Played]]) -> Stage:
    """The stage when no case is under way any more: for measurements."""
    await asyncio.gather(*played.values(), return_exceptions=True)
    return stage


class Playing(dict[Case, "asyncio.Task[Played]"]):
    """The cases under way; one that nobody has begun yet begins when it is asked for."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self._stage = stage

    def __missing__(self, case: Case) -> asyncio.Task[Played]:
        self[case] = asyncio.create_task(self._stage.play(case), name=case.name)
        return self[case]


@pytest.fixture(scope="session")
async def played(stage: Stage, request: pytest.FixtureRequest) -> AsyncIterator[dict[Case, asyncio.Task[Played]]]:
    """All chosen cases, under way from the first one that is asked for."""
    playing = Playing(stage)
    if "PYTEST_XDIST_WORKER" not in os.environ:  # there, each process has only some of the collected cases to run
        for item in request.session.items:
            if case := case_of(item):
                assert playing[case]
    yield playing
    for task in playing.values():
        task.cancel()
    await asyncio.gather(*playing.values(), return_exceptions=True)
