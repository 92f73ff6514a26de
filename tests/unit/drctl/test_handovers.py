"""``drctl failover | switchover | reprotect | failback | regions``: what they ask for, and what they show."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from drctl import handovers
from drctl.main import app
from drctl.regions import region_table
from recovery.domain.guarding import StoreRole
from recovery.domain.ownership import Strength
from recovery.domain.plan import PlanRequest
from tests.fakes.handover import state
from workers.regions import RegionLine

MINIMAL = Path(__file__).parents[1] / "config" / "minimal.yaml"


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, PlanRequest]]:
    plans: list[tuple[str, PlanRequest]] = []

    def run_plan(config: object, plan: str, request: PlanRequest, **more: Any) -> None:
        plans.append((plan, request))

    monkeypatch.setattr(handovers, "run_plan", run_plan)
    return plans


def drctl(*arguments: str) -> Result:
    given = {"COLUMNS": "200", "TERM": "dumb", "USER": "ana", "RECOVERY_CONFIG": str(MINIMAL)}
    return CliRunner().invoke(app, list(arguments), env=given)


@pytest.mark.parametrize("command", ["failover", "switchover", "reprotect", "failback"])
def test_each_is_confirmed_by_the_groups_name_or_by_yes(command: str, started: list[tuple[str, PlanRequest]]) -> None:
    refused = drctl(command)
    assert refused.exit_code == 2 and "give --yes" in refused.output and started == []
    assert drctl(command, "--yes").exit_code == 0
    ((plan, request),) = started
    assert plan.lower() == command and (request.group, request.requested_by) == ("shop", "ana")


@pytest.mark.parametrize(
    ("command", "option"),
    [
        *itertools.product(["failover", "switchover"], ["--accept-data-loss", "--force", "--confirm-fence"]),
        *itertools.product(["reprotect", "failback"], ["--accept-data-loss"]),
    ],
)
def test_what_costs_data_or_safety_needs_a_reason(
    command: str, option: str, started: list[tuple[str, PlanRequest]]
) -> None:
    refused = drctl(command, option, "--yes")
    assert refused.exit_code == 2 and f"{option}: expected --reason" in refused.output and started == []
    assert drctl(command, option, "--yes", "--reason", "region-a burnt down").exit_code == 0
    assert started[0][1].reason == "region-a burnt down"


def test_the_request_says_all_that_was_asked(started: list[tuple[str, PlanRequest]]) -> None:
    words = (
        "failover --to region-b --approve --accept-data-loss --second-person ben --reason lost --outage-began 3m --yes"
    )
    assert drctl(*words.split()).exit_code == 0
    request = started[0][1]
    asked = (request.region, request.approve, request.accept_data_loss, request.second_person, request.graceful)
    assert asked == ("region-b", True, True, "ben", True) and request.outage_began_at is not None


@pytest.mark.parametrize("command", ["failover", "switchover", "reprotect", "failback"])
def test_all_of_them_take_the_same_words(command: str, started: list[tuple[str, PlanRequest]]) -> None:
    words = f"{command} --group shop --to region-a --reason repaired --approve --accept-data-loss --yes"
    assert drctl(*words.split()).exit_code == 0
    request = started[0][1]
    assert (request.region, request.approve, request.accept_data_loss) == ("region-a", True, True)


def test_a_failback_goes_home_and_nowhere_else(started: list[tuple[str, PlanRequest]]) -> None:
    refused = drctl("failback", "--to", "region-b", "--yes")
    said = " ".join(refused.output.split())
    assert refused.exit_code == 2 and started == []
    assert "the home of shop, which is region-a" in said and "drctl switchover --group shop --to region-b" in said


def test_the_question_says_what_is_at_stake(started: list[tuple[str, PlanRequest]]) -> None:
    assert "what that had not received is lost" in drctl("failover").output.replace("\n", " ")
    assert "what only it holds was saved" in drctl("reprotect").output.replace("\n", " ")


def shown(*lines: RegionLine, width: int = 160) -> str:
    console = Console(width=width, no_color=True)
    with console.capture() as capture:
        console.print(region_table(list(lines), unicode=False))
    return capture.get()


def test_the_table_says_who_owns_and_what_is_wrong() -> None:
    owner = RegionLine(
        "shop", "region-a", True, 7, None, "region-a/1", True, 1.2, [state(StoreRole.PRIMARY)], ""
    )  # fmt: skip
    follower = RegionLine(
        "shop", "region-b", False, 7, None, "region-b/1", True, 0.8, [state(StoreRole.STANDBY, lag_seconds=2.0)], ""
    )  # fmt: skip
    lost = RegionLine("shop", "region-c", False, 7, None, None, None, 95.0, [], "the guard takes no connection")
    table = shown(owner, follower, lost)
    lines = [line for line in table.splitlines() if "region-" in line]
    assert "epoch 7" in lines[0] and "well" in lines[0] and "postgres primary" in table
    narrow = shown(owner, follower, lost, width=80)
    assert all(len(line) <= 80 for line in narrow.splitlines()) and "takes no" in narrow, "a terminal of 80 columns"
    held = RegionLine(
        "shop", "region-b", False, 7, None, "b/1", True, 0.8,
        [state(StoreRole.STANDBY, store="redis", strength=Strength.MANUAL)], "",
    )  # fmt: skip
    assert "redis standby (manual)" in shown(held)
    near = RegionLine(
        "shop", "region-a2", False, 7, None, "a2/1", True, 0.8, [state(StoreRole.STANDBY)], "",
        priority=95, site="region-a",
    )  # fmt: skip
    assert "region-a2 (at region-a)" in shown(near) and " 95 " in shown(near)
    assert "epoch" not in lines[1] and "2 s" in lines[1] and "0.8 s old" in lines[1]
    assert "none (1 m 35 s old)" in lines[2] and "the guard takes no connection" in lines[2]
