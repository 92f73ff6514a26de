"""What a physical restore refuses before it claims anything: what it did not make must outlive its refusal."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from recovery.adapters.postgres import restore
from recovery.adapters.postgres.folder import read_mark
from recovery.adapters.postgres.host import LocalPostgresHost
from recovery.adapters.postgres.restore import PhysicalRestore
from recovery.domain.recovery_point import Manifest
from recovery.errors import Corrupt, Refused
from recovery.ports.postgres import PointReader, PostgresPlace, RestoreOptions
from tests.fakes.points import pg_source, point

OID = "16390"


class Host(LocalPostgresHost):
    """A machine with PostgreSQL 16, on whose ports nobody listens."""

    async def majors(self) -> dict[int, str]:
        return {16: "16.14"}

    async def is_empty(self, place: PostgresPlace) -> bool:
        return not place.data_directory.exists()

    def user_for(self, place: PostgresPlace) -> str | None:
        return None


def manifest() -> Manifest:
    return point(1).manifest.model_copy(update={"source": pg_source(tablespaces={OID: "/srv/fast"})})


def into(target: Path, **options: object) -> PhysicalRestore:
    reader = cast(PointReader, SimpleNamespace(manifest=manifest(), bases=()))
    chosen = RestoreOptions("r2", start=False, **options)  # type: ignore[arg-type]
    return PhysicalRestore(Host(), reader, PostgresPlace("127.0.0.1", 1, target), chosen)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def theirs(target: Path) -> Path:
    """A file of a server whose data folder was moved away, and whose tablespace stands where it was."""
    file = target.with_name("data.tablespaces") / OID / "PG_16_202307071" / "1"
    file.parent.mkdir(parents=True)
    file.touch()
    return file


async def test_a_tablespace_of_another_server_is_refused_and_stays(target: Path, theirs: Path) -> None:
    with pytest.raises(Refused, match=rf"the tablespace's folder \S*/{OID} is not empty"):
        await into(target).run()
    assert theirs.exists()
    assert not target.exists(), "nothing was claimed"


async def test_a_tablespace_that_is_filled_meanwhile_stays(
    target: Path, theirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two restores may look at the same empty folder before one of them makes it."""
    monkeypatch.setattr(restore, "refuse_filled", lambda space: None)
    with pytest.raises(Refused, match="is not empty"):
        await into(target).run()
    assert theirs.exists()
    assert not target.exists(), "what this restore made is removed"


async def test_a_file_in_a_tablespaces_place_stays(target: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(Refused, match="is not empty"):
        await into(target, tablespaces={"/srv/fast": file}).run()
    assert file.is_file()


async def test_the_restores_own_tablespaces_go_with_it(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = target.with_name("data.tablespaces") / OID
    seen: list[list[str]] = []

    async def unpack(self: PhysicalRestore) -> None:
        (space / "part").touch()
        mark = read_mark(target)
        assert mark is not None
        seen.append(mark.tablespaces)
        raise Corrupt("damaged")

    monkeypatch.setattr(PhysicalRestore, "unpack", unpack)
    for _ in range(2):
        with pytest.raises(Corrupt, match="damaged"):
            await into(target).run()
        assert seen == [[str(space)]] * len(seen)
        assert not space.parent.exists()
        assert not target.exists()
