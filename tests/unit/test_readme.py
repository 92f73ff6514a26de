"""What the README says is so: its commands parse, its files and targets exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.unit.parsing import parse

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.splitlines() if line.strip()]


def test_the_first_screen_has_exactly_the_two_commands() -> None:
    assert [shlex.split(line, comments=True) for line in BLOCKS[0].splitlines()] == [["make", "demo"], ["make", "test"]]
    first_screen = README.read_text().splitlines()[:25]
    assert sum(line.startswith("```") for line in first_screen) == 2


@pytest.mark.parametrize("line", COMMANDS)
def test_its_commands_parse(line: str) -> None:
    program, *arguments = shlex.split(line, comments=True)
    if program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert arguments[0] in targets
        return
    assert program == "drctl"
    parse(arguments)


@pytest.mark.parametrize("place", re.findall(r"^\| `([^`]+)` \|", README.read_text(), re.MULTILINE))
def test_its_folders_exist(place: str) -> None:
    assert (ROOT / place).exists()
