"""The set-up says in one sentence what a machine lacks, and its requirements are pinned, hashed and of no host."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SETUP = ROOT / "requirements" / "setup.sh"
LINUX = "echo Linux x86_64"
WITHOUT_VENV = """
case "$2" in
    *sys.exit*) exit 0 ;;
    *ensurepip*) exit 1 ;;
    *print*) echo python3.11 ;;
esac
"""


@pytest.mark.parametrize(
    ("programs", "sentence"),
    [
        ({"uname": "echo Darwin arm64"}, "Linux on x86-64 and this is Darwin arm64: use such a machine"),
        ({"uname": "echo Linux aarch64"}, "Linux on x86-64 and this is Linux aarch64: use such a machine"),
        ({"uname": LINUX}, "Python 3.11 or 3.12 is needed: apt-get install python3.11 python3.11-venv"),
        ({"uname": LINUX, "python3": "exit 1"}, "Python 3.11 or 3.12 is needed"),  # another version
        (
            {"uname": LINUX, "python3.11": WITHOUT_VENV, "basename": "echo $1"},
            "has no venv module: apt-get install python3.11-venv",
        ),
    ],
)
def test_what_is_missing_is_one_sentence(tmp_path: Path, programs: dict[str, str], sentence: str) -> None:
    path = tmp_path / "bin"
    path.mkdir()
    for name, body in programs.items():
        (path / name).write_text(f"#!/bin/bash\n{body}\n")
        (path / name).chmod(0o755)
    done = subprocess.run(
        ["/bin/bash", SETUP, tmp_path / ".venv"], env={"PATH": str(path)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert re.fullmatch(r"recovery-plans: [^\n]+\n", done.stderr), "one sentence"
    assert sentence in done.stderr
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize("path", sorted(SETUP.parent.glob("*.txt")), ids=lambda path: path.name)
def test_requirements_are_pinned_and_hashed_and_name_no_host(path: Path) -> None:
    text = path.read_text()
    entries = re.split(r"^(?=[A-Za-z0-9])", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE), flags=re.MULTILINE)
    entries = [entry for entry in entries if entry.strip()]
    assert len(entries) > 10
    assert [entry for entry in entries if "==" not in entry or "--hash=sha256:" not in entry] == []
    assert "://" not in text
    assert not re.search(r"^\s*(--index-url|--extra-index-url|--find-links|-i|-f)\b", text, re.MULTILINE)
