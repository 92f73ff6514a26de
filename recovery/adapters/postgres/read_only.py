"""Keeping writers out of a restored server, and letting them in: a setting that its running server reads again."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from recovery.adapters.postgres.folder import read_mark
from recovery.adapters.postgres.host import LOG, LocalPostgresHost
from recovery.adapters.postgres.settings import write_read_only
from recovery.errors import Refused
from recovery.ports.postgres import PostgresPlace


async def set_read_only(host: LocalPostgresHost, place: PostgresPlace, read_only: bool) -> None:
    """Writes the setting and has the server read it; returns when the server's log says that it did.

    Raises:
        Refused: the folder is not one that we restored: its configuration is not ours to change.
    """
    folder = place.data_directory
    if await asyncio.to_thread(read_mark, folder) is None:
        raise Refused(f"{folder} was not restored by recovery-plans: change default_transaction_read_only yourself")
    log = folder / LOG
    before = await asyncio.to_thread(lambda: log.stat().st_size if log.exists() else 0)
    await asyncio.to_thread(write_read_only, folder, read_only, host.user_for(place))
    await host.reload(place)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(5):
            while await host.is_running(place) and not await asyncio.to_thread(_reloaded, log, before):
                await asyncio.sleep(0.02)


def _reloaded(log: Path, offset: int) -> bool:
    with log.open("rb") as file:
        file.seek(offset)
        return b"reloading configuration files" in file.read()
