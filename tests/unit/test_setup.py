"""The set-up says in one sentence what a machine lacks, and its requirements are pinned, hashed and of no host."""

from __future__ import annotations

import os
import re
import shutil
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

# Makes an environment whose python notes what it is asked to install, and takes its time over it.
WITH_VENV = """
if [ "$1 $2" = "-m venv" ]; then
    mkdir -p "$4/bin"
    printf '#!/bin/bash\\nsleep 0.05; echo "$*" >> installed.txt\\n' > "$4/bin/python"
    chmod +x "$4/bin/python"
fi
"""


def pretended(folder: Path, programs: dict[str, str]) -> Path:
    """A folder with these scripts as programs."""
    folder.mkdir()
    for name, body in programs.items():
        (folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / name).chmod(0o755)
    return folder


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
    path = pretended(tmp_path / "bin", programs)
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
    assert len(entries) > 5
    assert [entry for entry in entries if "==" not in entry or "--hash=sha256:" not in entry] == []
    assert "://" not in text
    assert not re.search(r"^\s*(--index-url|--extra-index-url|--find-links|-i|-f)\b", text, re.MULTILINE)


def test_make_installs_once_and_again_when_the_requirements_change(tmp_path: Path) -> None:
    (tmp_path / "requirements").mkdir()
    for name in ("Makefile", "requirements/setup.sh", "requirements/development.txt"):
        shutil.copy2(ROOT / name, tmp_path / name)
    path = pretended(tmp_path / "bin", {"uname": LINUX, "python3.11": WITH_VENV})
    environment = {"PATH": f"{path}:{os.defpath}"}
    noted = tmp_path / "installed.txt"

    def make(times: int) -> int:
        """How often pip was called."""
        noted.write_text("")
        running = [
            subprocess.Popen(["make", "-s", "setup"], cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)
            for _ in range(times)
        ]
        assert [one.wait(timeout=30) for one in running] == [0] * times
        return len(noted.read_text().splitlines())

    assert make(2) == 2, "whoever comes second waits for the first, and installs nothing: requirements, then this tree"
    assert make(1) == 0
    os.utime(tmp_path / ".venv" / ".installed", (0, 0))  # older than the requirements
    assert make(1) == 2
