"""One version: of the package, in the changelog, of the compose stack's images, and in the command line."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from typer.testing import CliRunner

from drctl.main import app
from recovery import __version__

ROOT = Path(__file__).parents[2]


def test_the_package_has_the_version_of_its_sources() -> None:
    """An image runs the sources without installing them: what names a version must not ask for a distribution."""
    document = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert document["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "recovery.__version__"}
    assert CliRunner().invoke(app, ["--version"]).output == f"drctl {__version__}\n"


def test_the_changelog_begins_with_it() -> None:
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == __version__


def test_the_compose_stack_builds_it() -> None:
    tags = re.findall(r"recovery-plans(?:-\w+)?:(\S+)", (ROOT / "docker-compose.yaml").read_text())
    assert set(tags) == {__version__}
