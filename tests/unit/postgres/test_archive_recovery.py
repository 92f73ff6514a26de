"""A restored copy that goes on with archived WAL, over a host that starts it or does not."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from recovery.adapters.postgres.archive_recovery import NOT_REACHED, reached_point, recover_from_archive
from recovery.adapters.postgres.feeding import FEED
from recovery.adapters.postgres.host import LocalPostgresHost
from recovery.adapters.postgres.settings import RECOVERY_FILE
from recovery.domain.recovery_target import ReachedPoint
from recovery.errors import Corrupt, NotFound, RecoveryError, RestoreFailed
from recovery.ports.postgres import ArchiveRecovery, PostgresPlace

TARGET = {"recovery_target_time": "2026-11-22 10:15:00+00:00"}


class Host:
    """Each start meets the next of ``ends``; ``asked`` is what the server was configured to do."""

    def __init__(self, folder: Path, *ends: RecoveryError | None) -> None:
        self.folder, self.ends, self.asked = folder, list(ends), list[str]()

    def user_for(self, place: PostgresPlace) -> str | None:
        return None

    async def launch(self, place: PostgresPlace, *, timeout: float) -> None:
        assert not list((self.folder / "pg_wal").glob("0*")), "all WAL comes from the archive"
        assert (self.folder / FEED).is_dir()
        self.asked.append((self.folder / RECOVERY_FILE).read_text())
        end = self.ends.pop(0)
        if end is not None:
            raise end


async def nothing(name: str) -> bytes:
    raise NotFound(name)


async def recovered(folder: Path, host: Host, *, end_is_enough: bool = True) -> bool:
    (folder / "pg_wal").mkdir(exist_ok=True)
    (folder / "pg_wal" / "000000010000000000000003").write_bytes(b"came with the backup")
    recovery = ArchiveRecovery(2, nothing, 16 << 20, TARGET, end_is_enough)
    place = PostgresPlace("127.0.0.1", 5432, folder)
    return await recover_from_archive(cast(LocalPostgresHost, host), place, recovery, 10)


async def test_the_server_is_told_timeline_target_and_where_to_ask(tmp_path: Path) -> None:
    host = Host(tmp_path, None)
    assert not await recovered(tmp_path, host), "it ended at its target"
    (asked,) = host.asked
    for line in ("recovery_target_timeline = '2'", "recovery_target_time = '2026-11-22 10:15:00+00:00'", "fetch.sh"):
        assert line in asked
    assert not (tmp_path / FEED).exists()


async def test_a_time_after_the_last_commit_is_the_end_of_the_wal(tmp_path: Path) -> None:
    host = Host(tmp_path, RestoreFailed(f"FATAL: {NOT_REACHED}"), None)
    assert await recovered(tmp_path, host), "whoever judges it must know that it ended with its WAL"
    assert ["recovery_target_time =" in asked for asked in host.asked] == [True, False]


@pytest.mark.parametrize(("words", "enough"), [(NOT_REACHED, False), ("FATAL: something else", True)])
async def test_any_other_end_is_a_failure(tmp_path: Path, words: str, enough: bool) -> None:
    host = Host(tmp_path, RestoreFailed(words), None)
    with pytest.raises(RestoreFailed, match=words):
        await recovered(tmp_path, host, end_is_enough=enough)
    assert len(host.asked) == 1


async def test_damage_is_told_in_its_own_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damage = Corrupt("object x differs from its record")
    monkeypatch.setattr("recovery.adapters.postgres.feeding.WalFeed.__aenter__", _failed(damage))
    host = Host(tmp_path, RestoreFailed("could not restore file: child process exited with exit code 126"))
    (tmp_path / FEED).mkdir()
    with pytest.raises(Corrupt, match="object x"):
        await recovered(tmp_path, host)


def _failed(error: RecoveryError):
    async def enter(feed):
        feed.failure = error
        return feed

    return enter


def test_where_it_ended_is_what_the_server_wrote(tmp_path: Path) -> None:
    wal = tmp_path / "pg_wal"
    wal.mkdir()
    with pytest.raises(RestoreFailed, match="began no timeline of its own"):
        reached_point(tmp_path, None, at_end_of_wal=False)
    (wal / "00000002.history").write_text("1\t0/4000000\tno recovery target specified\n")
    (wal / "0000000A.history").write_text("1\t0/4000000\tpromoted\n\n2\t0/5000148\tbefore 2026-11-22 10:15:00\n")
    assert reached_point(tmp_path, None, at_end_of_wal=True) == ReachedPoint(
        timeline=2, lsn="0/5000148", new_timeline=10, at_end_of_wal=True
    )
