"""The rules that refuse clients are put up, and taken away again to the very file that was there."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import asyncpg
import pytest

from recovery.adapters.postgres import draining, refusal

HBA = "# kept\nlocal all all peer\nhost all all 10.0.0.0/8 scram-sha-256\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data directory whose pg_hba.conf lies elsewhere, as on Debian."""
    data = tmp_path / "main"
    data.mkdir()
    (tmp_path / "etc").mkdir()
    rules = tmp_path / "etc" / "pg_hba.conf"
    rules.write_text(HBA)
    rules.chmod(0o640)
    return data


def put_up(folder: Path, *names: str, seen: str = HBA) -> str:
    return refusal._put_up(folder.parent / "etc" / "pg_hba.conf", folder, seen, list(names))


def rules_of(folder: Path) -> str:
    return (folder.parent / "etc" / "pg_hba.conf").read_text()


def test_the_rules_stand_first_and_name_the_clients(folder: Path) -> None:
    assert put_up(folder, "app", 'o"brien') == ""
    lines = rules_of(folder).splitlines()
    rules = [line for line in lines if not line.startswith("#")]
    assert rules[:2] == ['local all "app","o""brien" reject', 'host all "app","o""brien" all reject']
    assert rules_of(folder).endswith(HBA)
    assert (folder.parent / "etc" / "pg_hba.conf").stat().st_mode & 0o777 == 0o640


def test_they_are_taken_away_to_the_very_same_file(folder: Path) -> None:
    put_up(folder, "app")
    put_up(folder, "app", "late", seen=rules_of(folder))
    assert rules_of(folder).count(refusal.BEGIN) == 1 and '"late"' in rules_of(folder)
    assert refusal.take_down(folder) is True
    assert rules_of(folder) == HBA
    assert not list(folder.iterdir())
    assert refusal.take_down(folder) is False


def test_what_was_edited_meanwhile_stays(folder: Path) -> None:
    put_up(folder, "app")
    rules = folder.parent / "etc" / "pg_hba.conf"
    rules.write_text(f"# by hand\n{rules.read_text()}host all new 10.9.0.0/16 md5\n")
    refusal.take_down(folder)
    assert rules.read_text() == f"# by hand\n{HBA}host all new 10.9.0.0/16 md5\n"


def test_a_server_on_another_machine_is_left_alone(folder: Path) -> None:
    assert "another machine" in put_up(folder, "app", seen="host all all all trust\n")
    assert rules_of(folder) == HBA and not list(folder.iterdir())


def test_a_file_that_a_clone_replaced_is_no_hindrance(folder: Path) -> None:
    put_up(folder, "app")
    (folder.parent / "etc" / "pg_hba.conf").unlink()
    assert refusal.take_down(folder) is True
    assert not list(folder.iterdir())


class Server:
    """A standby that answers until it is ``lost``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.loads = 0
        self.lost = False

    def _answer(self, answer: Any) -> Any:
        if self.lost:
            raise asyncpg.InterfaceError("connection is closed")
        return answer

    async def fetchrow(self, query: str) -> Any:
        return self._answer({"rules": str(self.folder.parent / "etc" / "pg_hba.conf"), "folder": str(self.folder)})

    async def fetch(self, query: str) -> Any:
        return self._answer([{"name": "app"}])

    async def fetchval(self, query: str, *arguments: Any) -> Any:
        if "pg_read_file" in query:
            return self._answer(rules_of(self.folder))
        return self._answer(self.loads if "pg_conf_load_time" in query else str(self.folder))

    async def execute(self, query: str) -> None:
        self.loads = self._answer(self.loads + 1)


@pytest.mark.parametrize("lost", [False, True], ids=["it answers", "it went away"])
async def test_a_standby_lets_its_clients_in_again(folder: Path, lost: bool) -> None:
    server = Server(folder)
    refusing = draining._refusing(cast(Any, server), wanted=True, standby=True)
    assert await refusing.__aenter__() == ""
    assert rules_of(folder) != HBA and server.loads == 1
    server.lost = lost
    if lost:
        with pytest.raises(asyncpg.InterfaceError):
            await refusing.__aexit__(None, None, None)
    else:
        await refusing.__aexit__(None, None, None)
        assert server.loads == 2, "it has read its files again"
    assert rules_of(folder) == HBA, "else it would refuse them for good after its next start"
