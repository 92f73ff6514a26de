"""What a validation of a Redis' dump compares, and whose a placed dump is. Without servers."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from recovery.adapters.redis import placing, validation
from recovery.adapters.redis.rdb import DumpHead
from recovery.domain.redis import RedisSource
from recovery.errors import Corrupt, NoSpace, NotOurs, Refused
from recovery.ports.redis import DumpPlace
from tests.fakes.redis import redis_source

SOURCE = redis_source()


class Usage(NamedTuple):
    free: int


def head(replid: str | None, offset: int = SOURCE.offset) -> DumpHead:
    fields = {} if replid is None else {"repl-id": replid, "repl-offset": str(offset)}
    return DumpHead("redis", SOURCE.rdb_version, fields)


def test_a_dump_ends_where_it_was_taken() -> None:
    assert validation._position(head(SOURCE.replid), SOURCE.rdb_bytes, SOURCE).passed
    assert validation._position(head(None), SOURCE.rdb_bytes, SOURCE).passed, "one that does not say it"
    for other in (head(SOURCE.replid, SOURCE.offset + 1), head("f" * 40)):
        assert not validation._position(other, SOURCE.rdb_bytes, SOURCE).passed
    with pytest.raises(Corrupt, match="has 98 bytes, and the backup had 99"):
        validation._position(head(SOURCE.replid), SOURCE.rdb_bytes - 1, SOURCE)


def test_as_many_keys_are_loaded_as_were_read() -> None:
    assert validation._counted({0: 3, 5: 1}, "4 keys read, 0 expires").passed
    assert not validation._counted({0: 3}, "4 keys read, 0 expires").passed
    assert validation._counted({0: 3}, "redis-check-rdb is not installed here").passed


@pytest.mark.parametrize(
    ("known", "found", "passed"),
    [
        ({"shop": ["price"]}, {"shop": ["price"]}, True),
        ({"shop": ["price"]}, {}, False),
        ({"shop": ["price"]}, {"shop": ["cost"]}, False),
        ({"shop": ["price"]}, None, False),
        ({}, None, True),
        (None, {"shop": ["price"]}, True),
    ],
)
def test_functions_are_those_of_the_source(
    known: dict[str, list[str]] | None, found: dict[str, list[str]] | None, passed: bool
) -> None:
    source: RedisSource = SOURCE.model_copy(update={"functions": known})
    assert validation._functions(found, source).passed is passed


@pytest.fixture
def place(tmp_path: Path) -> DumpPlace:
    return DumpPlace(tmp_path)


@pytest.fixture
def put(place: DumpPlace) -> Callable[[str], Path]:
    """Places a dump for a restore."""

    def placed(restore_id: str) -> Path:
        part, target = place.folder / "part", place.folder / place.dump_name
        part.write_bytes(b"REDIS0009")
        placing._put(part, target, place.folder, restore_id)
        return target

    return placed


def test_a_placed_dump_is_taken_back_by_its_own_restore_only(place: DumpPlace, put: Callable[[str], Path]) -> None:
    target = put("restore-1")
    with pytest.raises(NotOurs, match="not the work of restore restore-2"):
        placing._remove(place, "restore-2")
    assert target.exists() and placing._is_ours(place, "restore-1")
    assert placing._remove(place, "restore-1") and not target.exists()
    assert not placing._remove(place, "restore-1")


def test_what_a_server_wrote_since_is_not_taken_back(
    place: DumpPlace, put: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    target = put("restore-1")
    monkeypatch.setattr(placing, "_servers_in", lambda folder: [4711])
    with pytest.raises(NotOurs, match="A server has run"):
        placing._remove(place, "restore-1")
    with pytest.raises(Refused, match="A Redis runs .*process 4711"):
        placing._check_free(place, "restore-1")
    monkeypatch.undo()
    saved = place.folder / "temp.rdb"
    saved.write_bytes(b"REDIS0009")
    saved.rename(target)  # as a server saves: a new file in its place
    with pytest.raises(NotOurs, match="A server has run"):
        placing._remove(place, "restore-1")
    assert target.exists()


def test_a_disk_without_room_is_said(place: DumpPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(free=100))
    placing._check_space(place.folder, 100)
    with pytest.raises(NoSpace, match="needs 101 bytes.* has 100"):
        placing._check_space(place.folder, 101)
