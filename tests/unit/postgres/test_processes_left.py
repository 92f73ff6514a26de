"""Whether anything of a server is left, also when its postmaster is not."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from recovery.adapters.postgres.host import postmaster_of, runs_in


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    data = tmp_path / "data"
    data.mkdir()
    return data


@pytest.fixture
def server(tmp_path: Path, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that calls itself postgres and works in the folder, as a backend does whose postmaster was killed."""
    program = shutil.copy(shutil.which("sleep") or "sleep", tmp_path / "postgres")
    process = subprocess.Popen([program, "600"], cwd=folder)
    yield process
    process.kill()
    process.wait()


def test_a_backend_that_outlived_its_postmaster_counts(folder: Path, server: subprocess.Popen[bytes]) -> None:
    (folder / "postmaster.pid").write_text("2147483646\n")
    assert postmaster_of(folder) is None
    assert runs_in(folder)
    server.kill()
    server.wait()
    assert not runs_in(folder)


def test_a_postmaster_is_told_from_another_program_with_its_pid(
    folder: Path, server: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    (folder / "postmaster.pid").write_text(f"{server.pid}\n{folder}\n")
    assert postmaster_of(folder) == server.pid
    elsewhere = tmp_path / "other"
    elsewhere.mkdir()
    shutil.copy(folder / "postmaster.pid", elsewhere)
    assert postmaster_of(elsewhere) is None
    assert not runs_in(elsewhere)


def test_a_folder_that_is_reached_by_a_link_is_the_same_one(
    folder: Path, server: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to(folder)
    assert server.poll() is None
    assert runs_in(link)
