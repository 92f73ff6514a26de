"""A base backup's archive becomes files: whole ones of the server's own kind, in the folder, and nothing else."""

from __future__ import annotations

import errno
import io
import os
import tarfile
import threading
from collections.abc import Iterable
from pathlib import Path

import pytest

from recovery.adapters.postgres.host import INCOMPLETE
from recovery.adapters.postgres.restore import _is_left_out
from recovery.adapters.postgres.unpacking import Unpacking
from recovery.errors import NoSpace, RestoreFailed

Member = tuple[str, bytes | None, int]  # name; content, or None for a folder; mode

CLUSTER: list[Member] = [
    ("backup_label", b"START WAL LOCATION: 0/2000028\n", 0o600),
    ("tablespace_map", b"16390 /srv/fast\n", 0o600),
    ("base", None, 0o700),
    ("base/1", None, 0o750),
    ("base/1/1259", os.urandom(3 * 8192), 0o600),
    ("base/1/1259_fsm", b"", 0o600),
    ("global/pg_control", os.urandom(8193), 0o640),
    (f"./{INCOMPLETE}", b"of an earlier restore", 0o600),
]


def archive(members: Iterable[Member | tarfile.TarInfo], form: int = tarfile.USTAR_FORMAT) -> bytes:
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w", format=form) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
                continue
            name, content, mode = member
            info = tarfile.TarInfo(name)
            info.mode = mode
            info.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
            info.size = len(content or b"")
            tar.addfile(info, io.BytesIO(content or b""))
    return whole.getvalue()


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def unpack(folder: Path, data: bytes, piece: int = 1 << 20) -> None:
    with Unpacking(folder, "base.tar", None, _is_left_out) as unpacking:
        for start in range(0, len(data), piece):
            unpacking.write(data[start : start + piece])
        unpacking.finish()


