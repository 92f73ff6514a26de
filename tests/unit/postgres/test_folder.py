"""Only what carries a restore's mark is ever removed, and an interrupted removal goes on."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from recovery.adapters.postgres import folder as module
from recovery.adapters.postgres.folder import (
    MARKER,
    ClaimedFolder,
    FileSystems,
    RestoreMark,
    is_being_restored,
    read_mark,
    remove_folder,
    syncfs_tells_failures,
    write_mark,
)
from recovery.adapters.postgres.host import INCOMPLETE
from recovery.errors import Contended, NoSpace, Refused, RestoreFailed


def mark(restore_id: str = "r1") -> RestoreMark:
    return RestoreMark(restore_id, "point", created_directory=False)


def test_a_claimed_folder_is_private_locked_and_marked(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "data"
    with ClaimedFolder(folder, mark()) as claimed:
        assert folder.stat().st_mode & 0o777 == 0o700
        assert is_being_restored(folder)
        with pytest.raises(Contended, match="still at work"):
            ClaimedFolder(folder, mark()).claim()
        claimed.complete()
        assert not (folder / INCOMPLETE).exists()
    found = read_mark(folder)
    assert found is not None
    assert (found.restore_id, found.complete, found.created_directory) == ("r1", True, True)
    assert not is_being_restored(folder)


def test_removal_takes_the_data_its_tablespaces_and_nothing_else(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "file").touch()
    space = tmp_path / "data.tablespaces" / "16390"
    space.mkdir(parents=True)
    found = mark()
    found.tablespaces = [str(space)]
    with ClaimedFolder(folder, found):
        (folder / "base").mkdir()
        (folder / "base" / "1").touch()
        (folder / "link").symlink_to(elsewhere)
    assert remove_folder(folder, "r1") is True
    assert not folder.exists()
    assert not space.parent.exists()
    assert (elsewhere / "file").exists(), "a link is removed, not what it points to"
    assert remove_folder(folder, "r1") is False


def test_nothing_of_others_is_removed(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="not the work of restore r1"):
        (tmp_path / "theirs").mkdir()
        (tmp_path / "theirs" / "data").touch()
        remove_folder(tmp_path / "theirs", "r1")
    with ClaimedFolder(tmp_path / "other", mark("r2")):
        pass
    with pytest.raises(Refused, match="belongs to restore r2, not to r1"):
        remove_folder(tmp_path / "other", "r1")
    assert (tmp_path / "theirs" / "data").exists()
    assert read_mark(tmp_path / "other") is not None


def test_a_folder_that_was_never_made_or_only_just_is_fine(tmp_path: Path) -> None:
    assert remove_folder(tmp_path / "never", "r1") is False
    just = tmp_path / "just"
    just.mkdir()
    (just / INCOMPLETE).touch()
    assert remove_folder(just, "r1") is False
    assert list(just.iterdir()) == []


def test_an_interrupted_removal_is_finished_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "data"
    with ClaimedFolder(folder, mark()):
        (folder / "base").mkdir()

    def fails(path: object) -> None:
        raise OSError("disk went away")

    with monkeypatch.context() as broken:
        broken.setattr("shutil.rmtree", fails)
        with pytest.raises(OSError, match="disk went away"):
            remove_folder(folder, "r1")
    assert read_mark(folder) is not None, "the mark goes last"
    assert remove_folder(folder, "r1") is True


def test_an_unreadable_mark_is_left_to_the_operator(tmp_path: Path) -> None:
    (tmp_path / MARKER).write_text("{")
    with pytest.raises(Refused, match="look at the folder and remove it yourself"):
        read_mark(tmp_path)
    write_mark(tmp_path, mark())
    assert read_mark(tmp_path) == mark()


def test_what_could_not_be_written_to_the_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disks = FileSystems([tmp_path, tmp_path])
    disks.sync()
    failures = {errno.EIO: RestoreFailed, errno.ENOSPC: NoSpace, errno.EDQUOT: NoSpace}
    for number, kind in failures.items():

        def syncfs(descriptor: int, number: int = number) -> int:
            ctypes.set_errno(number)
            return -1

        monkeypatch.setattr(module, "_LIBC", SimpleNamespace(syncfs=syncfs))
        with pytest.raises(kind, match="could not be written to the disk"):
            disks.sync()
    disks.close()
    disks.sync()  # nothing is open any more: a descriptor of that number may be somebody else's


@pytest.mark.parametrize(
    ("release", "tells"),
    [("4.18.0-553.el8", False), ("5.7.19", False), ("5.8.0", True), ("5.10-amd64", True), ("6.1", True), ("?", False)],
)
def test_kernels_whose_syncfs_is_silent_are_known(release: str, tells: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(release=release))
    assert syncfs_tells_failures() is tells
