"""What the fault commands ask of the lab, and what they say of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from drctl.main import app
from lab.errors import LabError, LabUnreachableError

Call = tuple[str, tuple[Any, ...], dict[str, Any]]


class PretendedLab:
    def __init__(self) -> None:
        self.asked: list[Call] = []
        self.fails: LabError | None = None

    def __getattr__(self, name: str) -> Any:
        async def ask(*given: Any, **more: Any) -> None:
            self.asked.append((name, given, more))
            if self.fails is not None:
                raise self.fails

        return ask


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> PretendedLab:
    made = PretendedLab()
    monkeypatch.setattr("drctl.lab_output.attached", lambda folder: made)
    return made


def drctl(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["lab", *arguments], env={"RECOVERY_DEBUG": "0"})


@pytest.mark.parametrize(
    ("command", "call", "sentence", "facts"),
    [
        (
            "kill region-a --with-disks", ("kill", ("region-a", None), {"with_disks": True}),
            "Killed region-a with its disks.", {"region": "region-a", "service": None},
        ),
        (
            "freeze region-a postgres", ("freeze", ("region-a", "postgres"), {}),
            "Froze region-a/postgres.", {"region": "region-a", "service": "postgres"},
        ),
        (
            "thaw region-a", ("thaw", ("region-a", None), {}),
            "Thawed region-a.", {"region": "region-a", "service": None},
        ),
        (
            "restart temporal", ("restart", ("temporal", None), {}),
            "Restarted temporal.", {"region": "temporal", "service": None},
        ),
        (
            "partition region-a region-b --one-way", ("partition", ("region-a", "region-b"), {"one_way": True}),
            "region-b does not hear region-a.", {"one": "region-a", "other": "region-b", "one_way": True},
        ),
        (
            "isolate region-a --keep witness", ("isolate", ("region-a",), {"keep": ["witness"]}),
            "region-a hears nobody but witness, and nobody hears it.", {"place": "region-a", "keep": ["witness"]},
        ),
        (
            "slow region-a postgres --seconds 3", ("slow", ("region-a", "postgres"), {"seconds": 3.0}),
            "region-a/postgres is 3 s late each way.",
            {"place": "region-a", "service": "postgres", "seconds": 3.0},
        ),
        ("heal", ("heal", (), {}), "The network is whole.", {}),
    ],
    ids=lambda value: value.split()[0] if isinstance(value, str) else "",
)  # fmt: skip
def test_a_fault_is_asked_for_once_and_told(
    lab: PretendedLab, command: str, call: Call, sentence: str, facts: dict[str, Any]
) -> None:
    said = drctl(*command.split())
    assert (said.exit_code, said.stdout.strip(), lab.asked) == (0, sentence, [call])
    as_json = drctl(*command.split(), "--output", "json")
    assert json.loads(as_json.stdout) == {"done": sentence, **facts} and lab.asked == [call, call]


@pytest.mark.parametrize(("error", "code"), [(LabError("no such region"), 2), (LabUnreachableError("no lab runs"), 3)])
def test_a_fault_that_did_not_happen_is_not_told(lab: PretendedLab, error: LabError, code: int) -> None:
    lab.fails = error
    said = drctl("freeze", "region-x")
    assert said.exit_code == code and "Froze" not in said.stdout and str(error) in said.stderr


def test_without_a_lab_it_says_so(tmp_path: Path) -> None:
    said = drctl("heal", "--folder", str(tmp_path))
    assert said.exit_code == 3 and said.stdout == "" and "lab" in said.stderr