def held(folder: Path) -> dict[str, tuple[bytes | None, int]]:
    return {
        str(path.relative_to(folder)): (
            None if path.is_dir() else path.read_bytes(),
            path.stat().st_mode & 0o777,
        )
        for path in folder.rglob("*")
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


@pytest.mark.parametrize("piece", [1, 511, 512, 513, 10_000, 1 << 20])
def test_files_and_folders_are_those_of_the_archive_however_it_is_cut(folder: Path, piece: int) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    unpack(folder, archive(CLUSTER), piece)
    expected = {name: (content, mode) for name, content, mode in CLUSTER if not _is_left_out(name.removeprefix("./"))}
    assert held(folder) == {**expected, "global": (None, 0o700)}
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_the_sources_tablespaces_are_left_out(folder: Path) -> None:
    members: list[Member | tarfile.TarInfo] = [
        ("pg_tblspc", None, 0o700),
        special("pg_tblspc/16390", tarfile.SYMTYPE, "/srv/fast"),
    ]
    unpack(folder, archive(members))
    assert list(held(folder)) == ["pg_tblspc"]


@pytest.mark.parametrize(
    ("member", "words"),
    [
        (("../outside", b"x", 0o600), "would lead out of the folder"),
        (("base/../../outside", b"x", 0o600), "would lead out of the folder"),
        (("/outside", b"x", 0o600), "would lead out of the folder"),
        (special("base/link", tarfile.SYMTYPE, "/etc"), "neither a file nor a folder"),
        (special("base/link", tarfile.LNKTYPE, "/etc/passwd"), "neither a file nor a folder"),
        (special("base/device", tarfile.CHRTYPE), "neither a file nor a folder"),
        (special("base/pipe", tarfile.FIFOTYPE), "neither a file nor a folder"),
    ],
)
def test_what_no_base_backup_holds_is_refused(folder: Path, member: Member | tarfile.TarInfo, words: str) -> None:
    with pytest.raises(RestoreFailed, match=rf"base\.tar could not be unpacked into \S+: its member .*{words}"):
        unpack(folder, archive([member]))
    assert [path for path in folder.parent.rglob("*") if not path.is_dir() and path.name != "base"] == []


def test_names_longer_than_the_format_has_room_for_are_refused(folder: Path) -> None:
    with pytest.raises(RestoreFailed, match="neither a file nor a folder"):
        unpack(folder, archive([("x" * 300, b"x", 0o600)], tarfile.GNU_FORMAT))


def test_a_link_that_appears_meanwhile_is_not_followed(folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "1259").write_text("theirs")
    (folder / "base").symlink_to(elsewhere)
    with pytest.raises(RestoreFailed, match="could not be unpacked"):
        unpack(folder, archive([("base/1259", b"ours", 0o600)]))
    (folder / "base").unlink()
    (folder / "base").mkdir()
    (folder / "base" / "1259").symlink_to(elsewhere / "1259")
    unpack(folder, archive([("base/1259", b"ours", 0o600)]))
    assert (elsewhere / "1259").read_text() == "theirs"
    assert not (folder / "base" / "1259").is_symlink(), "a file in its place, as of any that comes twice"


def test_of_a_file_that_comes_twice_the_later_one_counts(folder: Path) -> None:
    unpack(folder, archive([("base/1", b"first, and longer", 0o600), ("base/1", b"second", 0o600)]))
    assert held(folder)["base/1"] == (b"second", 0o600)


def test_an_archive_that_is_cut_or_damaged_is_noticed(folder: Path) -> None:
    whole = archive([("base/1", os.urandom(2000), 0o600)])
    end = 512 + 2048
    for cut in (0, 100, 512, 1500, end, end + 100):
        with pytest.raises(RestoreFailed, match="it ends too early"):
            unpack(folder, whole[:cut])
    unpack(folder, whole[: end + 512])
    with pytest.raises(RestoreFailed, match="it is damaged"):
        unpack(folder, b"x" + whole[1:])
    with pytest.raises(RestoreFailed, match="something comes after its end"):
        unpack(folder, whole + whole)


@pytest.mark.parametrize("size", [-1, -512, -(1 << 40)])
def test_a_member_of_a_negative_size_is_refused(folder: Path, size: int) -> None:
    whole = bytearray(archive([("base/1", b"x" * 600, 0o600)]))
    whole[124:136] = size.to_bytes(12, "big", signed=True)
    whole[148:156] = b" " * 8
    whole[148:156] = b"%06o\0 " % sum(whole[:512])
    said: list[str] = []

    def write() -> None:
        with pytest.raises(RestoreFailed) as failed, Unpacking(folder, "base.tar", None, _is_left_out) as unpacking:
            unpacking.write(bytes(whole))
        said.append(str(failed.value))

    writing = threading.Thread(target=write, daemon=True)
    writing.start()
    writing.join(10)
    assert len(said) == 1, "it is not taken for ever"
    assert "it is damaged (its member 'base/1' has a negative size)" in said[0]


def test_a_full_disk_and_a_failing_one_are_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write

    def failing(number: int) -> None:
        def write(descriptor: int, data: bytes) -> int:
            if len(data) > 1000:
                return real(descriptor, data[:1000])  # a disk that becomes full takes a part at first
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "write", write)

    for number in (errno.ENOSPC, errno.EDQUOT):
        failing(number)
        with pytest.raises(NoSpace, match=r"the disk of \S+ became full during the restore"):
            unpack(folder, archive(CLUSTER))
    failing(errno.EIO)
    with pytest.raises(RestoreFailed, match="Input/output error"):
        unpack(folder, archive(CLUSTER))


def test_closing_waits_for_the_chunk_that_is_being_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is removed as soon as the restore is over: nothing may appear in it then."""
    real, begun, go_on = os.write, threading.Event(), threading.Event()

    def write(descriptor: int, data: bytes) -> int:
        begun.set()
        assert go_on.wait(10)
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", write)
    unpacking = Unpacking(folder, "base.tar", None, _is_left_out)
    writing = threading.Thread(target=unpacking.write, args=(archive(CLUSTER),))
    writing.start()
    assert begun.wait(10)
    closing = threading.Thread(target=unpacking.close)
    closing.start()
    closing.join(0.05)
    assert closing.is_alive()
    go_on.set()
    closing.join(10)
    assert not closing.is_alive()
    writing.join(10)
    assert "base/1/1259" in held(folder), "the whole chunk"
    with pytest.raises(RestoreFailed, match="not unpacked any more"):
        unpacking.write(b"more")
