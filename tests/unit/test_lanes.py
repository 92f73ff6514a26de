"""Which module each lane of ``make test`` takes next."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.lanes import LIGHT, PATIENT, Lanes, choose

ROOT = Path(__file__).parents[2]
SERVERS, MORE_SERVERS = "tests/integration/test_fault_matrix.py", "tests/chaos/test_faults.py"
STORY = "tests/integration/test_readme_commands.py"
RULES, MORE_RULES = "tests/unit/test_retention.py", "tests/contract/test_search.py"


@pytest.mark.parametrize(
    ("waiting", "light_lane", "taken"),
    [
        ([RULES, SERVERS, MORE_SERVERS], False, SERVERS),
        ([SERVERS, RULES, MORE_RULES], True, RULES),
        ([RULES, MORE_RULES], False, RULES),
        ([SERVERS, MORE_SERVERS], True, SERVERS),
        ([SERVERS, STORY, RULES], True, RULES),
        ([SERVERS, STORY], True, STORY),
        ([STORY, SERVERS], False, SERVERS),
        ([RULES, STORY], False, STORY),
    ],
)
def test_each_lane_takes_the_first_of_its_kind_and_else_the_first(
    waiting: Sequence[str], light_lane: bool, taken: str
) -> None:
    assert choose(waiting, light_lane=light_lane) == taken


def test_what_is_called_light_exists() -> None:
    assert [path for path in (*LIGHT, *PATIENT) if not list(ROOT.glob(f"{path}*"))] == []


class Node:
    """A worker process of the run."""

    def __init__(self, number: int) -> None:
        self.gateway = SimpleNamespace(id=f"gw{number}")
        self.shutting_down = False
        self.given: list[int] = []
        self.done = 0

    def send_runtest_some(self, indices: list[int]) -> None:
        assert not self.shutting_down
        self.given += indices

    def shutdown(self) -> None:
        self.shutting_down = True


def played(modules: Sequence[str], lanes: int, tests: int = 3) -> list[list[str]]:
    """The modules that each lane ran, which take turns with one test each."""
    option = SimpleNamespace(loadscopereorder=False, tx=[f"{lanes}*popen"], maxprocesses=None)
    config = SimpleNamespace(option=option, getoption=lambda name: None, getvalue=lambda name: option.tx)
    lane: Any = Lanes(cast(pytest.Config, config))
    collected = [f"{module}::test_{number}" for module in modules for number in range(tests)]
    nodes = [Node(number) for number in range(lanes)]
    for node in nodes:
        lane.add_node(node)
    for node in nodes:
        lane.add_node_collection(node, collected)
    lane.schedule()
    while any(node.done < len(node.given) for node in nodes):
        before = [node.done for node in nodes]
        for node in nodes:
            # A worker begins its last test only when it knows that none comes after it.
            if node.done + (0 if node.shutting_down else 1) < len(node.given):
                node.done += 1
                lane.mark_test_complete(node, node.given[node.done - 1])
        assert [node.done for node in nodes] != before, "all of them wait for each other"
    assert sorted(index for node in nodes for index in node.given) == list(range(len(collected)))
    return [list(dict.fromkeys(collected[index].split("::")[0] for index in node.given)) for node in nodes]


def test_the_last_of_three_lanes_starts_no_servers_and_the_others_end_with_what_it_left() -> None:
    heavy = [f"tests/integration/test_{letter}.py" for letter in "abcdefgh"]
    light = [f"tests/unit/test_{letter}.py" for letter in "abc"]
    first, second, last = played([*heavy, *light], 3)
    assert (sorted(first + second), last) == (heavy, light)
    light = [f"tests/unit/test_{number:02}.py" for number in range(30)]
    first, second, last = played([*heavy, *light], 3)
    assert set(last) < set(light)
    assert all(module not in first[: first.index(heavy[6])] for module in light if heavy[6] in first)


def test_who_is_not_in_a_hurry_is_shared_by_all_lanes_at_the_end() -> None:
    heavy = [f"tests/integration/test_{letter}.py" for letter in "abcd"]
    patient = [f"tests/integration/test_plans_{number:02}.py" for number in range(12)]
    *others, last = played([*heavy, *patient, RULES], 3)
    assert last[0] == RULES and set(last[1:]) <= set(patient) and len(last) > 1
    assert all(any(module in patient for module in lane) for lane in others)


def test_fewer_lanes_take_everything_and_one_kind_alone_is_run_to_its_end() -> None:
    heavy = [f"tests/integration/test_{letter}.py" for letter in "abcd"]
    first, second = played([*heavy, RULES], 2)
    assert sorted(first + second) == sorted([*heavy, RULES])
    for modules in (heavy, [RULES, MORE_RULES], [SERVERS]):
        played(modules, 3)
        played(modules, 3, tests=1)
