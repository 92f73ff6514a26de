"""What the pages say is so: links lead somewhere, paths exist, commands parse, configurations load."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from typer.main import get_command

from drctl.main import app
from recovery.config import Config

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    ROOT / name
    for name in subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    ).stdout.split()
) or [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]  # fmt: skip
GENERATED = ("plans.md", "configuration.md")
"""``make docs`` writes them, and tests of their own compare them."""
FOLDERS = "activities|bench|deploy|docs|drctl|lab|recovery|requirements|tests|workers|workflows"


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|mailto:)([^)\s]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        found = page.parent / path if path else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_paths_that_are_named_exist(page: Path) -> None:
    if page.name in GENERATED:
        return
    for path in re.findall(rf"`((?:{FOLDERS})/[\w./@*-]+)`", page.read_text()):
        assert list(ROOT.glob(path)) or (ROOT / path).exists(), path


def commands(page: Path) -> list[str]:
    """Lines of shell blocks, and what stands in a sentence as a whole command."""
    text = page.read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("drctl ")]
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    inline = [found.replace("\n", " ") for found in re.findall(r"`(drctl [a-z][^`]*)`", prose)]
    return lines + [line for line in inline if "..." not in line and "|" not in line]


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in GENERATED], ids=name_of)
def test_commands_exist_with_their_options(page: Path) -> None:
    for line in commands(page):
        command: Any = get_command(app)
        words = shlex.split(line, comments=True)[1:]
        while hasattr(command, "resolve_command"):
            assert words and not words[0].startswith("-"), line
            found = command.get_command(None, words[0])
            assert found is not None, f"{line}: no such command"
            command, words = found, words[1:]
            if not words:
                break
        known = {option for parameter in command.params for option in [*parameter.opts, *parameter.secondary_opts]}
        given = {word.partition("=")[0] for word in words if re.fullmatch(r"--?[a-z][\w=./-]*", word)}
        assert given <= known, f"{line}: no such option"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_whole_configurations_load(page: Path, tmp_path: Path) -> None:
    for block in re.findall(r"^```yaml\n(version: 1\n.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL):
        YAML(typ="safe").load(block)
        (tmp_path / "recovery.yaml").write_text(block)
        Config.load(tmp_path / "recovery.yaml")


def test_every_page_is_reached_from_the_readme() -> None:
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        for target in re.findall(r"\]\((?!https?:|mailto:)([^)#\s]+)", page.read_text()):
            waiting.append((page.parent / target).resolve())
    missing = {name_of(page) for page in PAGES if "adr" not in page.parts} - {name_of(page) for page in reached}
    assert missing == {"CHANGELOG.md"}
