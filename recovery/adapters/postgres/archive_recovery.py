"""A restored copy that goes on with archived WAL, to a target or to the end of what it is given."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from recovery.adapters.postgres.feeding import WalFeed
from recovery.adapters.postgres.host import LocalPostgresHost
from recovery.adapters.postgres.settings import archive_settings, write_recovery
from recovery.adapters.postgres.wal import parse_history
from recovery.backup.bounded import through
from recovery.domain.recovery_target import ReachedPoint
from recovery.errors import RestoreFailed
from recovery.ports.postgres import ArchiveRecovery, PostgresPlace

NOT_REACHED = "recovery ended before configured recovery target was reached"  # PostgreSQL's words


async def recover_from_archive(
    host: LocalPostgresHost, place: PostgresPlace, recovery: ArchiveRecovery, timeout: float
) -> bool:
    """Starts the unpacked copy, and gives it archived WAL until it says that it is where it was to go.

    Its configuration must be written already, with ``recovery.signal``.

    Returns:
        Whether it ended because it was given no more, and not at a target of PostgreSQL's own.

    Raises:
        RestoreFailed: it did not get there, in PostgreSQL's words.
        RecoveryError: the WAL could not be read.
    """
    folder, user = place.data_directory, host.user_for(place)
    await through(_forget_own_wal, folder)
    async with WalFeed(folder, recovery.fetch, recovery.segment_bytes, user) as feed:

        async def start(target: Mapping[str, str]) -> None:
            settings = archive_settings(feed.command, recovery.timeline, target)
            await through(write_recovery, folder, settings, user)
            try:
                await host.launch(place, timeout=timeout)
            except RestoreFailed as error:
                if feed.failure is not None:
                    raise feed.failure from error
                raise

        try:
            await start(recovery.settings)
        except RestoreFailed as error:
            # Everything before the target is replayed, and nothing behind it was ever written.
            if not (recovery.settings and recovery.end_is_enough and NOT_REACHED in str(error)):
                raise
        else:
            return not recovery.settings
        await start({})
        return True


def _forget_own_wal(folder: Path) -> None:
    """All WAL is to come from the archive: what came with the backup was needed to prove it."""
    for file in (folder / "pg_wal").glob("0*"):
        file.unlink()


def reached_point(folder: Path, last_commit: datetime | None, *, at_end_of_wal: bool) -> ReachedPoint:
    """Where a recovery ended, as the server itself wrote it into the history of the timeline that it began.

    Args:
        at_end_of_wal: what ``recover_from_archive`` returned.

    Raises:
        RestoreFailed: it began none.
    """
    histories = sorted((folder / "pg_wal").glob("????????.history"))
    forks = parse_history(histories[-1].read_text()) if histories else []
    if not forks:
        raise RestoreFailed(f"the server in {folder} began no timeline of its own: where its recovery ended is unknown")
    timeline, lsn = forks[-1]
    return ReachedPoint(
        timeline=timeline,
        lsn=lsn,
        new_timeline=int(histories[-1].stem, 16),
        last_commit_at=last_commit,
        at_end_of_wal=at_end_of_wal,
    )
