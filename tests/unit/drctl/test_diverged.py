"""What ``drctl diverged fetch`` says about reading what it opened."""

from __future__ import annotations

import shlex
from pathlib import Path

from drctl.diverged import _read_with

FOLDER = Path("/var/tmp/my folder")


def test_a_server_that_shows_the_dump_never_writes_it() -> None:
    command = shlex.split(_read_with("redis", [FOLDER / "old.rdb"], FOLDER).partition(": ")[2].partition(" (")[0])
    assert command[0] == "redis-server"
    assert command[-4:] == ["--appendonly", "no", "--save", ""] and str(FOLDER) in command


def test_wal_is_read_from_its_first_to_its_last_segment() -> None:
    files = [FOLDER / name for name in ("000000010000000000000003", "000000010000000000000004", "00000002.history")]
    command = shlex.split(_read_with("postgres", files, FOLDER).partition(": ")[2])
    assert command == ["pg_waldump", "--path", str(FOLDER), files[0].name, files[1].name]
    assert _read_with("postgres", files[2:], FOLDER) == ""
