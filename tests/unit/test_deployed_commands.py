"""What service managers and containers start is a command of ours, with options that it has."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.unit.parsing import parse

ROOT = Path(__file__).parents[2]
UNITS = sorted((ROOT / "deploy" / "systemd").iterdir())


def of_compose() -> list[str]:
    """Of the services whose image begins with drctl."""
    services = YAML(typ="safe").load((ROOT / "docker-compose.yaml").read_text())["services"]
    ours = [found for found in services.values() if found.get("command", [""])[0] in ("worker", "monitor", "guard")]
    return [shlex.join(found["command"]) for found in ours]


def of_the_regions_script() -> list[str]:
    text = (ROOT / "deploy" / "compose" / "region.sh").read_text()
    return [re.sub(r'"\$\w+"', "1", line) for line in re.findall(r"^\s*again drctl (.*) &$", text, re.MULTILINE)]


def of_units() -> list[str]:
    lines = [
        line for unit in UNITS for line in re.findall(r"^ExecStart=\S+/drctl (.*)$", unit.read_text(), re.MULTILINE)
    ]
    return [line.replace("%i", "us-east-1") for line in lines]


@pytest.mark.parametrize("line", [*of_compose(), *of_the_regions_script(), *of_units()])
def test_it_is_a_command_of_ours(line: str) -> None:
    parse(shlex.split(line))


def test_all_that_is_started_was_found() -> None:
    assert [len(found) for found in (of_compose(), of_the_regions_script(), of_units())] == [3, 2, 1]
    with pytest.raises(Exception, match="No such option"):
        parse(["guard", "--place", "us-east-1"])


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_takes_the_unit_where_it_is_installed(unit: Path, tmp_path: Path) -> None:
    verify = shutil.which("systemd-analyze")
    if verify is None:
        return
    copy = tmp_path / unit.name
    copy.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", unit.read_text(), flags=re.MULTILINE))
    done = subprocess.run([verify, "verify", str(copy)], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
