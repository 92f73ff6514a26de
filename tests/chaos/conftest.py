"""One server and a few pairs of workers for all cases, which run several at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.chaos.cases import Case, pairwise
from tests.chaos.stage import Played, Stage
from tests.chaos.temporal_server import TemporalServer

PAIRS = 6
PAIRS_OF_THE_WHOLE = 12  # most cases of the whole matrix wait: for a lost worker to be missed, or a frozen one
AHEAD = 200  # cases that are begun before they are asked for; those with a frozen worker wait long


def case_of(item: pytest.Item) -> Case | None:
    params = getattr(getattr(item, "callspec", None), "params", {})
    case = params.get("case")
    return case if isinstance(case, Case) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without ``-m chaos`` (and unless cases are named) a pairwise choice stands for the whole matrix."""
    if is_whole(config) or config.option.keyword or any("::" in arg for arg in config.args):
        return
    matrix = [case for item in items if (case := case_of(item))]
    chosen = set(pairwise(matrix))
    left_out = [item for item in items if item.get_closest_marker("chaos") and case_of(item) not in chosen]
    config.hook.pytest_deselected(items=left_out)
    dropped = set(left_out)
    items[:] = [item for item in items if item not in dropped]


def is_whole(config: pytest.Config) -> bool:
    return "chaos" in str(config.option.markexpr)


@pytest.fixture(scope="session")
async def stage(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> AsyncIterator[Stage]:
    root: Path = tmp_path_factory.mktemp("chaos")
    server = TemporalServer(root)
    client = await server.start()
    stage = Stage(server, client, root, PAIRS_OF_THE_WHOLE if is_whole(pytestconfig) else PAIRS)
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
    """The cases under way. Whoever asks for one has the next few begun, too, so that all pairs have work."""

    def __init__(self, stage: Stage, cases: list[Case]) -> None:
        super().__init__()
        self._stage = stage
        self._cases = cases  # in the order in which the tests ask for them

    def __missing__(self, case: Case) -> asyncio.Task[Played]:
        at = self._cases.index(case)
        for coming in self._cases[at : at + AHEAD]:
            if coming not in self:
                self[coming] = asyncio.create_task(self._stage.play(coming), name=coming.name)
        return self[case]


@pytest.fixture(scope="session")
async def played(stage: Stage, request: pytest.FixtureRequest) -> AsyncIterator[dict[Case, asyncio.Task[Played]]]:
    """What each case led to, once it is asked for."""
    playing = Playing(stage, [case for item in request.session.items if (case := case_of(item))])
    yield playing
    for task in playing.values():
        task.cancel()
    await asyncio.gather(*playing.values(), return_exceptions=True)
